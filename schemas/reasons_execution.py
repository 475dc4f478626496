"""Reason codes of offers, calls, jobs and their ends; part of `reasons.py`, which says what a code is for."""

from __future__ import annotations

from sluicegate.schemas.reason import Reason

EXECUTION = (
    Reason(
        "nothing_to_score",
        "There is no such session to score.",
        "the session is neither open nor ended within 3 days, or the intent is none of it: sluicegate sessions list",
    ),
    Reason(
        "score_out_of_range", "The score is not valid.", "a score is from 0 to 1; on the wire 0 to 10,000"
    ),
    Reason(
        "unknown_metric",
        "The score is not valid.",
        "`kind` is person or evaluator, and `metric` has 1 to 64 printable characters",
    ),
    Reason(
        "unknown_evaluator",
        "The evaluator is not known.",
        "name it in `evaluators:` of release.yaml and deploy that release",
    ),
    Reason(
        "budget_exceeded",
        "The budget for this is used up; do not try again.",
        "the detail has the numbers: sluicegate budgets list; raise `cap` in release.yaml, or wait for the next window",
    ),
    Reason(
        "rate_limited",
        "Too many requests; wait a while before you try again.",
        "a row of `limits:` in release.yaml, the detail has the numbers; it ends with its window",
    ),
    Reason(
        "no_price",
        "This may not be used, since nobody said what it costs.",
        "add the model to `prices:` in release.yaml, or a max_cost to its contract",
    ),
    Reason(
        "budget_frozen",
        "The budget for this is stopped until a person looks at it.",
        "a call cost more than its bound: correct the bound, then sluicegate budgets lift ACCOUNT, or raise the cap",
    ),
    Reason(
        "grant_timeout",
        "The budget for this could not be asked; try again later.",
        "the partition of the budget's home has no owner, or is slow: sluicegate status",
    ),
    Reason(
        "overrun",
        "The call cost more than it was said to cost at most.",
        "its budget is frozen: correct max_cost or the price, then sluicegate budgets lift ACCOUNT",
    ),
    Reason(
        "call_changed",
        "The call could not be made.",
        "the release changed what this call would be while it waited; ask again",
    ),
    Reason(
        "no_executor",
        "The tool is not available at the moment.",
        "no executor took it before its deadline; start one: sluicegate worker --role executor",
    ),
    Reason(
        "timeout", "The tool did not answer in time.", "raise timeout_ms in the contract, or look at the tool"
    ),
    Reason("refused_by_tool", "The tool refused the call.", "see the tool's own message"),
    Reason(
        "tool_broke", "The tool broke while it worked on this.", "it answered 5xx; see the tool's own message"
    ),
    Reason("unreachable", "The tool cannot be reached.", "check the contract's url and that the tool runs"),
    Reason(
        "egress_denied",
        "The tool's address is not allowed.",
        "add its `host:port` to SLUICEGATE_EGRESS where executors run, and restart them",
    ),
    Reason(
        "malformed_result",
        "The tool's answer cannot be used.",
        "the result is not JSON or does not fit outputSchema",
    ),
    Reason(
        "result_not_kept",
        "This was done before, and its answer is not kept: do not repeat what changes anything.",
        "the id was used before and the answer's bytes are gone, or were the ledger's own (memory, prompts): read again with a new id",
    ),
    Reason(
        "content_unavailable",
        "What this request refers to cannot be read.",
        "agents, ledger workers and executors need the same artifact store: set SLUICEGATE_ARTIFACTS alike, and ask again",
    ),
    Reason("result_too_large", "The tool's answer is too large.", "inline results are at most 64 kB"),
    Reason(
        "descriptor_changed",
        "The tool is not the one that was agreed on, so it was not called.",
        "an MCP server describes the tool in other words now: read them, then pin the hash the error names",
    ),
    Reason(
        "model_changed",
        "Another model answered than the one that was agreed on, so its answer is not shown.",
        "look at what the server serves, test the new model, then change the contract's `model` or `pinned`",
    ),
    Reason("crashed", "The tool crashed.", "see the executor's log"),
    Reason(
        "call_in_doubt",
        "It is not known whether the call happened; do not repeat it.",
        "look at the tool's side, then resolve it",
    ),
    Reason(
        "parked",
        "The tool works on it; go on with something else and ask for the result later.",
        "ask `agent.result(intent_id)`; `explain` tells where it stands",
    ),
    Reason(
        "job_lost",
        "The tool was at work on it and was not heard of in time; do not repeat it.",
        "look at the tool's own records; `job_limit_s` and `heartbeat_s` of the contract bound how long is waited",
    ),
    Reason(
        "not_found",
        "The tool has no trace of the call, so it did not happen.",
        "nothing to do: the lookup by key found nothing, and there was no time left to call again",
    ),
    Reason(
        "no_lookup",
        "There is no way to ask the tool.",
        "write `lookup` into the contract's executor, or say what you found",
    ),
    Reason("not_in_doubt", "There is nothing to resolve.", "see `sluicegate in-doubt list`"),
    Reason(
        "bad_resolution",
        "There is nothing to resolve.",
        "the verdict is happened, did_not_happen, look_up or compensated, and only what happened has a result",
    ),
    Reason(
        "not_compensated",
        "There is nothing to resolve.",
        "no order to take it back was done and read back: `sluicegate in-doubt resolve INTENT compensated` does it first",
    ),
    Reason(
        "compensated",
        "It may have happened, and was taken back; ask again if it is still needed.",
        "an operator took it back, see `sluicegate explain`; ask again with a fresh intent_id",
    ),
    Reason(
        "happened",
        "A person found out that the call happened; do not repeat it.",
        "settled by a person; its result is only there if the person gave it",
    ),
    Reason(
        "did_not_happen",
        "A person found out that the call did not happen; ask again if it is still needed.",
        "settled by a person; ask again with a fresh intent_id",
    ),
    Reason("unknown_dispatch", "This receipt belongs to no open call.", "nothing to do: it is recorded only"),
    Reason("late", "This came after the end.", "nothing to do: it is recorded only"),
    Reason(
        "repartitioning",
        "Nothing new can be done for some minutes; wait, then ask again.",
        "the log goes on with another number of partitions: ask again with the same id once `sluicegate topics repartition` is "
        "done, and restart what has an older connection",
    ),
    Reason(
        "rolling_back",
        "Your work is being taken back to an earlier point; wait, then begin anew.",
        "an operator or an alarm ordered it: sluicegate rollback list; ask again in a few seconds",
    ),
    Reason(
        "rolled_back",
        "Your work was taken back to an earlier point, so this does not count any more; begin anew.",
        "see why: sluicegate rollback list; what the call did outside is taken back by `sluicegate rollback call`",
    ),
    Reason(
        "bad_cut",
        "There is nothing to take back.",
        "the position is not before the ledger's end, name an earlier one",
    ),
    Reason(
        "rollback_too_large",
        "There is too much to take back at once.",
        "the agent has more open sessions than one order restores: close some, or name a later position",
    ),
)
