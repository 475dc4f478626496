"""`session.prompt` and `session.release`: agents get from their session's release what they need, by a permit and on record."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import orjson
import pytest
from sluicegate.processors.releases.diff import diff
from sluicegate.processors.releases.release import CompiledRelease, build, compile_release
from sluicegate.processors.snapshot import encode
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.streams.local import Gate
from sluicegate.streams.sdk.errors import Failed, Refused
from sluicegate.streams.sdk.replies import Inbox
from sluicegate.streams.sdk.standing import PromptText, Release, Standing

from tests.driver import AGENT, SESSION, Driver, release_files
from tests.unit.test_rederive import check as rederived

TEXT = "Answer as $role. The plan is ${plan}."
PERMIT = """
@id("read-triage") permit (principal in Role::"banking", action == Action::"prompt.read", resource)
when { context.args.prompt == "triage" };
"""


def files(permit: str = PERMIT, text: str = TEXT) -> dict[str, str]:
    more = {"prompts/triage.md": text, "prompts/secret.md": "never for agents"}
    return {**release_files(), **more, "policies/prompts.cedar": permit}


def driver(compiled: CompiledRelease | None = None) -> Driver:
    d = Driver()
    d.deploy(compiled or compile_release(files()))
    d.open_session()
    return d


def read(
    d: Driver, name: str = "triage", session: str = SESSION, **variables: object
) -> tuple[str, str, dict[str, str]]:
    decision = d.call("prompt.read", {"prompt": name, "variables": variables}, session=session)
    reply = decision.replies[-1]
    return reply.status, reply.reason, orjson.loads(reply.result) if reply.result else {}


def test_the_text_of_the_sessions_release() -> None:
    d = driver()
    status, _, answer = read(d, role="a clerk", plan="gold")
    assert status == "released"
    assert answer == {
        "prompt": "triage", "text": "Answer as a clerk. The plan is gold.", "release": d.control.deployed,
        "digest": f"sha256:{hashlib.sha256(TEXT.encode()).hexdigest()}",
    }  # fmt: skip


def test_an_open_session_reads_what_it_stands_on() -> None:
    d = driver()
    d.deploy(compile_release(files(text="New: $role")))
    d.open_session("new")
    assert read(d, role="x", plan="y")[2]["text"].startswith("Answer as x")
    assert read(d, session="new", role="x")[2]["text"] == "New: x"


def test_which_prompt_was_read_is_recorded_and_its_words_are_not() -> None:
    d = driver()
    decision = d.call(
        "prompt.read", {"prompt": "triage", "variables": {"role": "a-secret-word", "plan": "gold"}}
    )
    assert [o.status for o in decision.outcomes] == [
        "routed",
        "permitted",
        "validated",
        "dispatched",
        "released",
    ]
    facts = decision.outcomes[-1].facts
    assert isinstance(facts, r.PromptFacts)
    assert (facts.prompt, facts.digest) == ("triage", hashlib.sha256(TEXT.encode()).digest())
    assert decision.dispatches == [] and b"a-secret-word" not in repr(facts).encode()


def test_it_is_a_tool_like_any_other() -> None:
    """Default deny, by prompt; refused without a permit that names it."""
    d = driver()
    assert read(d, "secret")[0] == "refused"
    assert read(d, "nothing")[:2] == ("refused", "schema_violation")
    assert read(d, role="x")[:2] == ("failed", "prompt_variables")
    assert read(d, role="x", plan="y", more="z")[:2] == ("failed", "prompt_variables")
    bare = driver(compile_release({p: t for p, t in files().items() if p != "policies/prompts.cedar"}))
    assert read(bare)[:2] == ("refused", "unknown_tool")


def test_a_read_text_grounds_nothing() -> None:
    """Its variables are the agent's own words: they must not come back as words of the release."""
    d = driver()
    before = d.state.sessions[f"{AGENT}\0{SESSION}"].sources
    assert read(d, role="DE02120300000000202051", plan="y")[0] == "released"
    assert d.state.sessions[f"{AGENT}\0{SESSION}"].sources == before


def test_it_is_decided_again_byte_for_byte() -> None:
    d = driver()
    read(d, role="x", plan="y")
    read(d, role="x")
    assert rederived(d).different == 0
    assert encode(d.state)


def test_the_release_makes_the_tool_when_a_policy_names_it() -> None:
    assert "prompt.read" not in compile_release(release_files()).tools
    compiled = compile_release(files())
    assert compiled.tools["prompt.read"].executor_kind == "prompt"
    assert "prompt.read" not in compile_release({p: t for p, t in files().items() if not p.startswith("prompts/")}, proven=True).tools  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("policies/x.cedar", '@id("x") permit (principal, action == Action::"prompt.read", resource) when { context.args.prompt == "triag" };', "never-matches"),
        ("contracts/x.json", '{"name": "x", "inputSchema": {"type": "object"}, "x-sluicegate": {"class": "read_only", "executor": {"kind": "prompt"}}}', "executor"),
        ("contracts/x.json", '{"name": "prompt.read", "inputSchema": {"type": "object"}, "x-sluicegate": {"class": "read_only", "executor": {"kind": "http", "url": "http://x.invalid"}}}', "contract"),
    ],
)  # fmt: skip
def test_what_is_wrong_about_it_is_said(path: str, text: str, rule: str) -> None:
    _, findings = build({**files(), path: text})
    assert rule in [f.rule for f in findings]


def test_release_diff_tells_who_may_read() -> None:
    old, new = files(PERMIT.replace('"triage"', '"secret"')), files()
    rows = diff((old, compile_release(old)), (new, compile_release(new)))
    assert [c.name for c in rows if c.part == "access"] == ["role `banking`"]


# -- session.release -----------------------------------------------------------------------------------------------


def test_every_reply_names_its_release() -> None:
    d = driver()
    first = d.control.release
    assert first is not None
    d.deploy(compile_release(files(text="New: $role")))
    decision = d.call("desk.never")
    reply = decision.replies[-1]
    assert (reply.release, reply.release_name, reply.release_version) == (
        first.digest,
        first.name,
        first.version,
    )


def test_the_client_keeps_the_newest_of_open_sessions() -> None:
    inbox = Inbox("a", lambda reply: None)

    def deliver(session: str, digest: str) -> None:
        reply = r.Reply(bytes(16), "i", "a", session, "heard", "session", "", [], 1, release=digest, release_name="n", release_version="1")  # fmt: skip
        inbox.deliver(b"a", codec.encode(reply))

    inbox.standing.watch("s")
    assert inbox.standing.of("s") is None
    deliver("s", "sha256:1")
    deliver("other", "sha256:9")
    assert inbox.standing.of("s") == Release("sha256:1", "n", "1") and inbox.standing.of("other") is None
    deliver("s", "sha256:2")
    deliver("s", "")
    assert inbox.standing.of("s") == Release("sha256:2", "n", "1")
    inbox.standing.forget("s")
    deliver("s", "sha256:3")
    assert inbox.standing.of("s") is None, "nothing is kept of sessions that closed"


def test_a_client_that_never_closes_keeps_a_bounded_number() -> None:
    standing = Standing(2)
    for session in ("a", "b", "a", "c"):
        standing.watch(session)
        standing.note(
            r.Reply(bytes(16), "i", "x", session, "heard", "session", "", [], 1, release="sha256:1")
        )
    assert [standing.of(s) is None for s in ("a", "b", "c")] == [True, False, False]


def test_the_sdk(tmp_path: Path) -> None:
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    compiled = compile_release(files())

    async def main() -> None:
        gate = Gate.local(tmp_path)
        async with gate.agent("a", roles=["banking"]) as agent:
            async with agent.session("a chat") as session:
                assert session.release == Release(compiled.digest, compiled.name, compiled.version)
                prompt = await session.prompt("triage", role="a clerk", plan="gold")
                assert isinstance(prompt, PromptText)
                assert (prompt.text, prompt.name) == ("Answer as a clerk. The plan is gold.", "triage")
                assert (prompt.release, prompt.digest) == (compiled.digest, f"sha256:{hashlib.sha256(TEXT.encode()).hexdigest()}")  # fmt: skip
                with pytest.raises(Failed, match="needs the variable `plan`"):
                    await session.prompt("triage", role="a clerk")
                with pytest.raises(Refused):
                    await session.prompt("secret")
            assert session.release is None, "it closed"

    asyncio.run(main())
