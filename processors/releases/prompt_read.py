"""Reading a prompt: an agent that speaks to a model of its own asks for the text, and the ledger answers out of its session's release.

Every release with prompts has the tool `prompt.read` as soon as a policy names it, and no contract of that name may stand
beside it: the permit is all that has to be written.

    @id("clerks-read-triage")
    permit (principal in Role::"clerk", action == Action::"prompt.read", resource) when { context.args.prompt == "triage" };

It is decided and recorded as any call: which prompt, the digest of its file, the release. The text is no event of the world: it
grounds nothing and brings no labels. Never leaves the partition. Next: `releases/prompts.py` (rendering), `plan.py` (who calls this).
"""

from __future__ import annotations

import hashlib

import orjson
from sluicegate.processors.authorize import task_words
from sluicegate.processors.releases.prompts import text_of
from sluicegate.processors.work import Work, emit, reply
from sluicegate.schemas.records import PromptFacts, ResultFacts


def perform(work: Work) -> None:
    """Answer, after the dispatch that was just emitted. A read may repeat, so nothing is claimed."""
    assert work.conformed is not None and work.release is not None
    args = work.conformed.args
    found = text_of(work.release.prompts, args.get("prompt"), args.get("variables") or {}, task_words(work))
    if isinstance(found[0], str):
        reason, detail = found[0], str(found[1])
        ended = ResultFacts(1, "ledger", work.now, work.now, b"", 0, reason)
        reply(work, emit(work, "execute", "failed", ended, reason), detail=detail)
        return
    prompt, text = found
    answer = {
        "prompt": prompt.name,
        "digest": f"sha256:{prompt.digest.hex()}",
        "text": text,
        "release": work.release.digest,
    }
    result = orjson.dumps(answer, option=orjson.OPT_SORT_KEYS)
    facts = PromptFacts(prompt.name, prompt.digest, hashlib.sha256(str(text).encode()).digest(), len(result))
    reply(work, emit(work, "execute", "released", facts), result=result)
