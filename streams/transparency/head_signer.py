"""Who signs heads: the newest valid key of role `checkpointer` whose secret is here, in a file or behind a function of yours.

    SLUICEGATE_CHECKPOINT_KID      use this key only
    SLUICEGATE_CHECKPOINT_SIGNER   package.module:function of (kid, message) -> 64 bytes of Ed25519: a KMS or an HSM, which
                                   never gives the key away; without it the secret is <home>/keys/<kid>.jwk

A rotation counts with the control event that registers the new key. Never makes a key. Next: `keys/files.py`, `transparency/log_tree.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from sluicegate.processors.control.control import Control
from sluicegate.processors.transparency.checkpoints import ROLE, LogKey, keys_of
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.notes import Signer, ed25519_signer
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.named_function import function_of

KID, SIGNER = "SLUICEGATE_CHECKPOINT_KID", "SLUICEGATE_CHECKPOINT_SIGNER"
SIGNATURE_BYTES = 64

Kms = Callable[[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class HeadKey:
    """A key to sign with now."""

    key: LogKey
    signer: Signer


class HeadSigner:
    """Chooses the key anew for each head."""

    def __init__(self, home: Path, environ: Mapping[str, str] = os.environ) -> None:
        """Raises `Terminal` for a function that cannot be had."""
        self._home, self._kid = home, environ.get(KID, "")
        self._kms = cast(Kms, function_of(SIGNER, environ[SIGNER])) if environ.get(SIGNER) else None

    def choose(self, control: Control, second: int) -> HeadKey:
        """The key for heads of that second. Raises `Retryable` where there is none."""
        for key in reversed(keys_of(control)):
            if self._kid in ("", key.kid) and key.valid_at(second):
                signer = self._signer(key)
                if signer is not None:
                    return HeadKey(key, signer)
        wanted = f"key `{self._kid}` of role" if self._kid else "key of role"
        raise Retryable(
            f"no valid {wanted} `{ROLE}` has its secret here, make one: sluicegate keys new log --role {ROLE}"
        )

    def has_key(self, control: Control) -> bool:
        """Whether any key of the history can sign here, valid now or not."""
        return any(self._signer(key) is not None for key in keys_of(control))

    def _signer(self, key: LogKey) -> Signer | None:
        if self._kms is not None:
            return partial(_ask, self._kms, key.kid)
        try:
            found = key_files.load(key_files.default_path(self._home, key.kid))
        except Terminal:
            return None
        return ed25519_signer(found.secret) if found.public == key.public else None


def _ask(kms: Kms, kid: str, message: bytes) -> bytes:
    """Its signature. Raises `Retryable`, without a text that may hold what a vault said."""
    try:
        signature = kms(kid, message)
    except Exception as error:
        raise Retryable(f"the signer of `{SIGNER}` did not sign ({type(error).__name__})") from None
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        raise Retryable(f"the signer of `{SIGNER}` gave no signature of {SIGNATURE_BYTES} bytes")
    return signature
