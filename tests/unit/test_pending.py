"""What people are shown of a held call: the exact bytes, their difference, the past; and nothing that deceives the eye."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.state import OpenIntent
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands import approvals_text as text
from sluicegate.streams.inspect import find, pending
from sluicegate.streams.inspect.pending import Pending

from tests.driver import Driver, release_files
from tests.unit.test_labels import MAIL


def shown(d: Driver) -> Pending:
    """The one held call of a driver, as `approvals show` has it."""
    [entry] = [e for e in d.state.intents.values() if isinstance(e, OpenIntent) and e.state == "held"]
    events = [find.decode(0, offset, value) for offset, value in d.records]
    mine = [e for e in events if e.header.intent_id == entry.intent_id]
    past = [e for e in events if e.header.session_id == entry.session_id]
    compiled = d.control.release
    assert compiled is not None
    return pending.tell(entry, mine, past, compiled, d.keys.open)


def held(value: str = "1000") -> tuple[Driver, Decision]:
    d = Driver()
    d.open_session()
    return d, d.call("desk.wire", {"value": value})


def printed(found: Pending, edit: bytes | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, soft_wrap=True, highlight=False)
    if edit is None:
        text.print_call(console, found)
    else:
        text.print_ask(console, found, edit)
    return out.getvalue()


def test_a_held_call_is_shown_exactly() -> None:
    d, _ = held()
    found = shown(d)
    assert (found.arguments, found.exact, found.why) == (
        b'{"value":"1000"}', True, "two people agree to this"
    )  # fmt: skip
    assert json.loads(found.original) == {"value": "1000"}
    assert "permit" in found.policies["desk-wire"]
    said = printed(found)
    assert found.entry.action_digest.hex() in said and found.entry.hold_release in said
    assert "2 of desk or treasury" in said and "nobody yet" in said
    assert '      "value": "1000"' in said


def test_what_does_not_hash_to_the_digest_is_said_to_be_inexact() -> None:
    d, _ = held()
    found = shown(d)
    other = replace(found.entry, action_digest=bytes(32))
    events = [find.decode(0, offset, value) for offset, value in d.records]
    assert d.control.release is not None
    wrong = pending.tell(other, events, [], d.control.release, d.keys.open)
    assert not wrong.exact
    assert "do not approve them" in printed(wrong) and "do not approve them" not in printed(found)


def test_of_what_was_erased_it_is_said_and_not_that_the_bytes_are_others() -> None:
    d, _ = held()
    assert not shown(d).erased
    d.keys.destroyed.add("person-1")
    said = printed(shown(d))
    assert "ERASED: whom it was for was erased" in said and "reject it" in said
    assert "why        ERASED" in said and "these are not the bytes" not in said


def test_an_edit_is_shown_as_a_difference() -> None:
    d, call = held()
    d.review(call, person="person-3", arguments=b'{ "value" : "10" }')
    found = shown(d)
    assert (found.arguments, found.exact) == (b'{"value":"10"}', True)
    said = printed(found)
    assert '-   "value": "1000"' in said and '+   "value": "10"' in said and "changed by a person" in said
    assert "agreed: person-3" in said


def test_an_edit_is_checked_before_it_is_sent() -> None:
    d, _ = held()
    found = shown(d)
    assert found.edited(b'{ "value": "x" }') == b'{"value":"x"}'
    assert '+   "value": "x"' in printed(found, found.edited(b'{"value":"x"}'))
    for wrong in (b'{"value": 1}', b"{", b"", b'{"other": 1}', b'{"value":"a","value":"b"}'):
        with pytest.raises(Terminal, match=r"do not fit `desk\.wire`"):
            found.edited(wrong)


def test_what_was_redacted_is_shown_as_it_would_run() -> None:
    contract = release_files()["contracts/desk.wire.json"].replace(
        '"timeout_ms"', '"redact": {"arguments": ["value"]}, "timeout_ms"'
    )
    d = Driver()
    d.deploy(compile_release({**release_files(), "contracts/desk.wire.json": contract}))
    d.open_session()
    call = d.call("desk.wire", {"value": "secret"})
    assert shown(d).exact and b"secret" not in shown(d).arguments
    d.review(call, arguments=b'{"value":"other secret"}')
    assert shown(d).exact and b"secret" not in shown(d).arguments


def test_the_past_of_the_session_is_told_until_the_hold() -> None:
    d = Driver()
    d.open_session()
    d.say("please pay\nmy rent")
    d.finish(d.call("desk.read", {"value": "balance"}).dispatches[0], b'{"left":7}')
    d.call("desk.pay", {"value": "no"})
    d.call("desk.wire", {"value": "1"})
    d.say("after the hold")
    found = shown(d)
    assert [(b.what, b.text) for b in found.before] == [
        ("goal", "pay my rent"), ("user", "please pay my rent"), ("call", 'desk.read {"value":"balance"}'),
        ("result", 'desk.read {"left":7}'), ("call", 'desk.pay {"value":"no"}'), ("refused", "desk.pay forbidden"),
    ]  # fmt: skip
    assert found.on_behalf_of == "person-1"
    said = printed(found)
    assert "please pay my rent" in said and "after the hold" not in said
    assert pending.as_json(found)["before"][1]["what"] == "user"  # type: ignore[index]


def test_a_long_past_is_cut_in_the_middle() -> None:
    d = Driver()
    d.open_session()
    for n in range(100):
        d.say(f"word {n}")
    d.call("desk.wire", {"value": "1"})
    before = shown(d).before
    assert len(before) == pending.MAX_BEFORE + 1
    assert before[0].what == "goal" and before[1].text == "61 more" and before[-1].text == "word 99"


def test_where_values_come_from_is_shown() -> None:
    hold = (
        '@id("mail-asked") @hold("look at it") permit (principal, action == Action::"mail.send", resource);'
    )
    files = {k: v for k, v in MAIL.items() if not k.startswith("policies/")}
    d = Driver()
    d.deploy(compile_release({**release_files(), **files, "policies/mail.cedar": hold + GROUNDED}))
    d.open_session()
    d.say("write to bob")
    d.call("mail.send", {"to": "bob"})
    found = shown(d)
    assert ("to", "user", "user") in found.grounded
    assert "to: user, user" in printed(found)


GROUNDED = """
@id("mail-grounded") forbid (principal, action == Action::"mail.send", resource)
when { context.grounding.worst == "web" };
"""


@pytest.mark.parametrize("trick", ["\u202e", "\u200b", "\x1b[2J", "\r", "\x9b", "\u2066"])
def test_nothing_deceives_the_eye(trick: str) -> None:
    d = Driver()
    d.open_session()
    d.say(f"hello {trick}[bold]you[/bold]")
    d.call("desk.wire", {"value": f"pay{trick}[red]mallory"})
    said = printed(shown(d))
    assert trick not in said and "[red]mallory" in said and "[bold]you[/bold]" in said


def test_letters_that_look_like_others_are_pointed_out() -> None:
    d, _ = held("Landl\u043erd")
    assert "letters that look like others" in printed(shown(d))
    d, _ = held("M\u00fcller")
    assert "letters that look like others" not in printed(shown(d))


def test_erased_content_is_not_shown_and_not_exact() -> None:
    d, _ = held()
    d.keys.destroyed.add("person-1")
    found = shown(d)
    assert (found.arguments, found.exact) == (b"", False)
    assert "ERASED" in " ".join(b.text for b in found.before)
    printed(found)
    assert pending.as_json(found)["arguments"] is None


@pytest.mark.parametrize(
    ("us", "said"),
    [(0, "0s"), (-5, "0s"), (59_999_999, "59s"), (61_000_000, "1m01s"), (4 * 3_600_000_000, "4h00m"), (90_000_000_000, "1d01h")],
)  # fmt: skip
def test_spans(us: int, said: str) -> None:
    assert text.span(us) == said
