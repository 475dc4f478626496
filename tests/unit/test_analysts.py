"""What analysts start from: every question of docs/analysts.md and every panel of the dashboard runs, and answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sluicegate.sinks import ddl
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.streams.evidence.controls import (
    AI_ACT,
    CONTROLS,
    NIST,
    OWASP,
    SENTENCE,
    SOC2,
    ask,
    controls_page,
)

from bench.queries import DATABASE, ROOT, fill, panels, questions

EVENTS = 50_000
BOARD: dict[str, Any] = json.loads((ROOT / "dashboards" / "sluicegate.json").read_text("utf-8"))
SOURCE = "grafana-clickhouse-datasource"
MAY_BE_EMPTY = {"Which shapes of arguments are new since yesterday?", "Which tool follows which?"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path_factory.mktemp("analysts")) as running:
        sink = running.connect("sink")
        ddl.ensure_schema(sink, "empty")
        assert fill(sink, EVENTS) > 0.9 * EVENTS
        yield running


def test_there_is_a_question_for_each_concern() -> None:
    text = " ".join(questions().values())
    views = ("refusals", "violations", "approvals", "quality", "spend", "tool_failures", "tool_mix", "tool_sequences",
             "argument_shapes", "models_served", "call_times", "latency_since", "intents_since", "sessions", "freshness", "reproducible",
             "control_changes", "releases")  # fmt: skip
    for view in views:
        assert f"from {view}" in text or f"FROM {view}" in text, view
    assert len(questions()) >= 30


def test_every_question_runs_on_an_empty_ledger_and_answers_on_a_full_one(server: EmbeddedClickHouse) -> None:
    empty, full = server.connect("reader", "empty"), server.connect("reader", DATABASE)
    silent = set()
    for name, sql in questions().items():
        assert len(empty.query(sql).result_rows) <= 1, name
        if not full.query(sql).result_rows:
            silent.add(name)
    assert silent <= MAY_BE_EMPTY, silent


def test_every_control_has_a_query_that_runs_and_most_show_records(server: EmbeddedClickHouse) -> None:
    """On an empty ledger each says none, on a full one whatever the generated traffic has; none ever fails."""
    for database, least in (("empty", 0), (DATABASE, 15)):
        client = server.connect("reader", database)
        shown = ask(CONTROLS, 3_660, lambda sql, c=client: c.query(sql).result_rows)  # type: ignore[misc]
        assert [s.error for s in shown if s.error] == []
        assert sum(s.count > 0 for s in shown) >= least, [s.control.ident for s in shown if not s.count]
        assert all(s.last for s in shown if s.count)
        assert "now() - interval 3660 day" in controls_page(shown, database, 3_660, "now")


def test_the_lists_of_controls_are_whole_and_claim_nothing() -> None:
    rows = {(c.framework, c.ident) for c in CONTROLS}
    assert len(rows) == len(CONTROLS)
    assert {i for f, i in rows if f == OWASP} == {f"ASI{n:02d}" for n in range(1, 11)}
    assert {f for f, _ in rows} == {OWASP, AI_ACT, SOC2, NIST}
    assert {"Art. 12(1)", "Art. 19"} <= {i for f, i in rows if f == AI_ACT}
    assert SENTENCE == "produces these records"
    sources = [*(ROOT / "streams" / "evidence").glob("*.py"), ROOT / "streams" / "commands" / "evidence.py"]
    for path in sources:
        text = path.read_text("utf-8").lower().replace("never says that anything is compliant", "")
        assert "complian" not in text, path.name
    failing = ask(CONTROLS[:1], 1, lambda _: (_ for _ in ()).throw(ValueError("away")))
    assert failing[0].error == "away" and failing[0].count == 0


def test_the_generated_minutes_are_those_of_the_events(server: EmbeddedClickHouse) -> None:
    """What the bench measures is a ledger as the sink leaves it."""
    client = server.connect("reader", DATABASE)
    events = "SELECT count(), uniqExact(src_partition, seq) FROM events WHERE src_topic = 'outcomes'"
    (found,) = client.query(events).result_rows
    assert found[0] == found[1]
    assert client.query("SELECT sum(n) FROM drift").result_rows == [(found[0],)]
    assert client.query("SELECT sum(not_computed) FROM freshness").result_rows[0][0] <= 0
    counted = "SELECT sum(calls), sum(released), sum(failed), countIf(closed_at IS NULL) FROM sessions"
    direct = "SELECT countIf(facts_type = 'intent_facts'), countIf(status = 'released'), countIf(status = 'failed'), 0 FROM events"
    assert client.query(counted).result_rows == client.query(direct).result_rows


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert BOARD["uid"] and BOARD["title"] and BOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids)) == len(panels()), "titles are unique, too"
    names = {variable["name"] for variable in BOARD["templating"]["list"]}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        for target in panel["targets"]:
            assert target["datasource"] == {"type": SOURCE, "uid": "${datasource}"}
            assert target["queryType"] in ("timeseries", "table")
            for name in ("agent", "release"):
                assert f"${{{name}:regex}}" not in target["rawSql"] or name in names


def test_variables_and_marks_of_the_dashboard_run(server: EmbeddedClickHouse) -> None:
    from bench.queries import filled

    client = server.connect("reader", DATABASE)
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            assert client.query(filled(variable["query"])).result_rows
    [mark] = BOARD["annotations"]["list"]
    found = client.query(filled(mark["target"]["rawSql"])).result_rows
    # The charts mark what changed them: of the last seven days all but what was published.
    assert [(row[1].partition(" by ")[0], row[2]) for row in found] == [
        ("canary.started", "desk 3: a reason"),
        ("alarm.raised", "refused agent=agent-7: 15 % of 132"),
        ("quarantine.added", "agent agent-7: a reason"),
        ("release.rolled_back", "desk 1: a reason"),
    ]


def test_grafana_is_provisioned_with_it() -> None:
    folder = ROOT / "dashboards" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "clickhouse.yaml").read_text("utf-8"))["datasources"]
    assert source["type"] == SOURCE
    assert {"setting": "readonly", "value": "2"} in source["jsonData"]["customSettings"], (
        "a viewer must not write"
    )
    assert source["secureJsonData"] == {"password": "${CLICKHOUSE_PASSWORD}"}
    (provider,) = yaml.safe_load((folder / "dashboards" / "sluicegate.yaml").read_text("utf-8"))["providers"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]["grafana"]
    assert f"./dashboards:{provider['options']['path']}:ro" in compose["volumes"]
    assert "./dashboards/provisioning:/etc/grafana/provisioning:ro" in compose["volumes"]
    assert compose["environment"]["GF_PLUGINS_PREINSTALL"] == SOURCE
    assert Path(provider["options"]["path"]).is_absolute()
