"""What a contract says about work that goes on after the first answer, and about looking a call up, against itself.

Never says whether a call fits, and never makes an address. Next: `releases/contract_check.py`, `jobs/jobs.py`, `executors/jobs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sluicegate.processors.jobs.terms import LOST_LOOK_US, MISSED_LOOKS, POLL
from sluicegate.processors.releases.contract_check import GOVERNANCE, line_of
from sluicegate.processors.releases.findings import Finding

Json = object

_POINTERS = ("id", "state", "result", "error")


def check_completion(
    path: str, text: str, executor: Mapping[str, Json], completion: str, timeout_ms: int, heartbeat_s: int
) -> list[Finding]:
    """Findings, each with its line."""
    faults = [
        *_completion_faults(executor, completion),
        *_heartbeat_faults(completion, timeout_ms, heartbeat_s),
    ]
    for key in ("job", "lookup"):
        if key in executor:
            faults += _look_faults(key, executor[key])
    return [
        Finding(path, line_of(text, [GOVERNANCE, *keys]), "executor", "error", said) for keys, said in faults
    ]


def _completion_faults(executor: Mapping[str, Json], completion: str) -> Iterator[tuple[list[str], str]]:
    """(keys below `x-sluicegate`, sentence)."""
    if completion != "answer" and executor.get("kind") != "http":
        yield ["completion"], f"`completion: {completion}` needs the executor kind `http`"
    job = executor.get("job")
    if completion == POLL and not (isinstance(job, dict) and "{job}" in str(job.get("url", ""))):
        yield ["executor", "job"], "`completion: poll` needs `job` with a `url` that has `{job}` in it"
    if completion == POLL and isinstance(job, dict) and not (job.get("id") and job.get("state")):
        yield (
            ["executor", "job"],
            "`job` needs `id` and `state`, JSON pointers into the first answer and the status",
        )
    if completion == "answer" and job is not None:
        yield ["executor", "job"], "`job` has no meaning without `completion: poll` or `callback`"
    lookup = executor.get("lookup")
    if lookup is not None and not (isinstance(lookup, dict) and "{key}" in str(lookup.get("url", ""))):
        yield ["executor", "lookup"], "`lookup` needs a `url` that has `{key}` in it"
    if lookup is not None and executor.get("kind") != "http":
        yield ["executor", "lookup"], "`lookup` needs the executor kind `http`"


def _heartbeat_faults(completion: str, timeout_ms: int, heartbeat_s: int) -> Iterator[tuple[list[str], str]]:
    least_us = MISSED_LOOKS * (LOST_LOOK_US + timeout_ms * 1000)
    if completion == POLL and heartbeat_s and heartbeat_s * 1_000_000 < least_us:
        yield (
            ["heartbeat_s"],
            f"`heartbeat_s` is below {least_us // 1_000_000}, the time that {MISSED_LOOKS} lost looks take",
        )


def _look_faults(key: str, look: Json) -> Iterator[tuple[list[str], str]]:
    if not isinstance(look, dict):
        yield ["executor", key], f"`{key}` is no object"
        return
    for name in _POINTERS:
        if name in look and not (isinstance(look[name], str) and look[name].startswith("/")):
            yield ["executor", key, name], f"`{key}.{name}` is no JSON pointer, write for example `/data/0`"
    for name in ("done", "failed"):
        if name in look and not (
            isinstance(look[name], list) and all(isinstance(v, str) for v in look[name])
        ):
            yield ["executor", key, name], f"`{key}.{name}` is a list of texts"
    if "state" in look and not look.get("done"):
        yield ["executor", key], f"`{key}` with `state` needs `done`, the states in which the work is over"
