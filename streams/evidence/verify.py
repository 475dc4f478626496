#!/usr/bin/env python3
"""Check a Sluicegate evidence bundle, alone: this file, Python 3.10 or newer and the package `cryptography`, no network.

    python verify.py bundle.zip [--policy FILE] [--log log.json] [--kept CHECKPOINT]
                     [--newer NEWER.zip] [--events] [--json]

    VALID 0        nothing was changed, put in or left out below the signed head, as far as this bundle goes
    INVALID 1      something does not fit: which check, which ledger (control or a partition), which position
    DIVERGED 3     it fits in itself, and contradicts a head that you kept: the log was rewritten or forked
    INCOMPLETE 4   records that are needed to judge are not in it
    PENDING 5      no signed head covers it yet, or witnesses are still missing
    ERASED 6       it holds, and the content of some events was destroyed by an erasure: by which control event

2 is wrong usage. The worst answer is the verdict. `--policy`: a C2SP witness policy that you got by a way of your own, else the
bundle's. `--log`: names and keys of the log, that you got so, too (`sluicegate checkpoint keys --file`). `--kept`: a checkpoint that you kept. `--newer`: a later bundle of the same log, which may tell of erasures. Read
`main` first, then `Ledger` (chain and tree), `Control` (keys and people), `Period` (the agent's events). It believes nothing
that the bundle's makers say about themselves: every count and claim is derived again. It is shipped in each bundle, and
is `streams/evidence/verify.py` of Sluicegate: compare the two. docs/evidence.md says what it cannot show.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from sluicegate.streams.evidence.formats import Note, Policy, Record, b64, decode, partition_of, sha
from sluicegate.streams.evidence.ledger import EXIT, Report
from sluicegate.streams.evidence.people import Control, canonical
from sluicegate.streams.evidence.period import CLOSING_US, Period
from sluicegate.streams.evidence.said import told

MAX_BYTES = 8 << 30
MEMBER = re.compile(r"(manifest|tree|keys)\.json|(events|events\.g[1-9][0-9]*|control)\.jsonl|policy\.txt|README\.txt|verify\.py|"
                    r"(summary|controls)\.html|releases/[0-9a-f]{64}\.json")  # fmt: skip
# -- the bundle ---------------------------------------------------------------------------------------------------


def open_bundle(path: Path, report: Report) -> tuple[zipfile.ZipFile, Record]:
    """The archive and its manifest; every byte of it is under one hash, and every member under the manifest's."""
    whole, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        left = size - 64
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            whole.update(part)
            left -= len(part)
        judge = report.judge
        judge(
            file.read().decode("ascii", "replace") == whole.hexdigest(),
            "container",
            "bundle",
            -1,
            "the file was changed after it was made",
        )
    archive = zipfile.ZipFile(path)
    names = archive.namelist()
    for name in names:
        judge(
            MEMBER.fullmatch(name),
            "members",
            "bundle",
            -1,
            f"`{name[:80]!r}` does not belong into a bundle; nothing was unpacked",
        )
    judge(len(names) == len(set(names)), "members", "bundle", -1, "a name stands in it twice")
    if sum(i.file_size for i in archive.infolist()) > MAX_BYTES:
        raise ValueError(f"it unpacks to more than {MAX_BYTES >> 30} GB")
    manifest: Record = json.loads(archive.read("manifest.json"))
    wanted = manifest["members"]
    for name in sorted({*names, *wanted} - {"manifest.json"}):
        if name not in names:
            report.add("INCOMPLETE", "members", "bundle", -1, f"`{name[:80]}` is missing")
        elif judge(name in wanted, "members", "bundle", -1, f"`{name[:80]}` is not in the manifest"):
            digest = hashlib.sha256()
            with archive.open(name) as member:
                while part := member.read(1 << 20):
                    digest.update(part)
            judge(
                digest.hexdigest() == wanted[name],
                "members",
                "bundle",
                -1,
                f"`{name}` is not the one of the manifest",
            )
    report.said |= {
        "bundle": whole.hexdigest(),
        "agent": manifest["agent"],
        "from": manifest["from"],
        "to": manifest["to"],
    }
    return archive, manifest


def lines(archive: zipfile.ZipFile, name: str, report: Report) -> Iterator[Record]:
    """The rows of a member; the report knows where it reads, for what cannot be read."""
    with archive.open(name) as file:
        for number, line in enumerate(file, 1):
            report.reading = f"line {number:,} of `{name}`"
            yield json.loads(line)
    report.reading = ""


def read_control(archive: zipfile.ZipFile, tree: Record, report: Report, kept: list[Note]) -> Control:
    """Control, from its first event on."""
    control: Control | None = None
    for row in lines(archive, "control.jsonl", report):
        if control is None:
            body = json.loads(decode(b64(row["facts"]), "control_facts")["body"])
            control = Control(report, "control", bytes.fromhex(body["log_id"]), body["env"], tree, kept)
        control.add(row)
    if control is None or control.start:
        raise ValueError("it has no control ledger from its first event on")
    return control


def check(
    path: Path, policy: Policy | None = None, kept: list[Note] | None = None, newer: Path | None = None, log: Record | None = None,
) -> Report:  # fmt: skip
    """The whole check. Whatever cannot be read is INVALID."""
    report = Report()
    try:
        check_into(report, path, policy, kept or [], newer, log)
    except Exception as error:  # damaged bytes of any kind
        report.add(
            "INVALID",
            "readable",
            "bundle",
            -1,
            f"{report.reading or 'it'} cannot be read: {type(error).__name__}: {str(error)[:200]}",
        )
    return report


def check_into(
    report: Report,
    path: Path,
    policy: Policy | None,
    kept: list[Note],
    newer: Path | None,
    log: Record | None,
) -> None:
    """Raises whatever damaged bytes lead to."""
    archive, manifest = open_bundle(path, report)
    tree, members = json.loads(archive.read("tree.json")), manifest["members"]
    policy = policy or (Policy(archive.read("policy.txt").decode()) if "policy.txt" in members else Policy())
    control = read_control(archive, tree["control"], report, kept)
    trusted = {k["kid"]: {**k, "role": "checkpointer"} for k in log["keys"]} if log else control.keys
    shown = control.close(trusted, policy)
    for seq in manifest["without_effect"]:
        report.add(
            "INVALID",
            "authority",
            "control",
            seq,
            "whoever made the bundle says that this event had no effect: it was not permitted",
        )
    if newer is not None:
        take_newer(report, control, zipfile.ZipFile(newer))
    keys = json.loads(archive.read("keys.json")) if "keys.json" in members else {}
    periods = read_periods(archive, tree, report, control, manifest, kept, keys)
    reaches = shown * 10**6 >= manifest["to"]
    report.judge(
        reaches,
        "control",
        "control",
        control.tree.size,
        "control's signed head is older than the period's end: a revocation may be missing",
        "PENDING",
    )
    held = [one.goes_on(after) for one, after in pairwise(periods)]
    seconds = [one.close(trusted, policy, over) for one, over in zip(periods, [*held, False], strict=True)]
    finish(report, archive, manifest, periods, seconds[-1])
    believed(report, control.origin, [one.origin for one in periods], all(held), policy, log, kept)


def take_newer(report: Report, control: Control, newer: zipfile.ZipFile) -> None:
    """Erasures that a later bundle of the same log tells of; a finding where its control does not continue this one's."""
    other = Report()
    later = read_control(newer, json.loads(newer.read("tree.json"))["control"], other, [])
    same = later.leaves[: len(control.leaves)] == control.leaves and other.verdict != "INVALID"
    report.judge(
        same,
        "newer",
        "control",
        0,
        "the newer bundle's control ledger does not continue this one's",
        "DIVERGED",
    )
    control.erased = later.erased


def believed(
    report: Report, control: str, mine: list[str], joined: bool, policy: Policy, log: Record | None, kept: list[Note],
) -> None:  # fmt: skip
    """Whether it is of the log that the auditor knows, and a note of all that is taken on the bundle's own word.

    `mine`: the origins of the agent's partitions, a generation each; `joined`: each names the one before, so one known name is enough.
    """
    if log is not None:
        known = [origin for origin in mine if origin in log["origins"]]
        named = control in log["origins"] and (bool(known) if joined else known == mine)
        report.judge(named, "log", "bundle", -1, f"it is of log `{mine[-1]}`, which your --log does not name")
    if not policy.witnesses:
        report.notes.append(
            "no witness policy was given: nobody but the operator vouches for the signed heads"
        )
    if log is None and not policy.logs:
        report.notes.append(
            "log and keys are those that the bundle itself names: compare log id and keys with what you were told otherwise, or give --log"
        )
    for note in kept:
        judged = note.origin in (control, *mine)
        report.judge(
            judged, "kept", "bundle", -1, f"you kept a head of `{note.origin}`, and this is another log"
        )


def read_periods(
    archive: zipfile.ZipFile, tree: Record, report: Report, control: Control, manifest: Record, kept: list[Note], keys: Record
) -> list[Period]:  # fmt: skip
    """The agent's partition in each generation that the period touches, the earliest first."""
    periods: list[Period] = []
    places = manifest.get("ledgers") or [[0, manifest["partition"]]]
    if [int(g) for g, _ in places] != list(range(places[0][0], places[0][0] + len(places))) or places[0][
        0
    ] < 0:
        raise ValueError("its ledgers are not those of generations that follow each other")
    for generation, partition in places:
        mark = f".g{generation}" if generation else ""
        place = int(generation), int(partition)
        part = tree[f"partition{mark}"]
        period = Period(report, control, manifest, place, not periods, part, kept, keys)
        for row in lines(archive, f"events{mark}.jsonl", report):
            period.add(row)
        home = partition_of(period.agent, control.generations[generation]["partitions"])
        where = f"the agent's events stand in partition {home}"
        report.judge(home == period.partition, "partition", period.name, period.start, where)
        periods.append(period)
    return periods


def finish(
    report: Report, archive: zipfile.ZipFile, manifest: Record, periods: list[Period], second: int
) -> None:
    """What can be said once all events were read: heads, the period's ends, counts, releases."""
    period = periods[-1]
    end, name = period.tree.size, period.name
    head = report.said.get("heads", {}).get(name, {"size": 0})
    for one in periods:
        report.judge(
            one.began,
            "period",
            one.name,
            one.start,
            "the event before the period is not here: something may stand before",
            "INCOMPLETE",
        )
    period.over()
    ended = period.closed or (head["size"] == end and second * 10**6 >= period.until + CLOSING_US)
    report.judge(
        ended,
        "period",
        name,
        end,
        "no signed head shows yet that the period is over: events may follow",
        "PENDING",
    )
    for one in periods:
        if one.hidden:
            report.add(
                "INCOMPLETE",
                "omission",
                one.name,
                one.start,
                f"{one.seen['hidden']} events are here by their hash only: whose they are is not shown, so events of the agent may be among them",
            )
    each = [one.counts() for one in periods]
    counts = {n: sum(one[n] for one in each) for n in each[0]}
    report.judge(
        counts == manifest["counts"],
        "counts",
        name,
        period.start,
        f"the events give {counts}, the manifest says {manifest['counts']}",
    )
    for digest in sorted({digest for one in periods for digest in one.releases}):
        member = f"releases/{digest.removeprefix('sha256:')}.json"
        if report.judge(
            member in manifest["members"],
            "release",
            name,
            period.start,
            f"release `{digest}` decided and is not here",
            "INCOMPLETE",
        ):
            files = json.loads(archive.read(member))
            found = sha(canonical({path: sha(text.encode()).hex() for path, text in files.items()})).hex()
            report.judge(
                digest == f"sha256:{found}",
                "release",
                name,
                period.start,
                f"the files of release `{digest}` are others",
            )
    genesis = period.control.genesis
    report.said |= {
        "env": genesis["env"], "log_id": genesis["log_id"], "signing": genesis["signing"],
        "partition": ", ".join(one.name for one in periods), "first": periods[0].start, "end": end, "counts": counts,
        "approvals": [row for one in periods for row in one.approvals], "events": [row for one in periods for row in one.rows],
        "erased": {e: [at for one in periods for at in one.erased.get(e, [])] for one in periods for e in one.erased},
        "contents": {n: sum(one.seen[n] for one in periods) for n in ("contents", "withheld", "signed", "unsigned")},
    }  # fmt: skip


def given(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """The options that name a file."""
    for option, path in (("--policy", args.policy), ("--log", args.log), ("--newer", args.newer)):
        if path is not None:
            yield option, path
    for path in args.kept:
        yield "--kept", path


def described(log: Record) -> Record:
    """The log's description, as `sluicegate checkpoint keys --file` writes it. Raises `ValueError`."""
    if not isinstance(log, dict) or not all(isinstance(log.get(name), list) for name in ("keys", "origins")):
        raise ValueError(
            "it does not list the log's `keys` and `origins`: `sluicegate checkpoint keys --file` writes it"
        )
    return log


def main(argv: list[str] | None = None) -> int:
    """Check a bundle and print the answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path, help="the zip file as you were given it, not unpacked")
    parser.add_argument("--policy", type=Path, help="C2SP witness policy, instead of the bundle's")
    parser.add_argument("--log", type=Path, help="names and keys of the log, got by a way of your own")
    parser.add_argument("--kept", type=Path, action="append", default=[], help="a checkpoint that you kept")
    parser.add_argument("--newer", type=Path, help="a later bundle of the same log")
    parser.add_argument(
        "--events", action="store_true", help="print the agent's events, as they were verified"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    option, path = "bundle", args.bundle
    policy: Policy | None = None
    kept: list[Note] = []
    log: Record | None = None
    try:
        if path.is_dir():
            raise ValueError("it is a folder: give the zip file, whose every byte is under one hash")
        path.stat()
        for option, path in given(args):
            if option == "--newer":
                zipfile.ZipFile(path).read("control.jsonl")
            elif option == "--policy":
                policy = Policy(path.read_text("utf-8"))
            elif option == "--kept":
                kept.append(Note(path.read_text("utf-8")))
            else:
                log = described(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, LookupError, zipfile.BadZipFile, zlib.error) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        parser.error(f"{option} `{path}`: {why}")
    report = check(args.bundle, policy, kept, args.newer, log)
    events = report.said.pop("events", [])
    if args.json:
        said = {
            "verdict": report.verdict,
            **report.said,
            "findings": report.found,
            "more": report.more,
            "notes": report.notes,
        }
        print(json.dumps(said | ({"events": events} if args.events else {}), indent=1))
        return EXIT[report.verdict]
    print(*told(report, args.bundle), sep="\n")
    for row in events if args.events else []:
        print("  " + "  ".join(str(v) for v in row.values() if v not in ("", [])))
    return EXIT[report.verdict]


if __name__ == "__main__":
    sys.exit(main())
