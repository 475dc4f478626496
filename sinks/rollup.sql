-- One partition's minutes into the tables of rollup_tables.py. `{place}` names the partition, `{first}` and `{until}` the
-- events: from the first one of a minute up to the last one that is computed. Filled in by rollup.py.

INSERT INTO `{database}`.`drift_1m{suffix}`
SELECT
    toStartOfMinute(decided_at) AS minute, log_id, src_partition, {environment} AS environment, tenant, agent_id,
    release, tool, {until} AS until_seq,
    count() AS n,
    {counts},
    countIf(status = 'withheld' OR (status = 'refused' AND stage IN ('conform', 'authorize', 'validate'))) AS violations,
    countIf(notEmpty(observed)) AS observed_,
    sumMapIf(map(toInt16(floor(log2(greatest(1, ifNull(dateDiff('microsecond', started_at, finished_at), 1))) * 4)), toUInt64(1)), finished_at IS NOT NULL) AS latency,
    if(
        length(mapKeys(sumMapIf(map(shape, toUInt64(1)), is_call AND shape != '') AS all_shapes)) <= 64, all_shapes,
        mapFilter((k, v) -> has(arraySlice(arrayReverseSort((x, y) -> y, mapKeys(all_shapes), mapValues(all_shapes)), 1, 64), k), all_shapes)
    ) AS shapes,
    sumMapIf(map(previous_tool, toUInt64(1)), is_call) AS previous,
    if(
        countIf(facts_type IN ('answer_facts', 'streamed_facts')) > 0,
        sumMapIf(map(model, toUInt64(1)), facts_type IN ('answer_facts', 'streamed_facts') AND model != ''),
        sumMapIf(map(model, toUInt64(1)), facts_type = 'spend_facts' AND model != '')
    ) AS served,
    {sums}
FROM (
    SELECT
        e.decided_at AS decided_at, e.log_id AS log_id, e.src_partition AS src_partition, e.tenant AS tenant, e.agent_id AS agent_id,
        if(e.status = 'scored', e.detail, e.release) AS release, e.intent_id AS intent_id, e.stage AS stage, e.status AS status, e.started_at AS started_at,
        e.finished_at AS finished_at, e.observed AS observed, e.grounded_from AS grounded_from,
        e.facts_type AS facts_type, e.input_tokens AS input_tokens, e.output_tokens AS output_tokens, e.money AS money, e.metric AS metric, e.score AS score,
        toString(e.previous_tool) AS previous_tool, toString(e.model) AS model, toString(c.shape) AS shape,
        e.facts_type = 'intent_facts' AND e.kind IN ({call_kinds}) AS is_call,
        if(is_call AND e.executor = '', '(unresolved)', e.call_tool) AS tool
    FROM (SELECT * FROM `{database}`.`events{suffix}` FINAL WHERE {place} AND seq BETWEEN {first} AND {until}) AS e
    ANY LEFT JOIN (
        SELECT seq, shape FROM `{database}`.`contents{suffix}` WHERE {place} AND seq BETWEEN {first} AND {until} AND shape != ''
    ) AS c ON e.seq = c.seq
)
GROUP BY minute, log_id, src_partition, tenant, agent_id, release, tool;

INSERT INTO `{database}`.`session_1m{suffix}`
SELECT
    toStartOfMinute(decided_at) AS minute, log_id, src_partition, {environment} AS environment, tenant, agent_id,
    session_id, {until} AS until_seq,
    maxIf(toInt64(seq) + 1, status = 'opened') - 1 AS opened_seq,
    maxOrNullIf(decided_at, status = 'opened') AS opened_at,
    argMaxIf(control_head, seq, status = 'opened') AS opened_head,
    argMaxIf(e.release, seq, status = 'opened') AS release_,
    argMaxIf(e.origin, seq, status = 'opened') AS origin_,
    argMaxIf(e.on_behalf_of, seq, status = 'opened') AS on_behalf_of_,
    maxIf(toInt64(seq) + 1, status = 'closed') - 1 AS close_seq,
    maxOrNullIf(decided_at, status = 'closed') AS closed_at,
    max(decided_at) AS last_at,
    {counts},
    countIf(status = 'heard') AS user_messages,
    {sums}
FROM (
    SELECT *, facts_type = 'intent_facts' AND kind IN ({call_kinds}) AS is_call
    FROM `{database}`.`events{suffix}` FINAL
    WHERE {place} AND seq BETWEEN {first} AND {until} AND session_id != ''
) AS e
GROUP BY minute, log_id, src_partition, tenant, agent_id, session_id
