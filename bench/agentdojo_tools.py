"""AgentDojo's tools as the python executor runs them: one function for all, in the executor's own processes.

The environments live in the bench's process, one a session, because its checks judge them at the end; this function asks
there which one is meant, by the session that the executor says it is. Never imports AgentDojo, so it starts fast.
Next: `agentdojo_stack.py` (the other side).
"""

from __future__ import annotations

import json
import os
import urllib.request

WORLD = "AGENTDOJO_WORLD"
"""Environment variable: where the environments answer."""
LIMIT_S = 10.0


class ToolFailed(Exception):
    """The tool raised; the text is AgentDojo's."""


def run(sluicegate_call: dict[str, object], **arguments: object) -> object:
    """Run the call's tool in its session's environment. Raises `ToolFailed`."""
    call = {
        "session": sluicegate_call["session_id"],
        "tool": sluicegate_call["tool"],
        "arguments": arguments,
    }
    request = urllib.request.Request(
        os.environ[WORLD], json.dumps(call).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        said = json.load(answer)
    if "error" in said:
        raise ToolFailed(said["error"])
    return said["result"]
