"""Private keys in files: owner only, never overwritten, never shown."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.spans import span_us
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys import mac_keys


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_key_is_its_owners_alone(tmp_path: Path) -> None:
    path = key_files.default_path(tmp_path, "a/b c.1")
    assert path == tmp_path / "keys" / "a_b_c.1.jwk"
    key = key_files.create(path, "a/b c.1")
    assert mode_of(path) == 0o600
    assert key_files.load(path) == key
    assert key_files.public_of(str(path)) == key_files.public_of(key.public.hex()) == key.public
    assert key.secret.hex() not in repr(key)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "k.jwk"
    before = key_files.create(path, "k")
    with pytest.raises(Terminal, match="not overwritten"):
        key_files.create(path, "k")
    assert key_files.load(path) == before


@pytest.mark.parametrize("change", [{"d": "AAAA"}, {"x": "A" * 43}, {"crv": "Ed448"}, {"kid": None, "d": 1}])
def test_a_damaged_file_is_no_key_and_shows_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "k.jwk"
    secret = key_files.create(path, "k").secret
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, **change}))
    with pytest.raises(Terminal) as refused:
        key_files.load(path)
    assert whole["d"] not in str(refused.value)
    assert secret.hex() not in str(refused.value)


def test_what_is_no_public_key(tmp_path: Path) -> None:
    for text in ("xyz", "00" * 31, str(tmp_path), "zz" * 32):
        with pytest.raises(Terminal, match="public key"):
            key_files.public_of(text)


def test_mac_secrets_stand_together(tmp_path: Path) -> None:
    key_files.create_mac(tmp_path, "one")
    first = mac_keys.load(tmp_path)
    key_files.create_mac(tmp_path, "two")
    both = mac_keys.load(tmp_path)
    assert (sorted(both), both["one"]) == (["one", "two"], first["one"])
    assert mode_of(tmp_path / "keys" / "mac.json") == 0o600
    with pytest.raises(Terminal, match="already"):
        key_files.create_mac(tmp_path, "one")


def test_spans() -> None:
    assert [span_us(t) for t in ("0s", "90s", "2m", "1h", "7d")] == [
        0, 90_000_000, 120_000_000, 3_600_000_000, 604_800_000_000,
    ]  # fmt: skip
    for bad in ("", "h", "1w", "-1h", "1.5h", "9999999s"):
        with pytest.raises(Terminal, match="span"):
            span_us(bad)
