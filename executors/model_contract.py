"""A model's contract: its executor object compiled, and the request it makes of a call.

    {"kind": "model", "url": "https://api.openai.com/v1", "model": "gpt-4.1-2025-04-14", "api_key": "env:OPENAI_API_KEY",
     "headers": {"OpenAI-Organization": "acme"}, "max_tokens": 1024, "logprobs": true, "features": ["tools", "json"], "region": "eu",
     "stream": "gated", "first_token_ms": 5000, "idle_ms": 2000, "stream_usage": true}

The contract names the server, the model and the key; a call brings messages and options of `OPTIONS` and can choose none of these.
Never asks for more than `max_tokens`. `stream` is the ledger's business (`processors/models/streaming.py`). Next: `model.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import orjson
from sluicegate.executors.http_template import BadTemplate, compile_template
from sluicegate.executors.wire import Target
from sluicegate.processors.budget.costs import DEFAULT_MAX_TOKENS
from yarl import URL

DEFAULT_IDLE_MS = 15_000
"""Between two parts of a streamed answer. Servers that queue a request say nothing before the first part, hardly ever after it."""
OPTIONS = frozenset(
    (
        "messages", "temperature", "top_p", "stop", "seed", "tools", "tool_choice", "parallel_tool_calls",
        "response_format", "presence_penalty", "frequency_penalty", "reasoning_effort",
    )
)  # fmt: skip
"""What a call may say, besides `max_tokens`. Not `n`, which multiplies the tokens, and not `stream`."""
TOKENS_NAMES = ("max_tokens", "max_completion_tokens")
_PATH = "/chat/completions"
_SECRET = re.compile(r"\$\{secret:([a-z][a-z0-9_-]{0,31}:[^{}]+)\}")
"""With the braces, since only so a key that holds a colon cannot be taken for a reference."""
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")


@dataclass(frozen=True, slots=True)
class ModelContract:
    """A compiled executor object.

    Attributes:
        pinned: the only model whose answer counts; empty when any does.
        api_key: a reference, `env:NAME`, `file:PATH` or `KIND:...` of a plug-in; empty for a server without keys.
        max_tokens: upper bound of the output of one call.
        tokens_name: what this server calls that bound.
        first_token_ms, idle_ms: of a streamed answer, how long its first part and each next one may take; 0: as the call.
        stream_usage: whether the server is asked to count the tokens of a stream.
    """

    target: Target
    model: str
    pinned: str
    api_key: str
    max_tokens: int
    tokens_name: str
    retries: int
    logprobs: bool
    first_token_ms: int = 0
    idle_ms: int = DEFAULT_IDLE_MS
    stream_usage: bool = True
    headers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """As `http_template.Template` has them."""


def compile_model(executor: bytes, names: Mapping[str, str]) -> ModelContract:
    """Compile an executor object; `names` are what `${NAME}` may be. Raises `BadTemplate`."""
    template = compile_template(executor, names)
    raw = cast("dict[str, object]", orjson.loads(executor))
    if len(template.target) > 1:
        raise BadTemplate("the url of a model holds an argument, write a plain address")
    model, key = raw.get("model"), raw.get("api_key", "")
    if not isinstance(model, str) or not model:
        raise BadTemplate("the contract names no model, write `model`")
    if not isinstance(key, str) or (
        key and not (key.startswith(("env:", "file:")) or _SECRET.fullmatch(key))
    ):
        raise BadTemplate("`api_key` is no reference, write `env:NAME` or `${secret:KIND:...}`")
    if reference := _SECRET.fullmatch(key):
        key = reference[1]
    pinned = raw.get("pinned", model if _DATED.search(model) else "")
    most = raw.get("max_tokens", DEFAULT_MAX_TOKENS)
    if not isinstance(pinned, str):
        raise BadTemplate("`pinned` is no model's name, write it as the server answers it")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise BadTemplate("`max_tokens` of the contract is no number of tokens")
    name = str(raw.get("tokens_name", TOKENS_NAMES[0]))
    logprobs = raw.get("logprobs", False)
    if not isinstance(logprobs, bool):
        raise BadTemplate("`logprobs` of the contract is neither true nor false")
    if name not in TOKENS_NAMES:
        raise BadTemplate(f"`tokens_name` is not one of {', '.join(TOKENS_NAMES)}")
    path, mark, query = template.target[0].partition("?")
    path = path.rstrip("/").removesuffix(_PATH) + _PATH
    url = URL(template.base + path + mark + query, encoded=True)
    target = Target("POST", url, template.host, template.port)
    first, idle = _ms(raw, "first_token_ms", 0), _ms(raw, "idle_ms", DEFAULT_IDLE_MS)
    usage = raw.get("stream_usage", True) is True
    return ModelContract(
        target,
        model,
        pinned,
        key,
        most,
        name,
        template.retries,
        logprobs,
        first,
        idle,
        usage,
        template.headers,
    )


def _ms(raw: Mapping[str, object], name: str, default: int) -> int:
    value = raw.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadTemplate(f"`{name}` of the contract is no number of milliseconds")
    return value


def request_of(
    contract: ModelContract, arguments: Mapping[str, object], *, stream: bool = False
) -> dict[str, object]:
    """The body of the request. Raises `BadTemplate` for an option that is not passed on."""
    more = sorted(set(arguments) - OPTIONS - {"max_tokens"})
    if more:
        raise BadTemplate(f"option `{more[0][:60]}` is not passed to models, leave it out")
    wanted = arguments.get("max_tokens")
    if wanted is not None and (not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1):
        raise BadTemplate("`max_tokens` is no number of tokens")
    # INVARIANT: never more than the contract's bound is asked for (tests/unit/test_model_adapter.py::test_max_tokens).
    tokens = min(contract.max_tokens, wanted) if isinstance(wanted, int) else contract.max_tokens
    options = {name: arguments[name] for name in sorted(OPTIONS & set(arguments))}
    more_said: dict[str, object] = {"logprobs": True} if contract.logprobs else {}
    if stream and contract.stream_usage:
        more_said["stream_options"] = {"include_usage": True}
    return {
        "model": contract.model, **options, **more_said, contract.tokens_name: tokens, "n": 1, "stream": stream,
    }  # fmt: skip
