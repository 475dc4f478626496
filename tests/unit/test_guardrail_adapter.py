"""The guardrail adapter: real processes; a plug-in that hangs or crashes is a row, and ends nothing else."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest
from sluicegate.executors.adapter import Finished
from sluicegate.executors.guardrail import GROUP, GuardrailAdapter

from tests.executor_fakes import dispatch
from tests.unit import guardrail_plugins

HERE = "tests.unit.guardrail_plugins"
PLUGINS = {name: f"{HERE}:{name}" for name in vars(guardrail_plugins) if not name.startswith("_")}


def ask(*plugins: str, to: str = "good", timeout_ms: int = 20_000) -> list[dict[str, str]]:
    """The rows of one call, a rule a plug-in."""

    async def main() -> list[dict[str, str]]:
        adapter = GuardrailAdapter(
            {p: PLUGINS.get(p, f"{HERE}:{p}") for p in plugins if p != "missing"},
            environ={**os.environ, "SLUICEGATE_KAFKA": "broker:9092"},
        )
        rules = [{"id": f"rule-{p}", "plugin": p, "timeout_ms": timeout_ms} for p in plugins]
        executor = orjson.dumps({"kind": "guardrail", "plugins": rules})
        try:
            offered = dispatch(1, executor=executor, arguments=orjson.dumps({"to": to}))
            answer = await adapter.call(offered, 60)
        finally:
            await adapter.close()
        assert isinstance(answer, Finished)
        rows = orjson.loads(answer.result)
        assert [row["id"] for row in rows] == [rule["id"] for rule in rules]
        return list(rows)

    return asyncio.run(main())


def test_a_plug_in_passes_or_refuses_in_its_own_words() -> None:
    assert ask("careful") == [{"id": "rule-careful", "verdict": "pass", "why": ""}]
    assert ask("careful", to="bad") == [
        {"id": "rule-careful", "verdict": "refuse", "why": "`bad` is on the list"}
    ]
    assert ask("wants_a_person") == [
        {"id": "rule-wants_a_person", "verdict": "hold", "why": "who is `good`?"}
    ]


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        ("says_yes", "answered bool"),
        ("says_maybe", "answered a mapping that is not"),
        ("crashes", "ended before it answered"),
        ("raises", "ValueError: no list today"),
        ("missing", "no plug-in `missing` is installed here"),
        ("nowhere", "crash"),
    ],
)
def test_what_is_no_verdict_is_a_failure_and_the_next_is_asked(plugin: str, says: str) -> None:
    failed, after = ask(plugin, "careful")
    assert failed["verdict"] == "failed"
    assert says in failed["why"] or plugin == "nowhere"
    assert after["verdict"] == "pass"


def test_a_plug_in_that_hangs_is_killed_and_the_next_is_asked() -> None:
    hung, after = ask("hangs", "careful", timeout_ms=3_000)
    assert (hung["verdict"], after["verdict"]) == ("failed", "pass")
    assert "killed" in hung["why"]


def test_a_plug_in_sees_the_call_and_no_setting_of_ours() -> None:
    (row,) = ask("tells")
    assert row["why"] == "['agent', 'arguments', 'session', 'tool'] nothing"


def test_installed_plug_ins_are_found_by_their_group() -> None:
    assert GROUP == "sluicegate.guardrails"
    asyncio.run(GuardrailAdapter.from_env({}).close())
