"""A release with one model, `triage`, that takes what frameworks send: tools, and messages of any form."""

from __future__ import annotations

import json
from pathlib import Path

OPEN = {"type": "array", "items": {"type": "object"}}
CONTRACT = {
    "name": "triage",
    "description": "A test's model.",
    "inputSchema": {
        "type": "object",
        "properties": {"messages": OPEN, "tools": OPEN, "tool_choice": {"type": "string"}, "max_tokens": {"type": "integer"}},
        "required": ["messages"],
    },
    "x-sluicegate": {
        "version": "1",
        "class": "read_only",
        "executor": {"kind": "model", "url": "http://models.invalid/v1", "model": "small-1"},
    },
}  # fmt: skip
POLICY = """
@id("model-use")
permit (principal in Role::"desk", action == Action::"triage", resource);
@id("model-not-that-long")
forbid (principal, action == Action::"triage", resource) when { context.args has max_tokens && context.args.max_tokens > 1000 };
"""


def write(folder: Path) -> Path:
    """The release as a folder."""
    for name in ("contracts", "policies"):
        (folder / name).mkdir()
    (folder / "release.yaml").write_text("name: models\nversion: '1'\nroles: [desk]\n")
    (folder / "contracts" / "triage.json").write_text(json.dumps(CONTRACT))
    (folder / "policies" / "models.cedar").write_text(POLICY)
    return folder
