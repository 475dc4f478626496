"""A gateway on a gate (`gate.py`) for the integration tests of its doors, and a client of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import jwt
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.gateway.people import REVIEW
from sluicegate.gateway.server import Gateway
from sluicegate.processors.control.api_keys import digest_of, token_of
from sluicegate.processors.control.tokens import public_keys
from sluicegate.schemas.records import Dispatch
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.settings import Settings

from tests.driver import AGENT, OTHER_AGENT, PERSON, release_files
from tests.executor_fakes import FakeAdapter
from tests.integration.gate import Gate, Loop, running
from tests.unit import test_tokens as tokens

FOREVER = 2**53 - 1
MODEL = {
    "name": "model.small",
    "description": "A test's model.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "messages": {"type": "array", "items": {"type": "object"}},
            "max_tokens": {"type": "integer"},
            "temperature": {"type": "number"},
            "tools": {"type": "array", "items": {"type": "object"}},
            "tool_choice": {},
        },
        "required": ["messages"],
    },
    "x-sluicegate": {
        "version": "1",
        "class": "read_only",
        "executor": {"kind": "model", "url": "http://models.invalid/v1", "model": "small-1"},
    },
}
POLICY = """
@id("model-use")
permit (principal, action == Action::"model.small", resource) unless { context.args has max_tokens && context.args.max_tokens == 77 };
@id("model-ask")
@hold("a person reads it first")
permit (principal, action == Action::"model.small", resource) when { context.args has max_tokens && context.args.max_tokens == 77 };
@id("model-not-that")
forbid (principal, action == Action::"model.small", resource) when { context.args has max_tokens && context.args.max_tokens > 1000 };
"""

MODEL_FILES = {"contracts/model.small.json": json.dumps(MODEL), "policies/model.cedar": POLICY}
ControlEvent = tuple[str, dict[str, object]]


def key_of(key_id: str, agent: str, *scopes: str, rate: int = 10_000) -> tuple[str, dict[str, object]]:
    """A control event; its secret is `secret-<id>`."""
    return (
        "api_key.added",
        {
            "key_id": key_id, "sha256": digest_of(f"secret-{key_id}"), "agent_id": agent, "scopes": list(scopes),
            "rate_per_s": rate, "not_after": FOREVER,
        },
    )  # fmt: skip


PEOPLE = (
    "people.registered",
    {
        "people": [
            {"person_id": PERSON, "name": "Ana", "roles": ["desk"]},
            {"person_id": "ben", "name": "Ben", "roles": ["desk"]},
            {"person_id": "cem", "name": "Cem", "roles": ["other"]},
        ]
    },
)
ISSUER = (
    "issuer.added",
    {
        "issuer": tokens.ISSUER,
        "audience": tokens.AUDIENCE,
        "keys": public_keys({"keys": [tokens.jwk("EdDSA", "k-EdDSA")]}),
    },
)


def person_token(person: str = PERSON, scope: str = REVIEW) -> str:
    """What an issuer says of somebody."""
    now = int(time.time())
    said = {"iss": tokens.ISSUER, "aud": tokens.AUDIENCE, "sub": person, "exp": now + 300, "scope": scope}
    return jwt.encode(said, tokens.private("EdDSA"), "EdDSA", {"kid": "k-EdDSA"})  # type: ignore[arg-type]


KEYS = [
    PEOPLE,
    ISSUER,
    key_of("people", AGENT, "agent", "person"),
    key_of("k1", AGENT, "agent", "channel"),
    key_of("k2", OTHER_AGENT, "agent"),
    key_of("k3", AGENT, "agent"),
    key_of("slow", AGENT, "agent", rate=1),
    key_of("gone", AGENT, "agent"),
    key_of("lost", "nobody", "agent"),
    ("api_key.revoked", {"key_id": "gone"}),
]


def signing_keys(home: Path) -> list[tuple[str, dict[str, object]]]:
    """Keys that lie in a home, and the control events that make them good: for agents, the gateway's channel, people and the roles inside."""
    events = []
    for principal, role in (
        (AGENT, "agent"),
        (OTHER_AGENT, "agent"),
        ("gateway", "channel"),
        (PERSON, "person"),
        ("ben", "person"),
    ):
        kid = key_files.new_kid(principal)
        made = key_files.create(key_files.default_path(home, kid), kid)
        events.append(_signs(kid, principal, role, "Ed25519", made.public.hex()))
    for role in ("executor", "pipeline"):
        key_files.create_mac(home, f"{role}-1")
        events.append(_signs(f"{role}-1", role, role, "HS256", ""))
    return events


def _signs(kid: str, principal: str, role: str, alg: str, public: str) -> tuple[str, dict[str, object]]:
    return (
        "key.added",
        {
            "kid": kid, "principal": principal, "role": role, "alg": alg, "public": public, "not_before": 0, "not_after": FOREVER,
        },
    )  # fmt: skip


async def completion(dispatch: Dispatch) -> Answer:
    asked = json.loads(dispatch.arguments)
    said = asked["messages"][-1]["content"]
    if said == "broken":
        return Failed("refused_by_tool", "it broke")
    if asked.get("tools"):
        arguments = {"city": said}
        call = {"id": "call_7", "name": asked["tools"][0]["function"]["name"], "arguments": arguments}
        return Finished(
            json.dumps(
                {
                    "text": "", "tool_calls": [call], "finish_reason": "tool_calls", "served_model": "small-1-2026",
                    "usage": {"input_tokens": 3, "output_tokens": 4},
                }
            ).encode()
        )  # fmt: skip
    return Finished(
        json.dumps(
            {
                "text": said.upper(), "tool_calls": [], "finish_reason": "stop", "served_model": "small-1-2026",
                "usage": {"input_tokens": 3, "output_tokens": 4},
            }
        ).encode()
    )  # fmt: skip


WAITING: list[asyncio.Event] = []
"""What a model call that says `slowly` waits for."""


async def slow_completion(dispatch: Dispatch) -> Answer:
    if json.loads(dispatch.arguments)["messages"][-1]["content"] == "slowly":
        WAITING.append(asyncio.Event())
        await WAITING[-1].wait()
    return await completion(dispatch)


@contextmanager
def serving(
    settings: Settings, *, files: dict[str, str] | None = None, control: Sequence[ControlEvent] = (), signing: str = "dev"
) -> Iterator[Served]:  # fmt: skip
    """A gate with the model and its keys, besides what is given, and a gateway on it."""
    with running(
        settings,
        files={**release_files(), **MODEL_FILES, **(files or {})},
        control=[*KEYS, *control],
        adapters={"model": FakeAdapter(slow_completion)},
        signing=signing,
    ) as (loop, gate):
        gateway = Gateway(settings)
        loop.run(gateway.start())
        try:
            yield Served(loop, gate, gateway)
        finally:
            loop.run(gateway.stop())


class Served:
    """A gate, its gateway, and clients of it."""

    def __init__(self, loop: Loop, gate: Gate, gateway: Gateway) -> None:
        self.loop, self.gate, self.gateway = loop, gate, gateway

    def token(self, key: str = "k1", env: str = "") -> str:
        return token_of(env or self.gate.settings.env, key, f"secret-{key}")

    async def call(
        self, method: str, path: str, body: object = None, *, key: str = "k1", token: str | None = None, raw: bytes | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, object], dict[str, str]]:  # fmt: skip
        """One request: status, JSON, headers."""
        given = {"Authorization": f"Bearer {self.token(key) if token is None else token}", **headers}
        async with (
            aiohttp.ClientSession() as client,
            client.request(
                method, self.gateway.url + path, data=raw if raw is not None else json.dumps(body or {}), headers=given
            ) as answer,
        ):  # fmt: skip
            return (
                answer.status,
                json.loads(await answer.read()),
                {k.lower(): v for k, v in answer.headers.items()},
            )

    async def session(self, key: str = "k1", **body: object) -> str:
        status, opened, _ = await self.call("POST", "/v1/sessions", {"goal": "a test", **body}, key=key)
        assert status == 201, opened
        return str(opened["session_id"])
