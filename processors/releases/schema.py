"""The JSON Schema of `release.yaml`, for editors: made from the models that read it, so that the two cannot part.

    # yaml-language-server: $schema=release.schema.json

What the models say of types, bounds and words comes from them; what a key is for stands in `SAID`, and a test names the key
that has no line there. Narrower than the models in one thing only: words that are checked later (`detect`, `on_error`) are
listed. Own keys are welcome at the top. Pure. Next: `releases/contract.py` (the models), `streams/commands/release_init.py`.
"""

from __future__ import annotations

from typing import cast

from sluicegate.processors.guardrails.detectors import DETECTORS
from sluicegate.processors.models.routes import ERROR_CLASSES
from sluicegate.processors.releases.contract import Manifest
from sluicegate.processors.releases.file import DIGEST

Json = object
Schema = dict[str, Json]

FILE_NAME = "release.schema.json"
LANGUAGE_SERVER = f"# yaml-language-server: $schema={FILE_NAME}"
"""First line of a `release.yaml` that editors complete."""

SAID: dict[str, str] = {
    "Manifest.name": "What the release is called; with `version` it is listed and found by.",
    "Manifest.version": "A text of your own. What counts is the digest over all files.",
    "Manifest.description": "For people.",
    "Manifest.parent": "Digest of the release this one was derived from; `sluicegate release get` writes it.",
    "Manifest.roles": "Roles that policies may name; with none listed any may stand in them.",
    "Manifest.grounding": "What becomes of a protected argument that nobody said: `enforce` refuses, `observe` records. See docs/grounding.md.",
    "Manifest.guardrails": "What must not be in a call or a result, asked in this order. See docs/guardrails.md.",
    "Manifest.recall": "Earlier results that guardrails may look at, as `seen.<name>`.",
    "Manifest.derail": "When a session that goes in circles is halted until a person resumes it.",
    "Manifest.models": "Routes: an alias that agents name, and the contracts of models it stands for. See docs/models.md.",
    "Manifest.canary": "How a canary against this release is judged. See docs/canaries.md.",
    "Manifest.drift": "Which streams are watched for drift, and what an alarm does.",
    "Manifest.require_verified_user": "Sessions may say whom they are for only by a token that was verified. See docs/identity.md.",
    "Manifest.task": "What sessions may be said to be for: the JSON Schema of an object. See docs/policies.md.",
    "Manifest.budgets": "What may be spent, by whom and in which time. See docs/budgets.md.",
    "Manifest.limits": "How often something may be asked for: refused `rate_limited`, never frozen.",
    "Manifest.prices": "What models cost, by contract or model name.",
    "Manifest.spend": "What every reported attempt cost is written to the ledger, also where no budget counts it.",
    "Manifest.evaluators": "Who scores a sample of the closed sessions: a function or a model.",
    "EvaluatorRow.name": "Its name, on the scores it gives.",
    "EvaluatorRow.metric": "What it scores.",
    "EvaluatorRow.python": "`module:function`: takes `session`, gives a number from 0 to 1, or {score, why}.",
    "EvaluatorRow.contract": "In place of a function: a contract of executor kind `model` that is asked.",
    "EvaluatorRow.prompt": "What that model is told: a prompt of this release.",
    "EvaluatorRow.sample": "Share of the closed sessions.",
    "EvaluatorRow.agents": "Only these agents' sessions; none: all.",
    "EvaluatorRow.per_hour": "Scores an hour at most: it bounds what a model costs here.",
    "EvaluatorRow.max_chars": "Of a session, what is shown; of a longer one the end.",
    "EvaluatorRow.timeout_s": "How long one score may take.",
    "BudgetRow.id": "Its name, in refusals and `sluicegate budgets`.",
    "BudgetRow.scope": "Whose spending is counted together.",
    "BudgetRow.match": "Which of them: a name, `*`, or a beginning followed by `*`. Each name that fits has an account of its own.",
    "BudgetRow.tools": "Only calls of these tools count; `*` at the end is any ending. None: all.",
    "BudgetRow.unit": "What is counted. `money` is in micro-units: 1000000 is one.",
    "BudgetRow.cap": "Reserved and spent together are never more than this.",
    "BudgetRow.headroom": "Kept back from reservations, for attempts that cost more than they said.",
    "BudgetRow.window": "After this time counting begins anew, in UTC; `month` is 30 days.",
    "LimitRow.id": "Its name, in refusals and `sluicegate budgets`.",
    "LimitRow.scope": "Whose requests are counted together.",
    "LimitRow.match": "Which of them: a name, `*`, or a beginning followed by `*`.",
    "LimitRow.tools": "Only calls of these tools count; none: all.",
    "LimitRow.unit": "What is counted; `cost` is in micro-units.",
    "LimitRow.cap": "At most so many in the window.",
    "LimitRow.window": "In which time.",
    "PriceRow.input_per_mtok": "Micro-units for a million tokens that the model reads.",
    "PriceRow.output_per_mtok": "Micro-units for a million tokens that it writes.",
    "Guardrail.id": "Its name, in refusals and outcomes.",
    "Guardrail.on": "Whether it looks at a call before it runs, or at a result before the agent sees it.",
    "Guardrail.tools": "Which tools, by name with `*`. A hand-off only by its name, `handoff`.",
    "Guardrail.when": "A CEL expression over `args` or `result`, `tool`, `agent`, `session`, `environment` and `seen`.",
    "Guardrail.detect": "What is looked for.",
    "Guardrail.fields": "Where detectors look or what is redacted, as paths such as `args.body`; none: everywhere.",
    "Guardrail.verdict": "What follows: `refuse` (default), `hold` or `redact` of a call; `withhold` (default) or `redact` of a result.",
    "Guardrail.mode": "`observe` records and changes nothing.",
    "Guardrail.say": "What the agent is told, in one sentence.",
    "Guardrail.plugin": "An entry point of the group `sluicegate.guardrails` that is asked about the call.",
    "Guardrail.timeout_ms": "How long the plug-in may take; then it is killed.",
    "Guardrail.on_failure": "What follows when the plug-in hangs, crashes or is not there.",
    "Recall.tools": "Whose results, by name with `*`.",
    "Recall.where": "Path in the result -> argument of the call that must stand there.",
    "Recall.take": "The newest such result, or a list of all of them.",
    "Derail.same_call": "The same tool with the same arguments so many times; 0: no limit.",
    "Derail.within": "... among the last so many calls; 0: among all that are remembered.",
    "Derail.without_result": "So many calls in a row of which none released a result; 0: no limit.",
    "Derail.calls": "Calls of one session; 0: no limit.",
    "Derail.falling_confidence": "So many answers of models in a row, each less sure than the one before; 0: no limit.",
    "Route.candidates": "The contracts a call may go to, in order.",
    "Route.choose": "`ordered`: as written; `weighted`: drawn by the call's id; `scored`: the healthiest and fastest first, of equal ones the cheapest; `cheapest`: by what one attempt may cost.",
    "Route.requires": "Features that a candidate's contract must name.",
    "Route.region": "Regions a candidate's contract may name.",
    "Route.on_error": "What follows a kind of failure: the `next` candidate, `retry`, one round of `repair`, or `stop`.",
    "Route.attempts": "Failed attempts of one call that are followed up.",
    "Candidate.contract": "A contract of executor kind `model`.",
    "Candidate.when": "A CEL expression over `arguments`, `agent`, `session`, `task`, `environment` and `health`; empty: always.",
    "Candidate.weight": "With `choose: weighted`: its share.",
    "CanaryForm.alpha": "An even canary is aborted with at most this probability, however often one looks.",
    "CanaryForm.min_sessions": "Sessions of the canary, compared, before it may be promoted.",
    "CanaryForm.max_sessions": "Sessions of the canary after which `at_cap` decides.",
    "CanaryForm.at_cap": "`hold`: draw nobody any more and leave it to a person; or abort.",
    "CanaryForm.metrics": "How each score is judged; what is left out has its default.",
    "MetricForm.weight": "Its part of alpha; 0: not judged.",
    "MetricForm.margin": "How much worse, of a score from 0 to 1, is no reason against promoting.",
    "MetricForm.direction": "Which way is worse, where it is not the usual one.",
    "MetricForm.score": "`any`: a session with such a call scores 1; `share`: the share of its calls.",
    "MetricForm.clip": "Of `cost`: micro-units a session that count as 1.",
    "DriftRow.bucket_s": "Seconds that are counted together.",
    "DriftRow.run_length_h": "Hours of traffic between two false alarms anywhere, on average.",
    "DriftRow.window": "Observations of a window of names.",
    "DriftRow.reference": "Observations that a reference needs.",
    "DriftRow.blind_after_s": "Without data for so long the watch is `blind`, never fine.",
    "DriftRow.alarms": "Rows that replace the default row of the same id, or come beside the others.",
    "DriftRow.automatic": "Bounds of what alarms may do by themselves.",
    "AlarmRow.id": "Its name, in `sluicegate alarms`.",
    "AlarmRow.stream": "What is watched.",
    "AlarmRow.per": "What is told apart.",
    "AlarmRow.agents": "Only these agents; none: all.",
    "AlarmRow.tools": "Only these tools; none: all.",
    "AlarmRow.action": "What an alarm does by itself; `none` takes the row away.",
    "AlarmRow.at_least": "The smallest change that counts.",
    "AlarmRow.expected": "A rate that people promise; then no earlier traffic is asked.",
    "AlarmRow.cool_down_s": "Seconds before the row may act again.",
    "Automatic.unacknowledged": "Alarms that nobody acknowledged, at which nothing more is done by itself.",
    "Automatic.per_day": "Automatic actions in one day.",
}  # fmt: skip
"""Model and key -> what it is for."""


def release_schema() -> Schema:
    """JSON Schema 2020-12 of `release.yaml`, every key described."""
    made = Manifest.model_json_schema()
    _describe("Manifest", made)
    definitions = cast("dict[str, Schema]", made["$defs"])
    for name, definition in definitions.items():
        _describe(name, definition)
    _property(made, "parent").update({"type": "string", "pattern": f"^({DIGEST.pattern})?$"})
    _property(definitions["Guardrail"], "detect")["items"] = {"enum": list(DETECTORS)}
    _property(definitions["Route"], "on_error")["propertyNames"] = {"enum": list(ERROR_CLASSES)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "release.yaml",
        "description": "What a release says beside its contracts, policies and prompts.",
    }


def _describe(model: str, schema: Schema) -> None:
    schema.pop("title", None)
    for key, about in cast("dict[str, Schema]", schema.get("properties", {})).items():
        about.pop("title", None)
        if said := SAID.get(f"{model}.{key}"):
            about["description"] = said


def _property(schema: Schema, key: str) -> Schema:
    return cast("dict[str, Schema]", schema["properties"])[key]
