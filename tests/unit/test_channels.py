"""Channels against real local servers: told once, tried again within a bound, given up, secrets by file."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from sluicegate.executors.egress import Egress
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.watch.channels import (
    MailChannel,
    MailSettings,
    SlackChannel,
    WebhookChannel,
    _Plain,
    channels_from,
    mail_from,
    message_of,
    text_of,
)
from sluicegate.streams.watch.webhook import ATTEMPTS, Webhook, WebhookSettings

from tests.unit.test_webhook import SECRET, Hook

ALARM: dict[str, object] = {
    "env": "prod", "rule": "refused", "stream": "refused agent=x", "action": "rollback", "said": "of agent `x`: 15 % of 132",
}  # fmt: skip


class Mailbox:
    """An SMTP server that answers DATA with codes in turn, the last one for ever, and keeps what it took."""

    def __init__(self, *codes: int, rcpt: int = 250) -> None:
        self.codes, self.rcpt = list(codes) or [250], rcpt
        self.got: list[Message] = []
        self.logins: list[str] = []
        self.sessions = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1

        async def say(line: str) -> None:
            writer.write(line.encode() + b"\r\n")
            await writer.drain()

        await say("220 test")
        while line := (await reader.readline()).decode().strip():
            verb = line.split()[0].upper()
            if verb == "EHLO":
                await say("250-test\r\n250 AUTH PLAIN")
            elif verb == "AUTH":
                self.logins.append(base64.b64decode(line.split()[2]).decode())
                await say("235 ok")
            elif verb == "RCPT":
                await say(f"{self.rcpt} so")
            elif verb == "DATA":
                await say("354 go on")
                data = b""
                while not data.endswith(b"\r\n.\r\n"):
                    data += await reader.readline()
                code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
                if code == 250:
                    self.got.append(message_from_bytes(data))
                await say(f"{code} so")
            elif verb == "QUIT":
                await say("221 bye")
                break
            else:
                await say("250 ok")
        writer.close()

    async def __aenter__(self) -> Mailbox:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()


def mailed(box: Mailbox, *, user: str = "", port: int = 0) -> bool:
    async def pause(_: float) -> None:
        await asyncio.sleep(0)

    async def main() -> bool:
        async with box:
            settings = MailSettings(
                "127.0.0.1", port or box.port, "gate@a.example", ("ops@a.example",), "none", user, "pw"
            )
            return await MailChannel(settings, sleep=pause, timeout_s=5).tell("ab12", ALARM)

    return asyncio.run(main())


def test_a_mail_says_what_and_what_to_do() -> None:
    box = Mailbox()
    assert mailed(box, user="gate")
    [message] = box.got
    assert message["Subject"] == "[sluicegate prod] alarm refused agent=x"
    assert message["Message-ID"] == "<alarm-ab12@sluicegate.prod>"
    body = message.get_payload()
    assert "of agent `x`: 15 % of 132" in str(body) and "sluicegate alarms show ab12" in str(body)
    assert box.logins == ["\0gate\0pw"]


def test_later_is_tried_again_and_never_is_given_up() -> None:
    box = Mailbox(451, 421, 250)
    assert mailed(box) and len(box.got) == 1
    box = Mailbox(451)
    assert not mailed(box) and box.sessions == ATTEMPTS
    box = Mailbox(554)
    assert not mailed(box) and box.sessions == 1
    box = Mailbox(rcpt=550)
    assert not mailed(box) and box.sessions == 1


def test_a_mail_server_that_is_away() -> None:
    assert not mailed(Mailbox(), port=1)


def test_a_name_cannot_write_headers_or_marks() -> None:
    evil = {**ALARM, "stream": "x\r\nBcc: all@a.example", "said": "<!channel> & <http://evil|ok>"}
    settings = MailSettings("h", 25, "a@b", ("c@d",))
    message = message_of(settings, "1", evil)
    assert "Bcc" not in message
    assert "\n" not in message["Subject"]

    async def main() -> bytes:
        async with Hook(200) as hook:
            slack = SlackChannel(_Plain(WebhookSettings(hook.url, b""), Egress(hook.place), pause_s=0.001))
            assert await slack.tell("1", evil)
            await slack.close()
            [(headers, body)] = hook.got
            assert "X-Sluicegate-Signature" not in headers
            return body

    text = json.loads(asyncio.run(main()))["text"]
    assert "<" not in text and "&lt;!channel&gt; &amp;" in text


def test_the_webhook_gets_the_evidence_signed() -> None:
    async def main(statuses: Sequence[int]) -> tuple[bool, Hook]:
        async with Hook(*statuses) as hook:
            one = WebhookChannel(
                Webhook(WebhookSettings(hook.url, SECRET), Egress(hook.place), pause_s=0.001)
            )
            told = await one.tell("ab12", {**ALARM, "evidence": {"log_e": 17.1}})
            await one.close()
            return told, hook

    told, hook = asyncio.run(main([503, 200]))
    assert told and len(hook.got) == 2
    headers, body = hook.got[-1]
    assert json.loads(body)["evidence"] == {"log_e": 17.1}
    assert headers["X-Sluicegate-Event"] == "ab12" and headers["X-Sluicegate-Signature"].startswith("t=")
    assert not asyncio.run(main([500]))[0]


def test_what_was_not_done_is_told() -> None:
    text = text_of("1", {**ALARM, "action": "notify", "held_back": "rollback: 3 automatic actions wait"})
    assert "nothing was done by itself" in text and "not done: rollback: 3 automatic" in text


def test_from_the_environment(tmp_path: Path) -> None:
    secret = tmp_path / "slack"
    secret.write_text("https://hooks.example.com/T/B/x\n")
    password = tmp_path / "smtp"
    password.write_text("pw\n")
    environ = {
        "SLUICEGATE_SLACK_URL_FILE": str(secret), "SLUICEGATE_SMTP": "mail.example.com:587",
        "SLUICEGATE_SMTP_FROM": "a@b.example", "SLUICEGATE_SMTP_TO": "c@d.example, e@f.example",
        "SLUICEGATE_SMTP_USER": "gate", "SLUICEGATE_SMTP_PASSWORD_FILE": str(password),
    }  # fmt: skip

    async def made(values: dict[str, str]) -> list[str]:
        channels = channels_from(values, Egress("hooks.example.com"))
        for channel in channels:
            await channel.close()
        return [channel.name for channel in channels]

    assert asyncio.run(made(environ)) == ["slack", "e-mail"]
    assert asyncio.run(made({})) == []
    mail = mail_from(environ)
    assert mail is not None and mail.recipients == ("c@d.example", "e@f.example")
    assert (mail.tls, mail.password) == ("starttls", "pw") and "pw" not in repr(mail)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SLUICEGATE_SMTP": "mail.example.com"}, "write host:port"),
        ({"SLUICEGATE_SMTP_TO": ""}, "set both to addresses"),
        ({"SLUICEGATE_SMTP_TO": "ops"}, "set both to addresses"),
        ({"SLUICEGATE_SMTP_TO": ",".join(["a@b"] * 21)}, "at most 20"),
        ({"SLUICEGATE_SMTP_TLS": "maybe"}, "set it to one of"),
        ({"SLUICEGATE_SMTP_TLS": "none", "SLUICEGATE_SMTP_USER": "u"}, "in the clear"),
        ({"SLUICEGATE_SMTP_PASSWORD_FILE": "/no/such"}, "cannot be read"),
        ({"SLUICEGATE_SLACK_URL_FILE": "/no/such"}, "cannot be read"),
    ],
)
def test_what_is_set_wrongly_is_said(changed: dict[str, str], said: str) -> None:
    environ = {"SLUICEGATE_SMTP": "mail.example.com:587", "SLUICEGATE_SMTP_FROM": "a@b.example",
               "SLUICEGATE_SMTP_TO": "c@d.example", **changed}  # fmt: skip
    with pytest.raises(Terminal, match=said):
        channels_from(environ, Egress(""))


def test_a_secret_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "slack"
    for text in ("", "a\nb\n", "ftp://x"):
        path.write_text(text)
        with pytest.raises(Terminal):
            channels_from({"SLUICEGATE_SLACK_URL_FILE": str(path)}, Egress(""))
