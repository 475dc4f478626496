"""Facts -> columns: the record types share the columns of `tables.py`; what a type does not say keeps its default.

Never decides what a column means and never raises for facts that cannot be read: their columns stay empty.
Next: `rows.py` (who calls this), `block.py` (where the values go).
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.schemas import codec
from sluicegate.sinks import avro
from sluicegate.sinks.avro import Reader, Values

DEFAULTS: dict[str, object] = {
    "kind": b"",
    "tool": b"",
    "tool_version": b"",
    "executor": b"",
    "tool_class": b"",
    "attempt": 0,
    "timeout_ms": 0,
    "error_class": b"",
    "issued_at": None,
    "deadline_at": None,
    "started_at": None,
    "finished_at": None,
    "not_after": None,
    "lease_until": None,
    "result_bytes": 0,
    "input_bytes": 0,
    "digest": b"",
    "detail": b"",
    "origin": b"",
    "on_behalf_of": b"",
    "authenticated": None,
    "control_stale": None,
    "remembered": None,
    "who": b"",
    "why": b"",
    "body": b"",
    "grounded_arguments": (),
    "grounded_from": (),
    "grounded_labels": (),
    "observed": (),
    "redacted": (),
    "expires_at": None,
    "quorum": 0,
    "reviewers": (),
    "verdict": b"",
    "reviewer": b"",
    "approvals": (),
    "edited": None,
    "candidate": b"",
    "model": b"",
    "money": None,
    "input_tokens": None,
    "output_tokens": None,
    "metric": b"",
    "score": None,
}
"""Column -> what a row has whose facts say nothing of it; the same as ClickHouse fills in."""

AMOUNTS = ("money", "input_tokens", "output_tokens")
"""Columns of what was said to be used."""

RENAMED: dict[tuple[str, str], str] = {
    ("intent_facts", "version"): "tool_version",
    ("result_facts", "executed_by"): "executor",
    ("plan_facts", "action_digest"): "digest",
    ("hold_facts", "action_digest"): "digest",
    ("review_facts", "action_digest"): "digest",
    ("result_facts", "result_digest"): "digest",
    ("intake_facts", "length"): "input_bytes",
    ("genesis_facts", "env"): "detail",
    ("prompt_facts", "prompt"): "detail",
    ("budget_facts", "what"): "kind",
    ("exchange_facts", "home"): "detail",
    ("job_facts", "waits_for"): "kind",
    ("job_facts", "alive_until"): "lease_until",
    ("job_facts", "note"): "error_class",
    ("attempt_facts", "action_digest"): "digest",
    ("attempt_facts", "why"): "detail",
    ("taken_back_facts", "executed_by"): "executor",
    ("taken_back_facts", "result_digest"): "digest",
    ("taken_back_facts", "undo"): "detail",
    ("answer_facts", "executed_by"): "executor",
    ("answer_facts", "result_digest"): "digest",
    ("stream_facts", "action_digest"): "digest",
    ("stream_facts", "why"): "detail",
    ("streamed_facts", "executed_by"): "executor",
    ("streamed_facts", "result_digest"): "digest",
    ("streamed_facts", "mode"): "detail",
    ("cache_facts", "op"): "kind",
    ("cache_facts", "action_digest"): "digest",
    ("cache_facts", "executed_by"): "executor",
    ("cache_facts", "until"): "lease_until",
    ("cache_facts", "made_by"): "origin",
    ("answer_facts", "served_model"): "model",
    ("streamed_facts", "served_model"): "model",
    ("spend_facts", "contract"): "candidate",
    ("cell_facts", "op"): "kind",
    ("cell_facts", "scope"): "detail",
    ("cell_facts", "value_digest"): "digest",
    ("cell_facts", "writer"): "who",
    ("cell_facts", "made_by"): "origin",
    ("score_facts", "scorer"): "reviewer",
    ("score_facts", "value"): "score",
    ("score_facts", "release"): "detail",
    ("memory_facts", "op"): "kind",
    ("memory_facts", "scope"): "detail",
    ("memory_facts", "value_digest"): "digest",
    ("restore_facts", "then_digest"): "digest",
}
ONLY_IN_BYTES = {
    ("control_facts", "kid"),
    ("prompt_facts", "result_digest"),
    ("control_facts", "signature"),
    ("genesis_facts", "log_id"),
    ("genesis_facts", "partitions"),
    ("genesis_facts", "signing"),
    ("intent_facts", "call_digest"),
    ("job_facts", "polls"),
    ("job_facts", "due_at"),
    ("job_facts", "ends_at"),
    ("job_facts", "handed_over"),
    *(
        ("cache_facts", name)
        for name in ("entry", "home", "ttl_us", "partition", "topic", "offset", "result_digest")
    ),
    *(
        ("cell_facts", name)
        for name in (
            "cell",
            "home",
            "version",
            "base_version",
            "value_bytes",
            "form",
            "integrity",
            "confidentiality",
            "examined",
            "matched",
        )
    ),
    ("memory_facts", "cell"),
    ("memory_facts", "integrity"),
    ("memory_facts", "confidentiality"),
    ("memory_facts", "version"),
    *(
        (kind, name)
        for kind in ("session_facts", "opening_facts")
        for name in ("verified", "to_agent", "to_session", "chain", "roles", "calls_cap")
    ),
    ("opening_facts", "task"),
    ("plan_facts", "measured"),
    ("plan_facts", "amounts"),
    ("stage_facts", "grounded_events"),
    ("stage_facts", "grounded_paths"),
    *(("exchange_facts", name) for name in ("exchange_id", "from_partition", "names", "amounts")),
    *(
        ("budget_facts", name)
        for name in (
            "accounts",
            "windows",
            "reserved",
            "spent",
            "overran",
            "caps",
            "freezes",
            "needs",
            "until",
            "sent",
        )
    ),
    *(
        ("choice_facts", name)
        for name in (
            "grounded_events",
            "grounded_paths",
            "candidates",
            "scores",
            "standing",
            "prompt",
            "prompt_digest",
            "unversioned",
        )
    ),
    *(
        (kind, name)
        for kind in ("attempt_facts", "stream_facts")
        for name in ("measured", "amounts", "tried", "aimed", "repair")
    ),
    *(("stream_facts", name) for name in ("mode", "replaces", "replaced_digest", "replaced_pieces")),
    ("answer_facts", "confidence"),
    *(
        ("restore_facts", name)
        for name in ("order", "cut", "piece", "pieces", "mark", "withdrawn", "sessions", "forgotten", "cells")
    ),
    ("taken_back_facts", "undone_by"),
    ("taken_back_facts", "order"),
    *(("streamed_facts", name) for name in ("confidence", "message", "pieces", "streamed", "same")),
    ("score_facts", "score_id"),
    *(("seal_facts", name) for name in ("generation", "next_log_id", "size", "root")),
    *(
        ("import_facts", name)
        for name in ("generation", "log_id", "partition", "seq", "root", "piece", "pieces", "rows")
    ),
    ("hold_facts", "release"),  # the header's, again
    ("hold_facts", "grounded_events"),
    ("hold_facts", "grounded_paths"),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of facts: its name, the columns it fills, and how they are read from its bytes."""

    name: bytes
    columns: tuple[str, ...]
    read: Reader


def _kind(schema: str) -> Kind:
    name, columns, values = schema.split(".")[0], [], []
    for field in avro.names_of(schema):
        column = RENAMED.get((name, field), field)
        if column in DEFAULTS:  # a time of 0 is no time, and an amount of -1 was not said
            none = " or None" if column.endswith(("_at", "_after", "_until")) else ""
            columns.append(column)
            values.append(
                f"None if f_{field} < 0 else f_{field}" if column in AMOUNTS else f"f_{field}{none}"
            )
    return Kind(
        name.encode(),
        tuple(columns),
        avro.compile_reader(schema, returns="".join(f"{v}, " for v in values) or "()"),
    )


_SCHEMAS = [
    (name, schema)
    for name, schema in (codec.SCHEMAS | codec.OLD).items()
    if name.split(".")[0].endswith("_facts")
]
KINDS = (Kind(b"", (), lambda b: ()), *(_kind(name) for name, _ in _SCHEMAS))
"""By number; 0 is of facts that cannot be read."""
_BY_PREFIX = {schema.prefix: number for number, (_, schema) in enumerate(_SCHEMAS, 1)}

REPEATED_BYTES = 32
"""Facts this short say little, and many records say the same: those of a stage that passed have 18 bytes."""
REPEATED_MAX = 4_096
"""Of them remembered: x about 400 bytes = 2 MB."""
_repeated: dict[bytes, tuple[int, Values]] = {}


def read(facts: bytes) -> tuple[int, Values]:
    """The number of their kind, and the values of its columns. Total."""
    known = _repeated.get(facts)
    if known is not None:
        return known
    number = _BY_PREFIX.get(facts[: codec.PREFIX_BYTES], 0)
    try:
        found = number, KINDS[number].read(facts)
    except (IndexError, ValueError):
        return 0, ()  # the row counts and its bytes are kept
    if len(facts) <= REPEATED_BYTES:
        if len(_repeated) >= REPEATED_MAX:
            _repeated.clear()
        _repeated[facts] = found
    return found
