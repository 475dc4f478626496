"""Control in an evidence bundle: who had which key and which role when, which generations there are, and what was erased.

A part of a bundle's `verify.py`, between `evidence/ledger.py` and `evidence/period.py`. Standard library and `cryptography` only.
Folds of control only what an auditor needs, and asks no Cedar policy. Next: `evidence/period.py`.
"""

from __future__ import annotations

import json

from sluicegate.streams.evidence.formats import Record, decode, field, number, sha, signed_by
from sluicegate.streams.evidence.ledger import Keys, Ledger

MOVING = ("release.deployed", "release.rolled_back", "release.pinned", "release.unpinned", "canary.started",
          "canary.paused", "canary.promoted", "canary.aborted")  # fmt: skip
"""What makes void what was proposed before it."""


class Control(Ledger):
    """The control ledger from its first event: who had which key and which role when, which generations there are, and what was
    erased."""

    NEEDED = ("genesis", "key.", "people.", "release.", "subject.", "change.", "generation.")

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.states: list[tuple[Keys, dict[str, list[str]]]] = []
        self.keys: Keys = {}
        self.people: dict[str, list[str]] = {}
        self.changes: dict[int, tuple[str, Record, list[str], int, int]] = {}
        self.erased: dict[str, list[int]] = {}
        self.releases: set[str] = set()
        self.genesis: Record = {}
        self.operated, self.moved, self.leaves = False, -1, list[bytes]()
        self.generations: list[Record] = []
        self.begun: Record = {}

    def add(self, row: Record) -> None:
        """One event. Those whose kind does not matter here may be there without their facts: the header names the kind."""
        h = self.link(row)
        seq, report = self.tree.size - 1, self.report
        self.leaves.append(self.prev)
        kind = h.get("reason", "")
        if "facts" in row:
            f = decode(self.facts(row, h), "control_facts")
            report.judge(
                f["kind"] == kind,
                "control",
                self.name,
                seq,
                f"its header says `{kind}`, and it is `{f['kind']}`",
            )
            if report.judge(
                self.may(f, seq), "authority", self.name, seq, f"`{kind}` is not signed by an operator's key"
            ):
                self.perform(seq, f["kind"], json.loads(f["body"]), f["who"])
        elif not h or kind.startswith(self.NEEDED):
            report.add(
                "INCOMPLETE",
                "control",
                self.name,
                seq,
                f"the facts of this control event (`{kind or 'unknown'}`) are not here",
            )
        self.states.append((self.keys, self.people))

    def may(self, f: Record, seq: int) -> bool:
        """Once a signed environment has an operator's key, only such keys change control. What Cedar says is not asked."""
        if self.genesis.get("signing") != "signed" or not self.operated:
            return True
        key = self.keys.get(f.get("kid", ""))
        if key is None or key["role"] != "operator" or not key["not_after"] or f["who"] != key["principal"]:
            return False
        texts = b"".join(field(f[n].encode()) for n in ("kind", "who", "why", "kid"))
        message = b"sluicegate/control/1\0" + field(self.log_id) + number(seq) + texts + field(f["body"])
        return key["principal"] in self.people and signed_by(
            bytes.fromhex(key["public"]), f["signature"], message
        )

    def perform(self, seq: int, kind: str, body: Record, who: str) -> None:
        """What an event changes, of what is needed here."""
        if kind in MOVING:
            self.moved = seq
        if kind == "genesis":
            self.genesis = body
            self.generations = [{**body, "number": 0, "at": 0}]
            self.people = {str(body["operator"]): ["operator"]} if body.get("operator") else {}
        elif kind == "key.added" and body["kid"] not in self.keys:
            self.keys = {**self.keys, body["kid"]: body}
            self.operated = self.operated or body["role"] == "operator"
        elif kind == "key.revoked" and body["kid"] in self.keys:
            key = self.keys[body["kid"]]
            self.keys = {
                **self.keys,
                body["kid"]: {**key, "not_after": min(key["not_after"], body.get("at", 0))},
            }
        elif kind == "people.registered":
            self.people = {**self.people, **{p["person_id"]: p.get("roles", []) for p in body["people"]}}
        elif kind == "people.removed":
            self.people = {k: v for k, v in self.people.items() if k not in body["people"]}
        elif kind == "release.published":
            self.releases.add(body["digest"])
        elif kind.startswith("generation."):
            self.generation_step(kind, body)
        elif kind == "subject.erased":
            for subject in set(body["subjects"]):
                self.erased.setdefault(subject, []).append(seq)
        elif kind == "change.proposed":
            self.changes[seq] = (body["kind"], body["body"], [who], body["quorum"], body["expires_at"])
        elif kind == "change.agreed" and body["change"] in self.changes:
            inner, what, agreed, quorum, until = self.changes[body["change"]]
            live = self.time < until and self.moved < body["change"] and who in self.people
            if (
                live
                and who not in agreed
                and body["digest"] == sha(canonical({"kind": inner, "body": what})).hex()
            ):
                agreed.append(who)
                if len(agreed) == quorum:
                    self.perform(seq, inner, what, agreed[0])

    def generation_step(self, kind: str, body: Record) -> None:
        """Another number of partitions: a log of its own that goes on, from its start."""
        last = self.generations[-1]
        if kind == "generation.begun":
            fits = body["number"] == last["number"] + 1 and body["partitions"] not in (0, last["partitions"])
            fresh = body["log_id"] not in [one["log_id"] for one in self.generations]
            self.begun = body if fits and fresh and not self.begun else self.begun
        elif self.begun and body["number"] == self.begun["number"]:
            if kind == "generation.started":
                self.generations = [*self.generations, {**self.begun, "at": self.time}]
            self.begun = {}

    def erased_by(self, name: str) -> int | None:
        """The event that erased what was sealed under this subject; after an erasure a subject goes on as `NAME#EVENT`."""
        base, _, event = name.rpartition("#")
        times = [str(e) for e in self.erased.get(base, [])]
        subject, at = (base, times.index(event) + 1) if event in times else (name, 0)
        found = self.erased.get(subject, [])
        return found[at] if at < len(found) else None


def canonical(value: object) -> bytes:
    """RFC 8785 for what is hashed here: text, whole numbers, lists and objects."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
