"""Channels: whom an alarm is told to, each with its secret in a file, its retries and their bound.

    webhook   SLUICEGATE_WEBHOOK_URL, _SECRET_FILE                 signed JSON, as for held calls (`watch/webhook.py`)
    slack     SLUICEGATE_SLACK_URL_FILE                            {"text": …}; the address itself is the secret
    e-mail    SLUICEGATE_SMTP, _FROM, _TO, _USER, _PASSWORD_FILE   one message an alarm, the id in its Message-ID

Both web addresses must be on SLUICEGATE_EGRESS; the mail server is the one named. An alarm is told to every channel, by itself: one that is away delays no other.
Never reads Kafka. Next: `watch/alarm_notify.py` (who tells), `watch/webhook.py` (retries).
"""

from __future__ import annotations

import asyncio
import logging
import random
import smtplib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol

import orjson
from sluicegate.executors.egress import Egress
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.watch.webhook import (
    ATTEMPTS,
    PAUSE_MAX_S,
    PAUSE_S,
    TIMEOUT_S,
    Webhook,
    WebhookSettings,
)

log = logging.getLogger("sluicegate.channels")

RECIPIENTS_MAX = 20
SECRET_MAX = 4_096
SUBJECT_CHARS = 150
TLS = ("starttls", "tls", "none")
Alarm = Mapping[str, object]


class Channel(Protocol):
    """One way to people."""

    name: str

    async def tell(self, ident: str, alarm: Alarm) -> bool:
        """Whether the other side took it, within a bound."""

    async def close(self) -> None:
        """Close every connection."""


class WebhookChannel:
    """The signed webhook."""

    name = "webhook"

    def __init__(self, webhook: Webhook) -> None:
        self._webhook = webhook

    async def tell(self, ident: str, alarm: Alarm) -> bool:
        """The alarm as JSON."""
        return await self._webhook.tell(ident, orjson.dumps(dict(alarm)))

    async def close(self) -> None:
        """Close every connection."""
        await self._webhook.close()


class _Plain(Webhook):
    """An address that vouches for itself: nothing is signed."""

    def headers(self, ident: str, body: bytes) -> dict[str, str]:
        """No signature."""
        return {"Content-Type": "application/json"}


class SlackChannel(WebhookChannel):
    """An incoming webhook of Slack, or of anything that takes `{"text": …}`."""

    name = "slack"

    async def tell(self, ident: str, alarm: Alarm) -> bool:
        """A few lines of text."""
        return await self._webhook.tell(ident, orjson.dumps({"text": _escaped(text_of(ident, alarm))}))


@dataclass(frozen=True, slots=True)
class MailSettings:
    """Where e-mail goes. The repr shows no secret."""

    host: str
    port: int
    sender: str
    recipients: tuple[str, ...]
    tls: str = "starttls"
    user: str = ""
    password: str = field(default="", repr=False)


class MailChannel:
    """SMTP, in a thread: the standard library's client blocks."""

    name = "e-mail"

    def __init__(
        self, settings: MailSettings, *, pause_s: float = PAUSE_S, timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._settings, self._pause_s, self._timeout_s, self._sleep = settings, pause_s, timeout_s, sleep

    async def tell(self, ident: str, alarm: Alarm) -> bool:
        """One message; tried again when the server says `later` or is not there."""
        message = message_of(self._settings, ident, alarm)
        pause_s = self._pause_s
        for attempt in range(1, ATTEMPTS + 1):
            problem, again = await asyncio.to_thread(self._once, message)
            if not problem:
                return True
            if not again or attempt == ATTEMPTS:
                log.error("alarm %s was not mailed after %d attempt(s): %s", ident, attempt, problem)
                return False
            log.warning("alarm %s by e-mail, attempt %d: %s", ident, attempt, problem)
            await self._sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)
        return False

    def _once(self, message: EmailMessage) -> tuple[str, bool]:
        """What went wrong, or nothing; and whether it may pass later."""
        s = self._settings
        try:
            if s.tls == "tls":
                server: smtplib.SMTP = smtplib.SMTP_SSL(
                    s.host, s.port, timeout=self._timeout_s, context=ssl.create_default_context()
                )
            else:
                server = smtplib.SMTP(s.host, s.port, timeout=self._timeout_s)
            with server:
                if s.tls == "starttls":
                    server.starttls(context=ssl.create_default_context())
                if s.user:
                    server.login(s.user, s.password)
                refused = server.send_message(message)
            return (f"refused for {len(refused)} recipient(s)", False) if refused else ("", False)
        except smtplib.SMTPResponseException as error:
            return f"the server answered {error.smtp_code}", 400 <= error.smtp_code < 500
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            return f"no recipient was taken: {codes[0]}", all(400 <= code < 500 for code in codes)
        except (smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError, OSError) as error:
            return f"the server is away: {type(error).__name__}", not isinstance(error, ssl.SSLCertVerificationError)  # fmt: skip
        except smtplib.SMTPException as error:
            return f"the server cannot do that: {type(error).__name__}", False

    async def close(self) -> None:
        """Nothing is kept open."""


def message_of(settings: MailSettings, ident: str, alarm: Alarm) -> EmailMessage:
    """The e-mail of an alarm. The same alarm has the same Message-ID: a mailbox shows it once."""
    message = EmailMessage()
    subject = " ".join(f"[sluicegate {alarm.get('env', '')}] {_headline(alarm)}".split())
    message["Subject"] = subject[:SUBJECT_CHARS]
    message["From"], message["To"] = settings.sender, ", ".join(settings.recipients)
    message["Message-ID"] = f"<alarm-{ident}@sluicegate.{alarm.get('env', 'env')}>"
    message.set_content(text_of(ident, alarm) + "\n")
    return message


def text_of(ident: str, alarm: Alarm) -> str:
    """What people read."""
    lines = [
        f"{_headline(alarm)} in `{alarm.get('env', '')}`",
        str(alarm.get("said", "")),
        f"done: {alarm.get('action', '')}"
        if alarm.get("action") != "notify"
        else "nothing was done by itself",
        f"not done: {alarm['held_back']}" if alarm.get("held_back") else "",
        f"look: sluicegate alarms show {ident}",
    ]
    return "\n".join(line for line in lines if line)


def _headline(alarm: Alarm) -> str:
    return f"alarm {alarm.get('stream') or alarm.get('rule', '')}"


def _escaped(text: str) -> str:
    """Slack reads `<`, `>` and `&` as marks: an agent's name must not become a link or call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# -- from the environment --------------------------------------------------------------------------------------------


def channels_from(environ: Mapping[str, str], egress: Egress | None = None) -> list[Channel]:
    """Those that are set. Make them inside the event loop that uses them. Raises `Terminal` with what to change."""
    allowed = egress if egress is not None else Egress.from_env()
    found: list[Channel] = []
    webhook = WebhookSettings.from_env(environ)
    if webhook is not None:
        found.append(WebhookChannel(Webhook(webhook, allowed)))
    if path := environ.get("SLUICEGATE_SLACK_URL_FILE", "").strip():
        url = _secret(path, "SLUICEGATE_SLACK_URL_FILE")
        if not url.startswith(("https://", "http://")):
            raise Terminal(
                f"the file `{path}` of SLUICEGATE_SLACK_URL_FILE holds no http(s) address, correct it"
            )
        found.append(SlackChannel(_Plain(WebhookSettings(url, b""), allowed)))
    mail = mail_from(environ)
    if mail is not None:
        found.append(MailChannel(mail))
    return found


def mail_from(environ: Mapping[str, str]) -> MailSettings | None:
    """E-mail as the environment says; None without a server."""
    where = environ.get("SLUICEGATE_SMTP", "").strip()
    if not where:
        return None
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise Terminal(
            f"SLUICEGATE_SMTP is `{where[:80]}`, write host:port, for example `mail.example.com:587`"
        )
    sender = environ.get("SLUICEGATE_SMTP_FROM", "").strip()
    listed = (one.strip() for one in environ.get("SLUICEGATE_SMTP_TO", "").split(","))
    recipients = tuple(one for one in listed if one)
    if "@" not in sender or not recipients or any("@" not in one or "\n" in one for one in recipients):
        raise Terminal(
            "SLUICEGATE_SMTP needs SLUICEGATE_SMTP_FROM and SLUICEGATE_SMTP_TO, set both to addresses"
        )
    if len(recipients) > RECIPIENTS_MAX:
        raise Terminal(
            f"SLUICEGATE_SMTP_TO has {len(recipients)} addresses, at most {RECIPIENTS_MAX}: use a list's"
        )
    tls = environ.get("SLUICEGATE_SMTP_TLS", "starttls").strip().lower()
    if tls not in TLS:
        raise Terminal(f"SLUICEGATE_SMTP_TLS is `{tls[:40]}`, set it to one of {', '.join(TLS)}")
    user, path = (
        environ.get("SLUICEGATE_SMTP_USER", ""),
        environ.get("SLUICEGATE_SMTP_PASSWORD_FILE", "").strip(),
    )
    password = _secret(path, "SLUICEGATE_SMTP_PASSWORD_FILE") if path else ""
    if user and tls == "none" and host not in ("127.0.0.1", "localhost", "::1"):
        raise Terminal(
            "SLUICEGATE_SMTP_USER would send its password in the clear, set SLUICEGATE_SMTP_TLS to starttls"
        )
    return MailSettings(host.strip("[]"), int(port), sender, recipients, tls, user, password)


def _secret(path: str, name: str) -> str:
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Terminal(f"{name} `{path}` cannot be read: {type(error).__name__}, correct it") from error
    if not 0 < len(text) <= SECRET_MAX or "\n" in text:
        raise Terminal(f"the file `{path}` of {name} holds no secret of one line, correct it")
    return text
