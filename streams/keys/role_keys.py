"""Which key a process of ours signs with: the newest registered one of its role whose secret lies in this home.

A rotation is picked up with the control event that registers the new key. MAC secrets are in `<home>/keys/mac.json`,
Ed25519 ones in `<home>/keys/<kid>.jwk`. Never makes a key. Next: `keys/files.py`, `schemas/signing.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sluicegate.processors.control.control import Control, Key
from sluicegate.schemas import signing
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import BY_NAME
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys import mac_keys

KID_VARIABLES = {
    "executor": "SLUICEGATE_EXECUTOR_KID",
    "pipeline": "SLUICEGATE_PIPELINE_KID",
    "evaluator": "SLUICEGATE_EVALUATOR_KID",
}
"""Where a process is told to use one certain key."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    kid: str
    alg: str
    secret: bytes

    def __repr__(self) -> str:
        return f"_Chosen(kid={self.kid!r})"


class RoleSigner:
    """Signs records of one topic for one role, in signed environments; elsewhere it leaves them as they are."""

    def __init__(
        self,
        home: Path,
        role: str,
        topic: str,
        control: Callable[[], Control],
        clock: Callable[[], int],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        assert role in BY_NAME[topic].writers
        self._home, self._role, self._topic = home, role, topic
        self._control, self._clock = control, clock
        self._kid = environ.get(KID_VARIABLES[role], "")
        self._chosen: _Chosen | None = None
        self._as_of: object = None

    def __call__(self, payload: bytes) -> bytes:
        """The envelope's bytes, or the payload's in an unsigned environment. Raises `Retryable` without a key."""
        control = self._control()
        if control.signing != "signed":
            return payload
        now = self._clock()
        chosen = self.key(control, now)
        audience = f"{control.env}/{self._topic}"
        return signing.sign(payload, chosen.kid, chosen.alg, chosen.secret, audience, now)

    def ready(self) -> None:
        """Raise `Retryable` when something had to be signed now and could not be."""
        control = self._control()
        if control.signing == "signed":
            self.key(control, self._clock())

    def key(self, control: Control, now: int) -> _Chosen:
        """The key to sign with now."""
        chosen = self._chosen
        if chosen and self._as_of is control.keys and now < control.keys[chosen.kid].not_after:
            return chosen
        self._chosen = self._choose(control, now)
        self._as_of = control.keys
        return self._chosen

    def _choose(self, control: Control, now: int) -> _Chosen:
        secrets = mac_keys.load(self._home)
        for key in reversed(control.keys.values()):
            if key.role != self._role or self._kid not in ("", key.kid):
                continue
            if not key.not_before <= now < key.not_after:
                continue
            if (secret := self._secret(key, secrets)) is not None:
                return _Chosen(key.kid, key.alg, secret)
        wanted = f"key `{self._kid}` of role" if self._kid else "key of role"
        raise Retryable(
            f"no valid {wanted} `{self._role}` has its secret here, make one: "
            f"sluicegate keys new {self._role} --role {self._role}"
        )

    def _secret(self, key: Key, secrets: Mapping[str, bytes]) -> bytes | None:
        if key.alg == "HS256":
            return secrets.get(key.kid)
        try:
            found = key_files.load(key_files.default_path(self._home, key.kid))
        except Terminal:
            return None
        return found.secret if found.public == key.public else None
