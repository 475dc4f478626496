"""The tables: the single place where a column is named, typed and explained.

The DDL, the insert and the comments an analyst reads come from here. Views are in `views.sql`. Pure: runs nothing.
Next: `ddl.py` (creates them), `rows.py` (fills them).
"""

from __future__ import annotations

from sluicegate.sinks.columns import BYTES as _BYTES
from sluicegate.sinks.columns import CLOCK as _CLOCK
from sluicegate.sinks.columns import INT as _INT
from sluicegate.sinks.columns import LC, TIME, TIME_OR_NONE, Column
from sluicegate.sinks.columns import Table as Table
from sluicegate.sinks.columns import quote as quote
from sluicegate.sinks.rollup_tables import DRIFT_1M as DRIFT_1M
from sluicegate.sinks.rollup_tables import SESSION_1M as SESSION_1M

_HEADER = (
    Column("v", "UInt16", "format version of the header", _INT),
    Column("log_id", "FixedString(16)", "which ledger: random, from the genesis of control; hex(log_id) to read it"),
    Column("src_partition", "UInt32", "ledger partition", _INT),
    Column("seq", "UInt64", "dense from 0 in the partition: count with it, never with offsets", _CLOCK),
    Column("event_id", "FixedString(16)", "identity of the event; column `event` is its hex", "NONE"),
    Column("stage", LC, "who answered: route, conform, authorize, validate, plan, execute, session, review, tick, transfer, budget, intake, control, genesis"),
    Column("status", LC, "what the answer was; `noted` only attaches and never changes an intent"),
    Column("reason", LC, "stable reason code of a refusal or failure, or empty; see schemas/reasons.py"),
    Column("policies", f"Array({LC})", "ids of the policies that determined the answer"),
    Column("caused_by", "Array(FixedString(16))", "ids of the events this one follows from"),
    Column("labels", f"Array({LC})", "labels of the data involved, computed, never declared"),
    Column("facts_hash", "FixedString(32)", "sha256 of column `facts`, as the header says", "NONE"),
    Column("content_commitment", "Nullable(FixedString(32))", "sha256 of the sealed content, NULL when there is none"),
    Column("prev_hash", "FixedString(32)", "header_hash of the record before: the chain", "NONE"),
    Column("intent_id", "String", "the intent, as the agent named it; empty for what belongs to none"),
    Column("tenant", LC, "from the registry, never from the record"),
    Column("agent_id", LC, "the agent"),
    Column("session_id", "String", "the session"),
    Column("subject", "String", "whose key seals the content"),
    Column("decided_at", TIME, "when it was decided; never runs backwards within a partition", _CLOCK),
    Column("input_topic", LC, "where the input came from; `tick` for a due deadline"),
    Column("input_partition", "UInt32", "partition of the input", _INT),
    Column("input_offset", "Int64", "offset of the input; for a tick the seq of its first outcome", _CLOCK),
    Column("control_head", "Int64", "seq of the control ledger it was decided under", _INT),
    Column("release", LC, "digest of the release it was decided under, or empty"),
    Column("engine", LC, "version of the deciding code"),
)  # fmt: skip
_FACTS = (
    Column("facts_type", LC, "which facts record filled the columns below; empty when this version cannot read it"),
    Column("kind", LC, "kind of intent, session event, control event or exchange between partitions"),
    Column("tool", LC, "the tool as asked for; on the first outcome of an intent"),
    Column("tool_version", LC, "version of the tool's contract"),
    Column("executor", LC, "executor kind when planned, the executor itself once claimed"),
    Column("tool_class", LC, "promise: read_only, idempotent, queryable, irreversible"),
    Column("attempt", "UInt32", "which dispatch, from 1", _INT),
    Column("timeout_ms", "UInt32", "limit of one call", _INT),
    Column("error_class", LC, "how an execution failed, or empty"),
    Column("issued_at", TIME_OR_NONE, "the sender's clock, when the intent or session event was issued", _CLOCK),
    Column("deadline_at", TIME_OR_NONE, "when the intent stops to make sense", _CLOCK),
    Column("started_at", TIME_OR_NONE, "the executor's clock: the call began", _CLOCK),
    Column("finished_at", TIME_OR_NONE, "the executor's clock: the answer was there", _CLOCK),
    Column("not_after", TIME_OR_NONE, "the dispatch may be claimed until then", _CLOCK),
    Column("lease_until", TIME_OR_NONE, "after this without a receipt the tool's class decides", _CLOCK),
    Column("result_bytes", "UInt32", "length of the result", _INT),
    Column("input_bytes", "UInt32", "length of an input that could not be taken", _INT),
    Column("digest", "String", "of the input, the action or the result, by facts_type; hex(digest) to read it"),
    Column("detail", "String", "short, no personal data; for a genesis the environment"),
    Column("origin", LC, "of a session event: channel or agent"),
    Column("on_behalf_of", "String", "of a session: opaque id of the person, or empty"),
    Column("authenticated", "Nullable(Bool)", "a valid signature was checked"),
    Column("control_stale", "Nullable(Bool)", "the control head could not be confirmed"),
    Column("remembered", "Nullable(Bool)", "the intent's id entered the duplicates window"),
    Column("who", LC, "of a control event: the operator"),
    Column("why", "String", "of a control event: in words"),
    Column("body", "String", "of a control event: canonical JSON", "ZSTD(3)"),
    Column("grounded_arguments", f"Array({LC})", "protected arguments; the next two go with it, item by item"),
    Column("grounded_from", f"Array({LC})", "where each value comes from: user, result, constant, default, absent, nowhere"),
    Column("grounded_labels", f"Array({LC})", "integrity label of that place"),
    Column("observed", f"Array({LC})", "policies, rules or reasons that would have decided otherwise, were they enforced"),
    Column("redacted", f"Array({LC})", "paths of the arguments whose value was taken out"),
    Column("expires_at", TIME_OR_NONE, "of a held call: without enough approvals by then it expires", _CLOCK),
    Column("quorum", "UInt32", "of a held call: different people who must agree", _INT),
    Column("reviewers", f"Array({LC})", "of a held call: roles that may agree, empty for any registered person"),
    Column("verdict", LC, "of a review that counted: approve or reject"),
    Column("reviewer", LC, "of a review that counted: id of the person"),
    Column("approvals", f"Array({LC})", "of a review that counted: who agreed so far"),
    Column("edited", "Nullable(Bool)", "of a review that counted: the person changed the arguments"),
    Column("candidate", LC, "of a call through a model alias: the contract that was asked; of spend_facts of any call"),
    Column("model", LC, "the model that answered; of spend_facts, else, the one that was asked"),
    Column("money", "Nullable(Int64)", "of spend_facts: what an attempt cost, in micro-units of the currency", _INT),
    Column("input_tokens", "Nullable(Int64)", "of a model's answer, as its server says", _INT),
    Column("output_tokens", "Nullable(Int64)", "of a model's answer, as its server says", _INT),
    Column("metric", LC, "of a score: what was judged"),
    Column("score", "Nullable(Int64)", "of a score: 0 to 10,000, in 1/10,000; `detail` then is the release that the session stood on, `reviewer` who says so", _INT),
)  # fmt: skip

_CALL = (
    Column("call_tool", LC, "the tool of the intent, on each of its outcomes; empty for what is older than the sink remembers"),
    Column("previous_tool", LC, "on the first outcome of an intent: the tool of the call before it in the session"),
)  # fmt: skip

EVENTS = Table(
    "events",
    "The ledger: one row an outcome, header and facts typed, and their exact bytes. Times are UTC.",
    (
        Column("src_topic", LC, "outcomes or control, without the environment"),
        Column("src_offset", "Int64", "Kafka offset of the record; offsets have holes", _CLOCK),
        *_HEADER,
        Column("header_hash", "FixedString(32)", "sha256(0x00 || header): the RFC 6962 leaf", "NONE"),
        Column("header", "String", "exact bytes of the header", _BYTES),
        Column("facts", "String", "exact bytes of the facts: the state is rebuilt from these", _BYTES),
        *_CALL,
        *_FACTS,
        Column("event", "ALIAS lower(hex(event_id))", "event_id in hex, as the command line prints it"),
    ),
    # The ledger's own order: a rebuild and an audit read ranges of it, the net replaces exactly the same record, and
    # since decided_at never runs backwards in a partition, time windows are pruned by the index below.
    order_by="(log_id, src_topic, src_partition, seq)",
    partition_by="toYYYYMM(decided_at)",
    indexes=(
        "INDEX by_time decided_at TYPE minmax GRANULARITY 1",
        "INDEX by_intent intent_id TYPE bloom_filter(0.01) GRANULARITY 1",
        "INDEX by_event event_id TYPE bloom_filter(0.01) GRANULARITY 1",
        "INDEX by_session session_id TYPE bloom_filter(0.01) GRANULARITY 1",
        "INDEX by_agent agent_id TYPE set(1000) GRANULARITY 1",
    ),
)

CONTENTS = Table(
    "contents",
    "Decrypted content of outcomes, readable, where this environment allows it. Erased by `sluicegate erase`.",
    (
        Column("log_id", "FixedString(16)", "which ledger"),
        Column("src_topic", LC, "outcomes or control"),
        Column("src_partition", "UInt32", "ledger partition", _INT),
        Column("seq", "UInt64", "of the event", _CLOCK),
        Column("event_id", "FixedString(16)", "of the event", "NONE"),
        Column("agent_id", LC, "the agent"),
        Column("session_id", "String", "the session"),
        Column("intent_id", "String", "the intent"),
        Column("subject", "String", "whose key sealed it: erasure goes by this"),
        Column("decided_at", TIME, "of the event", _CLOCK),
        Column(
            "record",
            LC,
            "intent, message, review, receipt: what the content is, as JSON; empty for a plain text",
        ),
        Column("content", "String", "the input with its arguments or result as JSON, or the text", "ZSTD(3)"),
        Column(
            "shape",
            LC,
            "of an intent: names and types of its arguments, sorted: `amount:number,to:string`",
        ),
        Column("event", "ALIAS lower(hex(event_id))", "event_id in hex"),
    ),
    order_by="(log_id, src_topic, src_partition, seq)",
    partition_by="toYYYYMM(decided_at)",
    indexes=(
        "INDEX by_event event_id TYPE bloom_filter(0.01) GRANULARITY 1",
        "INDEX by_intent intent_id TYPE bloom_filter(0.01) GRANULARITY 1",
        "INDEX by_subject subject TYPE bloom_filter(0.01) GRANULARITY 1",
    ),
)

INGEST_BATCHES = Table(
    "ingest_batches",
    "The manifest: one row a range, written after its rows. What is not covered here is not complete.",
    (
        Column("log_id", "FixedString(16)", "which ledger"),
        Column("topic", LC, "outcomes or control"),
        Column("partition", "UInt32", "ledger partition"),
        Column("first_seq", "UInt64", "first of the range"),
        Column("last_seq", "Int64", "last of the range; first_seq - 1 when it holds rejects only"),
        Column("n", "UInt32", "rows of events"),
        Column("contents", "UInt32", "rows of contents"),
        Column("rejects", "UInt32", "rows of ingest_rejects"),
        Column("sha256", "FixedString(32)", "of the concatenated header hashes, in seq order"),
        Column("first_offset", "Int64", "Kafka offset of the first record"),
        Column("last_offset", "Int64", "Kafka offset of the last record"),
        Column("decided_until", TIME, "decided_at of the last row: before it the partition is complete"),
        Column("inserted_at", f"{TIME} DEFAULT now64(6)", "when the range was complete here"),
    ),
    order_by="(log_id, topic, partition, first_offset)",
)

INGEST_REJECTS = Table(
    "ingest_rejects",
    "Records of the ledger topics that could not become a row.",
    (
        Column("log_id", "FixedString(16)", "which ledger"),
        Column("topic", LC, "outcomes or control"),
        Column("partition", "UInt32", "Kafka partition"),
        Column("offset", "Int64", "Kafka offset"),
        Column("reason", LC, "stable code, see schemas/reasons.py"),
        Column("detail", "String", "what was wrong"),
        Column("length", "UInt32", "bytes of the record"),
        Column("sha256", "FixedString(32)", "of the whole record"),
        Column("head", "String", "its first 4 kB"),
        Column("seen_at", f"{TIME} DEFAULT now64(6)", "when the sink met it"),
    ),
    order_by="(log_id, topic, partition, offset)",
)

RELEASES = Table(
    "releases",
    "The files of every release, so that a decision can be read next to the policy and prompt that made it.",
    (
        Column("digest", LC, "the release: sha256:<hex>, as in events.release"),
        Column("path", "String", "file in the release's folder"),
        Column("body", "String", "exact bytes of the file", "ZSTD(3)"),
        Column("stored_at", f"{TIME} DEFAULT now64(6)", "when it was stored here"),
    ),
    order_by="(digest, path)",
)

CHECKPOINTS = Table(
    "checkpoints",
    "Signed heads of the ledger's trees, as they were shown; the note is what counts. Not verified here.",
    (
        Column("log_id", "FixedString(16)", "which ledger"),
        Column("src_topic", LC, "outcomes or control"),
        Column("src_partition", "UInt32", "ledger partition", _INT),
        Column("size", "UInt64", "events in the tree: those with `seq` below it", _CLOCK),
        Column(
            "root", "FixedString(32)", "RFC 6962 root over the header hashes; hex(root) to read it", "NONE"
        ),
        Column("kid", LC, "the key that signed it, as registered in control"),
        Column("signed_at", TIME, "when, to the second", _CLOCK),
        Column("witnesses", f"Array({LC})", "names of the keys that cosigned it"),
        Column("note", "String", "the C2SP signed note with all its signatures", "ZSTD(3)"),
        Column("src_offset", "Int64", "of its record in the topic `checkpoints`", _CLOCK),
    ),
    order_by="(log_id, src_topic, src_partition, size, src_offset)",
    partition_by="toYYYYMM(signed_at)",
)

TABLES = (EVENTS, CONTENTS, INGEST_BATCHES, INGEST_REJECTS, RELEASES, CHECKPOINTS, DRIFT_1M, SESSION_1M)
LEDGER_TABLES = (EVENTS, CONTENTS, INGEST_BATCHES, INGEST_REJECTS)
"""What the sink fills, and what a rebuild fills anew beside them."""
ROLLUPS = (DRIFT_1M, SESSION_1M)
"""What is computed from those, by minute (`rollup.py`); a rebuild computes it anew."""
