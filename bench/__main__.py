"""`python -m bench [NAME ...]`: run the benches, one after the other."""

from __future__ import annotations

import importlib
import sys

ALL = (
    "authz", "ledger", "signed", "latency", "calls", "sink", "recovery", "budget", "sustained", "cache", "model_faults",
    "rebuild", "canary", "canary_draw", "gateway", "gateway_sse", "queries", "resting", "verify", "replay", "checkpoints", "bundle",
)  # fmt: skip


MORE = ("audit",)
"""By name only: it takes a virtual environment of its own (`make bench-audit`)."""


def main() -> None:
    """Run the named benches, or all."""
    for name in sys.argv[1:] or ALL:
        if name not in (*ALL, *MORE):
            sys.exit(f"bench `{name}` does not exist, choose from {', '.join((*ALL, *MORE))}")
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()
