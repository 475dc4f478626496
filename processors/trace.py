"""Trace: ground a call's protected arguments in the events of its session.

Gathers the session's sources with their words from the library, and asks for those that are missing. The answer goes
into the outcome's facts and, where policies speak of grounding, into their context.
Never matches anything itself: `grounding.py` does. Pure. Next: `sessions/library.py`, `authorize.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from sluicegate.processors.grounding import Choir, Grounded, Heard, ground
from sluicegate.processors.labels import UNKNOWN, USER
from sluicegate.processors.models.routes import Choice
from sluicegate.processors.outcomes import PASSED
from sluicegate.processors.releases.prompts import Told
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import Source
from sluicegate.processors.work import Work
from sluicegate.schemas.model_facts import widen
from sluicegate.schemas.records import ChoiceFacts, StageFacts


def trace(work: Work) -> None:
    """Fill `work.grounded`; or set `work.decision.needs` when words are missing."""
    tool, session, conformed, release = work.tool, work.session, work.conformed, work.release
    assert tool and session and conformed and release
    work.grounded = []
    if not tool.protected:
        return
    library = work.source.library
    if library is None:
        library = work.source.library = Library()
    choir = _gather(work, library, session.sources, release)
    if not work.decision.needs:
        work.grounded = ground(conformed.args, tool.protected, tool.constants, tool.defaults, choir)


def _gather(work: Work, library: Library, sources: tuple[Source, ...], release: CompiledRelease) -> Choir:
    """What the session heard; only what came since the last call is looked up."""
    o = work.origin
    choir = library.choir(o.agent_id, o.session_id, sources[0].event_id if sources else b"", release.digest)
    for source in sources[choir.count :]:
        place = (source.topic, source.offset)
        words = library.get(place)
        if words is None:
            if place not in work.source.contents:
                work.decision.needs.append(place)
                continue
            words = library.put(place, work.source.contents[place])
        if not work.decision.needs:  # in their order, or not at all
            choir.add(Heard(source.origin, source.event_id, words, _ranks(release, source)))
            library.gathered(words)
    return choir


def _ranks(release: CompiledRelease, source: Source) -> Callable[[str], int]:
    if source.origin == "user":
        return _user
    tool = release.tools.get(source.tool)
    # What an agent ran itself is what the agent says: no contract can vouch for it.
    return _unknown if tool is None or tool.executor_kind == "in_process" else tool.labels.at


def _user(path: str) -> int:
    return USER


def _unknown(path: str) -> int:
    return UNKNOWN


def ungrounded(work: Work) -> str:
    """The protected argument that comes from nowhere, where the release enforces grounding; else an empty string."""
    if work.release is None or work.release.grounding != "enforce":
        return ""
    return next((g.argument for g in work.grounded if g.origin == "nowhere"), "")


def stage_facts(work: Work, detail: str = "") -> StageFacts:
    """Facts of an authorization: where values come from, and what observing rules would have said."""
    told = work.told if work.choice or (work.release is not None and work.release.prompts) else None
    if not (work.grounded or work.observed or work.redacted or detail or told):
        return PASSED
    found: list[Grounded] = work.grounded
    facts = StageFacts(
        detail, [g.argument for g in found], [g.origin for g in found], [g.label for g in found],
        [g.event_id for g in found], [g.path for g in found], list(work.observed), list(work.redacted),
    )  # fmt: skip
    return facts if told is None else _choice_facts(facts, work.choice or Choice(), told)


def _choice_facts(facts: StageFacts, choice: Choice, told: Told) -> ChoiceFacts:
    """The same of a model call: with its candidates, and what the model is told."""
    return widen(
        ChoiceFacts, facts, candidates=list(choice.names), scores=list(choice.scores), standing=list(choice.standing),
        prompt=told.name, prompt_digest=told.digest, unversioned=told.unversioned,
    )  # fmt: skip
