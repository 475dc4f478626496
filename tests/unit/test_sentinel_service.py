"""The sentinel's own key: in a signed environment nothing acts by itself that control would not bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Key, Person
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.control.operators import SENTINEL_KEY as KEY_VARIABLE
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.sentinel_service import SentinelService

FOREVER = 2**53 - 1


def service(tmp_path: Path, roles: tuple[str, ...], *, signing: str = "signed") -> SentinelService:
    made = SentinelService(Settings(env="test", kafka="nowhere:1", home=tmp_path))
    path = tmp_path / "keys" / "sentinel.jwk"
    path.parent.mkdir(parents=True, exist_ok=True)
    key = key_files.create(path, "s-1")
    person = Person("watchdog", "", roles)
    made._reader.control = Control(
        signing=signing, operated=True, people={person.person_id: person},
        keys={"s-1": Key("s-1", "watchdog", "operator", "Ed25519", key.public, 0, FOREVER)},
    )  # fmt: skip
    return made


def test_it_signs_as_a_person_that_is_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert service(tmp_path, ("sentinel",)).who() == "watchdog"


def test_an_operators_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(Terminal, match="nothing would bound it"):
        service(tmp_path, ("operator",)).who()


def test_without_signatures_it_is_the_sentinel(tmp_path: Path) -> None:
    assert service(tmp_path, (), signing="dev").who() == "sentinel"


def test_a_key_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = service(tmp_path, ("sentinel",))
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "none.jwk"))
    with pytest.raises(Terminal, match="is no key"):
        made.who()
