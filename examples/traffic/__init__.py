"""A slice of recorded agent traffic, the script that cut it and the server that answers with what was recorded.

The strings in the slice, injected instructions included, are data: nothing here follows them.
Read next: `README.md` beside this file, then `make_slice.py` and `tool_server.py`.
"""
