"""What operators do about issuers of tokens: whose tokens are believed, by which keys, and how people are named by them.

Each is one control event. Never decides what a token opens: `processors/control/tokens.py` does. Next: `keys/oidc.py` (an issuer's newest
keys), docs/identity.md.
"""

from __future__ import annotations

import json
from pathlib import Path

from sluicegate.processors.control.control import MAX_ISSUERS
from sluicegate.processors.control.tokens import public_keys
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operators import operator
from sluicegate.streams.keys import oidc
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings


async def _append(
    settings: Settings, keys: Keys, event: tuple[str, dict[str, object]], why: str, head: int
) -> int:
    return await control_log.append(settings, keys, [event], who=operator(), why=why, expected_head=head)


def read_jwks(path: Path) -> list[str]:
    """The public keys in a JWKS file. Raises `Terminal`."""
    try:
        found = public_keys(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise Terminal(f"`{path}` is no JWKS with public keys: {str(error)[:200]}") from error
    if len(found) > oidc.MAX_KEYS:
        raise Terminal(
            f"`{path}` has {len(found)} keys, at most {oidc.MAX_KEYS} are kept, leave old ones out"
        )
    return found


async def add_issuer(
    settings: Settings, keys: Keys, issuer: str, audience: str, jwks: list[str], prefix: str, why: str, *,
    discover: bool = False, dry_run: bool = False,
) -> int:  # fmt: skip
    """Register an issuer or replace its keys. `discover`: gateways may ask it for its newest ones. Raises `Terminal`."""
    control = (await control_log.read(settings)).control
    if not issuer or not audience or len(issuer) > 256:
        raise Terminal(f"issuer `{issuer[:80]}` and audience `{audience[:80]}` must not be empty, name both")
    others = [i for i in control.issuers.values() if i.issuer != issuer]
    if same := [i.issuer for i in others if i.prefix == prefix]:
        raise Terminal(f"`{same[0]}` names people with the prefix `{prefix}` already, give another --prefix")
    if len(others) >= MAX_ISSUERS:
        raise Terminal(f"control holds {MAX_ISSUERS} issuers already, remove one first")
    if dry_run:
        return control.head
    body: dict[str, object] = {"issuer": issuer, "audience": audience, "keys": jwks, "prefix": prefix}
    if discover:
        body["discover"] = True
    return await _append(settings, keys, ("issuer.added", body), why, control.head)


async def refresh_issuers(
    settings: Settings, keys: Keys, issuer: str, why: str, *, dry_run: bool = False
) -> list[tuple[str, int, str]]:
    """Register what issuers publish now, of one or of all that may be asked: (issuer, keys, what became of it). Raises `Terminal`
    for one that may not be asked; one that is away keeps the keys it has."""
    control = (await control_log.read(settings)).control
    asked_for = [i for i in control.issuers.values() if i.discover and issuer in ("", i.issuer)]
    if issuer and not asked_for:
        raise Terminal(
            f"issuer `{issuer[:80]}` is not asked for its keys: add it again without --jwks, or with a new file"
        )
    found: list[tuple[str, int, str]] = []
    for one in asked_for:
        try:
            newest = await oidc.fetch(one.issuer)
        except SluicegateError as error:
            found.append((one.issuer, len(one.keys), f"kept: {error}"))
            continue
        if tuple(newest) == one.keys:
            found.append((one.issuer, len(newest), "unchanged"))
            continue
        head = await add_issuer(
            settings, keys, one.issuer, one.audience, newest, one.prefix, why, discover=True, dry_run=dry_run
        )
        found.append(
            (one.issuer, len(newest), "would change" if dry_run else f"changed by control event {head}")
        )
    return found


async def remove_issuer(
    settings: Settings, keys: Keys, issuer: str, why: str, *, dry_run: bool = False
) -> int:
    """Believe an issuer no more. Raises `Terminal` for one that is not registered."""
    control = (await control_log.read(settings)).control
    if issuer not in control.issuers:
        raise Terminal(f"issuer `{issuer[:80]}` is not registered, see `sluicegate issuers list`")
    if dry_run:
        return control.head
    return await _append(settings, keys, ("issuer.removed", {"issuer": issuer}), why, control.head)
