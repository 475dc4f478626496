"""What `release diff` says of who gains and who loses is never wrong: both releases are asked about drawn calls.

"Gains" leaves nobody with less, "loses" gives nobody more, and where nothing is said the answers are the same.
"""

from __future__ import annotations

import json
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.control.registry import Agent
from sluicegate.processors.policy.access_diff import ANYBODY, GAINS, LOSES, NOBODY, access
from sluicegate.processors.policy.cedar import Verdict, entities_for, evaluate, request_of, slice_for
from sluicegate.processors.releases.release import CompiledRelease, compile_release

CONTRACT = {
    "name": "t",
    "inputSchema": {
        "type": "object",
        "properties": {"amount": {"type": "integer"}, "to": {"type": "string"}, "note": {"type": "string"}},
        "required": ["amount", "to"],
    },
    "x-sluicegate": {"class": "idempotent", "executor": {"kind": "http", "url": "http://tools.invalid/t"}},
}
ATOMS = [
    "context.args.amount < 5", "context.args.amount <= 5", "context.args.amount > 2", "context.args.amount == 3",
    'context.args.to == "a"', '["a", "b"].contains(context.args.to)', 'context.args.to like "a*"', "context.args has note",
    '!(context.args.to == "b")', "context.session.calls > 1",
]  # fmt: skip
atom = st.sampled_from(ATOMS)
condition = st.recursive(
    atom, lambda inner: st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"), max_leaves=4,
)  # fmt: skip
policy = st.builds(
    lambda effect, who, hold, when: (effect, who, hold, when),
    st.sampled_from(["permit", "permit", "permit", "forbid"]),
    st.sampled_from(["principal", 'principal in Role::"r"']),
    st.sampled_from(["", "", '@hold("why") ']),
    st.none() | condition,
)
book = st.lists(policy, min_size=0, max_size=3)
Rows = list[tuple[str, str, str, str | None]]


def release(rows: Rows) -> CompiledRelease:
    text = "\n".join(
        f'@id("p{i}") {hold}{effect} ({who}, action == Action::"t", resource)'
        + (f" when {{ {when} }};" if when else ";")
        for i, (effect, who, hold, when) in enumerate(rows)
    )
    files = {"release.yaml": "name: x\nversion: '1'\nroles: [r]\n", "contracts/t.json": json.dumps(CONTRACT)}
    return compile_release({**files, "policies/p.cedar": text}, proven=True)


def answers(compiled: CompiledRelease, agent: Agent) -> list[tuple[bool, bool]]:
    """Of every drawn call: whether it may be made at all, and without asking anybody."""
    cut = slice_for(compiled.book, agent.roles, "t")
    held = cut.holding
    found = []
    for amount, to, note, calls in product((1, 2, 3, 4, 5, 6), ("a", "ab", "b", "c"), (False, True), (1, 2)):
        args: dict[str, object] = {"amount": amount, "to": to, **({"note": "n"} if note else {})}
        context = {"args": args, "session": {"calls": calls}}
        request = request_of(agent, "t", context)
        entities = entities_for(compiled.book, agent, "t", "idempotent")

        def ask(handle: object) -> Verdict:
            return evaluate(handle, entities, request)  # type: ignore[arg-type]  # noqa: B023

        all_of_it = ask(cut.enforced)
        at_all = ask(cut.relaxed) if cut.relaxed is not None else all_of_it
        free = all_of_it.allowed and any(p not in held for p in all_of_it.policies)
        found.append((at_all.allowed, free))
    return found


@settings(max_examples=100, deadline=None)
@given(book, book)
def test_it_is_never_wrong(old: Rows, new: Rows) -> None:
    before, after = release(old), release(new)
    said = {one.subject: one for one in access(before, after)}
    for subject, roles in ((ANYBODY, ()), (("role", "r"), ("r",))):
        agent = Agent("x", "t", "t", roles)
        one = said.get(subject) or said.get(ANYBODY) or (said.get(NOBODY) if not roles else None)
        was, now = answers(before, agent), answers(after, agent)
        if one is None:
            assert was == now
        elif one.change == GAINS:
            assert all(n[0] >= w[0] for w, n in zip(was, now, strict=True)), one
        elif one.change == LOSES:
            assert all(n[0] <= w[0] for w, n in zip(was, now, strict=True)), one
        if one is not None and "cannot" in one.said:
            assert not any(n[0] for n in now), one
        if one is not None and "could not" in one.said:
            assert not any(w[0] for w in was), one
        if one is not None and one.said.endswith("now whatever the arguments"):
            assert all(n[0] for n in now), one
        if one is not None and "no person is asked any more" in one.said:
            assert all(n[1] for w, n in zip(was, now, strict=True) if n[0]), one
