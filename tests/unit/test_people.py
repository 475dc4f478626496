"""People in control's fold: registered, changed, removed."""

from __future__ import annotations

from sluicegate.processors.control.control import Person

from tests.driver import Driver


def test_people_are_registered_changed_and_removed() -> None:
    d = Driver()
    d.control_event("people.removed", people=list(d.control.people))
    rows = [{"person_id": "ana", "name": "Ana", "roles": ["treasury"]}, {"person_id": "ben"}]
    d.control_event("people.registered", people=rows)
    before = d.control
    assert before.people == {"ana": Person("ana", "Ana", ("treasury",)), "ben": Person("ben", "", ())}
    d.control_event("people.registered", people=[{"person_id": "ben", "roles": ["desk", "audit"]}])
    assert d.control.people["ben"].roles == ("desk", "audit")
    d.control_event("people.removed", people=["ana", "nobody"])
    assert set(d.control.people) == {"ben"}
    assert set(before.people) == {"ana", "ben"}, "an earlier control stays what it was"
