"""The tables that are computed from `events`, by minute: what they hold and what each column means. Pure.

A row is always the whole of its minute, partition and names, up to `until_seq`; computed again it replaces the one before.
So sums are never doubled, whatever is repeated. Next: `rollup.py` (fills them), `docs/decisions/0027-*` (why so).
"""

from __future__ import annotations

from sluicegate.sinks.columns import INT, LC, TIME, TIME_OR_NONE, Column, Table

_N = "UInt64"


def _count(name: str, comment: str) -> Column:
    return Column(name, _N, comment, INT)


_COUNTS = (
    _count("calls", "calls asked for, whatever came of them"),
    _count("executed", "executions that ended: released, withheld, failed or resolved"),
    _count("released", "results the agent was given"),
    _count("refused", "calls refused, by any stage"),
    _count("failed", "executions that failed"),
    _count("withheld", "results that were kept back"),
    _count("ungrounded", "calls with a protected argument whose value stands nowhere, whatever was decided about it"),
    _count("held", "calls that people were asked about"),
    _count("expired", "calls that ended because time was over"),
    _count("in_doubt", "calls nobody knows the end of, at least for a while"),
)  # fmt: skip
_SUMS = (
    _count("input_tokens", "of model calls, as the server counted"),
    _count("output_tokens", "of model calls, as the server counted"),
    _count("cost_micros", "money spent, settled; see the view `spend`"),
    _count("quality_sum", "sum of the scores, in 1/10,000"),
    _count("scores", "how many scores"),
)
_PLACE = (
    Column("minute", "DateTime('UTC')", "start of the minute, by decided_at", "Delta, LZ4"),
    Column("log_id", "FixedString(16)", "which ledger"),
    Column("src_partition", "UInt32", "ledger partition", INT),
    Column("environment", LC, "the environment: the database's name"),
    Column("tenant", LC, "of the event"),
    Column("agent_id", LC, "of the event"),
)
_UNTIL = Column("until_seq", _N, "computed from all events of the partition up to this one", INT)

DRIFT_1M = Table(
    "drift_1m",
    "What happened in each minute, by tenant, agent, release and tool. Read it through the view `drift`.",
    (
        *_PLACE,
        Column("release", LC, "digest of the release it was decided under, or empty"),
        Column("tool", LC, "the call's tool; `(unknown)` when no contract has that name; empty for what is no call"),
        _UNTIL,
        _count("n", "events: over all rows of a partition, exactly those of `events`"),
        *_COUNTS,
        _count("violations", "calls refused in authorization or validation, or withheld"),
        _count("observed", "answers that would have been others, were everything enforced"),
        Column("latency", "Map(Int16, UInt64)", "how long executions took: bin = floor(log2(microseconds) * 4), and how many"),
        Column("shapes", "Map(String, UInt64)", "calls by the shape of their arguments: the 64 most frequent of the row"),
        Column("previous", "Map(String, UInt64)", "calls by the tool before them in the session; empty name for the first"),
        Column("served", "Map(String, UInt64)", "answered model calls by the model that served them"),
        *_SUMS,
    ),
    order_by="(minute, tenant, agent_id, release, tool, log_id, src_partition, environment)",
    partition_by="toYYYYMM(minute)",
    version="until_seq",
)  # fmt: skip

SESSION_1M = Table(
    "session_1m",
    "What happened in each minute of each session. Read it through the view `sessions`.",
    (
        *_PLACE,
        Column("session_id", "String", "the session"),
        _UNTIL,
        Column("opened_seq", "Int64", "seq of its opening when that is in this minute, else -1", INT),
        Column("opened_at", TIME_OR_NONE, "when it was opened"),
        Column("opened_head", "Int64", "control head at its opening", INT),
        Column("release", LC, "the release it stood on at its opening"),
        Column("origin", LC, "of its opening: channel, agent or handoff"),
        Column("on_behalf_of", "String", "of its opening: opaque id of the person, or empty"),
        Column("close_seq", "Int64", "seq of its close when that is in this minute, else -1", INT),
        Column("closed_at", TIME_OR_NONE, "when it was closed"),
        Column("last_at", TIME, "its last event"),
        *_COUNTS,
        _count("user_messages", "what the user said, in messages"),
        *_SUMS,
    ),
    order_by="(log_id, src_partition, agent_id, session_id, tenant, minute, environment)",
    partition_by="toYYYYMM(minute)",
    version="until_seq",
    indexes=("INDEX by_minute minute TYPE minmax GRANULARITY 1",),
)  # fmt: skip
