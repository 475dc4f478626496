"""The gateway's OpenAPI document. Words and shapes only; a test holds it to the routes. Next: `doors.py`."""

from __future__ import annotations

from importlib.metadata import version
from typing import cast

_TEXT: dict[str, object] = {"type": "string"}
_OBJECT: dict[str, object] = {"type": "object"}
_SECONDS = {"type": "number", "minimum": 0, "maximum": 600}
PROBLEM: dict[str, object] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "description": "stable reason code"},
                "message": {"type": "string", "description": "for the developer: what to do next"},
                "for_model": _TEXT,
                "status": _TEXT,
                "stage": _TEXT,
                "policies": {"type": "array", "items": _TEXT},
                "intent_id": _TEXT,
            },
            "required": ["code", "message"],
        }
    },
}
OUTCOME: dict[str, object] = {
    "type": "object",
    "properties": {"intent_id": _TEXT, "status": _TEXT, "result": {}},
    "required": ["intent_id", "status"],
}


def _body(properties: dict[str, object], required: list[str] | None = None) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answers(summary: str, good: dict[str, object], code: str = "200") -> dict[str, object]:
    json = "application/json"
    return {
        "summary": summary,
        "responses": {
            code: {"description": "done", "content": {json: {"schema": good}}},
            "default": {
                "description": "no result: why, and what to do",
                "content": {json: {"schema": PROBLEM}},
            },
        },
    }


def _named(name: str) -> list[dict[str, object]]:
    return [{"name": name, "in": "path", "required": True, "schema": _TEXT}]


_SESSION: dict[str, object] = {
    "goal": _TEXT,
    "task": _OBJECT,
    "session_id": _TEXT,
    "on_behalf_of": _TEXT,
    "on_behalf_token": _TEXT,
    "subject": _TEXT,
}
_INTENT: dict[str, object] = {
    "session_id": _TEXT, "tool": _TEXT, "model": _TEXT, "arguments": _OBJECT, "intent_id": _TEXT, "timeout_s": _SECONDS,
    "wait": {"type": "boolean", "description": "false: 202 at once, the end by GET"},
}  # fmt: skip
_EVALUATION: dict[str, object] = {
    "subject": _OBJECT,
    "action": _OBJECT,
    "resource": _OBJECT,
    "context": _OBJECT,
}

_AGAIN = {
    "name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 256},
    "description": "the same key with the same body finds the first answer, with another body it is 409; for 24 h",
}  # fmt: skip
_AGENT = {"name": "agent", "in": "query", "schema": _TEXT}
_PERSON: dict[str, object] = {"security": [{"person": []}, {"key": [], "person_header": []}]}

PATHS: dict[str, dict[str, dict[str, object]]] = {
    "/v1/sessions": {"post": {**_answers("open a session", _OBJECT, "201"), "requestBody": _body(_SESSION)}},
    "/v1/sessions/{session_id}/messages": {
        "post": {
            **_answers("report what the user said; needs scope `channel`", _OBJECT),
            "parameters": _named("session_id"),
            "requestBody": _body({"text": _TEXT}, ["text"]),
        }
    },
    "/v1/sessions/{session_id}": {
        "delete": {**_answers("close a session", _OBJECT), "parameters": _named("session_id")}
    },
    "/v1/sessions/{session_id}/events": {
        "get": {**_answers("what happens in it, as server-sent events", _TEXT), "parameters": _named("session_id")}
    },
    "/v1/intents": {
        "post": {**_answers("ask for one call", OUTCOME), "requestBody": _body(_INTENT, ["session_id"])}
    },
    "/v1/intents/{intent_id}": {
        "get": {**_answers("how an intent ended", OUTCOME), "parameters": _named("intent_id")}
    },
    "/v1/approvals": {
        "get": {**_answers("held calls that whoever asks may review; a person's token", _OBJECT), "parameters": [_AGENT], **_PERSON}
    },
    "/v1/approvals/{intent_id}": {
        "get": {
            **_answers("one held call: exact arguments, why, what came before", _OBJECT),
            "parameters": [*_named("intent_id"), _AGENT], **_PERSON,
        },
        "post": {
            **_answers("a person's word on it", _OBJECT), "parameters": _named("intent_id"), **_PERSON,
            "requestBody": _body(
                {
                    "verdict": {"enum": ["approve", "reject"]}, "digest": _TEXT, "arguments": _OBJECT, "why": _TEXT, "agent": _TEXT,
                    "wait_s": {"type": "number", "minimum": 0, "maximum": 60},
                },
                ["verdict", "digest"],
            ),
        },
    },
    "/v1/chat/completions": {
        "post": {
            **_answers("OpenAI's chat completions; models are the release's", _OBJECT),
            "requestBody": _body({"model": _TEXT, "messages": {"type": "array", "items": _OBJECT}}, ["model", "messages"]),
        }
    },
    "/v1/responses": {
        "post": {
            **_answers("OpenAI's responses; nothing is kept between them", _OBJECT),
            "requestBody": _body({"model": _TEXT, "input": {}, "tools": {"type": "array", "items": _OBJECT}}, ["model", "input"]),
        }
    },
    "/mcp": {
        "post": {**_answers("MCP, streamable HTTP: one JSON-RPC message", _OBJECT), "requestBody": _body({"method": _TEXT})},
        "delete": _answers("end the MCP session", _OBJECT, "204"),
    },
    "/v1/models": {"get": _answers("routes and model contracts of the release that the agent may ask for", _OBJECT)},
    "/access/v1/evaluation": {"post": {**_answers("AuthZEN: may it", _OBJECT), "requestBody": _body(_EVALUATION)}},
    "/access/v1/evaluations": {
        "post": {
            **_answers("AuthZEN: may it, several at once", _OBJECT),
            "requestBody": _body(
                {
                    **_EVALUATION, "evaluations": {"type": "array", "items": _OBJECT},
                    "options": {
                        "type": "object",
                        "properties": {
                            "evaluations_semantic": {"enum": ["execute_all", "deny_on_first_deny", "permit_on_first_permit"]}
                        },
                    },
                }
            ),
        }
    },
    "/healthz": {"get": _answers("whether it serves", _OBJECT)},
    "/openapi.json": {"get": _answers("this document", _OBJECT)},
}  # fmt: skip


AGAIN = (
    "/v1/sessions",
    "/v1/sessions/{session_id}/messages",
    "/v1/intents",
    "/v1/chat/completions",
    "/v1/responses",
)
"""Paths whose POST may be sent again."""

for _path in AGAIN:
    _post = PATHS[_path]["post"]
    _post["parameters"] = [*cast("list[object]", _post.get("parameters", [])), _AGAIN]


def document(env: str) -> dict[str, object]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Sluicegate gateway, environment {env}", "version": version("sluicegate")},
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "an API key"},
                "person": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "scope sluicegate:review",
                },
                "person_header": {"type": "apiKey", "in": "header", "name": "x-sluicegate-person"},
            }
        },
        "security": [{"key": []}],
        "paths": PATHS,
    }
