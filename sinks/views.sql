-- The views analysts start from. `{database}` and the `{...}` lists of statuses are filled in by ddl.py, the lists
-- from processors/lifecycle.py. Every view gives the same answer when a record is in the table twice: FINAL, or an
-- aggregate that does not count.
-- A view with `/*since*/ ... /*end*/` in it has a twin NAME_since(since): what stands between is the twin's alone, and what stands
-- between `/*whole*/` and `/*end*/` is the view's alone.

CREATE OR REPLACE VIEW `{database}`.`decisions` AS
SELECT
    decided_at, tenant, agent_id, session_id, intent_id, stage, status, reason, policies, labels, detail,
    tool, tool_version, executor, tool_class, attempt, error_class,
    release, control_head, engine, event, src_topic, src_partition, seq
FROM `{database}`.`events` FINAL
WHERE src_topic = 'outcomes' AND intent_id != ''
COMMENT 'Every stage''s answer to every intent, message and review. One intent in order: WHERE intent_id = ''…'' ORDER BY seq.';

CREATE OR REPLACE VIEW `{database}`.`intents` AS
SELECT
    tenant, agent_id, intent_id,
    anyLast(e.session_id) AS session_id,
    argMaxIf(e.status, (e.remembered IS NOT false, e.seq), e.status IN ({steps})) AS state,
    multiIf(state IN ({decided}), 'decided', state IN ({executed}), 'executed', state IN ({open}), 'open', 'passing') AS life,
    argMaxIf(e.stage, (e.remembered IS NOT false, e.seq), e.status IN ({steps})) AS last_stage,
    argMaxIf(e.reason, (e.remembered IS NOT false, e.seq), e.status IN ({steps})) AS last_reason,
    argMinIf(e.tool, e.seq, e.tool != '') AS tool,
    argMinIf(e.tool_version, e.seq, e.tool != '') AS tool_version,
    argMinIf(e.kind, e.seq, e.kind != '') AS kind,
    max(e.attempt) AS attempts,
    argMaxIf(e.error_class, e.seq, e.error_class != '') AS error_class,
    minOrNull(e.issued_at) AS issued_at,
    min(e.decided_at) AS first_decided_at,
    argMaxIf(e.decided_at, (e.remembered IS NOT false, e.seq), e.status IN ({steps})) AS last_decided_at,
    argMin(e.release, e.seq) AS release,
    uniqExactIf(e.seq, e.status NOT IN ({steps}) OR e.remembered IS false) AS attached,
    lower(hex(log_id)) AS log, src_partition
FROM `{database}`.`events` AS e
WHERE src_topic = 'outcomes' AND intent_id != '' /*since*/ AND decided_at >= {since:DateTime('UTC')} /*end*/
GROUP BY log_id, src_partition, tenant, agent_id, intent_id
HAVING state != ''
/*since*/ COMMENT '`intents`, from what was decided since a time; reads only that: SELECT * FROM intents_since(since = ''2026-11-28 10:00:00''). An intent that was asked before and decided on later is here with what came later.' /*end*/
/*whole*/ COMMENT 'One row an intent: its state now. life: decided = ended without an execution, executed = ended after one, open = waits, passing = between two stages. What only attaches (duplicates, late receipts) is counted in `attached` and changes nothing.' /*end*/;

CREATE OR REPLACE VIEW `{database}`.`refusals` AS
SELECT
    decided_at, tenant, agent_id, session_id, intent_id, call_tool AS tool, stage, reason, policies, detail, labels, release, event, seq
FROM `{database}`.`events` FINAL
WHERE src_topic = 'outcomes' AND status = 'refused'
COMMENT 'What was refused, by which stage and policies, and why. tool: as asked for. SELECT stage, reason, count() FROM refusals GROUP BY ALL.';

CREATE OR REPLACE VIEW `{database}`.`violations` AS
SELECT
    decided_at, tenant, agent_id, session_id, intent_id, call_tool AS tool, release, stage,
    multiIf(status = 'withheld', 'withheld', status = 'refused', 'refused', status = 'held', 'held', 'observed') AS outcome,
    reason, policies, observed, detail, event
FROM `{database}`.`events` FINAL
WHERE src_topic = 'outcomes'
    AND (notEmpty(observed) OR status = 'withheld' OR (status = 'refused' AND stage IN ('conform', 'authorize', 'validate')))
COMMENT 'What broke a rule: refused in authorization or validation, withheld, or only `observed`: permitted, though these policies, rules or reasons would have decided otherwise, were they enforced.';

CREATE OR REPLACE VIEW `{database}`.`tool_failures` AS
SELECT
    decided_at, tenant, agent_id, session_id, intent_id, call_tool AS tool, status, reason, error_class, attempt, executor,
    dateDiff('microsecond', started_at, finished_at) / 1000 AS call_ms, release, event
FROM `{database}`.`events` FINAL
WHERE src_topic = 'outcomes' AND stage IN ('execute', 'tick') AND status IN ('failed', 'in_doubt', 'withheld')
COMMENT 'Executions that failed, were withheld or are in doubt, with the tool they called. call_ms: how long the call took.';

CREATE OR REPLACE VIEW `{database}`.`latency` AS
SELECT
    tenant, agent_id, release, intent_id, tool, state, issued_at,
    decided_at_first AS decided_at,
    dateDiff('microsecond', issued_at, decided_at_first) / 1000 AS to_decision_ms,
    dateDiff('microsecond', decided_at_first, dispatched_at) / 1000 AS to_dispatch_ms,
    dateDiff('microsecond', dispatched_at, claimed_at) / 1000 AS to_claim_ms,
    dateDiff('microsecond', ifNull(claimed_at, dispatched_at), finished_at) / 1000 AS to_finish_ms,
    dateDiff('microsecond', finished_at, ended_at) / 1000 AS to_end_ms,
    dateDiff('microsecond', issued_at, ended_at) / 1000 AS total_ms,
    dateDiff('microsecond', started_at, finished_at) / 1000 AS call_ms
FROM (
    SELECT
        tenant, agent_id, intent_id,
        argMin(e.release, e.seq) AS release,
        argMinIf(e.tool, e.seq, e.tool != '') AS tool,
        argMaxIf(e.status, e.seq, e.status IN ({steps})) AS state,
        minOrNull(e.issued_at) AS issued_at,
        min(e.decided_at) AS decided_at_first,
        minOrNullIf(e.decided_at, e.status = 'dispatched') AS dispatched_at,
        minOrNullIf(e.decided_at, e.status = 'claimed') AS claimed_at,
        maxOrNullIf(e.started_at, e.status IN ({executed})) AS started_at,
        maxOrNullIf(e.finished_at, e.status IN ({executed})) AS finished_at,
        minOrNullIf(e.decided_at, e.status IN ({terminal})) AS ended_at
    FROM `{database}`.`events` AS e
    WHERE src_topic = 'outcomes' AND intent_id != '' /*since*/ AND decided_at >= {since:DateTime('UTC')} /*end*/
    GROUP BY log_id, src_partition, tenant, agent_id, intent_id
    HAVING state != '' /*since*/ AND issued_at IS NOT NULL /*end*/
)
/*since*/ COMMENT '`latency` of intents that were asked since a time; reads only what was decided since then.' /*end*/
/*whole*/ COMMENT 'Milliseconds of each hop of an intent; NULL where it never came to that hop. A call that needs no claim finishes from its dispatch. issued_at is the agent''s clock, finished_at the executor''s, the others are the pipeline''s, so a hop can be negative where clocks differ; call_ms is on the executor''s clock alone. SELECT quantiles(0.5, 0.99)(total_ms) FROM latency WHERE decided_at > now() - INTERVAL 1 HOUR.' /*end*/;

CREATE OR REPLACE VIEW `{database}`.`latency_quantiles` AS
SELECT
    toStartOfHour(decided_at) AS hour, tool, pair.1 AS hop, count() AS n,
    round(quantileExact(0.5)(pair.2), 3) AS p50_ms,
    round(quantileExact(0.9)(pair.2), 3) AS p90_ms,
    round(quantileExact(0.99)(pair.2), 3) AS p99_ms,
    round(max(pair.2), 3) AS max_ms
FROM (
    SELECT decided_at, tool, arrayJoin([
        ('decision', to_decision_ms), ('dispatch', to_dispatch_ms), ('claim', to_claim_ms),
        ('finish', to_finish_ms), ('end', to_end_ms), ('total', total_ms), ('call', call_ms)
    ]) AS pair
    FROM `{database}`.`latency`
)
WHERE pair.2 IS NOT NULL
GROUP BY ALL
COMMENT 'The hops of `latency` by hour and tool: n, p50, p90, p99, max.';

CREATE OR REPLACE VIEW `{database}`.`ingest_audit` AS
SELECT
    lower(hex(b.log_id)) AS log, b.topic AS topic, b.partition AS partition, b.first_seq AS first_seq, b.last_seq AS last_seq,
    any(b.n) AS expected, count() AS found,
    SHA256(unhex(arrayStringConcat(arrayMap(x -> x.2, arraySort(groupArray((e.seq, hex(e.header_hash)))))))) = any(b.sha256) AS same_hash
FROM (SELECT DISTINCT log_id, src_topic, src_partition, seq, header_hash FROM `{database}`.`events`) AS e
ASOF INNER JOIN (SELECT * FROM `{database}`.`ingest_batches` FINAL WHERE n > 0) AS b
    ON e.log_id = b.log_id AND e.src_topic = b.topic AND e.src_partition = b.partition AND e.seq >= b.first_seq
GROUP BY b.log_id, b.topic, b.partition, b.first_seq, b.last_seq
COMMENT 'The manifest against the whole table, which it reads: every range must have found = expected and same_hash = 1. A range without any row does not appear: compare count() with ingest_batches.';


CREATE OR REPLACE VIEW `{database}`.`approvals` AS
SELECT
    tenant, agent_id, intent_id,
    anyLast(e.session_id) AS session_id,
    argMinIf(e.tool, e.seq, e.tool != '') AS tool,
    multiIf(
        maxIf(1, e.status = 'permitted' AND e.detail = 'approved') = 1, 'approved',
        maxIf(1, e.stage = 'review' AND e.status = 'refused') = 1, 'rejected',
        maxIf(1, e.status = 'refused' AND e.detail = 'after approval') = 1, 'refused',
        maxIf(1, e.status = 'expired' AND e.reason = 'approval_expired') = 1, 'expired',
        'pending'
    ) AS decision,
    argMaxIf(e.approvals, e.seq, e.facts_type IN ('hold_facts', 'review_facts')) AS agreed,
    argMaxIf(e.reviewer, e.seq, e.facts_type = 'review_facts') AS last_reviewer,
    argMaxIf(e.quorum, e.seq, e.facts_type IN ('hold_facts', 'review_facts')) AS quorum,
    argMaxIf(e.reviewers, e.seq, e.facts_type IN ('hold_facts', 'review_facts')) AS reviewers,
    argMaxIf(e.policies, e.seq, e.facts_type = 'hold_facts') AS policies,
    minIf(e.decided_at, e.facts_type = 'hold_facts') AS held_at,
    maxIf(e.expires_at, e.facts_type = 'hold_facts') AS expires_at,
    maxOrNullIf(e.decided_at, (e.status = 'permitted' AND e.detail = 'approved') OR (e.stage = 'review' AND e.status = 'refused')
        OR (e.status = 'refused' AND e.detail = 'after approval') OR (e.status = 'expired' AND e.reason = 'approval_expired')) AS settled_at,
    dateDiff('millisecond', held_at, settled_at) / 1000 AS waited_s,
    maxIf(1, e.edited = true) = 1 AS was_edited,
    uniqExactIf(e.seq, e.facts_type = 'hold_facts') AS times_asked,
    uniqExactIf(e.seq, e.stage = 'review' AND e.status = 'noted') AS void_reviews,
    argMaxIf(e.release, e.seq, e.facts_type = 'hold_facts') AS release,
    lower(hex(log_id)) AS log, src_partition
FROM `{database}`.`events` AS e
WHERE src_topic = 'outcomes' AND intent_id != '' /*since*/ AND decided_at >= {since:DateTime('UTC')} /*end*/ AND (agent_id, intent_id) IN (SELECT agent_id, intent_id FROM `{database}`.`events` WHERE src_topic = 'outcomes' AND status = 'held' /*since*/ AND decided_at >= {since:DateTime('UTC')} /*end*/)
GROUP BY log_id, src_partition, tenant, agent_id, intent_id
HAVING times_asked > 0
/*since*/ COMMENT '`approvals` of calls that were held since a time; reads only what was decided since then: SELECT * FROM approvals_since(since = ''2026-11-28 10:00:00'').' /*end*/
/*whole*/ COMMENT 'One row a call that people were asked about: decision pending, approved, rejected, expired, or refused when it was decided anew after they agreed; who agreed (`agreed`) and spoke last, and how long it took (waited_s, NULL while pending). void_reviews: words that changed nothing. What became of an approved call: the view `intents`.' /*end*/;

CREATE OR REPLACE VIEW `{database}`.`spend` AS
SELECT
    toStartOfHour(one.1) AS hour, tenant, team, agent_id, session_id, tool, one.3 AS candidate, one.4 AS model, one.2 AS release,
    count() AS calls,
    sum(one.5) AS input_tokens, sum(one.6) AS output_tokens, input_tokens + output_tokens AS tokens,
    sum(one.7) AS micros, micros / 1000000 AS money,
    countIf(one.7 IS NULL) AS calls_without_money
FROM (
    SELECT
        log_id, tenant, agent_id, anyLast(e.session_id) AS session_id, anyLast(e.call_tool) AS tool,
        groupArrayIf((e.decided_at, e.release, e.candidate, e.model, e.input_tokens, e.output_tokens, e.money),
            e.facts_type = 'spend_facts') AS said,
        countIf(e.facts_type IN ('result_facts', 'answer_facts', 'streamed_facts') AND e.stage = 'execute') AS ends,
        argMaxIf((e.decided_at, e.release, e.candidate, e.model, e.input_tokens, e.output_tokens, e.money), e.seq,
            e.facts_type IN ('result_facts', 'answer_facts', 'streamed_facts') AND e.stage = 'execute') AS end,
        arrayJoin(multiIf(notEmpty(said), said, ends > 0, [end], [])) AS one
    FROM (
        SELECT * FROM `{database}`.`events` FINAL
        WHERE src_topic = 'outcomes' AND facts_type IN ('spend_facts', 'result_facts', 'answer_facts', 'streamed_facts') /*since*/ AND decided_at >= {since:DateTime('UTC')} /*end*/
    ) AS e
    GROUP BY log_id, src_partition, tenant, agent_id, intent_id
) AS spent
LEFT JOIN (
    SELECT log_id, JSONExtractString(agent, 'agent_id') AS registered, argMax(JSONExtractString(agent, 'team'), seq) AS team
    FROM (
        SELECT log_id, seq, arrayJoin(JSONExtractArrayRaw(body, 'agents')) AS agent
        FROM `{database}`.`events` FINAL WHERE src_topic = 'control' AND kind = 'agents.registered'
    )
    GROUP BY log_id, registered
) AS teams
    ON spent.log_id = teams.log_id AND spent.agent_id = teams.registered
GROUP BY ALL
/*since*/ COMMENT '`spend` of what was reported since a time; reads only that: SELECT * FROM spend_since(since = ''2026-11-28 10:00:00'').' /*end*/
/*whole*/ COMMENT 'What reported calls cost, by hour, tenant, team (as registered last), agent, session, tool, candidate of an alias, model and release. calls: attempts that an executor or agent reported; of a tool without a cost the one that ended the call. micros: micro-units of the currency, exact, and money: units of it; NULL where nobody said: it needs `spend: true` in release.yaml and a price, `max_cost` or `cost`. Hits of the cache cost nothing and are not here; budgets count in full what nobody reported.' /*end*/;

CREATE OR REPLACE VIEW `{database}`.`drift` AS
SELECT * FROM `{database}`.`drift_1m` FINAL
COMMENT 'drift_1m, each row once: what happened in each minute, by tenant, agent, release and tool. Sum over it; maps add up with sumMap. Seconds behind `events`: see `freshness`.';

CREATE OR REPLACE VIEW `{database}`.`sessions` AS
SELECT
    s.environment AS environment, s.tenant AS tenant, s.agent_id AS agent_id, s.session_id AS session_id,
    argMaxIf(s.release, s.opened_seq, s.opened_seq >= 0) AS release,
    argMaxIf(s.opened_at, s.opened_seq, s.opened_seq >= 0) AS opened_at,
    argMaxIf(s.opened_head, s.opened_seq, s.opened_seq >= 0) AS opened_head,
    if(max(s.close_seq) > max(s.opened_seq), argMaxIf(s.closed_at, s.close_seq, s.close_seq >= 0), NULL) AS closed_at,
    if(max(s.close_seq) > max(s.opened_seq), max(s.close_seq), NULL) AS close_seq,
    max(s.last_at) AS last_at,
    lower(hex(s.log_id)) AS log, s.src_partition AS src_partition,
    argMaxIf(s.origin, s.opened_seq, s.opened_seq >= 0) AS origin,
    argMaxIf(s.on_behalf_of, s.opened_seq, s.opened_seq >= 0) AS on_behalf_of,
    {session_counts},
    if(scores = 0, NULL, quality_sum / (10000 * scores)) AS quality
FROM `{database}`.`session_1m` AS s FINAL
/*since*/ WHERE (s.agent_id, s.session_id) IN (SELECT agent_id, session_id FROM `{database}`.`session_1m` WHERE minute >= toStartOfMinute({since:DateTime('UTC')})) /*end*/
GROUP BY s.log_id, s.src_partition, s.environment, s.tenant, s.agent_id, s.session_id
HAVING max(s.opened_seq) >= 0
/*since*/ COMMENT '`sessions` in which something happened since a time; reads only those: SELECT * FROM sessions_since(since = ''2026-11-28 10:00:00'') ORDER BY closed_at.' /*end*/
/*whole*/ COMMENT 'One row a session: when it was opened, under which release and control head, when it was closed (NULL while open), and what was counted in it. Unit of a canary. What comes after the close (a late receipt, a score) still counts. Only those of late: sessions_since(since = ''2026-11-28 10:00:00'').' /*end*/;

CREATE OR REPLACE VIEW `{database}`.`freshness` AS
SELECT
    lower(hex(b.log_id)) AS log, b.topic AS topic, b.partition AS partition, b.copied_until_seq AS copied_until_seq,
    b.complete_until AS complete_until, b.copied_at AS copied_at, dateDiff('millisecond', b.complete_until, b.copied_at) / 1000 AS copy_lag_s,
    if(b.topic = 'outcomes', toInt64(d.computed_until_seq), NULL) AS computed_until_seq,
    if(b.topic = 'outcomes', b.copied_until_seq - computed_until_seq, NULL) AS not_computed,
    if(b.topic = 'outcomes', d.n, NULL) AS computed
FROM (
    SELECT log_id, topic, partition, max(last_seq) AS copied_until_seq, max(decided_until) AS complete_until, max(inserted_at) AS copied_at
    FROM `{database}`.`ingest_batches` GROUP BY log_id, topic, partition
) AS b
LEFT JOIN (
    SELECT log_id, src_partition, max(until_seq) AS computed_until_seq, sum(n) AS n FROM `{database}`.`drift_1m` FINAL GROUP BY log_id, src_partition
) AS d ON b.log_id = d.log_id AND b.partition = d.src_partition
COMMENT 'How current this database is, by ledger partition. Before complete_until nothing is missing; a partition that says nothing new may be idle or behind: ask `sluicegate status`. not_computed: events not yet in drift and sessions. computed = computed_until_seq + 1, unless the ledger has a gap.';

CREATE OR REPLACE VIEW `{database}`.`quality` AS
SELECT
    decided_at, tenant, agent_id, session_id, intent_id, call_tool AS tool, detail AS release, metric, score / 10000 AS value, kind,
    reviewer AS scorer, event
FROM `{database}`.`events` FINAL
WHERE src_topic = 'outcomes' AND status = 'scored'
COMMENT 'One row a score: value from 0 to 1, by a person or an evaluator (`kind`), and the release that the session stood on. The comment is in `contents`.';

CREATE OR REPLACE VIEW `{database}`.`reproducible` AS
SELECT
    decided_at, toUInt32(JSONExtractUInt(body, 'partition')) AS ledger_partition,
    fromUnixTimestamp64Micro(JSONExtractInt(body, 'since'), 'UTC') AS since,
    fromUnixTimestamp64Micro(JSONExtractInt(body, 'until'), 'UTC') AS until,
    JSONExtract(body, 'counts', 'Map(String, UInt32)') AS verdicts, arraySum(mapValues(verdicts)) AS sampled,
    verdicts['SAME'] AS same, JSONExtractUInt(body, 'share_ppm') / 1e6 AS share, JSONExtractString(body, 'seed') AS seed, event
FROM `{database}`.`events` FINAL
WHERE src_topic = 'control' AND kind = 'reproduce.sampled'
COMMENT 'One row a scheduled sample that was decided again: how many intents of that partition and period, what came out by verdict, and the share that is reproducible. The same sample again: sluicegate reproduce --sample 20 --seed … --partition … --from-time … --to-time ….';

CREATE OR REPLACE VIEW `{database}`.`release_names` AS
SELECT
    JSONExtractString(body, 'digest') AS release, argMax(JSONExtractString(body, 'name'), e.seq) AS name,
    argMax(JSONExtractString(body, 'version'), e.seq) AS version, argMax(JSONExtractString(body, 'parent'), e.seq) AS parent,
    min(e.decided_at) AS published_at, argMin(e.who, e.seq) AS published_by
FROM `{database}`.`events` AS e FINAL
WHERE src_topic = 'control' AND kind = 'release.published'
GROUP BY release
COMMENT 'One row a published release: its name and version for the digest that stands in `release` everywhere. SELECT name, version, calls FROM tool_mix LEFT JOIN release_names USING (release). Its files are in `releases`.';

CREATE OR REPLACE VIEW `{database}`.`control_changes` AS
SELECT
    decided_at, seq AS control_event, kind, who,
    if(kind = 'alarm.raised', JSONExtractString(body, 'said'), why) AS why,
    multiIf(
        JSONHas(body, 'to'), JSONExtractString(body, 'to'), JSONHas(body, 'digest'), JSONExtractString(body, 'digest'),
        JSONExtractString(body, 'release')
    ) AS release,
    multiIf(
        JSONHas(body, 'scope'), concat(JSONExtractString(body, 'scope'), ' ', JSONExtractString(body, 'value')),
        kind = 'alarm.raised', JSONExtractString(body, 'stream'), JSONExtractString(body, 'agent_id')
    ) AS about,
    if(kind = 'alarm.raised', JSONExtractString(body, 'id'), JSONExtractString(body, 'alarm')) AS alarm,
    lower(hex(log_id)) AS log, event
FROM `{database}`.`events` FINAL
WHERE src_topic = 'control' AND kind IN (
    'release.deployed', 'release.rolled_back', 'release.pinned', 'release.unpinned', 'canary.started', 'canary.paused', 'canary.promoted',
    'canary.aborted', 'agent.rolled_back', 'quarantine.added', 'quarantine.lifted', 'review.begun', 'review.ended', 'mode.set', 'alarm.raised'
)
COMMENT 'One row an event of control that changes what is decided, and each alarm: when, by whom, why, about which agent, tool or stream, to which release, and the alarm that ordered it. As it was written: what its author was not permitted is here too, without having had an effect.';

CREATE OR REPLACE VIEW `{database}`.`tool_mix` AS
SELECT
    toStartOfHour(minute) AS hour, environment, tenant, agent_id, release, tool,
    sum(d.calls) AS calls, sum(d.executed) AS executed, sum(d.released) AS released, sum(d.refused) AS refused, sum(d.failed) AS failed,
    sum(d.withheld) AS withheld, sum(d.ungrounded) AS ungrounded, sum(d.held) AS held, sum(d.expired) AS expired, sum(d.in_doubt) AS in_doubt,
    sum(d.violations) AS violations, sum(d.observed) AS observed, sum(d.input_tokens) AS input_tokens, sum(d.output_tokens) AS output_tokens,
    sum(d.cost_micros) / 1000000 AS money, sumMap(d.latency) AS latency
FROM `{database}`.`drift` AS d
WHERE tool != ''
GROUP BY hour, environment, tenant, agent_id, release, tool
COMMENT 'Intent mix and what became of the calls, by hour, agent, release and tool; from drift_1m, so it is quick over months. money: in whole units, where releases say `spend: true`.';

CREATE OR REPLACE VIEW `{database}`.`argument_shapes` AS
SELECT toStartOfHour(minute) AS hour, environment, tenant, agent_id, release, tool, shape, sum(n) AS calls
FROM (SELECT * EXCEPT (n) FROM `{database}`.`drift`)
ARRAY JOIN mapKeys(shapes) AS shape, mapValues(shapes) AS n
GROUP BY hour, environment, tenant, agent_id, release, tool, shape
COMMENT 'Names and types of the arguments that were sent: `amount:number,to:string`. A new one after a release, a prompt or a model change is worth a look. Needs contents in ClickHouse.';

CREATE OR REPLACE VIEW `{database}`.`tool_sequences` AS
SELECT toStartOfHour(minute) AS hour, environment, tenant, agent_id, release, before, tool, sum(n) AS calls
FROM (SELECT * EXCEPT (n) FROM `{database}`.`drift`)
ARRAY JOIN mapKeys(previous) AS before, mapValues(previous) AS n
GROUP BY hour, environment, tenant, agent_id, release, before, tool
COMMENT 'Which tool follows which in a session (bigrams); `before` is empty for the first call.';

CREATE OR REPLACE VIEW `{database}`.`models_served` AS
SELECT toStartOfHour(minute) AS hour, environment, tenant, agent_id, release, tool, model, sum(n) AS answers
FROM (SELECT * EXCEPT (n) FROM `{database}`.`drift`)
ARRAY JOIN mapKeys(served) AS model, mapValues(served) AS n
GROUP BY hour, environment, tenant, agent_id, release, tool, model
COMMENT 'Which model answered, as its server named it: a change nobody deployed shows here.';

CREATE OR REPLACE VIEW `{database}`.`call_times` AS
SELECT
    hour, environment, tenant, agent_id, release, tool, arraySum(counts) AS n,
    round(exp2((bins[arrayFirstIndex(c -> c >= 0.5 * n, arrayCumSum(counts))] + 1) / 4) / 1000, 3) AS p50_ms,
    round(exp2((bins[arrayFirstIndex(c -> c >= 0.9 * n, arrayCumSum(counts))] + 1) / 4) / 1000, 3) AS p90_ms,
    round(exp2((bins[arrayFirstIndex(c -> c >= 0.99 * n, arrayCumSum(counts))] + 1) / 4) / 1000, 3) AS p99_ms
FROM (SELECT *, mapKeys(latency) AS bins, mapValues(latency) AS counts FROM `{database}`.`tool_mix`)
WHERE n > 0
COMMENT 'How long executions took, by hour, agent, release and tool, from the bins of drift_1m: upper ends, at most 19 % too high. Exact hops of single intents: latency_since.';
