"""The gate of a `gated` stream: text goes in as it comes, and what may be shown comes out, sentence by sentence.

Rules are asked of the answer *so far*: all the text up to the end of a sentence, as a result of the shape the whole one will
have, with the contract's redactions and the release's rules over results. What they leave of it must begin with what was
shown before; then the rest of it may be shown. At the first rule that would withhold, that errors, or that would take back
what was shown, the gate closes for good: the answer still goes to the ledger, whose verdict over the whole of it counts.
INVARIANT: what was shown is always the beginning of what the rules left of the answer so far (tests/properties/test_streams.py).
Pure. It runs at the executor, on the release's own bytes. Next: `guardrails/guardrails.py`, `executors/model_stream.py`.
"""

from __future__ import annotations

import re
from typing import cast

import orjson
from sluicegate.processors.conform import Json
from sluicegate.processors.guardrails.guardrails import guard_value
from sluicegate.processors.releases.release import CompiledRelease

MAX_SENTENCE_CHARS = 1_000
"""A text without an end of a sentence for so long is cut at its last blank."""
STEP_PART = 16
"""Of a long text at least 1/16 is new each time the rules are asked, so that all of it is looked at some 100 times, not 1,000."""

_END = re.compile(r"[.!?…][\"')\]*_]*\s|[。！？]|\n")


class StreamGate:
    """One answer on its way. `around`: what rules see beside the answer."""

    def __init__(self, release: CompiledRelease, tool: str, around: dict[str, Json]) -> None:
        self._rules = release.guardrails.results.get(tool, ())
        self._recipes = release.tools[tool].redact_result
        self._around = around
        self._text = ""
        self._looked = 0
        self._shown = ""
        self._last: dict[str, Json] = {}
        self.closed = False

    def feed(self, more: str) -> str:
        """What may be shown now that this text came."""
        self._text += more
        end = self._boundary()
        return self._show(self._text[:end], {}) if end and not self.closed else ""

    def finish(self, answer: dict[str, Json]) -> tuple[str, list[dict[str, Json]]]:
        """The rest of the text, and the tool calls, that may be shown of the whole answer."""
        if self.closed:
            return "", []
        self._text = str(answer.get("text", ""))
        rest = self._show(self._text, answer)
        calls = self._last.get("tool_calls") if not self.closed else None
        return rest, [c for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []

    def _boundary(self) -> int:
        """Up to where the rules are asked next; 0 when not yet."""
        step = max(1, len(self._text) // STEP_PART)
        if len(self._text) - self._looked < step:
            return 0
        ends = [m.end() for m in _END.finditer(self._text, self._looked)]
        end = ends[-1] if ends else 0
        if not end and len(self._text) - self._looked > MAX_SENTENCE_CHARS:
            blank = max(self._text.rfind(" ", self._looked), self._text.rfind("\n", self._looked))
            end = blank + 1 if blank > self._looked else len(self._text)
        return end if end - self._looked >= step else 0

    def _show(self, text: str, answer: dict[str, Json]) -> str:
        self._looked = len(text)
        value: dict[str, Json] = {**_PART, **answer, "text": text}
        found = guard_value(lambda: self._around, orjson.dumps(value), self._recipes, self._rules, None)
        left = orjson.loads(found.result) if found.result is not None else None
        kept = left.get("text") if isinstance(left, dict) else None
        if not isinstance(kept, str) or not kept.startswith(self._shown):
            self.closed = True
            return ""
        self._last = cast("dict[str, Json]", left)
        rest, self._shown = kept[len(self._shown) :], kept
        return rest


_PART: dict[str, Json] = {
    "text": "", "tool_calls": [], "finish_reason": "", "served_model": "",
    "usage": {"input_tokens": None, "output_tokens": None},
}  # fmt: skip
"""What an answer looks like while it is made."""
