"""Asking the gate once: encode, sign, publish, wait for the reply.

Says of every failure whether the record may have been published, which decides whether a call may be repeated.
Never retries, and never waits beyond the time-out it was given. Read next: `sdk/transport.py` (how records
travel), `sdk/replies.py` (how replies find whoever waits), `sdk/in_process.py` (calls that run here).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote

from sluicegate.processors.conform import Misfit, parse
from sluicegate.schemas import codec, signing
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.schemas.kinds import TOOL_CALL
from sluicegate.schemas.records import Intent, Message, Receipt, Reply
from sluicegate.schemas.requests import request_digest
from sluicegate.schemas.topics import MAX_ARGUMENT_BYTES, MAX_INTENT_BYTES
from sluicegate.streams.lanes.content_store import Keep
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.errors import Failed, InDoubt, NotReleased, Refused, Unanswered
from sluicegate.streams.sdk.feeds import Feeds
from sluicegate.streams.sdk.in_process import Errand, Errands, LocalFunction, Runner, now_us
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import RESTS, Held, Inbox, answer
from sluicegate.streams.sdk.standing import MAX_WATCHED
from sluicegate.streams.sdk.transport import Headers, Transport

RECEIPT_LIMIT_S = 30.0
"""For publishing what a local function did; after it the ledger holds the call in doubt."""
CONFLICT_S = 2.0
"""For the ledger to say that an id is of another request, where nobody waits for the call's end."""
ENVELOPE_BYTES = 16 * 1024
"""More than ids, goal, trace and signature of a record take: arguments below the limit by that much always fit."""
MAX_ID_CHARS = 256
"""Ids are 1 to 256 printable characters, as the pipeline has it."""

Key = tuple[str, bytes]
"""Key id and the 32 bytes of an Ed25519 private key."""

_KINDS = {
    Intent: b"ai.sluicegate.intent",
    Message: b"ai.sluicegate.message",
    Receipt: b"ai.sluicegate.receipt",
}

log = logging.getLogger("sluicegate.client")


class Asker:
    """What one connected agent says, and the replies to it.

    Args:
        env: the environment, for audiences and event sources.
        agent_key: signs `intents`; None = unsigned.
        channel_key: signs `messages`; None = unsigned.
        functions: local functions by tool; may grow later.
        errands: shared by the askers of one process, which are many; None = its own.
        watched: how many open sessions it knows the release of.
        keep: stores arguments that are too large for a record; None = they are refused.
    """

    def __init__(
        self,
        agent_id: str,
        env: str,
        transport: Transport,
        agent_key: Key | None,
        channel_key: Key | None,
        functions: Mapping[str, LocalFunction],
        errands: Errands | None = None,
        watched: int = MAX_WATCHED,
        keep: Keep | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.transport = transport
        self.runner = Runner(agent_id, self._report, errands)
        self.inbox = Inbox(agent_id, self.runner.permit, watched)
        self.feeds = Feeds(agent_id)
        self._env = env
        self._keys = {"intents": agent_key, "messages": channel_key}
        self._functions, self._keep = functions, keep
        self._source = f"/{env}/agents/{quote(agent_id, safe='')}".encode()

    def sign_with(self, agent_key: Key | None, channel_key: Key | None) -> None:
        """From now on sign with these; without a channel's key the one of before stays."""
        self._keys["intents"] = agent_key
        self._keys["messages"] = channel_key or self._keys["messages"]

    async def call_tool(
        self,
        session_id: str,
        tool: str,
        arguments: Mapping[str, Json],
        timeout_s: float,
        intent_id: str | None,
        traceparent: str,
        function: LocalFunction | None,
        kind: str = TOOL_CALL,
        request: str = "",
    ) -> Json | Held:
        """See `Session.call_tool` and `call_model`. `function` runs the call if it is permitted in process.

        `request`: digest of what is asked for, by which the same id may be asked again: it gets the first one's answer.
        """
        intent_id = valid_id(uuid.uuid4().hex if intent_id is None else intent_id)
        data, now = _dumped(tool, arguments, intent_id), now_us()
        intent = Intent(
            intent_id, self.agent_id, session_id, kind, tool, data, now, now + int(timeout_s * 1e6),
            traceparent=traceparent, request=request,
        )  # fmt: skip
        intent = await self._by_reference(intent, timeout_s)
        errand = Errand(tool, session_id, function or self._functions.get(tool))
        self.runner.own(intent_id, errand)
        try:
            reply = await self.ask("intents", intent, intent_id, timeout_s)
        except BaseException as error:
            errand.wanted = False
            if isinstance(error, NotReleased) and not error.published:
                self.runner.forget(intent_id)
            raise
        if reply.status not in RESTS:
            self.runner.forget(intent_id)
        try:
            return answer(reply)
        except (Failed, InDoubt) as ended:
            raise ended from errand.error

    async def submit(
        self,
        session_id: str,
        tool: str,
        arguments: Mapping[str, Json],
        begin_s: float,
        intent_id: str | None,
        limit_s: float,
        request: str = "",
    ) -> str:
        """See `Session.submit`. `request`: as for `call_tool`; a conflict within `CONFLICT_S` is told."""
        intent_id = valid_id(uuid.uuid4().hex if intent_id is None else intent_id)
        now = now_us()
        intent = Intent(
            intent_id, self.agent_id, session_id, TOOL_CALL, tool, _dumped(tool, arguments, intent_id), now,
            now + int(begin_s * 1e6), request=request,
        )  # fmt: skip
        intent = await self._by_reference(intent, limit_s)
        if request:
            await self._look(intent, intent_id, limit_s)
            return intent_id
        value, handed_over = self._encode("intents", intent, intent_id), False
        try:
            async with asyncio.timeout(limit_s):
                acknowledged = await self.transport.send("intents", value, self._headers(intent, intent_id))
                handed_over = True
                await acknowledged()
        except (TimeoutError, Retryable) as error:
            if handed_over:
                raise unanswered(intent_id, limit_s) from error
            raise unavailable(f"kafka took nothing within {limit_s:g} s", intent_id, error) from error
        except Terminal as error:
            raise unavailable("nothing was published", intent_id, error) from error
        return intent_id

    async def _by_reference(self, intent: Intent, limit_s: float) -> Intent:
        """The intent as it is, or, where it is too large for a record, with its arguments in the artifact store."""
        if self._keep is None or len(intent.arguments) <= MAX_INTENT_BYTES - ENVELOPE_BYTES:
            return intent
        try:
            self._encode("intents", intent, intent.intent_id)
            return intent
        except Refused as error:
            if error.reason != "too_large":
                raise
        if len(intent.arguments) > MAX_ARGUMENT_BYTES:
            detail = f"the arguments have {len(intent.arguments)} bytes, at most {MAX_ARGUMENT_BYTES} are taken: pass a reference"
            raise refused("too_large", intent.intent_id, detail)
        parsed = parse(intent.arguments)  # canonical: then they are offered to executors as they are stored
        canonical = intent.arguments if isinstance(parsed, Misfit) else parsed[1]
        try:
            async with asyncio.timeout(limit_s):
                stored = await self._keep(canonical)
        except (TimeoutError, Retryable, Terminal, OSError) as error:
            said = f"the arguments could not be stored ({error or type(error).__name__}): set SLUICEGATE_ARTIFACTS as the workers have it"
            raise refused("content_unavailable", intent.intent_id, said) from error
        return replace(intent, arguments=b"", arguments_ref=stored)

    async def _look(self, intent: Intent, intent_id: str, limit_s: float) -> None:
        """Publish, and wait a moment for the word that the id is of another request. Raises as `ask`."""
        try:
            reply = await self.ask("intents", intent, intent_id, min(limit_s, CONFLICT_S))
        except Unanswered:
            return  # it is under way
        if reply.reason == "id_conflict":
            answer(reply)

    async def ask(self, topic: str, record: Intent | Message, intent_id: str, timeout_s: float) -> Reply:
        """Publish and wait for the first reply that ends the intent or lets it rest.

        Raises `Refused` when nothing was published, `Unanswered` when it may have been.
        """
        value = self._encode(topic, record, intent_id)
        handed_over = False
        digest = request_digest(b"", record.request) if record.request else b""
        with self.inbox.expecting(intent_id, own=True, digest=digest, again=bool(record.request)) as waiting:
            try:
                async with asyncio.timeout(timeout_s):
                    acknowledged = await self.transport.send(topic, value, self._headers(record, intent_id))
                    handed_over = True
                    try:
                        await acknowledged()
                    except Retryable as error:  # Kafka may have it: the reply will tell
                        log.info("intent `%s`: %s", intent_id, error)
                    return await waiting.end
            except (TimeoutError, Retryable) as error:
                if waiting.rest is not None:
                    return waiting.rest
                if handed_over:
                    raise unanswered(intent_id, timeout_s) from error
                raise unavailable(f"kafka took nothing within {timeout_s:g} s", intent_id, error) from error
            except Terminal as error:
                raise unavailable("nothing was published", intent_id, error) from error

    async def result(self, intent_id: str, timeout_s: float) -> Json | Held:
        """See `AgentClient.result`."""

        def look(key: bytes | None, value: bytes) -> bool:
            reply = self.inbox.read(key, value)
            if reply is not None and reply.intent_id == intent_id:
                waiting.offer(reply)
            return waiting.end.done()

        with self.inbox.expecting(
            intent_id, own=False
        ) as waiting:  # first this, so that no reply falls between
            try:
                async with asyncio.timeout(timeout_s):
                    await self.transport.replay(look, intent_id)
                    reply = await waiting.end
            except (TimeoutError, Retryable) as error:
                if waiting.rest is None:
                    raise no_answer_found(intent_id, timeout_s) from error
                reply = waiting.rest
            except Terminal as error:
                raise unavailable("the replies cannot be read", intent_id, error) from error
        if reply.status not in RESTS:
            self.runner.forget(intent_id)
        return answer(reply)

    async def hand_over(self, topic: str, record: Intent | Message, intent_id: str, timeout_s: float) -> None:
        """Publish without waiting for anything that comes back. Never raises for a Kafka that is away."""
        try:
            async with asyncio.timeout(timeout_s):
                value = self._encode(topic, record, intent_id)
                await self.transport.send(topic, value, self._headers(record, intent_id))
        except (TimeoutError, SluicegateError) as error:
            log.info("`%s` was not published: %s", intent_id, error)

    async def _report(self, receipt: Receipt) -> None:
        value = self._encode("intents", receipt, receipt.intent_id)
        try:
            async with asyncio.timeout(RECEIPT_LIMIT_S):
                acknowledged = await self.transport.send(
                    "intents", value, self._headers(receipt, receipt.intent_id)
                )
                await acknowledged()
        except TimeoutError as error:
            raise Retryable(f"kafka did not confirm it within {RECEIPT_LIMIT_S:g} s") from error

    def _encode(self, topic: str, record: Intent | Message | Receipt, intent_id: str) -> bytes:
        try:
            value = codec.encode(record)
        except ValueError as error:  # lone surrogates; a time-out beyond 64 bits
            raise refused(
                "malformed_record", intent_id, f"the request does not fit its schema: {error}"
            ) from error
        key = self._keys[topic]
        if key is not None:
            value = signing.sign(value, key[0], "Ed25519", key[1], f"{self._env}/{topic}", now_us())
        if len(value) > MAX_INTENT_BYTES:
            detail = (
                f"the record has {len(value)} bytes, at most {MAX_INTENT_BYTES} are taken: pass a reference"
            )
            raise refused("too_large", intent_id, detail)
        return value

    def _headers(self, record: Intent | Message | Receipt, intent_id: str) -> Headers:
        """CloudEvents 1.0 binary mode, and the W3C trace context."""
        headers: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", intent_id.encode()),
            ("ce_source", self._source),
            ("ce_type", _KINDS[type(record)]),
            ("content-type", b"application/avro"),
        ]
        if not isinstance(record, Receipt) and record.traceparent:
            headers.append(("traceparent", record.traceparent.encode()))
        return headers


def _dumped(tool: str, arguments: Mapping[str, Json], intent_id: str) -> bytes:
    """The arguments as JSON. Raises `Refused`."""
    try:
        return client_json.dumps(dict(arguments))
    except ValueError as error:
        raise refused(
            "arguments_not_json", intent_id, f"the arguments of `{tool}` are not JSON: {error}"
        ) from error


def is_id(text: str) -> bool:
    """Whether the pipeline takes it as an identifier."""
    return 0 < len(text) <= MAX_ID_CHARS and text.isprintable()


def valid_id(text: str) -> str:
    """`text`; raises `Refused` (`bad_identifier`) when it is no identifier."""
    if not is_id(text):
        detail = f"the id `{text[:80]}` is not 1 to {MAX_ID_CHARS} printable characters: choose another"
        raise refused("bad_identifier", text[:80], detail)
    return text


def refused(reason: str, intent_id: str, detail: str) -> Refused:
    """A refusal of this process: nothing was published."""
    return Refused(reason, intent_id=intent_id, for_developer=detail, published=False)


def unavailable(what: str, intent_id: str, error: Exception) -> Refused:
    """Nothing was published, because Kafka is away or refuses us."""
    why = f" ({error})" if str(error) else ""
    return refused("unavailable", intent_id, f"{what}{why}: start Kafka and the workers with `sluicegate up`")


def unanswered(intent_id: str, timeout_s: float) -> Unanswered:
    """It may be published, and nobody answered."""
    return Unanswered(
        "unavailable",
        intent_id=intent_id,
        for_model="No answer came in time, and the action may still happen: do not repeat it.",
        for_developer=f"it was published but not answered within {timeout_s:g} s: ask "
        f'`agent.result("{intent_id}")`, and look whether workers run and accept what this agent signs',
    )


def no_answer_found(intent_id: str, timeout_s: float) -> Unanswered:
    """Somebody asks how a call ended, and no answer to one of this id was found. Whether there was such a call nobody here knows."""
    return Unanswered(
        "unavailable",
        intent_id=intent_id,
        for_model="No answer to a call of this id was found: look whether the id is right. If it is, the action may still happen: "
        "do not repeat it, ask for its end again.",
        for_developer=f"no answer was found within {timeout_s:g} s: this agent asked nothing by this id, or it is not answered "
        f"yet, or was so long ago that its reply is gone; the ledger knows: `sluicegate explain {intent_id}`",
    )
