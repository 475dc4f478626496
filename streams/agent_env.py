"""What an agent's environment should not hold: keys of providers and tools, the broker's credentials, a way round the gate.

    names of variables · shapes of values · files the variables name · the state directory · connections that open

Reads an environment as it is and says of a value only what it looks like and how long it is, never the value. It proves
nothing: a key may lie anywhere. Changes nothing. Next: `doctor.py`, docs/bypass.md.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sluicegate.processors.guardrails import detectors

CONNECT_LIMIT_S = 2.0
"""For one connection; all are tried at once. A firewall that drops is as good as one that refuses."""
MAX_HOSTS = 64
"""Tried of a release, and of providers; more are left out."""
MAX_KEY_FILES = 20
"""Named one by one."""

PROVIDERS = (
    "api.openai.com:443", "api.anthropic.com:443", "generativelanguage.googleapis.com:443", "api.mistral.ai:443",
    "bedrock-runtime.us-east-1.amazonaws.com:443", "openrouter.ai:443",
)  # fmt: skip
METADATA = "169.254.169.254:80"
"""Where clouds hand credentials to whoever asks from inside."""

_OWN = re.compile(
    r"SLUICEGATE_(GATEWAY|KEY|ENV|LOCAL|HOME|ARTIFACTS|KAFKA_(SECURITY_PROTOCOL|SASL_MECHANISM|CAFILE)|PARTITIONS)"
)
_BROKER = re.compile(r"SLUICEGATE_KAFKA(_(USERNAME|PASSWORD|PASSWORD_FILE|CERTFILE|KEYFILE))?")
_ROLE = re.compile(
    r"SLUICEGATE_(TOOL_\w+|SECRET_\w+|CLICKHOUSE|OPERATOR_KEY|SENTINEL_KEY|CALLBACK_KEY|SQL_DATABASES|SMTP_\w+|WEBHOOK_\w+)"
)
_PROVIDER = re.compile(
    r"(OPENAI|ANTHROPIC|AZURE_OPENAI|GOOGLE|GEMINI|MISTRAL|COHERE|GROQ|TOGETHER|FIREWORKS|DEEPSEEK|XAI|OPENROUTER|HUGGINGFACE|HF|"
    r"REPLICATE|PERPLEXITY|CEREBRAS|VOYAGE|LANGSMITH|LANGCHAIN)_(API_)?(KEY|TOKEN)|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|"
    r"AWS_WEB_IDENTITY_TOKEN_FILE|GOOGLE_APPLICATION_CREDENTIALS|AWS_BEARER_TOKEN_BEDROCK|HUGGING_FACE_HUB_TOKEN"
)  # fmt: skip
_TOOL = re.compile(
    r"\w*(API_?KEY|ACCESS_?KEY|SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|PRIVATE_?KEY|CREDENTIALS?|CONNECTION_STRING|DSN)(_FILE)?"
)
_PROXY = frozenset(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"))


@dataclass(frozen=True, slots=True)
class Found:
    """One thing. `grave`: with it the agent can act past the gate; else it may."""

    what: str
    where: str
    grave: bool
    todo: str


def look(environ: Mapping[str, str]) -> list[Found]:
    """The variables that hold, or name, what an agent should not have."""
    found = [_variable(name, value) for name, value in sorted(environ.items()) if value]
    return [f for f in found if f is not None]


def _variable(name: str, value: str) -> Found | None:
    upper, about = name.upper(), shape(value)
    if upper == "SLUICEGATE_LOCAL":
        todo = "unset it outside of development: set SLUICEGATE_GATEWAY and SLUICEGATE_KEY"
        return Found("decides for itself", name, True, todo)
    if upper in _PROXY:
        return Found("a proxy", f"{name}, {about}", False, "let it reach the gateway only, or unset it")
    if _OWN.fullmatch(upper):
        return None  # the agent's own key to the gateway is the one it should have
    if _BROKER.fullmatch(upper):
        todo = "for an agent that is not trusted: unset it, and set SLUICEGATE_GATEWAY and SLUICEGATE_KEY"
        return Found("a way to the broker", f"{name}, {about}", upper != "SLUICEGATE_KAFKA", todo)
    if _ROLE.fullmatch(upper):
        return Found(
            "what belongs to a role", f"{name}, {about}", True, "set it for executors and workers only"
        )
    if _PROVIDER.fullmatch(upper):
        todo = "unset it: give the key to the executor and ask for the model by its name in the release"
        return Found("a provider's key", f"{name}, {about}", True, todo)
    if _secret(value):
        return Found("a secret", f"{name}, {about}", True, "unset it: tools' keys are the executor's")
    if _TOOL.fullmatch(upper):
        return Found(
            "perhaps a key", f"{name}, {about}", False, "unset it unless it opens nothing that a tool opens"
        )
    return None


def shape(value: str) -> str:
    """What a value looks like, without any of it."""
    kind = (
        "a secret's format"
        if _secret(value)
        else "a url"
        if "://" in value
        else "a file"
        if _is_file(value)
        else "text"
    )
    return f"{kind} of {len(value)} characters"


def _secret(value: str) -> bool:
    return detectors.detects("secret", value)


def _is_file(value: str) -> bool:
    try:
        return value.startswith("/") and Path(value).is_file()
    except (OSError, ValueError):
        return False


def keys_in(home: Path) -> list[Found]:
    """Keys of others that this process can read in the state directory."""
    found = []
    try:
        files = sorted(p for p in (home / "keys").iterdir() if p.is_file())
    except OSError:
        return []
    for path in files[:MAX_KEY_FILES]:
        if path.name == "mac.json":
            todo = (
                "move it: with it anybody speaks as pipeline and executor; an agent needs its own key at most"
            )
            found.append(Found("the roles' keys", str(path), True, todo))
        else:
            found.append(
                Found("a signing key", str(path), False, "leave the agent its own and move the others")
            )
    return found


def urls_of(files: Mapping[str, str]) -> list[str]:
    """Where a release's tools and models are, as its contracts say. What cannot be read names no host."""
    found = []
    for name, text in files.items():
        if name.startswith("contracts/"):
            try:
                url = json.loads(text)["x-sluicegate"]["executor"]["url"]
            except (ValueError, KeyError, TypeError):
                continue
            found.append(str(url))
    return found


def hosts_of(urls: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """host:port of a release's tools and models, as far as they can be told here, and the providers' own."""
    found = dict.fromkeys((METADATA, *PROVIDERS))
    for url in urls:
        filled = re.sub(r"\$\{(\w+)\}", lambda m: environ.get(f"SLUICEGATE_TOOL_{m[1]}", ""), url)
        try:
            parts = urlsplit(filled)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            continue
        if parts.scheme in ("http", "https") and parts.hostname:
            found[f"{parts.hostname}:{port}"] = None
    return list(found)[:MAX_HOSTS]


async def reached(hosts: Sequence[str]) -> Iterator[Found]:
    """Those that a connection could be opened to; nothing is sent. Offline it takes `CONNECT_LIMIT_S`."""
    opened = await asyncio.gather(*(_opens(host) for host in hosts))
    todo = "let the agent reach the gateway only: a NetworkPolicy or a firewall, docs/bypass.md"
    return (
        Found("an open way out", f"{host} answers", True, todo)
        for host, yes in zip(hosts, opened, strict=True)
        if yes
    )


async def _opens(host: str) -> bool:
    name, _, port = host.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_LIMIT_S):
            _, writer = await asyncio.open_connection(name, int(port))
    except (OSError, TimeoutError, ValueError, UnicodeError):
        return False
    writer.close()
    return True


def read_environ(text: str) -> dict[str, str]:
    """An environment out of a file: `NAME=value` lines, or what /proc/PID/environ holds."""
    pieces = text.split("\0") if "\0" in text else text.splitlines()
    found = {}
    for piece in pieces:
        line = piece.strip().removeprefix("export ")
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name.strip()] = value.strip().strip("'\"")
    return found
