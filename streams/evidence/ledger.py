"""A stretch of a ledger in an evidence bundle: its chain, and its place under signed heads.

A part of a bundle's `verify.py`, behind `evidence/formats.py`. Standard library and `cryptography` only. Never says what an
event means. Next: `evidence/people.py`.
"""

from __future__ import annotations

from sluicegate.streams.evidence.formats import (
    NOTE,
    TIMED,
    Note,
    Policy,
    Record,
    Tree,
    b64,
    continues,
    decode,
    sha,
)

EXIT = {"VALID": 0, "ERASED": 6, "PENDING": 5, "INCOMPLETE": 4, "DIVERGED": 3, "INVALID": 1}
RANK = list(EXIT)  # the least grave first
MAX_FOUND = 100
"""Findings that are told; the rest is counted."""
Keys = dict[str, Record]


class Report:
    """What was found; the worst verdict counts. `reading`: the line that is being read, for what cannot be."""

    def __init__(self) -> None:
        self.verdict, self.found, self.more = "VALID", list[Record](), 0
        self.said: Record = {}
        self.notes: list[str] = []
        self.reading = ""

    def add(self, verdict: str, check: str, log: str, seq: int, sentence: str) -> None:
        """One finding at one position."""
        self.verdict = max(self.verdict, verdict, key=RANK.index)
        if len(self.found) < MAX_FOUND or verdict not in [f["verdict"] for f in self.found]:
            self.found.append(
                {"verdict": verdict, "check": check, "log": log, "seq": seq, "sentence": sentence}
            )
        else:
            self.more += 1

    def judge(
        self, ok: object, check: str, log: str, seq: int, sentence: str, verdict: str = "INVALID"
    ) -> bool:
        """A finding where it does not hold."""
        if not ok:
            self.add(verdict, check, log, seq, sentence)
        return bool(ok)


class Ledger:
    """A stretch of one ledger: its chain, and its place in the tree whose head was signed."""

    def __init__(
        self, report: Report, name: str, log_id: bytes, env: str, tree: Record, kept: list[Note], generation: int = 0,
    ) -> None:  # fmt: skip
        self.report, self.log_id, self.generation = report, log_id, generation
        self.name = f"g{generation}/{name}" if generation else name
        self.partition = 0 if name == "control" else int(name)
        self.origin = f"sluicegate.dev/{env}/{log_id.hex()}/{name}"
        self.note = Note(tree["checkpoint"]) if tree["checkpoint"] else None
        self.earlier = [(Note(e["checkpoint"]), [b64(h) for h in e["proof"]]) for e in tree["earlier"]]
        self.kept = [note for note in kept if note.origin == self.origin]
        self.right = [b64(h) for h in tree["right"]]
        notes = [*([self.note] if self.note else []), *self.kept, *(n for n, _ in self.earlier)]
        self.tree = Tree(int(tree["start"]), [b64(h) for h in tree["left"]], {n.size for n in notes})
        self.start, self.prev, self.time = self.tree.size, b"", 0

    def link(self, row: Record) -> Record:
        """The header of a row whose place and chain are checked; `{}` for a row that is a hash only."""
        seq, name = self.tree.size, self.name
        if "header" not in row:
            self.prev = b64(row["leaf"])
            self.tree.add(self.prev)
            return {}
        raw = b64(row["header"])
        h = decode(raw, "header")
        judge = self.report.judge
        judge(
            h["seq"] == seq == row["seq"],
            "dense",
            name,
            seq,
            f"event {h['seq']} stands where {seq} has to be",
        )
        if seq == 0 or self.prev:
            judge(
                h["prev_hash"] == (self.prev or bytes(32)),
                "chain",
                name,
                seq,
                "it does not name the hash of the event before",
            )
        place = (h["log_id"], h["partition"]) == (self.log_id, self.partition)
        judge(place, "log", name, seq, "it is an event of another log or partition")
        judge(h["decided_at"] >= self.time, "time", name, seq, "it was decided before the event before it")
        self.time, self.prev = h["decided_at"], sha(b"\0", raw)
        self.tree.add(self.prev)
        return h

    def facts(self, row: Record, h: Record) -> bytes:
        """The event's facts, which the header names."""
        facts = b64(row["facts"])
        self.report.judge(
            sha(facts) == h["facts_hash"],
            "facts",
            self.name,
            h["seq"],
            "its facts are not those its header names",
        )
        return facts

    def close(self, keys: Keys, policy: Policy, held: bool = False) -> int:
        """Judge the signed heads. Returns the second at which the last one was signed, 0 where nothing is signed.

        `held`: the next generation names the root of all of it, so that its own heads need not reach to its end.
        """
        report, name, end = self.report, self.name, self.tree.size

        def pending(ok: bool, check: str, seq: int, sentence: str) -> None:
            report.judge(ok or held, check, name, seq, sentence, "PENDING")

        if self.note is None:
            pending(False, "checkpoint", self.start, "no head of this log was signed yet: only the chain holds it together")  # fmt: skip
            for kept in self.kept if held else []:
                self.compare(kept, end)
            return 0
        size = self.note.size
        kid, second, witnesses = self.signer(self.note, keys, policy)
        if size < self.start:
            pending(False, "checkpoint", self.start, f"the signed head of {size} events does not reach these")
            return 0
        try:
            self.tree.extend(self.right, max(size, end))
        except ValueError as error:
            report.add("INVALID", "inclusion", name, end, str(error))
        report.judge(
            self.tree.roots.get(size) == self.note.root,
            "inclusion",
            name,
            self.start,
            f"these events do not lead to the signed root of {size} events",
        )
        pending(size >= end, "checkpoint", size, f"{end - size} events are newer than the signed head")
        said = f"quorum `{policy.quorum}` is not met, signed by {', '.join(witnesses) or 'no witness'}"
        pending(policy.holds(set(witnesses)), "witnesses", size - 1, said)
        for note, proof in self.earlier:
            self.signer(note, keys, policy)
            self.follow(self.note, note, proof)
        for note in self.kept:
            self.compare(note, size)
        report.said.setdefault("heads", {})[name] = {
            "size": size, "root": self.note.root.hex(), "key": kid, "signed_at": second, "witnesses": witnesses,
        }  # fmt: skip
        return second

    def follow(self, head: Note, earlier: Note, proof: list[bytes]) -> None:
        """A head that was signed before."""
        leads = continues(earlier.size, head.size, earlier.root, head.root, proof)
        self.report.judge(
            leads and self.tree.roots.get(earlier.size) in (None, earlier.root),
            "consistency",
            self.name,
            earlier.size,
            f"the signed head of {head.size} events does not continue that of {earlier.size}",
        )

    def compare(self, kept: Note, size: int) -> None:
        """A head that the auditor kept."""
        mine = {n.size: n.root for n, _ in self.earlier} | self.tree.roots
        what = f"you kept a head of {kept.size} events"
        if kept.size in mine:
            self.report.judge(
                mine[kept.size] == kept.root,
                "kept",
                self.name,
                kept.size,
                f"{what} with another root: this log was rewritten or forked, keep both",
                "DIVERGED",
            )
        else:
            self.report.add(
                "INCOMPLETE",
                "kept",
                self.name,
                kept.size,
                f"{what}, and nothing here leads from it to {size}: ask for a bundle made with --kept",
            )

    def signer(self, note: Note, keys: Keys, policy: Policy) -> tuple[str, int, list[str]]:
        """By which key, when, and which witnesses: at times when the key was valid."""
        if not self.report.judge(
            note.origin == self.origin,
            "checkpoint",
            self.name,
            note.size,
            f"the checkpoint is of log `{note.origin}`",
        ):
            return "", 0, []
        try:
            for kid, key in keys.items():
                public = bytes.fromhex(key["public"])
                if key["role"] != "checkpointer" or note.second(note.origin, NOTE, public) is None:
                    continue
                second = note.second(note.origin, TIMED, public)
                trusted = not policy.logs or public in policy.logs
                if second is not None and trusted and valid(key, second):
                    times = {n: note.second(who[0], TIMED, who[1]) for n, who in policy.witnesses.items()}
                    return kid, second, sorted(n for n, t in times.items() if t is not None and valid(key, t))
        except ValueError as error:
            self.report.add("INVALID", "checkpoint", self.name, note.size, str(error))
            return "", 0, []
        self.report.add(
            "INVALID",
            "checkpoint",
            self.name,
            note.size,
            "it has no signature of a key that was valid for this log then",
        )
        return "", 0, []


def valid(key: Record, second: int) -> bool:
    """Whether a key could sign in that second of 1970."""
    return bool((second + 1) * 10**6 > key["not_before"] and second * 10**6 < key["not_after"])
