"""Evidence bundles and the auditor's `verify.py`: a sound one is VALID, and whatever is done to one is named; never VALID."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sluicegate.processors import lifecycle
from sluicegate.processors.control import orders
from sluicegate.processors.control.orders import Ordered
from sluicegate.processors.erasure import erased_by
from sluicegate.processors.jobs.compensate import undo_id
from sluicegate.processors.transparency import merkle
from sluicegate.processors.transparency.checkpoints import CONTROL, Signed
from sluicegate.processors.verify import lives as verify_lives
from sluicegate.schemas import codec, notes
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.evidence import formats as evidence_formats
from sluicegate.streams.evidence import people as evidence_people
from sluicegate.streams.evidence import period as evidence_period
from sluicegate.streams.evidence.build import Ask, Call, Nodes, Picker, proof_of
from sluicegate.streams.evidence.file import verifier
from sluicegate.streams.evidence.formats import Note, Policy, Record, Tree
from sluicegate.streams.evidence.html import TAKEN_BACK, summary
from sluicegate.streams.evidence.said import told
from sluicegate.streams.evidence.verify import Report, check, main

from tests.bundles import (
    DAY_US,
    LOG_SECRET,
    POLICY,
    WITNESS,
    Made,
    dumped,
    flip_a_bit,
    head,
    key_added,
    leaves,
    reseal,
    rows,
)
from tests.driver import AGENT, OTHER_AGENT, PERSON, T0, Driver, read, release
from tests.forging import rechain
from tests.signed_driver import SignedDriver, key_body, secret_of

PUBLIC, INTERNAL, SECRET = range(3)


@cache
def _sound(disclose: int = -1) -> tuple[Made, bytes]:
    """A bit of everything of two agents under two releases, and the bytes of a bundle of it."""
    import tempfile

    d = Driver()
    key_added(d)
    d.everyday(1)
    d.open_session("other", OTHER_AGENT)
    d.call("desk.read", agent=OTHER_AGENT, session="other")
    d.deploy(release(edition="2"))
    d.everyday(1)
    made = Made(d)
    with tempfile.TemporaryDirectory() as folder:
        return made, made.bundle(Path(folder), disclose=disclose, earlier=(7, 30)).read_bytes()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.zip"
    path.write_bytes(_sound()[1])
    return path


@pytest.fixture
def disclosed(tmp_path: Path) -> Path:
    path = tmp_path / "disclosed.zip"
    path.write_bytes(_sound(SECRET)[1])
    return path


def names(report: Report) -> set[str]:
    return {f["check"] for f in report.found}


def first(report: Report, name: str) -> Record:
    return next(f for f in report.found if f["check"] == name)


# -- what holds ---------------------------------------------------------------------------------------------------


def test_a_sound_bundle_is_valid_and_its_counts_are_the_ledgers(sound: Path) -> None:
    report = check(sound)
    assert (report.verdict, report.found) == ("VALID", [])
    counts = report.said["counts"]
    ends = ("refused", "expired", "voided", "executed", "in_doubt", "open")
    assert counts["intents"] == sum(counts[n] for n in ends) > 20
    assert counts["refused"] and counts["executed"] and counts["open"] and counts["approvals"]
    assert counts["events_of_others"] > 0
    assert report.said["contents"]["contents"] == 0 and report.said["contents"]["withheld"] > 0
    assert report.said["heads"]["0"]["witnesses"] == ["ops"]


def test_disclosed_contents_open_and_are_who_signed_them(tmp_path: Path) -> None:
    d = SignedDriver()
    made = Made(d)
    d.open_session()
    d.finish(d.call("desk.pay", {"value": "rent"}).dispatches[0])
    d.review(d.call("desk.ask", {"value": "a"}))
    report = check(made.bundle(tmp_path, disclose=SECRET))
    assert report.verdict == "VALID"
    assert report.said["signing"] == "signed"
    assert report.said["contents"]["signed"] == 4, (
        "two calls, a session and a review; receipts have secret keys"
    )
    assert report.said["approvals"] == [
        {"seq": report.said["approvals"][0]["seq"], "intent": "i-3", "who": PERSON, "of": 1, "at": report.said["approvals"][0]["at"]}
    ]  # fmt: skip


def test_a_narrower_label_stays_out_and_what_a_session_saw_narrows_what_it_says(tmp_path: Path) -> None:
    made, _ = _sound()
    public, internal = (check(made.bundle(tmp_path, disclose=n, name=f"{n}.zip")) for n in (PUBLIC, INTERNAL))
    assert (public.verdict, internal.verdict) == ("VALID", "VALID")
    assert public.said["contents"]["contents"] == 0
    assert internal.said["contents"]["contents"] > 0


def test_a_period_in_the_middle_says_what_was_begun_before(tmp_path: Path) -> None:
    made, _ = _sound()
    events = rows(made.bundle(tmp_path, name="all.zip"))
    times = [evidence_formats.decode(evidence_formats.b64(str(x["header"])))["decided_at"] for x in events]
    since, until = times[20] + 1, times[-20]
    path = made.bundle(tmp_path, span=(since, until), earlier=(7, 20))
    report = check(path)
    assert report.verdict == "VALID", report.found
    assert report.said["first"] > 0
    whole = check(made.bundle(tmp_path, name="again.zip")).said["counts"]
    assert 0 < report.said["counts"]["intents"] < whole["intents"]


def test_a_period_without_events_can_be_shown_to_be_empty(tmp_path: Path) -> None:
    made, _ = _sound()
    for span in [(T0 - 10, T0 - 5), (T0 + DAY_US // 2, T0 + DAY_US // 2 + 5)]:
        report = check(made.bundle(tmp_path, span=span, name=f"{span[0]}.zip"))
        assert report.verdict in ("VALID", "INCOMPLETE", "PENDING")
        assert report.said["counts"]["events"] == 0


def test_every_period_of_every_length_leads_to_the_signed_root() -> None:
    for size in (1, 2, 3, 7, 8, 13, 32):
        whole = [hashlib.sha256(bytes([i])).digest() for i in range(size)]
        nodes = Nodes()
        for leaf in whole:
            nodes.append(leaf)
        root = merkle.root_at(size, nodes)
        for start in range(size):
            for end in range(start, size + 1):
                left = [
                    evidence_formats.b64(h)
                    for h in _texts(proof_of(start, end, _Head(size), [], nodes)["left"])
                ]
                right = [
                    evidence_formats.b64(h)
                    for h in _texts(proof_of(start, end, _Head(size), [], nodes)["right"])
                ]
                tree = Tree(start, left, {size})
                for leaf in whole[start:end]:
                    tree.add(leaf)
                tree.extend(right, size)
                assert tree.roots[size] == root


def test_consistency_is_that_of_the_other_implementation() -> None:
    nodes = Nodes()
    roots = [merkle.EMPTY_ROOT]
    for i in range(40):
        nodes.append(hashlib.sha256(bytes([i])).digest())
        roots.append(merkle.root_at(i + 1, nodes))
    for new in range(1, 41):
        for old in range(1, new + 1):
            proof = merkle.consistency_proof(old, new, nodes)
            assert evidence_formats.continues(old, new, roots[old], roots[new], proof)
            assert not evidence_formats.continues(old, new, roots[old - 1], roots[new], proof)
            if proof:
                assert not evidence_formats.continues(old, new, roots[old], roots[new], proof[:-1])


# -- bytes that were changed --------------------------------------------------------------------------------------


def test_no_byte_of_a_bundle_can_be_changed(sound: Path, tmp_path: Path) -> None:
    """Of the file as it is: each member's, each header's of the archive, the seal's."""
    data = sound.read_bytes()
    changed = tmp_path / "changed.zip"
    step = max(1, len(data) // 200)
    for at in [*range(0, len(data), step), *range(len(data) - 90, len(data))]:
        changed.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        assert check(changed).verdict == "INVALID", at
    for cut in (0, 1, 63, 64, 65, len(data) // 2, len(data) - 1):
        changed.write_bytes(data[:cut])
        assert check(changed).verdict == "INVALID", cut


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_byte_of_the_evidence_can_be_forged(tmp_path: Path, data: st.DataObject) -> None:
    """By somebody who makes digests, manifest and seal fit: what is told is then found by what it means."""
    path = tmp_path / "disclosed.zip"
    path.write_bytes(_sound(SECRET)[1])
    member = data.draw(st.sampled_from(["events.jsonl", "control.jsonl"]))
    lines = rows(path, member)
    row = data.draw(st.integers(0, len(lines) - 1))
    flip_a_bit(data.draw, lines[row])
    forged = reseal(path, {member: dumped(lines)})
    assert check(forged).verdict == "INVALID"
    forged.unlink()


@pytest.mark.parametrize("name", ["tree.json", "releases", "policy.txt", "keys.json"])
def test_no_byte_of_proofs_keys_and_releases_can_be_forged(disclosed: Path, name: str) -> None:
    with zipfile.ZipFile(disclosed) as archive:
        member = next(n for n in archive.namelist() if n.startswith(name))
        data = archive.read(member)
    found = 0
    for at in range(0, len(data), max(1, len(data) // 60)):
        if chr(data[at]) not in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789":
            continue  # blanks, where bytes are of no meaning
        if name == "tree.json" and at > data.rindex(b'"earlier"') and b"witness" in data[at - 250 : at + 20]:
            continue  # who witnessed a head of before is asked of nobody
        other = b"Q" if data[at : at + 1] != b"Q" else b"R"
        forged = reseal(disclosed, {member: data[:at] + other + data[at + 1 :]})
        report = check(forged)
        found += 1
        assert report.verdict != "VALID", at
        forged.unlink()
    assert found > 20


Change = Callable[[list[dict[str, object]]], list[dict[str, object]]]


def _without(index: int) -> Change:
    return lambda lines: lines[:index] + lines[index + 1 :]


def _own(lines: list[dict[str, object]]) -> int:
    return next(i for i, x in enumerate(lines) if i > 20 and "facts" in x)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_without(30), "dense"),
        (lambda x: [*x[:30], x[31], x[30], *x[32:]], "dense"),
        (lambda x: [*x[:30], x[30], *x[30:]], "dense"),
        (lambda x: x[:-5], "inclusion"),
        (lambda x: x[5:], "dense"),
        (lambda x: [], "inclusion"),
        (lambda x: [{**r, "facts": x[3]["facts"]} if i == _own(x) else r for i, r in enumerate(x)], "facts"),
    ],
)
def test_events_that_were_left_out_moved_or_put_in(sound: Path, change: Change, expected: str) -> None:
    report = check(reseal(sound, {"events.jsonl": dumped(change(rows(sound)))}))
    assert report.verdict == "INVALID" and expected in names(report)


def test_an_event_of_the_agent_without_facts_is_incomplete(sound: Path) -> None:
    lines = rows(sound)
    at = _own(lines)
    del lines[at]["facts"]
    report = check(reseal(sound, {"events.jsonl": dumped(lines)}))
    assert first(report, "facts")["seq"] == at and first(report, "facts")["verdict"] == "INCOMPLETE"


def test_an_agent_cannot_be_shown_in_the_partition_where_it_is_not(sound: Path) -> None:
    """A sound partition in which nothing of the agent stands would say that it did nothing."""
    away = next(a for a in (f"agent-{i}" for i in range(99)) if partition_of(a, 4) != partition_of(AGENT, 4))
    assert evidence_formats.partition_of(away, 4) == partition_of(away, 4)
    d = Driver(partition=partition_of(AGENT, 4), partitions=4)
    made = Made(d)
    d.open_session()
    path = made.bundle(sound.parent, agent=away)
    report = check(path)
    assert report.verdict == "INVALID" and "partition" in names(report)


@given(st.text(max_size=40).filter(lambda t: t.isprintable()), st.integers(1, 64))
def test_agents_stand_where_kafka_puts_them(agent: str, partitions: int) -> None:
    assert evidence_formats.partition_of(agent, partitions) == partition_of(agent, partitions)


def test_hashes_of_others_do_not_show_that_nothing_was_left_out(tmp_path: Path) -> None:
    made, _ = _sound()
    report = check(made.bundle(tmp_path, others=False))
    assert report.verdict == "INCOMPLETE" and names(report) == {"omission"}


def test_a_member_more_less_or_with_a_path(sound: Path) -> None:
    assert "members" in names(check(reseal(sound, {"notes.txt": b"x"})))
    for name in ("../verify.py", "/etc/passwd", "releases/../../x.json", "a\\b"):
        report = check(reseal(sound, {name: b"x"}))
        assert report.verdict == "INVALID" and "members" in names(report), name
    missing = reseal(sound, {"summary.html": None}, lambda m: m["members"].update({"summary.html": "00"}))  # type: ignore[attr-defined]
    assert check(missing).verdict == "INCOMPLETE"
    for name in ("events.jsonl", "control.jsonl", "tree.json"):
        assert check(reseal(sound, {name: None})).verdict == "INVALID", name
    with zipfile.ZipFile(sound) as archive:
        release_name = next(n for n in archive.namelist() if n.startswith("releases/"))
    assert check(reseal(sound, {release_name: None})).verdict == "INCOMPLETE"


def test_the_manifest_is_believed_in_nothing(sound: Path) -> None:
    def claim(key: str, value: object) -> Report:
        return check(reseal(sound, {}, lambda m: m.update({key: value})))

    made, _ = _sound()
    assert "counts" in names(claim("counts", {"intents": 0}))
    assert claim("agent", OTHER_AGENT).verdict in ("INCOMPLETE", "INVALID")
    assert "period" in names(claim("from", made.span[0] + 20_000))
    assert "period" in names(claim("to", made.span[1] - 20_000))
    assert claim("to", made.span[1] + 10 * DAY_US).verdict == "PENDING"
    assert claim("ledgers", [[0, 3]]).verdict == "INVALID"
    for other in ([[1, 0]], [[-1, 0]], [[0, 0], [2, 0]], [[0, 0], [0, 0]]):
        assert claim("ledgers", other).verdict == "INVALID", other


# -- heads, keys, witnesses ---------------------------------------------------------------------------------------


def test_without_a_head_or_before_its_witness_it_is_pending(tmp_path: Path) -> None:
    made, _ = _sound()
    bare = check(made.bundle(tmp_path, signed=False, name="bare.zip"))
    assert bare.verdict == "PENDING" and names(bare) == {"checkpoint", "period", "control"}

    def alone(heads: dict[str, Signed]) -> None:
        heads["0"] = head(made.driver, 0, len(made.driver.records), heads["0"].second, witnessed=False)

    lonely = check(made.bundle(tmp_path, heads=alone, name="lonely.zip"))
    assert lonely.verdict == "PENDING" and names(lonely) == {"witnesses"}

    def short(heads: dict[str, Signed]) -> None:
        heads["0"] = head(made.driver, 0, 40, heads["0"].second)

    behind = check(made.bundle(tmp_path, heads=short, name="behind.zip"))
    assert behind.verdict == "PENDING" and first(behind, "checkpoint")["seq"] == 40


def test_heads_of_another_log_another_key_and_an_ended_key(tmp_path: Path) -> None:
    made, _ = _sound()
    d = made.driver

    def swapped(heads: dict[str, Signed]) -> None:
        heads["0"] = Signed(heads["0"].head, heads["control"].note, "log.1", heads["0"].second)

    def stranger(heads: dict[str, Signed]) -> None:
        heads["0"] = head(d, 0, len(d.records), heads["0"].second, secret=b"x" * 32)

    def before(heads: dict[str, Signed]) -> None:
        heads["0"] = head(d, 0, len(d.records), 9_100_000_000)

    for change in (swapped, stranger, before):
        report = check(made.bundle(tmp_path, heads=change, name=f"{change.__name__}.zip"))
        assert report.verdict == "INVALID" and "checkpoint" in names(report), change


def test_a_rewritten_ledger_contradicts_a_head_that_was_kept(sound: Path, tmp_path: Path) -> None:
    made, _ = _sound()
    other = Driver()
    key_added(other)
    other.open_session("another", user="person-9")
    other.everyday(2)
    for size, verdict in [(30, "DIVERGED"), (7, "DIVERGED"), (10**6, "INCOMPLETE")]:
        kept = head(other, 0, min(size, len(other.records)), 1_795_100_000)
        if size > len(other.records):
            kept = Signed(
                kept.head,
                notes.Note(
                    kept.note.text.replace(str(len(other.records)), str(size), 1), kept.note.signatures
                ),
                "",
                0,
            )
        report = check(sound, kept=[Note(str(kept.note))])
        assert report.verdict == verdict and "kept" in names(report), size
    mine = [head(made.driver, 0, n, 1_795_100_000) for n in (7, 30, 60)]
    mine.append(head(made.driver, CONTROL, 3, 1_795_100_000))
    assert check(sound, kept=[Note(str(k.note)) for k in mine]).verdict == "VALID"


def test_the_auditors_own_policy_and_keys_count_before_the_bundles(sound: Path) -> None:
    strange = notes.VKey("other", notes.COSIGNATURE, notes.public_of(b"o" * 32))
    wants = Policy(f"witness mine {strange}\nquorum mine\n")
    assert check(sound, policy=wants).verdict == "PENDING"
    log: Record = {
        "keys": [
            {"kid": "log.1", "public": notes.public_of(LOG_SECRET).hex(), "not_before": 0, "not_after": 2**53}
        ],
        "origins": [
            str(check(sound).said["env"]) and head(_sound()[0].driver, p, 1, 1).head.origin
            for p in (CONTROL, 0)
        ],
    }
    assert check(sound, log=log).verdict == "VALID"
    assert check(sound, log={**log, "origins": []}).verdict == "INVALID"
    ended = [{**log["keys"][0], "not_after": T0}]
    assert check(sound, log={**log, "keys": ended}).verdict == "INVALID", (
        "a key that ended, whatever the bundle says of it"
    )


# -- people, control, erasure -------------------------------------------------------------------------------------


def test_a_forged_approval_is_found(tmp_path: Path) -> None:
    """A chain that was made to fit, heads signed over it: what was never agreed to is found by the people in control."""
    d = Driver()
    made = Made(d)
    d.open_session()
    asked = d.call("desk.wire", {"value": "a"})
    d.review(asked, person="person-3")
    d.review(asked, person="person-4")
    assert check(made.bundle(tmp_path, name="good.zip")).verdict == "VALID"

    events = [read(x) for x in d.records]
    at = next(i for i, e in enumerate(events) if e.header.stage == "review")
    d.records = rechain(events[:at] + events[at + 1 :], 0)
    report = check(made.bundle(tmp_path, name="bad.zip"))
    assert report.verdict == "INVALID" and "approval" in names(report)


def test_control_events_that_an_operator_did_not_sign(tmp_path: Path) -> None:
    d = SignedDriver()
    key_added(d)
    d.control_event("people.registered", people=[{"person_id": "olga", "roles": ["operator"]}])
    d.control_event("key.added", **key_body("operator:olga", "olga", "operator"))
    made = Made(d)
    d.open_session()
    assert check(made.bundle(tmp_path, name="good.zip")).verdict == "VALID"
    d.control_event("people.registered", people=[{"person_id": "eve", "roles": ["desk"]}])
    report = check(made.bundle(tmp_path, name="bad.zip"))
    assert report.verdict == "INVALID" and names(report) == {"authority"}
    assert secret_of("operator:olga")


def test_what_the_maker_knows_to_have_no_effect_is_said(tmp_path: Path) -> None:
    made, _ = _sound()
    report = check(made.bundle(tmp_path, without_effect=(2,)))
    assert report.verdict == "INVALID" and first(report, "authority")["seq"] == 2


def test_after_an_erasure_it_is_said_of_which_events_and_by_which(tmp_path: Path) -> None:
    d = Driver()
    made = Made(d)
    d.open_session()
    d.finish(d.call("desk.read").dispatches[0])
    older = made.bundle(tmp_path, disclose=SECRET, name="older.zip")
    assert check(older).verdict == "VALID"
    event = d.control_event("subject.erased", subjects=["person-1"]).head
    d.keys.destroyed.add("person-1")
    newer = made.bundle(tmp_path, disclose=SECRET, name="newer.zip")
    report = check(newer)
    assert report.verdict == "ERASED" and set(report.said["erased"]) == {event}
    assert "keys.json" not in zipfile.ZipFile(newer).namelist() or "person-1" not in json.loads(
        zipfile.ZipFile(newer).read("keys.json")
    )
    again = check(older, newer=newer)
    assert again.verdict == "ERASED" and again.said["erased"] == report.said["erased"]
    other = Driver()
    other.control_event("agent.suspended", agent_id=OTHER_AGENT)
    assert check(older, newer=Made(other).bundle(tmp_path, name="other.zip")).verdict == "DIVERGED"


@given(
    st.lists(st.sampled_from(["p", "q", "p#9"]), max_size=6),
    st.sampled_from(["p", "q", "p#9", "p#10", "p#11", "p#9#9"]),
)
def test_who_was_erased_is_what_the_erasure_says(subjects: list[str], name: str) -> None:
    from sluicegate.processors import erasure
    from sluicegate.processors.control.control import Control as Fold

    fold = Fold()
    ours = evidence_people.Control.__new__(evidence_people.Control)
    ours.erased = {}
    for seq, subject in enumerate(subjects, 9):
        fold.head = seq
        erasure.step(fold, {"subjects": [subject]}, "olga")
        ours.erased.setdefault(subject, []).append(seq)
    found = erased_by(fold, name)
    assert ours.erased_by(name) == (found.event if found else None)


# -- the file that the auditor runs -------------------------------------------------------------------------------


def test_verify_needs_the_standard_library_and_cryptography_alone(sound: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(sound) as archive:
        source = archive.read("verify.py").decode()
    assert source == verifier()
    tree = ast.parse(source)
    imported = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    imported |= {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {*sys.stdlib_module_names, "cryptography"}
    scope = {"__name__": "verify"}
    exec(compile(source, "verify.py", "exec"), scope)
    assert scope["check"](sound).verdict == "VALID"  # type: ignore[operator]


def test_answers_and_exit_codes(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sound), "--json", "--events"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "VALID" and len(said["events"]) == said["counts"]["events"]
    assert main([str(sound)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("VALID: ")
    assert re.search(
        r"^  head of 0: [0-9,]+ events, signed at [-0-9]+T[.:0-9]+Z with key ", printed, re.MULTILINE
    )
    assert "{" not in printed, "it is for people to read"
    assert re.search(r"^  from: [-0-9]+T[.:0-9]+Z$", printed, re.MULTILINE), "times are for people to read"
    bad = tmp_path / "bad.zip"
    bad.write_bytes(sound.read_bytes()[:-1] + b"x")
    assert main([str(bad)]) == 1
    policy = tmp_path / "policy.txt"
    policy.write_text(POLICY)
    assert main([str(sound), "--policy", str(policy)]) == 0


def test_what_cannot_be_read_besides_the_bundle_is_wrong_usage_and_never_invalid(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, other = tmp_path / "bad", tmp_path / "other.json"
    bad.write_bytes(b"\xc7\x00" * 90)
    other.write_text("{}")
    nothing = str(tmp_path / "nothing.zip")
    for wrong, word in [
        ([nothing], nothing),
        ([str(tmp_path)], "folder"),
        ([str(sound), "--policy", str(bad)], f"--policy `{bad}`"),
        ([str(sound), "--kept", str(bad)], f"--kept `{bad}`"),
        ([str(sound), "--log", str(other)], f"--log `{other}`"),
        ([str(sound), "--newer", nothing], f"--newer `{nothing}`"),
        ([str(sound), "--newer", str(bad)], f"--newer `{bad}`"),
    ]:
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2 and word in capsys.readouterr().err, wrong


def test_without_cryptography_it_says_what_it_needs(sound: Path, tmp_path: Path) -> None:
    """`-S`: no packages. A traceback would end with 1, which is INVALID."""
    alone = tmp_path / "verify.py"
    alone.write_text(verifier())
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(alone), str(sound)], capture_output=True, text=True, check=False
    )
    assert (
        done.returncode == 2 and "pip install cryptography" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_line_that_cannot_be_read_is_named(sound: Path, tmp_path: Path) -> None:
    for member in ("events.jsonl", "control.jsonl"):
        for damage in (lambda row: "{" + row, lambda row: row.replace('"header":"', '"header":"!')):
            with zipfile.ZipFile(sound) as archive:
                files = {name: archive.read(name) for name in archive.namelist()}
            rows_of = files[member].decode().splitlines(keepends=True)
            rows_of[2] = damage(rows_of[2])
            files[member] = "".join(rows_of).encode()
            path = tmp_path / "damaged.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            found = first(check(path), "readable")["sentence"]
            assert found.startswith(f"line 3 of `{member}` cannot be read"), found


def test_the_same_of_many_events_is_one_line() -> None:
    report = Report()
    for seq in range(20):
        report.add("ERASED", "content", "1", seq, "its content was erased by control event 9")
    report.add("INVALID", "container", "bundle", -1, "the file was changed")
    assert list(told(report, Path("q3.zip")))[1:] == [
        "  INVALID container: bundle: the file was changed",
        "  ERASED content: 1 events 0, 1, 2, 3, 4, 5, 6, 7 and 12 more: its content was erased by control event 9",
    ]


def test_the_schemas_and_tables_are_ours() -> None:
    known = {s.prefix[2:].hex(): (n.split(".")[0], s) for n, s in {**codec.OLD, **codec.SCHEMAS}.items()}
    told = {line.split()[0] for line in evidence_formats.SCHEMAS.values()}
    assert evidence_formats.SCHEMAS.keys() == {f for f, (name, _) in known.items() if name in told}
    for fingerprint, line in evidence_formats.SCHEMAS.items():
        name, schema = known[fingerprint]
        ours = [f.split(":")[0] for f in line.split()[1:]]
        assert line.split()[0] == name and ours == [f["name"] for f in schema.parsed["fields"]]  # type: ignore[index,attr-defined]
    assert evidence_period.LIFE == lifecycle.TABLE
    assert set(evidence_period.OTHER_STAGES) == {*verify_lives._OTHER, "genesis"}
    ended = {s for s, word in evidence_period.COUNTED.items() if word == "executed"}
    assert ended == set(lifecycle.EXECUTED_TERMINAL)
    from sluicegate.processors.control import deployments

    assert set(evidence_people.MOVING) == set(deployments.MOVING)


def test_the_witness_policy_is_read_alike() -> None:
    assert Policy(POLICY).witnesses == {"ops": (WITNESS.name, WITNESS.public)}
    for wrong in (
        "",
        "quorum x",
        "witness a b\nquorum a",
        POLICY + "quorum ops",
        f"witness a {WITNESS}x\nquorum a",
    ):
        with pytest.raises((ValueError, IndexError)):
            Policy(wrong)
    two = Policy(f"witness a {WITNESS}\ngroup g any a\nquorum g\n")
    assert two.holds({"a"}) and not two.holds(set())
    assert leaves(_sound()[0].driver.records)


class _Head:
    """What `proof_of` looks at."""

    def __init__(self, size: int) -> None:
        self.head = self
        self.size = size
        self.note = ""


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return value


def test_the_page_escapes_what_it_is_given_and_loads_nothing() -> None:
    evil = '<script src="https://evil.example/x.js">&\'"'
    picker = Picker(Ask(evil, T0, T0 + 1), lambda _: None)
    picker.calls["x"] = Call(evil, T0, evil, "refused", evil, [evil], [evil], [evil])
    ordered = {undo_id(evil, evil): Ordered(evil, evil, evil, who=evil)}
    page = summary(picker.ask, evil, evil, picker, picker.counts(), [(evil, evil)], ordered)
    assert "<script" not in page and "src=" not in page.replace("src=&quot;", "")
    assert "default-src 'none'" in page and "@media print" in page


def test_the_page_says_what_was_taken_back_and_speaks_no_label() -> None:
    picker = Picker(Ask("agent-1", T0, T0 + 1), lambda _: None)
    for name in ("kept", *TAKEN_BACK):
        picker.calls[name] = Call(name, T0, "pay.send", "released", labels=["c:internal", "unknown"])
    ordered = {
        undo_id("agent-1", state): Ordered("rollback-pay", "pay.back", "saga-1", state=state, who="olga")
        for state in TAKEN_BACK
    }
    page = summary(picker.ask, "prod", "l", picker, picker.counts(), [], ordered)
    rows = {
        name: next(row for row in page.split("<tr>") if f"<td>{name}</td>" in row) for name in picker.calls
    }
    assert "taken back" not in rows["kept"] and "done; the result was handed to the agent" in rows["kept"]
    assert "not done when this bundle was made" in rows[orders.OPEN]
    assert "later taken back, by order of olga<" in rows[orders.DONE]
    assert "by order of olga, and seen to be undone" in rows[orders.VERIFIED]
    assert "internal, from an unknown source" in page and "c:internal" not in page
