"""How long analysts wait over 10,000,000 events: `python -m bench queries`.

Every question of docs/analysts.md and every panel of the dashboard, on the embedded ClickHouse, once cold and three times
warm; the slower of median and first try counts. The events are made by SQL: two and a half million calls of 200 agents over 30 days, four
partitions, two releases and a canary, 3 % refused, 2 % failed, 1 % held, model calls and scores; 150,000 sessions. Minutes
are computed by the sink's own statements. Results: `bench/results/queries.json`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sluicegate.sinks import ddl, tables
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.sinks.rollup import Rollup

from bench.common import Result, machine, write

ROOT = Path(__file__).parents[1]
DATABASE = "prod"
PARTITIONS = 4
EVENTS = 10_000_000
LIMIT_S = 2.0
WARM = 3
DAYS = 30
LOG = bytes(range(16))
CHUNK = 250_000
"""Calls of one INSERT: a million events."""

# A call is a number; what it is follows from its hash, so outcomes of one call agree without a join.
CALLS = """
INSERT INTO `{d}`.events (
    v, log_id, src_partition, seq, event_id, src_topic, src_offset, stage, status, reason, policies, labels, facts_hash, prev_hash,
    header_hash, intent_id, tenant, agent_id, session_id, subject, decided_at, input_topic, input_partition, input_offset,
    control_head, release, engine, header, facts, facts_type, kind, tool, call_tool, previous_tool, executor, issued_at, started_at,
    finished_at, remembered, grounded_from, observed, reviewers, quorum, expires_at, model, money, input_tokens, output_tokens, detail
)
WITH
    cityHash64(call, 'h') AS h, h % 1000 AS dice, cityHash64(call, 'a') % 200 AS agent_,
    agent_ % {partitions} AS part, intDiv(cityHash64(call, 's'), 7) AS spread,
    toDateTime64({end}, 6, 'UTC') - toIntervalMicrosecond(toInt64((1 - call / {calls}) * {days} * 86400e6)) AS asked,
    ['search', 'crm.get', 'crm.update', 'pay', 'mail.send', 'assistant', 'sql.run', 'refund'] AS tools,
    tools[1 + (cityHash64(call, 't') % 100 < 40 ? 0 : cityHash64(call, 't') % 8)] AS tool_,
    tools[1 + (cityHash64(call + 1, 't') % 100 < 40 ? 0 : cityHash64(call + 1, 't') % 8)] AS before_,
    tool_ = 'assistant' AS is_model,
    if(asked < toDateTime64({end}, 6, 'UTC') - INTERVAL 10 DAY, 'sha256:1a', if(agent_ % 10 = 0, 'sha256:3c', 'sha256:2b')) AS release_,
    multiIf(dice < 30, 'refused', dice < 50, 'failed', dice < 60, 'held', dice < 65, 'withheld', 'released') AS end_,
    arrayJoin(multiIf(
        end_ = 'refused', [('route', 'routed'), ('authorize', 'refused')],
        end_ = 'held', [('route', 'routed'), ('authorize', 'held')],
        [('route', 'routed'), ('authorize', 'permitted'), ('validate', 'validated'), ('plan', 'dispatched'), ('execute', end_)]
    )) AS step,
    step.1 AS stage_, step.2 AS status_,
    toIntervalMicrosecond(toInt64(exp(8 + (cityHash64(call, 'l') % 1000) / 250.))) AS took,
    asked + if(stage_ = 'execute', took, toIntervalMicrosecond(4000)) AS at
SELECT
    1, unhex('{log}'), part, call * 8 + indexOf(['route', 'authorize', 'validate', 'plan', 'execute'], stage_) AS seq_,
    reinterpretAsFixedString(cityHash64(part, seq_, 'e')) || reinterpretAsFixedString(cityHash64(part, seq_, 'f')), 'outcomes', seq_,
    stage_, status_,
    multiIf(status_ = 'refused', ['no_permit', 'forbidden', 'ungrounded'][1 + h % 3], status_ = 'failed', ['timeout', 'tool_broke'][1 + h % 2], ''),
    if(stage_ = 'authorize', ['policy-' || toString(h % 12)], []), ['internal'], randomFixedString(32), randomFixedString(32), randomFixedString(32),
    'intent-' || toString(call), ['acme', 'globex', 'initech'][1 + agent_ % 3], 'agent-' || toString(agent_),
    'session-' || toString(intDiv(call, 200 * 17)) || '-' || toString(agent_), 'person-' || toString(spread % 50000), at, if(stage_ = 'execute', 'receipts', 'intents'),
    part, seq_, 3, release_, '0.1.0', randomFixedString(64) || repeat('h', 300), randomFixedString(16),
    multiIf(stage_ = 'route', 'intent_facts', stage_ = 'plan', 'plan_facts', status_ = 'held', 'hold_facts', stage_ = 'execute', if(is_model, 'answer_facts', 'result_facts'), 'stage_facts'),
    if(stage_ = 'route', if(is_model, 'model_call', 'tool_call'), ''), if(stage_ = 'route', tool_, ''), tool_, if(stage_ = 'route', before_, ''),
    multiIf(stage_ = 'route', 'http', stage_ = 'execute', 'worker-1', ''), if(stage_ = 'route', asked - toIntervalMicrosecond(3000), NULL),
    if(stage_ = 'execute', at - took, NULL), if(stage_ = 'execute', at, NULL), if(stage_ = 'route', true, NULL),
    if(stage_ = 'validate' AND h % 50 = 0, ['nowhere'], []), if(stage_ = 'validate' AND h % 40 = 0, ['rule-' || toString(h % 5)], []),
    if(status_ = 'held', ['desk'], []), if(status_ = 'held', 1, 0), if(status_ = 'held', at + INTERVAL 1 DAY, NULL),
    if(stage_ = 'execute' AND is_model, if(asked < toDateTime64({end}, 6, 'UTC') - INTERVAL 3 DAY, 'gpt-a', 'gpt-b'), ''), NULL,
    if(stage_ = 'execute' AND is_model, 400 + h % 900, NULL), if(stage_ = 'execute' AND is_model, 50 + h % 300, NULL), ''
FROM (SELECT number AS call FROM numbers({first}, {count}))
SETTINGS max_insert_threads = 1, min_insert_block_size_rows = 250000, min_insert_block_size_bytes = 400000000
"""
SESSIONS = """
INSERT INTO `{d}`.events (v, log_id, src_partition, seq, event_id, src_topic, src_offset, stage, status, facts_hash, prev_hash, header_hash,
    intent_id, tenant, agent_id, session_id, subject, decided_at, input_topic, input_partition, input_offset, control_head, release, engine,
    header, facts, facts_type, kind, origin, on_behalf_of, metric, score, reviewer, detail)
WITH cityHash64(s, agent_, 'q') AS h, agent_ % {partitions} AS part,
    toDateTime64({end}, 6, 'UTC') - toIntervalMicrosecond(toInt64((1 - s * 3400 / {calls}) * {days} * 86400e6)) AS opened,
    if(opened < toDateTime64({end}, 6, 'UTC') - INTERVAL 10 DAY, 'sha256:1a', if(agent_ % 10 = 0, 'sha256:3c', 'sha256:2b')) AS release_,
    arrayJoin(arrayFilter(x -> x.1 != 'score' OR h % 20 = 0, [('session', 'opened', 0), ('session', 'closed', 3199), ('score', 'scored', 3199)])) AS step,
    opened + toIntervalMicrosecond(toInt64((step.3 + agent_) / {calls} * {days} * 86400e6)) AS at
SELECT 1, unhex('{log}'), part, (s * 3400 + step.3 + agent_) * 8 + if(step.2 = 'opened', 0, if(step.2 = 'closed', 6, 7)) AS seq_, randomFixedString(16), 'outcomes', seq_, step.1, step.2,
    randomFixedString(32), randomFixedString(32), randomFixedString(32), '', ['acme', 'globex', 'initech'][1 + agent_ % 3], 'agent-' || toString(agent_),
    'session-' || toString(s) || '-' || toString(agent_), 'person-1', at, 'messages', part, seq_, 3, release_, '0.1.0', randomFixedString(64), randomFixedString(16),
    if(step.1 = 'score', 'score_facts', 'session_facts'), if(step.1 = 'score', if(h % 40 = 0, 'person', 'evaluator'), 'session.' || step.2), 'channel', 'person-1',
    if(step.1 = 'score', 'quality', ''), if(step.1 = 'score', 5000 + h % 5000, NULL), if(step.1 = 'score', 'judge', ''), if(step.1 = 'score', release_, '')
FROM (SELECT number AS s FROM numbers(intDiv({calls}, 3400))) AS sessions CROSS JOIN (SELECT number AS agent_ FROM numbers(200)) AS agents
SETTINGS max_insert_threads = 1
"""
CONTENTS = """
INSERT INTO `{d}`.contents (log_id, src_topic, src_partition, seq, event_id, agent_id, session_id, intent_id, subject, decided_at, record, content, shape)
SELECT log_id, src_topic, src_partition, seq, event_id, agent_id, session_id, intent_id, subject, decided_at, 'intent',
    '{{"tool":"' || tool || '","arguments":{{"to":"x","amount":' || toString(seq % 1000) || '}}}}',
    multiIf(tool = 'pay', 'amount:number,to:string', tool = 'search' AND release = 'sha256:3c', 'limit:number,query:string', tool = 'search', 'query:string', 'id:string')
FROM `{d}`.events WHERE facts_type = 'intent_facts' AND src_partition = {partition}
SETTINGS max_insert_threads = 1
"""
MANIFEST = """
INSERT INTO `{d}`.ingest_batches (log_id, topic, partition, first_seq, last_seq, n, contents, rejects, sha256, first_offset, last_offset, decided_until)
SELECT log_id, src_topic, src_partition, min(seq), max(seq), count(), 0, 0, toFixedString('', 32), min(seq), max(seq), max(decided_at)
FROM `{d}`.events GROUP BY log_id, src_topic, src_partition, intDiv(seq, 160000)
"""
AGENTS = """
INSERT INTO `{d}`.events (v, log_id, src_partition, seq, event_id, src_topic, src_offset, stage, status, facts_hash, prev_hash, header_hash,
    intent_id, decided_at, kind, body, facts_type)
SELECT 1, unhex('{log}'), 0, 1, randomFixedString(16), 'control', 1, 'control', 'recorded', randomFixedString(32), randomFixedString(32), randomFixedString(32), '',
    toDateTime64({end}, 6, 'UTC') - INTERVAL 31 DAY, 'agents.registered',
    '{{"agents":[' || arrayStringConcat(arrayMap(a -> '{{"agent_id":"agent-' || toString(a) || '","team":"team-' || toString(a % 9) || '"}}', range(200)), ',') || ']}}', 'control_facts'
"""
SAMPLES = """
INSERT INTO `{d}`.events (v, log_id, src_partition, seq, event_id, src_topic, src_offset, stage, status, facts_hash, prev_hash, header_hash,
    intent_id, decided_at, kind, body, facts_type)
SELECT 1, unhex('{log}'), 0, 2 + number, randomFixedString(16), 'control', 2 + number, 'control', 'recorded', randomFixedString(32), randomFixedString(32),
    randomFixedString(32), '', toDateTime64({end}, 6, 'UTC') - toIntervalHour(number + 1), 'reproduce.sampled',
    '{{"counts":{{"SAME":' || toString(20 - (number % 9 = 0)) || '}},"n":20,"partition":' || toString(number % {partitions}) ||
    ',"seed":"x","share_ppm":1000000,"since":1795000000000000,"until":1795086400000000}}', 'control_facts'
FROM numbers(24 * 7)
"""

CHANGES = """
INSERT INTO `{d}`.events (v, log_id, src_partition, seq, event_id, src_topic, src_offset, stage, status, facts_hash, prev_hash, header_hash,
    intent_id, decided_at, kind, body, facts_type, who, why)
WITH arrayJoin([
    (200, 31, 'release.published', '{{"digest":"sha256:1a","name":"desk","version":"1"}}'), (201, 31, 'release.deployed', '{{"digest":"sha256:1a"}}'),
    (202, 11, 'release.published', '{{"digest":"sha256:2b","name":"desk","version":"2"}}'), (203, 10, 'release.deployed', '{{"digest":"sha256:2b"}}'),
    (204, 5, 'release.published', '{{"digest":"sha256:3c","name":"desk","version":"3"}}'), (205, 5, 'canary.started', '{{"digest":"sha256:3c","weight_bp":1000}}'),
    (206, 2, 'alarm.raised', '{{"id":"3fa9","rule":"refused","said":"15 % of 132","stream":"refused agent=agent-7"}}'),
    (207, 2, 'quarantine.added', '{{"alarm":"3fa9","scope":"agent","value":"agent-7"}}'), (208, 1, 'release.rolled_back', '{{"to":"sha256:1a"}}')
]) AS one
SELECT 1, unhex('{log}'), 0, one.1, randomFixedString(16), 'control', one.1, 'control', 'recorded', randomFixedString(32), randomFixedString(32),
    randomFixedString(32), '', toDateTime64({end}, 6, 'UTC') - toIntervalHour(24 * one.2 - 1), one.3, one.4, 'control_facts', 'olga', 'a reason'
"""
FILES = """
INSERT INTO `{d}`.releases (digest, path, body)
SELECT arrayJoin(['sha256:1a', 'sha256:2b', 'sha256:3c']) AS release_, arrayJoin(['release.yaml', 'prompts/desk.md', 'policies/desk.cedar']) AS path_, release_ || path_
"""


def questions() -> dict[str, str]:
    """The sentence above each question of the page -> its SQL; panels of the dashboard by title."""
    page = (ROOT / "docs" / "analysts.md").read_text("utf-8")
    found = dict(re.findall(r"^([A-Z][^\n]*\?)\n\n```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    return found | {f"panel {title}": sql for title, sql in panels().items()}


def panels() -> dict[str, str]:
    """Title of a panel -> its SQL with Grafana's macros filled in for the last seven days."""
    file = ROOT / "dashboards" / "sluicegate.json"
    board = json.loads(file.read_text("utf-8"))
    return {
        panel["title"]: filled(target["rawSql"])
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }


def filled(sql: str) -> str:
    """Grafana's macros, as its ClickHouse plug-in fills them in."""
    start, end = "toDateTime(now() - interval 7 day)", "toDateTime(now())"
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 >= {start} AND \1 <= {end}", sql)
    sql = re.sub(
        r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 3600 second)", sql
    )
    sql = sql.replace("$__fromTime", start).replace("$__toTime", end)
    return re.sub(r"\$\{\w+:regex\}", ".*", sql)


def fill(client: Any, events: int) -> int:
    """Make the events and compute their minutes. Returns how many there are."""
    ddl.ensure_schema(client, DATABASE)
    calls = events * 10 // 49  # 4.9 outcomes a call
    calls -= calls % 3_400
    end = int(time.time())
    common: dict[str, Any] = {
        "d": DATABASE, "partitions": PARTITIONS, "calls": calls, "days": DAYS, "end": end, "log": LOG.hex()
    }  # fmt: skip
    for first in range(0, calls, CHUNK):
        client.command(CALLS.format(first=first, count=min(CHUNK, calls - first), **common))
    client.command(SESSIONS.format(**common))
    client.command(AGENTS.format(**common))
    client.command(SAMPLES.format(**common))
    client.command(CHANGES.format(**common))
    client.command(FILES.format(**common))
    for partition in range(PARTITIONS):
        client.command(CONTENTS.format(partition=partition, **common))
    client.command(MANIFEST.format(**common))
    for partition in range(PARTITIONS):
        roll = Rollup(lambda work: work(client), DATABASE, "", LOG, partition)
        while roll.step(calls * 8):
            pass
    found: list[tuple[int]] = client.query(f"SELECT count() FROM `{DATABASE}`.events").result_rows
    return found[0][0]


def seconds(client: Any, sql: str) -> tuple[float, int]:
    """The slower of the first try and the median of the others, and the rows of the answer."""
    took = []
    rows = 0
    for _ in range(1 + WARM):
        started = time.perf_counter()
        rows = len(client.query(sql).result_rows)
        took.append(time.perf_counter() - started)
    return max(took[0], statistics.median(took[1:])), rows


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    events = parser.parse_known_args()[0].events
    with tempfile.TemporaryDirectory() as folder, EmbeddedClickHouse(Path(folder)) as server:
        sink = server.connect("sink")
        started = time.perf_counter()
        total = fill(sink, events)
        made = time.perf_counter() - started
        size = sink.query(
            f"SELECT table, sum(bytes_on_disk), sum(rows) FROM system.parts WHERE active AND database = '{DATABASE}' GROUP BY table"
        ).result_rows
        print(f"{total} events in {made:.0f} s; {sorted(size)}", flush=True)
        reader = server.connect("reader", DATABASE)
        took = {}
        for name, sql in questions().items():
            took[name], rows = seconds(reader, sql)
            print(f"{took[name]:7.3f} s  {rows:7} rows  {name}", flush=True)
    slowest = max(took, key=took.__getitem__)
    said = f"{len(took)} queries over {total} events in chDB, {machine()}; the slowest: {slowest}; median {statistics.median(took.values()):.3f} s"
    write(
        "queries",
        [
            Result(
                "queries.slowest_s",
                round(took[slowest], 3),
                "s",
                said,
                f"limit of {LIMIT_S} s",
                round(took[slowest] / LIMIT_S, 2),
            )
        ]
        + [
            Result(f"queries: {name}", round(s, 3), "s", "")
            for name, s in sorted(took.items(), key=lambda one: -one[1])
        ],
    )
    assert tables.EVENTS


if __name__ == "__main__":
    main()
