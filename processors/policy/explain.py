"""Why nothing permitted it: the nearest permit and the condition it fails on, in words.

"`refund-small` fails on `amount <= 100`, got 250". Only called for a refusal, so it may cost a few evaluations:
each conjunct of each permit in the slice is asked of Cedar itself, never of a second evaluator.
Next: `authorize.py`.
"""

from __future__ import annotations

import json
from typing import cast

import cedarpy
from sluicegate.processors.policy.cedar import Json, Policy, Slice, to_text

MAX_PERMITS = 20
"""Permits looked at for one refusal; each costs about 50 us a conjunct."""

_METHODS = {
    "lessThan": "<",
    "lessThanOrEqual": "<=",
    "greaterThan": ">",
    "greaterThanOrEqual": ">=",
}
_BINARY = ("==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "&&", "||", "in")


def nearest_permit(
    cut: Slice, entities: cedarpy.Entities, request: dict[str, Json], args: dict[str, Json]
) -> str:
    """One sentence, or an empty string when no permit's scope fits the request."""
    best: tuple[int, str] | None = None
    permits = [p for p in cut.policies if p.effect == "permit"]
    for policy in permits[:MAX_PERMITS]:
        failing = _failing(policy, entities, request)
        if failing is None:
            continue
        count, conjunct, negated = failing
        text = render(conjunct)
        sentence = f"`{policy.policy_id}` fails on `{'not ' if negated else ''}{text}`"
        got = _actual(conjunct, args)
        if got:
            sentence += f", got {got}"
        if best is None or count < best[0]:
            best = (count, sentence)
    return best[1] if best else ""


def _failing(
    policy: Policy, entities: cedarpy.Entities, request: dict[str, Json]
) -> tuple[int, Json, bool] | None:
    """(how many conjuncts fail, the first of them, whether it stands under `unless`), None if the scope fails."""
    if not _holds(policy, [], entities, request):
        return None
    failed: list[tuple[Json, bool]] = []
    for condition in cast("list[dict[str, Json]]", policy.est.get("conditions", [])):
        unless = condition["kind"] == "unless"
        parts = [condition["body"]] if unless else _conjuncts(condition["body"])
        for part in parts:
            if not _holds(policy, [{"kind": condition["kind"], "body": part}], entities, request):
                failed.append((part, unless))
    return (len(failed), *failed[0]) if failed else None


def _holds(
    policy: Policy, conditions: list[Json], entities: cedarpy.Entities, request: dict[str, Json]
) -> bool:
    text = to_text({**policy.est, "conditions": conditions})
    answer = cedarpy.is_authorized_batch([request], text, entities)[0]
    return bool(answer.decision == cedarpy.Decision.Allow and not answer.diagnostics.errors)


def _conjuncts(body: Json) -> list[Json]:
    if isinstance(body, dict) and "&&" in body:
        both = cast("dict[str, Json]", body["&&"])
        return _conjuncts(both["left"]) + _conjuncts(both["right"])
    return [body]


def render(node: Json) -> str:
    """An expression of Cedar's EST as a person would write it: arguments by their bare names."""
    if not isinstance(node, dict):
        return json.dumps(node)
    (op, body), *_ = node.items()
    if op == "Value":
        return json.dumps(body)
    if op == "Var":
        return str(body)
    if op == ".":
        text = f"{render(body['left'])}.{body['attr']}"
        return text.removeprefix("context.").removeprefix("args.")
    if op == "has":
        return f"{_short(body['left'])} has {body['attr']}"
    if op == "like":
        pattern = "".join("*" if p == "Wildcard" else p["Literal"] for p in body["pattern"])
        return f"{render(body['left'])} like {json.dumps(pattern)}"
    if op == "Set":
        return "[" + ", ".join(render(item) for item in body) + "]"
    if op == "!":
        return f"not {render(body['arg'])}"
    if op in _BINARY:
        return f"{render(body['left'])} {op} {render(body['right'])}"
    if op in _METHODS:
        return f"{render(body[0])} {_METHODS[op]} {render(body[1])}"
    if op in ("decimal", "ip"):
        text = str(body[0].get("Value", ""))
        return text.removesuffix(".0") if op == "decimal" else text
    if op in ("contains", "containsAll", "containsAny"):
        return f"{render(body['left'])}.{op}({render(body['right'])})"
    return json.dumps(node)[:200]


def _short(node: Json) -> str:
    text = render(node)
    return {"context.args": "arguments", "args": "arguments"}.get(text, text)


def _actual(node: Json, args: dict[str, Json]) -> str:
    """The value of the first argument the expression speaks of."""
    path = _first_argument(node)
    value: Json = args
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return "nothing" if path else ""
        value = value[part]
    return json.dumps(value, ensure_ascii=False)[:80] if path else ""


def _first_argument(node: Json) -> list[str]:
    if isinstance(node, list):
        for item in node:
            if found := _first_argument(item):
                return found
        return []
    if not isinstance(node, dict):
        return []
    for op in (".", "has"):
        if op in node:
            body = cast("dict[str, Json]", node[op])
            path = _path(body["left"])
            if path is not None:
                return [*path, str(body["attr"])]
    for child in node.values():
        if found := _first_argument(child):
            return found
    return []


def _path(node: Json) -> list[str] | None:
    """The path below `context.args`, or None."""
    if isinstance(node, dict) and "." in node:
        body = cast("dict[str, Json]", node["."])
        if body["left"] == {"Var": "context"} and body["attr"] == "args":
            return []
        left = _path(body["left"])
        return None if left is None else [*left, str(body["attr"])]
    return None
