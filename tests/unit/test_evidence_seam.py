"""An evidence bundle over a repartition: events of both generations, and the statement that one goes on from the other."""

from __future__ import annotations

import json
import zipfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.seam import fold as seam_fold
from sluicegate.processors.transparency.checkpoints import CONTROL, Signed
from sluicegate.schemas import codec, notes
from sluicegate.schemas import records as r
from sluicegate.streams.evidence import formats as evidence_formats
from sluicegate.streams.evidence.file import verifier
from sluicegate.streams.evidence.formats import Note, Record
from sluicegate.streams.evidence.verify import Report, check

from tests.bundles import LOG_SECRET, Made, dumped, flip_a_bit, head, reseal, rows
from tests.driver import AGENT, OTHER_AGENT, Driver, Event, agents, read, release_files
from tests.exchange_driver import World
from tests.forging import rechain, with_facts, with_header
from tests.seam_driver import root_of, seam_to

INTERNAL = 1


def _traffic(w: World) -> None:
    for agent in dict.fromkeys((AGENT, OTHER_AGENT, *(str(row["agent_id"]) for row in agents()[:5]))):
        d = w.on(agent)
        d.open_session(agent=agent)
        d.say("pay the rent", agent=agent)
        for dispatch in d.call("desk.pay", agent=agent).dispatches:
            d.finish(dispatch)
        d.call("desk.never", agent=agent)


def _world(*partitions: int) -> Made:
    """A log that went on with these numbers of partitions."""
    w = World(partitions[0])
    w.control_event(
        "key.added", kid="log.1", principal="checkpointer", role="checkpointer", alg="Ed25519",
        public=notes.public_of(LOG_SECRET).hex(), not_before=0, not_after=2**53 - 1,
    )  # fmt: skip
    _traffic(w)
    before: list[Driver] = []
    for count in partitions[1:]:
        before.append(w.on(AGENT))
        w = seam_to(w, count)
        _traffic(w)
    return Made(w.on(AGENT), before=before)


@cache
def _sound() -> tuple[Made, bytes]:
    import tempfile

    made = _world(2, 3)
    with tempfile.TemporaryDirectory() as folder:
        return made, made.bundle(Path(folder)).read_bytes()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.zip"
    path.write_bytes(_sound()[1])
    return path


def names(report: Report) -> set[str]:
    return {f["check"] for f in report.found}


def seam_times(made: Made) -> tuple[int, int]:
    """When the old partition was sealed, and the new one began."""
    old, new = made.drivers
    return read(old.records[-1]).header.decided_at, read(new.records[0]).header.decided_at


# -- what holds ---------------------------------------------------------------------------------------------------


def test_a_period_over_a_seam_is_valid_and_counts_both_generations(sound: Path, tmp_path: Path) -> None:
    made, _ = _sound()
    old, new = made.drivers
    report = check(sound)
    assert (report.verdict, report.found) == ("VALID", [])
    assert report.said["partition"] == f"{old.partition}, g1/{new.partition}"
    [said] = report.said["seams"]
    assert said == {
        "from": str(old.partition), "to": f"g1/{new.partition}", "log_id": old.log_id.hex(),
        "seq": len(old.records) - 1, "root": root_of(old.records).hex(),
    }  # fmt: skip
    sealed, _ = seam_times(made)
    parts = [(made.span[0], sealed), (sealed + 1, made.span[1])]
    each = [check(made.bundle(tmp_path, span=span, name=f"{span[0]}.zip")) for span in parts]
    assert [one.verdict for one in each] == ["VALID", "VALID"]
    for name in ("intents", "executed", "refused", "events", "approvals"):
        assert report.said["counts"][name] == sum(one.said["counts"][name] for one in each), name
    assert report.said["counts"]["executed"] == 2 and report.said["counts"]["refused"] == 2


def test_three_generations_and_the_file_that_the_auditor_runs(tmp_path: Path) -> None:
    path = _world(3, 1, 2).bundle(tmp_path)
    scope: dict[str, object] = {"__name__": "verify"}
    exec(compile(verifier(), "verify.py", "exec"), scope)
    report = scope["check"](path)  # type: ignore[operator]
    assert (report.verdict, report.found) == ("VALID", [])
    assert len(report.said["seams"]) == 2 and report.said["counts"]["executed"] == 3


def test_periods_on_one_side_of_a_seam(tmp_path: Path) -> None:
    made, _ = _sound()
    sealed, opened = seam_times(made)
    _, new = made.drivers
    later = read(new.records[-6]).header.decided_at
    for span, ledgers in [
        ((made.span[0], sealed - 1), [0]),
        ((made.span[0], sealed), [0]),
        ((made.span[0], opened + 1), [0, 1]),
        ((later, made.span[1]), [1]),
    ]:
        path = made.bundle(tmp_path, span=span, name=f"{span}.zip")
        report = check(path)
        assert report.verdict == "VALID", (span, report.found)
        manifest = json.loads(zipfile.ZipFile(path).read("manifest.json"))
        assert [g for g, _ in manifest["ledgers"]] == ledgers, span


def test_the_old_generation_needs_no_head_that_reaches_its_end(tmp_path: Path) -> None:
    """Nobody signs it any more: the next generation's head covers it, as an import names its root."""
    made, _ = _sound()
    old, new = made.drivers

    def gone(heads: dict[str, Signed]) -> None:
        del heads[str(old.partition)]

    def short(heads: dict[str, Signed]) -> None:
        heads[str(old.partition)] = head(old, old.partition, 3, 1_795_100_000, witnessed=False)

    for change in (gone, short):
        report = check(made.bundle(tmp_path, heads=change, name=f"{change.__name__}.zip"))
        assert (report.verdict, report.found) == ("VALID", []), change

    def only_old(heads: dict[str, Signed]) -> None:
        del heads[f"g1/{new.partition}"]

    assert check(made.bundle(tmp_path, heads=only_old, name="new.zip")).verdict == "PENDING"


def test_one_generations_name_is_enough_as_they_name_each_other(sound: Path) -> None:
    made, _ = _sound()
    old, new = made.drivers
    key = {"kid": "log.1", "public": notes.public_of(LOG_SECRET).hex(), "not_before": 0, "not_after": 2**53}
    control, first, second = (
        head(d, p, 1, 1).head.origin for d, p in ((new, CONTROL), (old, old.partition), (new, new.partition))
    )
    for origins, verdict in [
        ([control, first, second], "VALID"),
        ([control, first], "VALID"),
        ([control, second], "VALID"),
        ([control], "INVALID"),
        ([first, second], "INVALID"),
    ]:
        log: Record = {"keys": [key], "origins": origins}
        assert check(sound, log=log).verdict == verdict, origins
    kept = [Note(str(head(d, d.partition, 9, 1_795_100_000).note)) for d in (old, new)]
    assert check(sound, kept=kept).verdict == "VALID"


def test_what_a_session_saw_before_the_seam_narrows_what_it_says_after(tmp_path: Path) -> None:
    files = release_files()
    contract = json.loads(files["contracts/desk.read.json"])
    contract["x-sluicegate"]["confidential"] = {"$": "secret"}
    files["contracts/desk.read.json"] = json.dumps(contract)
    compiled = compile_release(files)

    def shown(secret: bool) -> int:
        w = World(1)
        w.deploy(compiled)
        d = w.on(AGENT)
        d.open_session()
        if secret:
            d.finish(d.call("desk.read").dispatches[0], b'{"pin":1}')
        w = seam_to(w, 2)
        after = w.on(AGENT)
        start = after.now + 1
        after.finish(after.call("desk.pay", {"value": "rent"}).dispatches[0])
        made = Made(after, {compiled.digest: files}, before=[d])
        path = made.bundle(tmp_path, disclose=INTERNAL, span=(start, after.now + 1), name=f"{secret}.zip")
        assert check(path).verdict == "VALID"
        return sum("content" in row for row in rows(path, "events.g1.jsonl"))

    assert shown(False) > shown(True)


# -- what does not ------------------------------------------------------------------------------------------------


def test_a_generation_that_was_left_out_is_missed(sound: Path) -> None:
    made, _ = _sound()
    old, new = made.drivers
    counts = check(sound).said["counts"]
    with zipfile.ZipFile(sound) as archive:
        tree = json.loads(archive.read("tree.json"))
    for gone, mark, ledgers in [(1, ".g1", [[0, old.partition]]), (0, "", [[1, new.partition]])]:
        other = {name: part for name, part in tree.items() if name != f"partition{mark}"}
        changed = {f"events{mark}.jsonl": None, "tree.json": json.dumps(other).encode()}
        report = check(reseal(sound, changed, lambda m, to=ledgers: m.update({"ledgers": to})))  # type: ignore[misc]
        assert report.verdict == "INVALID" and "counts" in names(report), gone
        fitting = report.said["counts"]
        report = check(
            reseal(sound, changed, lambda m, to=ledgers, n=fitting: m.update({"ledgers": to, "counts": n}))  # type: ignore[misc]
        )
        assert report.verdict == "INCOMPLETE", (gone, report.found)
        assert names(report) <= {"seam", "period"} and fitting != counts


def test_an_old_generation_cut_before_its_seal_is_missed(sound: Path, tmp_path: Path) -> None:
    """Heads signed anew over less, at a time after the period: control says that another generation had started in it."""
    made, _ = _sound()
    old, new = made.drivers
    cut = Driver.__new__(Driver)
    cut.__dict__.update(old.__dict__)
    cut.records = old.records[:-3]
    path = Made(new, before=[cut]).bundle(tmp_path, span=made.span)
    fitting = check(path).said["counts"]
    report = check(reseal(path, {}, lambda m: m.update({"counts": fitting})))
    assert report.verdict == "INCOMPLETE" and names(report) >= {"seam"}


def _forged(made: Made, index: int, events: list[Event], folder: Path) -> Report:
    """A bundle of a ledger in which one generation was rewritten, chain and heads made to fit."""
    drivers = []
    for at, driver in enumerate(made.drivers):
        one = Driver.__new__(Driver)
        one.__dict__.update(driver.__dict__)
        if at == index:
            one.records = rechain(events, driver.partition, driver.log_id)
        drivers.append(one)
    return check(Made(drivers[-1], before=drivers[:-1]).bundle(folder, span=made.span, name="forged.zip"))


def _other(events: list[Event]) -> int:
    return next(i for i, e in enumerate(events) if e.header.agent_id not in ("", AGENT) and i > 3)


def test_a_rewritten_old_generation_is_found_by_the_new_one(tmp_path: Path) -> None:
    """INVARIANT: who holds the old topics and the log's key cannot rewrite them unseen: the new generation names their root."""
    made, _ = _sound()
    events = [read(x) for x in made.drivers[0].records]
    assert _forged(made, 0, events, tmp_path / _made(tmp_path, "same")).verdict == "VALID"
    at = _other(events)
    events[at] = with_header(events[at], labels=["harmless"])
    changed = rechain(events, made.drivers[0].partition, made.drivers[0].log_id)
    events[-1] = with_facts(events[-1], root=root_of(changed[:-1]))
    report = _forged(made, 0, events, tmp_path)
    assert report.verdict == "INVALID" and names(report) == {"seam"}
    assert "goes on from other events" in report.found[0]["sentence"]


def _made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name


def test_statements_that_were_changed(tmp_path: Path) -> None:
    made, _ = _sound()
    old, new = ([read(x) for x in d.records] for d in made.drivers)
    mine = made.drivers[0].partition
    place = next(
        i for i, e in enumerate(new)
        if isinstance(e.facts, r.ImportFacts) and e.facts.partition == mine and not e.facts.piece
    )  # fmt: skip
    for fields in (
        {"root": bytes(32)},
        {"seq": 1},
        {"log_id": bytes(16)},
        {"generation": 3},
        {"partition": 1 - mine},
    ):
        events = [*new[:place], with_facts(new[place], **fields), *new[place + 1 :]]
        report = _forged(made, 1, events, tmp_path / _made(tmp_path, f"i{next(iter(fields))}"))
        assert report.verdict in ("INVALID", "INCOMPLETE") and "seam" in names(report), fields
    for fields in ({"root": bytes(32)}, {"size": 1}, {"next_log_id": bytes(16)}, {"generation": 1}):
        events = [*old[:-1], with_facts(old[-1], **fields)]
        report = _forged(made, 0, events, tmp_path / _made(tmp_path, f"s{next(iter(fields))}"))
        assert report.verdict == "INVALID" and "seam" in names(report), fields


def test_what_stands_behind_the_seal_or_is_imported_late(tmp_path: Path) -> None:
    made, _ = _sound()
    old, new = ([read(x) for x in d.records] for d in made.drivers)
    last = old[-1].header
    late = with_header(old[2], decided_at=last.decided_at, control_head=last.control_head)
    report = _forged(made, 0, [*old, late], tmp_path)
    assert report.verdict == "INVALID" and "seam" in names(report)
    again = next(e for e in new if isinstance(e.facts, r.ImportFacts) and not e.facts.rows)
    now = new[-1].header
    again = with_header(again, decided_at=now.decided_at, control_head=now.control_head)
    report = _forged(made, 1, [*new, again], tmp_path / _made(tmp_path, "late"))
    assert report.verdict == "INVALID" and "seam" in names(report)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_byte_of_either_generation_can_be_forged(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "sound.zip"
    path.write_bytes(_sound()[1])
    member = data.draw(st.sampled_from(["events.jsonl", "events.g1.jsonl"]))
    lines = rows(path, member)
    if data.draw(st.booleans()):  # the seam's own records are few
        row = data.draw(st.sampled_from([i for i, line in enumerate(lines) if "seam" in line]))
    else:
        row = data.draw(st.integers(0, len(lines) - 1))
    flip_a_bit(data.draw, lines[row])
    forged = reseal(path, {member: dumped(lines)})
    assert check(forged).verdict == "INVALID"
    forged.unlink()


def test_statements_that_are_not_told_are_missed(sound: Path) -> None:
    for member in ("events.jsonl", "events.g1.jsonl"):
        lines = [{k: v for k, v in line.items() if k != "seam"} for line in rows(sound, member)]
        report = check(reseal(sound, {member: dumped(lines)}))
        assert report.verdict in ("INCOMPLETE", "INVALID") and "seam" in names(report), member


def test_no_state_of_another_agent_is_in_it(sound: Path) -> None:
    """What is imported holds every agent's state; the bundle has the statements, and of the rest the headers."""
    made, _ = _sound()
    imported = [e.facts for e in map(read, made.drivers[1].records) if isinstance(e.facts, r.ImportFacts)]
    assert any(facts.rows for facts in imported)
    told = 0
    for member in ("events.jsonl", "events.g1.jsonl"):
        for line in rows(sound, member):
            header = codec.decode_as(r.Header, evidence_formats.b64(str(line["header"])))
            if "seam" in line:
                facts = codec.decode(evidence_formats.b64(str(line["seam"])))
                assert header.stage == seam_fold.STAGE and not getattr(facts, "rows", [])
                told += 1
            elif header.agent_id != AGENT:
                assert set(line) == {"seq", "header"}
    assert told == 1 + 2, "one seal, and a statement about each of the two old partitions"
