"""Reason codes: stable, lower case, each with the stage that gives it and what to do about it.

A code never changes its meaning; new ones may come. `for_model` is what a language model is told so that it
can go on sensibly; `remedy` is for the developer or operator.
"""

from __future__ import annotations

from sluicegate.schemas.model_reasons import MODEL_REASONS
from sluicegate.schemas.reason import Reason as Reason
from sluicegate.schemas.reasons_execution import EXECUTION

_ALL = (
    # intake: the record itself
    Reason(
        "not_avro",
        "The request could not be read.",
        "publish Avro single-object encoding, see docs/wire-format.md",
    ),
    Reason(
        "unknown_schema",
        "The request could not be read.",
        "publish with a schema of schemas/avro or upgrade the workers",
    ),
    Reason(
        "malformed_record",
        "The request could not be read.",
        "the body does not fit its schema, see docs/wire-format.md",
    ),
    Reason(
        "unexpected_type",
        "The request could not be read.",
        "this topic does not accept that record type, see schemas/topics.py",
    ),
    Reason(
        "too_large",
        "The request is too large.",
        "keep an intent under 256 kB; hand on a reference to large data instead",
    ),
    Reason(
        "misrouted",
        "The request went to the wrong place.",
        "key the record by agent_id and partition by murmur2 (librdkafka: partitioner=murmur2_random)",
    ),
    Reason(
        "unsigned",
        "The request is not signed.",
        "sign it with a key of this agent, made by `sluicegate keys new`",
    ),
    Reason(
        "bad_signature",
        "The request's signature is not valid.",
        "sign the bytes described in docs/wire-format.md with the registered key",
    ),
    Reason("unknown_key", "The request's key is not known.", "register it: sluicegate keys add"),
    Reason(
        "key_not_valid",
        "The request's key is not valid any more.",
        "the key is revoked, not valid yet, or past its end: rotate it with sluicegate agents rotate",
    ),
    Reason(
        "wrong_signer",
        "The request was signed by somebody else.",
        "the key belongs to another principal or role",
    ),
    Reason(
        "machinery_failed",
        "The request could not be processed.",
        "an alarm was raised; see `sluicegate explain`, then report the bug with the position",
    ),
    # route
    Reason(
        "unknown_agent",
        "This agent is not registered.",
        "register it: sluicegate agents register AGENT --role ROLE",
    ),
    Reason("suspended_agent", "This agent is suspended.", "resume it: sluicegate agents resume AGENT"),
    Reason("retired_agent", "This agent is retired.", "retired is for ever: register another agent id"),
    Reason(
        "unknown_session",
        "The session is not open.",
        "open it first and wait for the answer: `agent.session()`, POST /v1/sessions, or the message `session.open`",
    ),
    Reason(
        "loop",
        "You made this same call many times; stop and ask a person.",
        "the session is halted; a person resumes it: sluicegate sessions resume SESSION --agent AGENT --as PERSON",
    ),
    Reason(
        "no_progress",
        "Many calls brought no result; stop and ask a person.",
        "the session is halted; a person resumes it: sluicegate sessions resume SESSION --agent AGENT --as PERSON",
    ),
    Reason(
        "step_cap",
        "This session has made as many calls as it may; stop and ask a person.",
        "the session is halted; a person resumes it: sluicegate sessions resume SESSION --agent AGENT --as PERSON",
    ),
    Reason(
        "halted",
        "This session is halted until a person resumes it.",
        "look at what it did, then resume it: sluicegate sessions resume SESSION --agent AGENT --as PERSON",
    ),
    Reason("not_halted", "There is nothing to resume.", "the session is not halted, or not open"),
    Reason(
        "quarantined",
        "This has been stopped by a person; do not try again.",
        "see what stops it: sluicegate quarantine list; lift it: sluicegate quarantine lift SCOPE ID",
    ),
    Reason("unknown_kind", "This kind of request is not known.", "see the kinds in schemas/avro/intent.avsc"),
    Reason(
        "unknown_tool",
        "There is no such tool; use one of the tools you were given.",
        "add a contract to the release",
    ),
    Reason(
        "wrong_kind",
        "A model is asked by a model call, a tool by a tool call.",
        "ask what is of the executor kind `model` as a model (`call_model`, `model` of POST /v1/intents, OpenAI's paths), all else as "
        "a tool (`call_tool`, `tool` of POST /v1/intents, MCP)",
    ),
    Reason("no_release", "Nothing may run yet.", "deploy a release: sluicegate deploy FOLDER"),
    Reason(
        "duplicate",
        "This request was made before; its answer stands.",
        "the same id with the same bytes is answered, not run again",
    ),
    Reason(
        "id_conflict",
        "This request's id was used for another request.",
        "use a fresh intent_id for each request",
    ),
    Reason(
        "from_the_future",
        "The request's time is not valid.",
        "issued_at is over 24 h ahead of the broker's clock; check the clock and the unit (microseconds)",
    ),
    Reason("too_old", "The request is too old.", "issued_at is over 24 h ago; issue it anew with a fresh id"),
    Reason("deadline_passed", "The request came too late.", "deadline_at had passed when it was decided"),
    Reason("bad_identifier", "The request's ids are not valid.", "ids are 1 to 256 printable characters"),
    Reason(
        "overloaded", "The system is busy; try again later.", "a bound was reached; see the reason's detail"
    ),
    Reason(
        "control_stale",
        "Nothing may run at the moment; try again later.",
        "the worker cannot confirm the newest control events; check Kafka",
    ),
    Reason(
        "bad_token",
        "It could not be checked who you act for.",
        "on_behalf_token is no valid JWT of an issuer that `sluicegate issuers list` shows; the detail says why",
    ),
    Reason(
        "bad_task",
        "What the conversation is for could not be read or does not fit.",
        "open the session with a task as `task:` of release.yaml declares it; the detail says what is wrong",
    ),
    Reason(
        "unverified_user",
        "It was not proven who you act for.",
        "the release requires it: open the session with on_behalf_token instead of a bare name",
    ),
    Reason(
        "subject_erased",
        "What was said here was erased; begin anew.",
        "the session is about somebody who was erased since: open a new session, which is sealed under a key of its own",
    ),
    # hand-offs
    Reason(
        "other_tenant",
        "This agent cannot be handed anything.",
        "hand-offs stay within a tenant: ask an agent of the same one",
    ),
    Reason(
        "delegation_too_deep",
        "The work was handed on too often already.",
        "at most 5 hand-offs from one agent to the next",
    ),
    Reason(
        "delegation_ended",
        "The agent that handed this on may not act any more.",
        "an agent in the session's chain is suspended, retired or quarantined: open a new session",
    ),
    Reason(
        "delegation_exceeded",
        "You were not given the right to do this.",
        "a hand-off only narrows: who handed on needs a permit for the call as well",
    ),
    Reason(
        "budget_exhausted",
        "You have used all the calls you were given.",
        "the session was handed on for so many calls: hand on more, or use fewer",
    ),
    # conform
    Reason(
        "arguments_not_json",
        "The arguments are not valid JSON.",
        "send a UTF-8 JSON object without NaN, duplicate keys or lone surrogates",
    ),
    Reason("arguments_too_deep", "The arguments are nested too deeply.", "at most 64 levels"),
    Reason("duplicate_key", "The arguments name one key twice.", "send each key once"),
    Reason(
        "schema_violation",
        "The arguments do not fit the tool's schema.",
        "see the detail and the contract's inputSchema",
    ),
    Reason(
        "not_representable",
        "A number in the arguments is out of range.",
        "integers are within 2^53 - 1; other numbers have at most 4 decimals and 15 digits",
    ),
    # authorize
    Reason(
        "no_permit",
        "You are not permitted to do this.",
        "ask for what a policy permits, or have a permit written or widened for this agent",
    ),
    Reason("forbidden", "This is forbidden.", "a forbid policy matched"),
    Reason(
        "version_conflict",
        "The remembered value has changed since you read it. Read it again.",
        "`if_version` is not the value's version; 0 means that there is none yet",
    ),
    Reason(
        "bad_scope",
        "There is no such place to remember things in.",
        "a scope is `session`, `agent` or `shared:<name>`, the name of 1 to 64 lower-case letters, digits, `_`, `.` and `-`",
    ),
    Reason(
        "scope_not_permitted",
        "You are not permitted to use this shared memory.",
        "sharing needs a permit that speaks of the scope: write `context.memory.scope` into one that decides",
    ),
    Reason(
        "not_appendable",
        "What is remembered there is neither a list nor a text, so nothing can be added to it.",
        "append adds an item to a list, or text to a text; write another value first, or under another key",
    ),
    Reason(
        "home_silent",
        "The shared memory did not answer in time.",
        "the partition that keeps the shared scope has no owner, see `sluicegate status`; ask again with a new id",
    ),
    Reason(
        "memory_redacted",
        "This cannot be remembered: a part of it may not be kept.",
        "a redaction changed what was to be written, and memory keeps whole values: refuse it by a guardrail instead",
    ),
    Reason(
        "value_too_large",
        "This is too long to remember.",
        "a remembered value has at most 16 kB as json",
    ),
    Reason(
        "memory_full",
        "Nothing more can be remembered here.",
        "the bound on values of this session or partition is reached, forget some",
    ),
    Reason(
        "ungrounded",
        "A value in this call appears nowhere in the conversation. Ask the user for it.",
        "a protected argument's value stands in no earlier event; see grounded_arguments of the outcome",
    ),
    Reason(
        "policy_error",
        "You are not permitted to do this.",
        "a policy failed on this request, so it is refused; fix the policy",
    ),
    Reason(
        "redaction_breaks_schema",
        "You are not permitted to do this.",
        "the call without its redacted parts does not fit the contract; make them optional, or forbid the call",
    ),
    # validate
    Reason(
        "guardrail",
        "This is not allowed in this form.",
        "a guardrail of the release matched; the detail names it and says what to change",
    ),
    Reason(
        "guardrail_error",
        "This could not be checked, so it is not allowed.",
        "a guardrail failed on this call or result, so it is refused; fix the rule the detail names",
    ),
    Reason(
        "guardrail_failed",
        "This could not be checked, so it is not allowed.",
        "a guardrail's plug-in did not answer; install it where executors run, or raise its timeout_ms",
    ),
    # approvals
    Reason("approval_required", "A person has to agree first.", "approve it, or wait"),
    Reason("approval_rejected", "A person said no.", "see the review"),
    Reason("approval_expired", "Nobody agreed in time.", "ask again"),
    Reason("digest_mismatch", "The approval was for something else.", "approve the digest that is shown"),
    Reason("not_held", "There is nothing to approve.", "the intent is not held"),
    Reason(
        "no_reviewer",
        "This needs people's agreement, and nobody can give it.",
        "the policies that hold it name @reviewers without a common role; give them one",
    ),
    Reason(
        "release_mismatch",
        "The approval was for something else.",
        "it was shown under another release than holds it; look at it again and approve what is shown",
    ),
    Reason(
        "release_changed",
        "The rules changed since a person was asked.",
        "the session stands on another release now, which asks anew; look at it again and approve what is shown",
    ),
    Reason(
        "review_outdated",
        "The approval was for something else.",
        "it is older than what is asked now; look at it again and approve what is shown",
    ),
    Reason(
        "review_late",
        "This came after the end.",
        "the call went on, ended or expired before this review came",
    ),
    Reason("unknown_verdict", "The review could not be read.", "a review says approve or reject"),
    Reason(
        "unknown_person",
        "The reviewer is not registered.",
        "register the person: sluicegate people register PERSON --role ROLE",
    ),
    Reason(
        "wrong_reviewer",
        "The reviewer may not agree to this.",
        "the policy's @reviewers names other roles; ask somebody who has one",
    ),
    Reason("agent_cannot_review", "An agent cannot approve.", "a registered person has to review it"),
    Reason(
        "already_approved",
        "This person agreed already.",
        "another person has to agree; one person counts once",
    ),
    Reason(
        "edit_refused",
        "The changed arguments are not allowed.",
        "the detail names the stage's reason; change the arguments to what the policies allow, or approve them as they are",
    ),
    *EXECUTION,
    # model calls
    *(Reason(*row) for row in MODEL_REASONS),
    # client side
    Reason(
        "unavailable",
        "The gate is not available, so nothing was done.",
        "start Kafka and the workers: sluicegate up",
    ),
)
REASONS: dict[str, Reason] = {r.code: r for r in _ALL}
