"""The docs against the code: generated tables are current, snippets run, names are complete, links lead somewhere.

`python -m tests.unit.test_docs` writes the generated tables.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from sluicegate.executors.calls import Counters
from sluicegate.processors.lifecycle import OPEN
from sluicegate.processors.releases.cases import read_cases
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.findings import RULES
from sluicegate.processors.releases.rehearsal import run_case
from sluicegate.processors.releases.schema import SAID, release_schema
from sluicegate.processors.releases.shapes import shape_of
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.topics import partition_of
from sluicegate.sinks import ddl, tables
from sluicegate.streams import failpoints

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WIRE = DOCS / "wire-format.md"
REFUSED = [
    "not_avro",
    "unknown_schema",
    "malformed_record",
    "unexpected_type",
    "too_large",
    "misrouted",
    "unsigned",
    "bad_signature",
    "unknown_key",
    "wrong_signer",
    "unknown_agent",
    "bad_identifier",
    "from_the_future",
    "too_old",
    "id_conflict",
]
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


POLICIES, BAD_INPUT = DOCS / "policies.md", DOCS / "bad-input.md"


def rules(text: str) -> str:
    """The policies page with its table of rules."""
    rows = "\n".join(
        ["| rule | finds |", "| --- | --- |", *[f"| `{n}` | {said} |" for n, said in RULES.items()]]
    )
    return re.sub(
        r"(<!-- rules -->\n).*?(<!-- /rules -->)", lambda m: f"{m[1]}{rows}\n{m[2]}", text, flags=re.DOTALL
    )


def test_every_key_of_release_yaml_is_described() -> None:
    """A new key of `release.yaml` needs a line in `SAID`; one that is gone must not keep its line."""
    schema: dict[str, Any] = release_schema()
    keys = {
        f"{model}.{key}": about.get("description", "")
        for model, definition in [("Manifest", schema), *schema["$defs"].items()]
        for key, about in definition.get("properties", {}).items()
    }
    assert {key for key, said in keys.items() if not said} == set()
    assert SAID.keys() - keys.keys() == set()


def test_the_policies_page_checks_and_its_cases_pass() -> None:
    assert POLICIES.read_text("utf-8") == rules(POLICIES.read_text("utf-8")), (
        "run `python -m tests.unit.test_docs`"
    )
    files = {"release.yaml": "name: bank\nversion: '1'\nroles: [clerk]\n"}
    files["contracts/pay.json"] = blocks(POLICIES, "json")[0]
    files["policies/bank.cedar"] = blocks(POLICIES, "cedar")[0]
    release, findings = check_release(files)
    assert release is not None and findings == []
    rows = {"tests/a.yaml": blocks(POLICIES, "yaml")[0], "tests/b.csv": blocks(POLICIES, "csv")[0]}
    shapes = {name: shape_of(tool.contract.input_schema) for name, tool in release.tools.items()}
    cases, unread = read_cases(rows, shapes)
    assert unread == [] and len(cases) == 6
    assert [run_case(release, case).difference for case in cases] == [""] * 6


def generated() -> dict[str, str]:
    """Marker -> the lines between `<!-- marker -->` and `<!-- /marker -->` of the wire format."""
    prints = [f"| `{name}` | `{schema.prefix[2:].hex()}` |" for name, schema in codec.SCHEMAS.items()]
    reasons = [f"| `{c}` | {REASONS[c].for_model} | {REASONS[c].remedy} |" for c in REFUSED]
    return {"fingerprints": "\n".join(prints), "reasons": "\n".join(reasons)}


def filled(text: str) -> str:
    for marker, lines in generated().items():
        text, count = re.subn(
            rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)",
            lambda m, lines=lines: f"{m[1]}{lines}\n{m[2]}", text, flags=re.DOTALL,
        )  # fmt: skip
        assert count == 1, marker
    return text


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_generated_tables_are_current() -> None:
    assert WIRE.read_text("utf-8") == filled(WIRE.read_text("utf-8")), "run `python -m tests.unit.test_docs`"


def snippet() -> dict[str, Any]:
    """The wire format's functions, which know nothing of Sluicegate."""
    source = blocks(WIRE, "python")[0]
    assert "sluicegate" not in source
    names: dict[str, Any] = {}
    exec(compile(source, str(WIRE), "exec"), names)
    return names


def test_the_python_snippet_writes_what_the_codec_reads() -> None:
    names = snippet()
    schema, prefix = names["load"](ROOT / "schemas" / "avro" / "intent.avsc")
    made = names["intent"]("agent-1", "s-1", "tool_call", "t", {"a": 1})
    record = codec.decode_as(r.Intent, names["encode"](schema, prefix, made))
    assert (record.agent_id, record.tool, record.arguments) == ("agent-1", "t", b'{"a": 1}')
    assert record.issued_at == made["issued_at"]
    back = names["decode"](schema, prefix, codec.encode(record))
    assert back["intent_id"] == record.intent_id
    assert names["decode"](schema, prefix, codec.encode(r.StageFacts(""))) is None


def test_the_python_snippet_reaches_the_agents_partition(kafka: str) -> None:
    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka.admin import AdminClient, NewTopic

    topic = "docs.intents"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(topic, 7, 1)])[topic].result(30)
    names = snippet()
    reader = Consumer({"bootstrap.servers": kafka, "group.id": "docs", "enable.auto.commit": False})
    for agent in ("agent-1", "é€𝄞", "banking-agent-gpt-4o-2024-05-13"):
        names["publish"](kafka, topic, agent, agent.encode())
        place = TopicPartition(topic, partition_of(agent, 7))
        low, high = reader.get_watermark_offsets(place, 30)
        reader.assign([TopicPartition(topic, place.partition, low)])
        values = {reader.poll(30).value() for _ in range(high - low)}
        assert agent.encode() in values
    reader.close()


def test_every_environment_variable_is_documented_and_read() -> None:
    read = set()
    for layer in ("streams", "executors", "sinks"):
        for path in (ROOT / layer).rglob("*.py"):
            read |= set(re.findall(r"\bSLUICEGATE_[A-Z_]+", path.read_text("utf-8")))
    settings = (ROOT / "streams" / "settings.py").read_text("utf-8")
    read |= {f"SLUICEGATE_KAFKA_{n}" for n in re.findall(r'_(?:choice|file)\(environ, "(\w+)"', settings)}
    read |= {f"SLUICEGATE_KAFKA_{n}" for n in re.findall(r'_KAFKA_PREFIX \+ "(\w+)"', settings)}
    rows = re.findall(
        r"^\| `(SLUICEGATE_\w+)\*?` \|", (DOCS / "operations.md").read_text("utf-8"), re.MULTILINE
    )
    families = tuple(row for row in rows if row.endswith("_"))
    assert len(rows) == len(set(rows))
    missing = {
        v
        for v in read
        if v not in rows and not v.startswith(families) and v not in ("SLUICEGATE_", "SLUICEGATE_KAFKA_")
    }
    assert missing == set()
    assert {row for row in rows if row not in read} == set()


def test_every_metric_is_documented() -> None:
    page = (DOCS / "operations.md").read_text("utf-8")
    documented = set()
    for row in re.findall(r"^\| (`sluicegate_.*?) \| ", page, re.MULTILINE):
        first, *rest = re.findall(r"`(\w+)`", row)
        family = re.match(r"sluicegate_[a-z]+", first)
        assert family is not None
        documented |= {first, *(family.group() + name for name in rest)}
    emitted = {f"sluicegate_executor_{f.name}_total" for f in dataclasses.fields(Counters)}
    for name in (
        "roles.py",
        "watch/monitor.py",
        "watch/notify.py",
        "watch/sentinel.py",
        "watch/alarm_notify.py",
        "watch/canary_watcher.py",
        "watch/evaluator_role.py",
        "transparency/checkpointer.py",
        "replay/reproduce_watch.py",
        "watch/issuer_watch.py",
        "../gateway/server.py",
    ):
        text = (ROOT / "streams" / name).read_text("utf-8")
        emitted |= {m for m in re.findall(r"[\"'](sluicegate_[a-z_]+)", text) if not m.endswith("_")}
    assert documented == emitted


def test_exit_codes_and_failpoints_are_the_codes() -> None:
    from sluicegate.streams import cli

    page = (DOCS / "operations.md").read_text("utf-8")
    codes = {int(c) for c in re.findall(r"^\| (\d+) \| ", page, re.MULTILINE)}
    assert codes == {0, cli.EXIT_FOUND, cli.EXIT_USAGE, cli.EXIT_RETRY, cli.EXIT_TERMINAL, 130}
    protocol = (DOCS / "commit-protocol.md").read_text("utf-8")
    named = re.findall(r"^\| \d \| `([\w.]+)` \|", protocol, re.MULTILINE)
    points = failpoints.LEDGER_POINTS + failpoints.CLAIM_POINTS + failpoints.SINK_POINTS
    assert tuple(named) == points + failpoints.CHECKPOINT_POINTS


def test_tables_and_views_are_documented() -> None:
    page = (DOCS / "analysts.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(\w+)` \| ", page, re.MULTILINE))
    views = {m for v in ddl.views("d") if (m := re.findall(r"VIEW `d`\.`(\w+)`", v)[0])}
    assert named >= views
    documented = {"events", "contents", "ingest_batches", "releases", "checkpoints", "drift_1m", "session_1m"}
    assert named - views == documented <= {t.name for t in tables.TABLES}
    assert "'open'" in "".join(blocks(DOCS / "analysts.md", "sql")) and OPEN


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_golden_file_and_the_page_agree() -> None:
    golden = json.loads((ROOT / "tests" / "golden" / "schemas.json").read_text("utf-8"))
    page = WIRE.read_text("utf-8")
    assert all(f"| `{name}` | `{row['fingerprint']}` |" in page for name, row in golden.items())


def test_every_test_that_the_page_of_bad_input_names_exists() -> None:
    """Each row names a test at least, and each is a function of that file: a page about tests cannot outlive them."""
    rows = [
        line
        for line in BAD_INPUT.read_text("utf-8").splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    cited = [re.findall(r"`([\w/]+\.py)::(\w+)`", row) for row in rows if "| tests |" not in row]
    assert len(cited) >= 39 and all(cited)
    for path, name in {pair for row in cited for pair in row}:
        tree = ast.parse((ROOT / "tests" / path).read_text("utf-8"))
        found = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in found, f"{path} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_are_titled_and_say_something(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.startswith("# ") and text.endswith("\n") and len(text) > 300
    assert "\t" not in text


if __name__ == "__main__":
    WIRE.write_text(filled(WIRE.read_text("utf-8")), "utf-8")
    POLICIES.write_text(rules(POLICIES.read_text("utf-8")), "utf-8")
