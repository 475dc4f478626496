"""Arguments beside the log: decided on whole, whoever fetched them; offered by reference; never what a contract does not allow."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from sluicegate.executors.adapter import Failed
from sluicegate.executors.large_arguments import Fetcher, nothing
from sluicegate.processors.artifacts import Reference, digest_of
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.large_arguments import PLACE, reference_in, referred, seal, told_arguments
from sluicegate.processors.outcomes import Decision, Stored
from sluicegate.processors.permits import agents_word, open_dispatch
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.replay.rederive import Rederive, Tally
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.topics import MAX_ARGUMENT_BYTES, MAX_INTENT_BYTES
from sluicegate.streams.archive.artifacts import FolderArtifacts, unseal
from sluicegate.streams.erasures import Look, _take
from sluicegate.streams.lanes.content_store import ContentStore, keeper, reader
from sluicegate.streams.sdk.asking import Asker
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.transport import Deliver, Headers
from sluicegate.streams.settings import Settings

from tests.driver import AGENT, PERSON, SESSION, Driver, release_files
from tests.signed_driver import SignedDriver
from tests.unit import test_attempts as attempts
from tests.unit import test_prompts

TOOL = "desk.summarise"
KEY = bytes(range(32))


def contract(**more: object) -> str:
    text = {"type": "string"}
    return json.dumps(
        {
            "name": TOOL,
            "inputSchema": {"type": "object", "properties": {"text": text, "secret": text}, "required": ["text"]},
            "x-sluicegate": {
                "class": "irreversible", "executor": {"kind": "http", "url": "http://tools.invalid/sum"},
                "max_argument_bytes": MAX_ARGUMENT_BYTES, **more,
            },
        }
    )  # fmt: skip


def files(hold: str = "", **more: object) -> dict[str, str]:
    policy = f'@id("sum") {hold} permit (principal, action == Action::"{TOOL}", resource);'
    return {**release_files(), f"contracts/{TOOL}.json": contract(**more), "policies/sum.cedar": policy}


def arguments(**more: object) -> bytes:
    return orjson.dumps({"text": "word " * 80_000, **more}, option=orjson.OPT_SORT_KEYS)


BIG = arguments()


def driver(hold: str = "", **more: object) -> Driver:
    d = Driver()
    d.deploy(compile_release(files(hold, **more)))
    d.open_session()
    return d


def asked(
    d: Driver, content: bytes = BIG, tool: str = TOOL, kind: str = "tool_call"
) -> tuple[r.Intent, bytes]:
    """An intent by reference, and what stands in the store."""
    reference, sealed = seal(content, KEY)
    return replace(d.intent(tool, b"", kind=kind), arguments_ref=reference.as_json()), sealed


def call(d: Driver, intent: r.Intent, content: bytes | None) -> Decision:
    d.inputs.setdefault(PLACE, {})[d.next_offset["intents"]] = content  # type: ignore[assignment]
    return d.feed("intents", intent)


def again(d: Driver, stored: dict[str, bytes]) -> Tally:
    made = Rederive(d.partition, d.controls, d.keys.open)
    made.stored = lambda reference: stored.get(reference.digest)
    for record in d.records:
        made.add(*record)
    return made.finish()


def refused(made: Decision) -> tuple[str, str]:
    return made.outcomes[-1].status, made.outcomes[-1].reason


def test_decided_whole_offered_by_reference_and_decided_again() -> None:
    d = driver()
    intent, sealed = asked(d)
    made = call(d, intent, BIG)
    assert [o.status for o in made.outcomes] == ["routed", "permitted", "validated", "dispatched"]
    (dispatch,) = made.dispatches
    assert (dispatch.arguments, dispatch.arguments_ref) == (b"", intent.arguments_ref)
    assert not made.stores, "what the agent stored is offered as it stands"
    second = d.tick(8_000_000).dispatches[0]
    assert (second.attempt, second.arguments_ref) == (2, intent.arguments_ref)
    assert d.finish(second).outcomes[-1].status == "released"
    assert max(len(value) for _, value in d.records) < 5_000, "nothing of it stands on the ledger"
    for found in (again(d, {digest_of(BIG): BIG}), again(d, {})):
        assert found.differences == []
    assert (again(d, {digest_of(BIG): BIG}).erased, again(d, {}).erased) == (0, 2), "gone is said to be"
    reference = reference_in(intent.arguments_ref)
    assert reference is not None and unseal(reference, sealed) == BIG


@pytest.mark.parametrize("content", [None, BIG[:-1] + b" ", b"{}"])
def test_nobody_is_believed_about_what_was_asked_for(content: bytes | None) -> None:
    d = driver()
    made = call(d, asked(d)[0], content)
    assert refused(made) == ("refused", "content_unavailable")
    assert again(d, {}).differences == again(d, {digest_of(BIG): BIG}).differences == []
    assert again(d, {}).erased == 0


def test_nothing_is_fetched_but_what_a_contract_lets_be_large() -> None:
    d = driver()
    intent, _ = asked(d, tool="desk.read")
    assert refused(d.feed("intents", intent)) == ("refused", "too_large")
    huge = Reference(digest_of(BIG), MAX_ARGUMENT_BYTES + 1, digest_of(BIG), KEY).as_json()
    assert refused(d.feed("intents", replace(d.intent(TOOL, b""), arguments_ref=huge))) == (
        "refused",
        "too_large",
    )
    for bad in (b"{}", b"no json", b'{"artifact":{}}'):
        made = d.feed("intents", replace(d.intent(TOOL, b""), arguments_ref=bad))
        assert refused(made) == ("refused", "content_unavailable")
    both = replace(intent, intent_id="both", tool=TOOL, arguments=b'{"text":"another"}')
    assert refused(d.feed("intents", both)) == ("refused", "content_unavailable")


def test_schema_and_policies_see_the_value() -> None:
    d = driver()
    for content, reason in ((b'{"text":1}', "schema_violation"), (b"[]", "arguments_not_json")):
        assert refused(call(d, asked(d, content)[0], content)) == ("refused", reason)
    d = driver()
    d.deploy(
        compile_release(
            {**files(), "policies/no.cedar": f'@id("no") forbid (principal, action == Action::"{TOOL}", resource) '
             'when { context.args.text like "*word word*" };'}
        ), now=True,
    )  # fmt: skip
    assert refused(call(d, asked(d)[0], BIG)) == ("refused", "forbidden")


def test_a_changed_call_is_stored_anew_and_the_same_way_each_time() -> None:
    d = driver(redact={"arguments": ["$.secret"]})
    content = arguments(secret="1234")
    intent, _ = asked(d, content)
    made = call(d, intent, content)
    (dispatch,), (stored,) = made.dispatches, made.stores
    reference = reference_in(dispatch.arguments_ref)
    assert reference is not None and dispatch.arguments_ref != intent.arguments_ref
    assert stored.name == reference.stored
    assert b"1234" not in unseal(reference, stored.sealed)
    later = d.tick(8_000_000)
    assert (later.dispatches[0].arguments_ref, later.stores) == (dispatch.arguments_ref, [stored])


def test_a_prompt_is_rendered_around_large_messages() -> None:
    large = {"max_argument_bytes": MAX_ARGUMENT_BYTES}
    made = attempts.files(**test_prompts.PROMPT)
    for name in (attempts.LARGE, attempts.SMALL, attempts.SPARE):
        body = json.loads(made[f"contracts/{name}.json"])
        body["x-sluicegate"] |= large
        made[f"contracts/{name}.json"] = json.dumps(body)
    d = Driver()
    d.deploy(compile_release(made))
    d.open_session()
    own = [{"role": "user", "content": "word " * 70_000}]
    content = orjson.dumps({"messages": own, "prompt": "triage", "variables": {"role": "a clerk"}})
    decision = call(d, asked(d, content, "triage", "model_call")[0], content)
    (dispatch,), (stored,) = decision.dispatches, decision.stores
    reference = reference_in(dispatch.arguments_ref)
    assert reference is not None
    sent = orjson.loads(unseal(reference, stored.sealed))
    assert sent["messages"] == [{"role": "system", "content": "You are a clerk. It costs $5, a clerk."}, *own]
    assert again(d, {digest_of(content): content}).differences == []
    uneven = {**made, f"contracts/{attempts.SMALL}.json": attempts.contract(attempts.SMALL)}
    assert "do not take and give the same" in str(check_release(uneven)[1])


def test_people_agree_to_a_digest_and_the_ledger_does_not_grow() -> None:
    d = driver('@hold("look at it")')
    intent, _ = asked(d)
    held = call(d, intent, BIG)
    assert held.outcomes[-1].status == "held"
    assert orjson.loads(held.outcomes[-1].content or b"")["arguments"] == {
        "artifact": {"bytes": len(BIG), "digest": digest_of(BIG)}
    }
    done = d.review(held, person=PERSON)
    assert done.dispatches[0].arguments_ref == intent.arguments_ref
    d = driver('@hold("look at it")')
    intent, _ = asked(d)
    held = call(d, intent, BIG)
    d.inputs[PLACE].clear()
    gone = d.review(held, person=PERSON)
    assert not gone.dispatches and gone.outcomes[-1].reason == "content_unavailable"


def test_an_executor_believes_the_digest_only(tmp_path: Path) -> None:
    d = driver()
    intent, sealed = asked(d)
    (dispatch,) = call(d, intent, BIG).dispatches
    reference = reference_in(intent.arguments_ref)
    assert reference is not None
    store = FolderArtifacts(tmp_path)

    async def fetched(one: r.Dispatch) -> r.Dispatch | Failed:
        async with Fetcher(store).whole(one, 5.0) as found:
            return found

    async def without() -> r.Dispatch | Failed:
        async with nothing(dispatch, 1.0) as found:
            return found

    missing = asyncio.run(fetched(dispatch))
    assert isinstance(missing, Failed) and (missing.error_class, missing.sent) == (
        "content_unavailable",
        False,
    )
    assert isinstance(asyncio.run(without()), Failed)
    asyncio.run(store.put(reference.stored, sealed))
    whole = asyncio.run(fetched(dispatch))
    assert isinstance(whole, r.Dispatch) and (whole.arguments, whole.arguments_ref) == (BIG, b"")
    other, more = seal(arguments(secret="x"), KEY[::-1])
    asyncio.run(store.put(other.stored, more))
    changed = asyncio.run(fetched(replace(dispatch, arguments_ref=other.as_json())))
    assert isinstance(changed, Failed) and "decided on" in changed.error
    assert d.claim(dispatch).outcomes[-1].status == "claimed"
    ended = d.receipt(
        dispatch, "failed", error_class=missing.error_class, error=missing.error, sent=missing.sent
    )
    assert refused(ended) == ("failed", "content_unavailable"), "nothing was sent, so nothing is in doubt"


def test_the_agents_word_holds_for_what_it_refers_to() -> None:
    d = SignedDriver()
    d.deploy(compile_release(files()), now=True)
    d.open_session()
    intent, _ = asked(d)
    d.inputs.setdefault(PLACE, {})[d.next_offset["intents"]] = BIG
    (dispatch,) = d.feed("intents", d.sign(intent, "intents")).dispatches
    assert dispatch.proof and not dispatch.transformed

    def judged(one: r.Dispatch) -> object:
        found = open_dispatch(d.control, 0, d.sign(one, "dispatches"), d.now)
        assert isinstance(found, r.Dispatch)
        return agents_word(d.control, found, d.now)

    other = seal(arguments(secret="x"), KEY)[0].as_json()
    assert judged(dispatch) is None
    assert judged(replace(dispatch, arguments_ref=other)) is not None
    assert judged(replace(dispatch, arguments_ref=b"", arguments=BIG)) is not None
    plain = d.call("desk.pay", {"value": "mine"}).dispatches[0]
    assert judged(plain) is None and judged(replace(plain, arguments_ref=other)) is not None


class Pipe:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def start(self, deliver: Deliver) -> None:
        """Nothing comes back."""

    async def send(self, topic: str, value: bytes, headers: Headers) -> object:
        """Keep it, and let nobody wait."""
        self.sent.append(value)
        raise Retryable("nobody is there")


def test_the_sdk_stores_what_is_too_large_and_nothing_else(tmp_path: Path) -> None:
    settings = Settings(env="test", home=tmp_path)
    keep = keeper(settings, {})
    assert keep is not None
    assert keeper(replace(settings, kafka="kafka:9092"), {}) is None, (
        "no store was named, so it may be nobody else's"
    )
    assert keeper(replace(settings, kafka="kafka:9092"), {"SLUICEGATE_ARTIFACTS": str(tmp_path)}) is not None

    async def ask(args: dict[str, object], store: bool = True) -> tuple[bytes | None, str]:
        pipe = Pipe()
        asker = Asker(AGENT, "test", pipe, None, None, {}, keep=keep if store else None)  # type: ignore[arg-type]
        with pytest.raises(NotReleased) as told:
            await asker.call_tool(SESSION, TOOL, args, 5.0, None, "", None)  # type: ignore[arg-type]
        return (pipe.sent[0] if pipe.sent else None), told.value.reason

    small, _ = asyncio.run(ask({"text": "short"}))
    just, _ = asyncio.run(ask({"text": "x" * (MAX_INTENT_BYTES - 1_000)}))
    assert referred(small) is None and referred(just) is None, "what fits goes as it is"
    value, _ = asyncio.run(ask({"z": 1, "text": "word " * 80_000}))
    reference = referred(value)
    assert value is not None and len(value) < 1_000 and reference is not None
    stored = reader(settings)(reference)
    assert stored == arguments(z=1), "canonical"
    assert asyncio.run(ask({"text": "word " * 80_000}, store=False)) == (None, "too_large")
    assert asyncio.run(ask({"text": "x" * MAX_ARGUMENT_BYTES})) == (None, "too_large")
    (tmp_path / "artifacts").rename(tmp_path / "away")
    (tmp_path / "artifacts").write_text("no folder")
    assert asyncio.run(ask({"text": "word " * 80_000})) == (None, "content_unavailable")


class Broken(FolderArtifacts):
    """A store that does not answer."""

    asked = 0

    async def get(self, name: str) -> bytes | None:
        """Fail."""
        self.asked += 1
        raise Retryable("the store is away")


def test_a_worker_waits_for_a_store_within_a_bound(tmp_path: Path) -> None:
    d = driver()
    intent, sealed = asked(d)
    raw = codec.encode(intent)
    reference = reference_in(intent.arguments_ref)
    assert reference is not None
    name = reference.stored

    async def load(place: Place) -> bytes | None:
        assert place == ("intents", 7)
        return raw

    async def main() -> None:
        store = FolderArtifacts(tmp_path)
        contents, broken = ContentStore(lambda: store), Broken(tmp_path)
        assert await contents.arguments(Tick(0, 0), 7, load) is None, "not there"
        await contents.keep([Stored(name, sealed)])
        assert await contents.arguments(Tick(0, 0), 7, load) == BIG
        assert await contents.arguments(Input("intents", 0, 3, raw), 3, load) == BIG
        assert await contents.arguments(Input("intents", 0, 3, b"?"), 3, load) is None
        (tmp_path / name[7:9] / name[7:]).write_bytes(b"something else")
        assert await contents.arguments(Tick(0, 0), 7, load) is None
        away = ContentStore(lambda: broken)
        for _ in range(5):
            assert await away.arguments(Tick(0, 0), 7, load) is None
        assert broken.asked == 1, "a store that is away is not asked at every call"

    asyncio.run(main())


def test_an_erasure_takes_what_a_person_asked_with() -> None:
    d = driver()
    intent, _ = asked(d)
    call(d, intent, BIG)
    look = Look("person-1", ["person-1"], ["person-1"])
    for _, value in d.records:
        _take(d.keys, {"person-1": look}, value)  # type: ignore[arg-type]
    reference = reference_in(intent.arguments_ref)
    assert reference is not None and look.artifacts == [("person-1", reference.stored)]
    assert orjson.loads(told_arguments(intent)) == {"artifact": {"bytes": len(BIG), "digest": digest_of(BIG)}}


def test_only_what_an_executor_calls_may_be_large() -> None:
    bad = files(executor={"kind": "in_process"})
    assert "arguments above 256 kB are for" in str(check_release(bad)[1])
    assert "less than or equal" in str(check_release(files(max_argument_bytes=1 << 40))[1])
    assert check_release(files())[0] is not None
