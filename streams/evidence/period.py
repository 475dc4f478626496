"""An agent's period in an evidence bundle: what became of every intent, who approved, what was disclosed, what was erased.

A part of a bundle's `verify.py`, between `evidence/people.py` and `evidence/said.py`. Standard library and `cryptography` only.
Judges no policy: that takes the release and the engine (`sluicegate reproduce`). Next: `evidence/said.py`.
"""

from __future__ import annotations

from collections import Counter

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from sluicegate.streams.evidence.formats import Note, Record, b64, decode, field, sha, signed_by
from sluicegate.streams.evidence.ledger import Ledger, Report
from sluicegate.streams.evidence.people import Control

HOUR_US, ACCEPT_US, CLOSING_US = 3_600_000_000, 86_400_000_000, 60_000_000
# The life of an intent (processors/lifecycle.py): state -> what may follow.
ENDS = ("released", "withheld", "failed")
LIFE = {
    "": ("routed", "refused"),
    "routed": ("permitted", "held", "refused"),
    "permitted": ("validated", "held", "refused"),
    "validated": ("dispatched", "waiting", "held", "refused", "released", "withheld"),
    "held": ("held", "permitted", "refused", "expired", "voided"),
    "waiting": ("validated", "dispatched", "refused", "expired", "voided", "released", "withheld"),
    "dispatched": ("claimed", "dispatched", "waiting", "parked", "in_doubt", "expired", "voided", *ENDS),
    "claimed": ("dispatched", "parked", "in_doubt", *ENDS),
    "parked": ("parked", "dispatched", "in_doubt", *ENDS),
    "in_doubt": ("resolved", "parked", *ENDS),
}
OTHER_STAGES = (
    "session",
    "intake",
    "transfer",
    "rollback",
    "score",
    "budget",
    "cache",
    "memory",
    "seam",
    "genesis",
)
COUNTED = {"refused": "refused", "expired": "expired", "voided": "voided", "in_doubt": "in_doubt"} | dict.fromkeys(
    (*ENDS, "resolved"), "executed"
)  # fmt: skip
"""Every other state is `open`."""
ROLES = {"intents": "agent", "messages": "channel", "reviews": "person"}


class Life:
    """One intent of the agent, as far as these events go."""

    def __init__(self, state: str, issued_at: int, tool: str) -> None:
        self.state, self.issued_at, self.tool = state, issued_at, tool
        self.quorum, self.reviewers, self.digest = 0, list[str](), b""
        self.agreed: list[str] = []


class Period(Ledger):
    """The agent's partition: every event between the period's ends, those of other agents by their headers only."""

    def __init__(
        self, report: Report, control: Control, manifest: Record, place: tuple[int, int], first: bool, tree: Record, kept: list[Note],
        keys: Record,
    ) -> None:  # fmt: skip
        """`place`: generation and partition. `first`: the period begins in it."""
        generation, partition = place
        log_id = bytes.fromhex(control.generations[generation]["log_id"])
        super().__init__(report, str(partition), log_id, control.genesis["env"], tree, kept, generation)
        self.control, self.agent, self.since, self.until = (
            control, manifest["agent"], manifest["from"], manifest["to"],
        )  # fmt: skip
        self.keys = {subject: AESSIV(b64(key)) for subject, key in keys.items()}
        self.lives: dict[str, Life] = {}
        self.carried: set[str] = set()
        self.started, self.seen = Counter[str](), Counter[str]()
        self.closed = self.hidden = False
        self.began = self.start == 0 and not (first and generation)
        self.seal: Record | None = None
        self.imported: dict[int, Record] = {}
        self.decides, self.opened = False, -1
        self.head, self.input = -1, ("", -1)
        self.approvals, self.releases, self.rows = list[Record](), set[str](), list[Record]()
        self.erased: dict[int, list[int | str]] = {}

    def at(self, seq: int) -> int | str:
        """A position, told apart from that of another generation."""
        return f"{self.name}:{seq}" if self.generation else seq

    def add(self, row: Record) -> None:
        """One event of the partition."""
        if "seam" in row:
            self.tree.keep()  # what a seal names is the root of all before it
        h, seq, report = self.link(row), self.tree.size - 1, self.report
        report.judge(self.seal is None, "seam", self.name, seq, "it follows the seal of its generation")
        if not h:
            self.hidden = True
            self.seen["hidden"] += 1
            return
        self.opened = h["decided_at"] if seq == 0 else self.opened
        if "seam" in row:
            self.seam(seq, h, decode(self.facts({"facts": row["seam"]}, h)))
        self.decides = self.decides or h["stage"] not in ("seam", "genesis")
        first = self.input != (h["input_topic"], h["input_offset"])
        self.input = (h["input_topic"], h["input_offset"])
        if h["decided_at"] < self.since:
            report.judge(seq == self.start, "period", self.name, seq, "it was decided before the period")
            self.began = True
            return
        if h["decided_at"] >= self.until:
            report.judge(not self.closed, "period", self.name, seq, "it was decided after the period")
            self.closed = True
            return
        report.judge(not self.closed, "period", self.name, seq, "it stands behind the period's end")
        if h["agent_id"] != self.agent:
            self.seen["others"] += "seam" not in row
            return
        self.seen["events"] += 1
        known = self.head <= h["control_head"] < len(self.control.states)
        report.judge(known, "control_head", self.name, seq, f"it names control event {h['control_head']}")
        self.head = max(self.head, h["control_head"])
        if h["release"] and h["release"] not in self.releases:
            self.releases.add(h["release"])
            published = h["release"] in self.control.releases
            report.judge(
                published, "release", self.name, seq, f"release `{h['release']}` was never published"
            )
        if "facts" not in row:
            report.add(
                "INCOMPLETE", "facts", self.name, seq, "the facts of this event of the agent are not here"
            )
        elif known:
            facts = decode(self.facts(row, h))
            self.content(row, h, facts, first)
            self.step(seq, h, facts)

    # -- seams: where a generation ends, and another one goes on ------------------------------------------------

    def seam(self, seq: int, h: Record, f: Record) -> None:
        """A partition's seal, or what a partition of the next generation says of the seals that it goes on from."""
        judge, name = self.report.judge, self.name
        judge(
            h["stage"] == "seam", "seam", name, seq, f"an event of stage `{h['stage']}` is told as a seam's"
        )
        if f.get("") == "seal_facts":
            self.seal = f
            right = (f["generation"], f["size"], f["root"]) == (self.generation, seq, self.tree.roots[seq])
            judge(right, "seam", name, seq, "its seal names other events than stand before it")
        elif f.get("") == "import_facts" and f["piece"] == 0:
            known = self.imported.setdefault(f["partition"], f)
            right = not self.decides and f["generation"] == self.generation - 1 and known == f
            judge(right, "seam", name, seq, "it goes on from a seal where it cannot")

    def goes_on(self, after: Period) -> bool:
        """Whether the next generation's partition of the agent says that it goes on from exactly these events."""
        self.tree.keep()
        report, name, last = self.report, self.name, self.tree.size - 1
        missing = self.seal is None or self.partition not in after.imported
        said = "the seal of its generation, or what the next one says of it, is not here: events may be missing between"
        if not report.judge(not missing, "seam", name, last, said, "INCOMPLETE"):
            return False
        assert self.seal is not None
        one, root = after.imported[self.partition], self.tree.roots[last + 1]
        right = (one["log_id"], one["seq"], one["root"]) == (self.log_id, last, root)
        right = right and self.seal["next_log_id"] == after.log_id and self.time <= after.opened
        said = f"the next generation goes on from other events than these: from event {one['seq']} with root {one['root'].hex()}"
        report.judge(right, "seam", name, last, said)
        report.said.setdefault("seams", []).append(
            {"from": name, "to": after.name, "log_id": self.log_id.hex(), "seq": last, "root": root.hex()}
        )
        return right

    def over(self) -> None:
        """The last generation in the bundle: whether the period goes on in a later one."""
        later = self.control.generations[self.generation + 1 : self.generation + 2]
        said = f"the period goes on in generation {self.generation + 1}, which is not here"
        missing = bool(later) and later[0]["at"] < self.until
        if self.report.judge(not missing, "seam", self.name, self.tree.size, said, "INCOMPLETE"):
            waits = self.seal is not None and self.time < self.until
            self.report.judge(not waits, "seam", self.name, self.tree.size, said, "PENDING")

    # -- what became of each intent -----------------------------------------------------------------------------

    def step(self, seq: int, h: Record, f: Record) -> None:
        """The intent's next state, by the table."""
        status, key = h["status"], f"{h['tenant']}\0{h['intent_id']}"
        start, life = f.get("") == "intent_facts", self.lives.get(key)
        tool = f["tool"] if start else life.tool if life else ""
        self.rows.append({"ledger": self.name, "seq": seq, "at": h["decided_at"], "stage": h["stage"], "status": status, "reason": h["reason"],
                          "policies": h["policies"], "intent": h["intent_id"], "tool": tool, "labels": h["labels"]})  # fmt: skip
        if h["stage"] in OTHER_STAGES or status == "noted":
            return
        if start and not f["remembered"]:
            self.started["refused"] += 1
            self.judge_life(status == "refused", seq, h, "", status)
            return
        if (
            start
            and life
            and life.state not in LIFE
            and h["decided_at"] // HOUR_US > (life.issued_at + ACCEPT_US) // HOUR_US
        ):
            self.end(life)  # the id was forgotten, as ids are after a day, and is used anew
            life = None
        if life is None:
            if not start:  # it began before the period: its first state here is taken as it is
                self.judge_life(self.start > 0, seq, h, "", status)
                self.carried.add(key)
            else:
                self.judge_life(status in LIFE[""], seq, h, "", status)
            self.lives[key] = life = Life(status, f.get("issued_at", 0), tool)
        else:
            self.judge_life(status in LIFE.get(life.state, ()), seq, h, life.state, status)
        self.people(seq, h, f, life, key in self.carried)
        life.state = status

    def judge_life(self, ok: bool, seq: int, h: Record, before: str, status: str) -> None:
        """A step that the table does not know."""
        self.report.judge(
            ok,
            "lifecycle",
            self.name,
            seq,
            f"intent `{h['intent_id']}` went from `{before or 'nothing'}` to `{status}`",
        )

    def people(self, seq: int, h: Record, f: Record, life: Life, carried: bool) -> None:
        """A held call goes on only after as many registered people of the asked roles agreed as were asked for."""
        if h["status"] == "held" and f.get("") == "hold_facts":
            life.quorum, life.reviewers, life.digest, life.agreed = (
                f["quorum"],
                f["reviewers"],
                f["action_digest"],
                [],
            )
        elif h["status"] == "held" and f.get("") == "review_facts":
            who, people = f["reviewer"], self.control.states[h["control_head"]][1]
            *before, last = f["approvals"] or [""]
            right = h["input_topic"] == "reviews" and who == last and who in people
            right = right and (not f["reviewers"] or bool({*f["reviewers"]} & {*people[who]}))
            if not carried and not f["edited"]:
                right = right and set(before) <= set(life.agreed) and f["action_digest"] == life.digest
                right = right and (f["quorum"], set(f["reviewers"])) == (life.quorum, set(life.reviewers))
            elif f["edited"]:
                right = right and not before
            self.report.judge(
                right,
                "approval",
                self.name,
                seq,
                f"`{who}` cannot have agreed to intent `{h['intent_id']}` so",
            )
            life.quorum, life.reviewers, life.digest, life.agreed = (
                f["quorum"],
                f["reviewers"],
                f["action_digest"],
                f["approvals"],
            )
            self.approvals.append(
                {"seq": seq, "intent": h["intent_id"], "who": who, "of": f["quorum"], "at": h["decided_at"]}
            )
        elif h["status"] == "permitted" and life.state == "held" and not carried:
            enough = len(set(life.agreed)) >= max(1, life.quorum)
            self.report.judge(
                enough,
                "approval",
                self.name,
                seq,
                f"intent `{h['intent_id']}` went on after {len(set(life.agreed))} of {life.quorum} agreed",
            )

    def end(self, life: Life) -> None:
        """Count an intent of this period."""
        self.started[COUNTED.get(life.state, "open")] += 1

    def counts(self) -> Record:
        """intents = refused + expired + voided + executed + in_doubt + open."""
        for key, life in self.lives.items():
            if key not in self.carried:
                self.end(life)
        names = ("refused", "expired", "voided", "executed", "in_doubt", "open")
        return {
            "events": self.seen["events"], "intents": sum(self.started.values()), **{n: self.started[n] for n in names},
            "begun_before": len(self.carried), "approvals": len(self.approvals), "events_of_others": self.seen["others"],
        }  # fmt: skip

    # -- content ------------------------------------------------------------------------------------------------

    def content(self, row: Record, h: Record, f: Record, first: bool) -> None:
        """What was disclosed is what the header commits to, opens under its subject's key, and was signed by whom it names."""
        seq, sealed = h["seq"], row.get("content")
        event = self.control.erased_by(h["subject"]) if h["content_commitment"] else None
        if event is not None:
            self.erased.setdefault(event, []).append(self.at(seq))
            self.report.add(
                "ERASED", "content", self.name, seq, f"its content was erased by control event {event}"
            )
        self.seen["withheld" if h["content_commitment"] and sealed is None else "contents"] += (
            h["content_commitment"] is not None
        )
        if sealed is None:
            return
        raw = b64(sealed)
        right = h["content_commitment"] == sha(raw)
        self.report.judge(right, "content", self.name, seq, "its content is not what its header commits to")
        if h["subject"] not in self.keys:
            self.report.add(
                "INCOMPLETE", "content", self.name, seq, f"the key of `{h['subject']}` is not here"
            )
            return
        try:
            opened = self.keys[h["subject"]].decrypt(raw, [h["event_id"]])
        except InvalidTag:
            self.report.add(
                "INVALID", "content", self.name, seq, "its content does not open as that of this event"
            )
            return
        if first and h["input_topic"] in ROLES and h["status"] not in ("unreadable", "session_refused"):
            self.author(seq, h, f, opened)

    def author(self, seq: int, h: Record, f: Record, value: bytes) -> None:
        """Whether an input was signed by who is named, under a key of that moment."""
        e, topic = decode(value), h["input_topic"]
        if e.get("") != "envelope":
            unsigned = self.control.genesis["signing"] != "signed"
            self.report.judge(unsigned, "signature", self.name, seq, "its input is not signed")
            self.seen["unsigned"] += unsigned
            return
        key = self.control.states[h["control_head"]][0].get(e["kid"])
        named = (
            f["reviewer"] if f.get("") == "review_facts" else h["agent_id"] if topic == "intents" else None
        )
        covered = value[: len(value) - len(field(e["signature"]))] + b"\0"
        right = (
            key is not None and key["alg"] == e["alg"] == "Ed25519"
            and key["not_before"] <= e["signed_at"] < key["not_after"] and h["decided_at"] < key["not_after"]
            and e["audience"] == f"{self.control.genesis['env']}/{topic}" and named in (None, key["principal"])
            and key["role"] in (ROLES[topic], "evaluator")
            and signed_by(bytes.fromhex(key["public"]), e["signature"], covered)
        )  # fmt: skip
        self.report.judge(
            right, "signature", self.name, seq, f"its input was not signed by `{named or e['kid']}`"
        )
        self.seen["signed"] += bool(right)
