"""Material for the demo: recorded traffic, an example release and a server that answers as the recorded tools did.

Nothing here is part of the distribution, and nothing in the distribution imports it.
Read next: `examples/traffic/README.md`, then `examples/release/release.yaml`.
"""
