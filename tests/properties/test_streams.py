"""Streams, whatever is lost, doubled, late or cut: what a reader saw is the released answer, and never more than rules let out."""

from __future__ import annotations

from dataclasses import replace

import orjson
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.executors.model_chunks import Chunks
from sluicegate.executors.secret_refs import redact
from sluicegate.executors.shown import Scrubber
from sluicegate.executors.sse import Events
from sluicegate.processors.guardrails.guardrails import guard_value
from sluicegate.processors.models.stream_gate import StreamGate
from sluicegate.processors.models.streaming import message_digest, result_digest
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas.records import Piece
from sluicegate.streams.sdk.assembly import Assembly, Ended

from tests.servers.model_server import completion, parts
from tests.stream_fakes import Screen
from tests.unit.test_model_call import files

WORDS = st.text(st.sampled_from("abc .!\n\"'é€𝄞"), max_size=40)
CALL = st.tuples(
    st.sampled_from(["look", "find"]), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9))
)


@st.composite
def cuts(draw: st.DrawFn, text: str) -> list[str]:
    """A text in parts."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True) if a < b]


@st.composite
def messages(draw: st.DrawFn, name: str, attempt: int) -> tuple[list[Piece], dict[str, object]]:
    """One message's pieces, in order, and the answer they are of."""
    text, calls = draw(WORDS), draw(st.lists(CALL, max_size=2))
    base = Piece(bytes(16), "i", "a", "s", attempt, name, 0, "text", 0, "open")
    pieces = [replace(base, kind="start", model="m")]
    pieces += [replace(base, text=part) for part in draw(cuts(text))]
    for index, (tool, arguments) in enumerate(calls):
        pieces.append(replace(base, kind="call", index=index, call_id=f"c{index}", name=tool))
        raw = orjson.dumps(arguments).decode()
        pieces += [replace(base, kind="call", index=index, text=part) for part in draw(cuts(raw))]
    pieces.append(replace(base, kind="end", digest=message_digest(text, calls)))
    listed = [{"id": f"c{n}", "name": tool, "arguments": args} for n, (tool, args) in enumerate(calls)]
    answer = {"text": text, "tool_calls": listed, "served_model": "m"}
    return [replace(p, number=n) for n, p in enumerate(pieces)], answer


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Piece], dict[str, object]]:
    """Up to three attempts as they arrive: cut short, with holes, doubled, and overtaking each other; and the last one's answer."""
    count = draw(st.integers(1, 3))
    found: list[Piece] = []
    answer: dict[str, object] = {}
    for attempt in range(1, count + 1):
        pieces, answer = draw(messages(f"m{attempt}", attempt))
        pieces = pieces[: draw(st.integers(0, len(pieces)))]
        if pieces and draw(st.booleans()):
            pieces.pop(draw(st.integers(0, len(pieces) - 1)))
        if pieces and draw(st.booleans()):
            at = draw(st.integers(0, len(pieces) - 1))
            pieces.insert(draw(st.integers(at, len(pieces))), pieces[at])
        place = draw(st.integers(0, len(found))) if draw(st.booleans()) else len(found)
        found[place:place] = pieces
    if draw(st.booleans()):  # and once in no order at all
        found = draw(st.permutations(found))
    if draw(st.booleans()):  # another answer than any that was shown
        answer = draw(messages("x", 9))[1]
    return found, answer


@given(arrivals())
def test_what_stands_at_the_end_is_the_released_answer(
    arrived: tuple[list[Piece], dict[str, object]],
) -> None:
    pieces, answer = arrived
    assembly, screen = Assembly(), Screen()
    for piece in pieces:
        screen.show(assembly.take(piece))
    last = assembly.end(answer)
    screen.show(last)
    assert isinstance(last[-1], Ended) and last[-1].result == answer
    assert screen.text == answer["text"]
    calls = [(name, orjson.loads(arguments or "{}")) for name, arguments in screen.calls]
    assert message_digest(screen.text, calls) == result_digest(orjson.dumps(answer)) == assembly.digest


@given(messages("m1", 1))
def test_a_whole_message_in_order_is_shown_as_it_comes(made: tuple[list[Piece], dict[str, object]]) -> None:
    pieces, answer = made
    assembly, screen = Assembly(), Screen()
    for piece in pieces:
        screen.show(assembly.take(piece))
    assert screen.text == answer["text"], "before the end"
    assert assembly.digest == pieces[-1].digest
    (ended,) = assembly.end(answer)
    assert ended == Ended(answer, True)


SECRET = "sk-canary/5f2c"


@given(
    st.lists(st.sampled_from([SECRET, SECRET[:7], SECRET[7:], "sk-", "x", SECRET.replace("/", "\\/"), " "])),
    st.data(),
)
def test_a_secret_is_hidden_however_it_is_cut(words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    scrub = Scrubber([SECRET])
    out = "".join(map(scrub.feed, data.draw(cuts(text)))) + scrub.rest()
    assert out == redact(text.encode(), [SECRET]).decode()


@given(st.lists(st.binary(max_size=20).filter(lambda b: not set(b) & set(b"\r\n"))), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())  # fmt: skip
def test_events_are_the_same_however_bytes_are_cut(
    said: list[bytes], end: bytes, data: st.DataObject
) -> None:
    body = b"".join(
        b": hello" + end + b"event: x" + end + b"data: " + one + end + b"data: " + one + end + end
        for one in said
    )
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    events = Events()
    found = [
        e for a, b in zip([0, *places], [*places, len(body)], strict=True) for e in events.feed(body[a:b])
    ]
    assert found == [one + b"\n" + one for one in said]
    slow = Events()
    assert [e for at in range(len(body)) for e in slow.feed(body[at : at + 1])] == found, "byte by byte"


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60), st.lists(CALL, max_size=3))
def test_chunks_add_up_to_the_completion(text: str, calls: list[tuple[str, dict[str, int]]]) -> None:
    listed = [
        {
            "id": f"c{n}",
            "type": "function",
            "function": {"name": name, "arguments": orjson.dumps(args).decode()},
        }
        for n, (name, args) in enumerate(calls)
    ]
    message = {
        "role": "assistant",
        "content": text.strip() or None,
        **({"tool_calls": listed} if listed else {}),
    }
    whole = completion(
        {"messages": [{"content": "say:" + orjson.dumps({"message": message}).decode()}], "model": "m"}
    )
    chunks = Chunks([])
    for part in parts(whole, {"stream_options": {"include_usage": True}}):
        assert isinstance(chunks.take(orjson.dumps(part)), list)
    made = orjson.loads(chunks.completion())
    assert made["choices"] == whole["choices"]  # type: ignore[index]
    assert (made["model"], made["usage"]) == (whole["model"], whole["usage"])


RULES = """
guardrails:
  - {id: no-mail, on: result, tools: ["model.*"], detect: [email], verdict: withhold}
  - {id: cards, on: result, tools: ["model.*"], detect: [card], verdict: redact}
"""
_FILES = files(stream="gated")
RELEASE = compile_release({**_FILES, "release.yaml": _FILES["release.yaml"] + RULES})
SENTENCES = ["All is well. ", "Write to bob@example.com. ", "Card 4111 1111 1111 1111 is gone. ", "no end", "Ja!\n", "4111 1111 ", "x" * 90 + " "]  # fmt: skip


@given(st.lists(st.sampled_from(SENTENCES), max_size=12), st.data())
def test_what_is_shown_is_the_beginning_of_what_rules_left(said: list[str], data: st.DataObject) -> None:
    text, gate, out, fed = "".join(said), StreamGate(RELEASE, "model.triage", {}), "", ""
    rules = RELEASE.guardrails.results["model.triage"]
    for part in data.draw(cuts(text)):
        out += gate.feed(part)
        fed += part
        assert "bob@" not in out and "4111 1111 1111 1111" not in out
    answer = {"text": text, "tool_calls": [], "finish_reason": "stop", "served_model": "m", "usage": {}}
    out += gate.finish(answer)[0]
    left = guard_value(dict, orjson.dumps(answer), (), rules, None)
    if left.result is None:
        assert gate.closed and "bob@" not in out
    elif not gate.closed:
        assert out == orjson.loads(left.result)["text"]
    else:
        assert orjson.loads(left.result)["text"].startswith(out) or "4111" in text
