"""The webhook: one address that is told of held calls, signed, repeated within a bound.

    POST <SLUICEGATE_WEBHOOK_URL>
    Content-Type: application/json
    X-Sluicegate-Event: <the event's id, the same at every attempt: tell duplicates by it>
    X-Sluicegate-Signature: t=<unix seconds>,v1=<hex of HMAC-SHA256(secret, "<t>." + body)>

Any 2xx is an answer. A time-out, a broken connection, 408, 425, 429 and 5xx are tried again, later each time, and as
late as `Retry-After` says; anything else, and the last attempt, gives up. The address must be on SLUICEGATE_EGRESS, as
a tool's; redirects are not followed. Never reads Kafka. Next: `watch/notify.py`, `executors/wire.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sluicegate.executors.adapter import Failed
from sluicegate.executors.egress import Egress, Lookup, system_lookup
from sluicegate.executors.retries import STATUSES, retry_after_s
from sluicegate.executors.wire import Answered, Target, Wire
from sluicegate.schemas.errors import Terminal
from yarl import URL

ATTEMPTS = 8
"""Of one event: pauses of 1, 2, 4, 8, 16, 30 and 30 s between them, a minute and a half, and eight time-outs."""
PAUSE_S, PAUSE_MAX_S = 1.0, 30.0
RETRY_AFTER_MAX_S = 120.0
TIMEOUT_S = 10.0
"""Of one attempt."""
ANSWER_BYTES = 4_096
"""Read of an answer, which nobody looks at."""
MIN_SECRET_CHARS = 32
"""As long as the MAC, in hex half of it: a shorter secret can be guessed."""
SECRET_FILE_MAX = 4_096

log = logging.getLogger("sluicegate.webhook")


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Whom to tell, and with which secret. The repr shows neither."""

    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    content: bool = False
    """Whether arguments and reasons are told too."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> WebhookSettings | None:
        """Read the three variables; None without an address. Raises `Terminal` with what to change."""
        url = environ.get("SLUICEGATE_WEBHOOK_URL", "").strip()
        path = environ.get("SLUICEGATE_WEBHOOK_SECRET_FILE", "").strip()
        said = environ.get("SLUICEGATE_WEBHOOK_CONTENT", "").strip().lower()
        if not url:
            return None
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            usable = usable and parts.username is None and parts.password is None
        except ValueError:  # a port that is no number
            usable = False
        if not usable:
            raise Terminal(
                "SLUICEGATE_WEBHOOK_URL is no http(s) address without a password in it, write for example "
                "`https://hooks.example.com/held`"
            )
        if said not in ("", "true", "false"):
            raise Terminal(f"SLUICEGATE_WEBHOOK_CONTENT is `{said[:40]}`, set it to true or false")
        return cls(url, _secret(path), said == "true")


def _secret(path: str) -> bytes:
    if not path:
        raise Terminal(
            "SLUICEGATE_WEBHOOK_URL needs SLUICEGATE_WEBHOOK_SECRET_FILE, a file with the secret that signs"
        )
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Terminal(
            f"SLUICEGATE_WEBHOOK_SECRET_FILE `{path}` cannot be read: {error.strerror}, correct it"
        ) from error
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    if not MIN_SECRET_CHARS <= len(secret) <= SECRET_FILE_MAX:
        raise Terminal(
            f"the secret in `{path}` has {len(secret)} bytes, give it {MIN_SECRET_CHARS} to {SECRET_FILE_MAX}, "
            "for example by `openssl rand -hex 32`"
        )
    return secret


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """The value of `X-Sluicegate-Signature`."""
    mac = hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={mac}"


class Webhook:
    """One address. Make it inside the event loop that uses it.

    Args:
        pause_s: the first pause between attempts, doubled each time.
        clock, sleep: unix seconds, and how to wait; replaced by tests.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        egress: Egress,
        *,
        pause_s: float = PAUSE_S,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._settings, self._pause_s, self._timeout_s, self._clock = settings, pause_s, timeout_s, clock
        self._sleep = sleep
        url = URL(settings.url)
        self._target = Target("POST", url, str(url.host), int(url.port or 0))
        self._wire = Wire(egress, lookup)

    @property
    def content(self) -> bool:
        """Whether arguments and reasons are told too."""
        return self._settings.content

    async def close(self) -> None:
        """Close every connection."""
        await self._wire.close()

    async def tell(self, ident: str, body: bytes) -> bool:
        """Whether the other side took it, within `ATTEMPTS`."""
        pause_s = self._pause_s
        for attempt in range(1, ATTEMPTS + 1):
            answer = await self._once(ident, body)
            if isinstance(answer, Answered) and 200 <= answer.status < 300:
                return True
            again = answer.status in STATUSES if isinstance(answer, Answered) else answer.error_class in AGAIN
            said = str(answer.status) if isinstance(answer, Answered) else answer.error
            if not again or attempt == ATTEMPTS:
                log.error("event %s was not taken after %d attempt(s): %s", ident, attempt, said)
                return False
            log.warning("event %s, attempt %d: %s", ident, attempt, said)
            asked_s = 0.0 if isinstance(answer, Failed) else min(RETRY_AFTER_MAX_S, retry_after_s(answer))
            await self._sleep(max(asked_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)
        return False

    async def _once(self, ident: str, body: bytes) -> Answered | Failed:
        return await self._wire.exchange(
            self._target, self.headers(ident, body), body, limit=ANSWER_BYTES, timeout_s=self._timeout_s
        )

    def headers(self, ident: str, body: bytes) -> dict[str, str]:
        """What goes with an event: its id, and who vouches for it."""
        return {
            "Content-Type": "application/json",
            "X-Sluicegate-Event": ident,
            "X-Sluicegate-Signature": signature(self._settings.secret, int(self._clock()), body),
        }


AGAIN = ("timeout", "unreachable", "malformed_result")
"""What went wrong on the way: the same request may pass later, and telling twice does no harm."""
