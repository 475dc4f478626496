"""The tools' side of the demo: a server that answers a call with what was recorded for that very call.

`POST /<suite>/<tool>` with a JSON object of arguments and the headers `Idempotency-Key` and `X-Sluicegate-Intent`.
The recorded call is found by its intent id, `<session>:<seq>`; for an intent id that is not among them, by suite, tool
and canonical arguments (the first one recorded). Answers: 200 `{"result": ...}`; 422 `{"error": ...}` where an
error was recorded; 404 where nothing was; 400 for a request that is not of this form.

Nobody recorded how calls are taken back. A compensation (intent `undo-...`) and its read-back (`check-...`) are answered as
the services would: a booking that was recorded is cancelled and then read as cancelled; a member leaves.

`GET /journal` is `{idempotency key: calls}`: what a test counts effects with. Every well-formed call counts, answered or
not, as a tool that takes no notice of the key would count it.

It never runs anything, keeps nothing on disk (a cancelled booking is forgotten with the process) and reads no clock.
Read next: `README.md` beside this file for the slice; `python -m examples.traffic.tool_server --port 8900` to run it.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rfc8785
from aiohttp import web

Step = dict[str, Any]

SLICE = Path(__file__).parent
SUITES = ("banking", "slack", "retail", "airline")
BOOKING = ("airline", "book_reservation")


def load_steps(folder: Path = SLICE, suites: Iterable[str] = SUITES) -> list[Step]:
    """The slice's lines, suite by suite, each in its file's order."""
    steps: list[Step] = []
    for suite in suites:
        with gzip.open(folder / f"{suite}.jsonl.gz", "rt", encoding="utf-8") as lines:
            steps += [json.loads(line) for line in lines]
    return steps


def intent_id(step: Step) -> str:
    return f"{step['session']}:{step['seq']}"


class Recorded:
    """The recorded calls by intent id and by what was asked, and the journal of calls received."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.by_intent: dict[str, Step] = {}
        self.by_request: dict[tuple[str, str, bytes], Step] = {}
        self.journal: Counter[str] = Counter()
        self.booked: dict[str, dict[str, Any]] = {}
        self.cancelled: set[str] = set()
        for step in steps:
            if step["kind"] == "tool_call":
                if (step["suite"], step["tool"]) == BOOKING and step["error"] is None:
                    booking = json.loads(step["result"])  # the services answered JSON as a text
                    self.booked.setdefault(booking["reservation_id"], booking)
                self.by_intent[intent_id(step)] = step
                request = (step["suite"], step["tool"], rfc8785.dumps(step["arguments"]))
                self.by_request.setdefault(request, step)

    def find(self, intent: str | None, suite: str, tool: str, arguments: dict[str, Any]) -> Step | None:
        # The demo may run again over the same ledger: it marks its intents `<session>@<run>:<seq>`.
        step = self.by_intent.get(re.sub(r"@\w+", "", intent or ""))
        # An intent id that was recorded for another tool is not that very call.
        if step is not None and (step["suite"], step["tool"]) == (suite, tool):
            return step
        return self.by_request.get((suite, tool, rfc8785.dumps(arguments)))

    def taken_back(self, intent: str, suite: str, tool: str, arguments: dict[str, Any]) -> Step | None:
        """The answer to an operator's compensation or its read-back."""
        if (suite, tool) == ("slack", "remove_user_from_slack"):
            return {"result": "None", "error": None}
        booking = self.booked.get(str(arguments.get("reservation_id")))
        if suite != "airline" or booking is None:
            return None
        if tool == "cancel_reservation" and intent.startswith("undo-"):
            self.cancelled.add(booking["reservation_id"])
        gone = booking["reservation_id"] in self.cancelled
        status = "cancelled" if gone else booking["status"]
        return {"result": json.dumps({**booking, "status": status}), "error": None}

    async def call(self, request: web.Request) -> web.Response:
        suite, tool = request.match_info["suite"], request.match_info["tool"]
        key = request.headers.get("Idempotency-Key")
        try:
            arguments = json.loads(await request.read())
            intent = request.headers.get("X-Sluicegate-Intent") or ""
            if intent.startswith(("undo-", "check-")):
                step = self.taken_back(intent, suite, tool, arguments)
            else:
                step = self.find(intent, suite, tool, arguments)
        except ValueError:  # rfc8785 raises kinds of it too, e.g. for integers JSON cannot carry exactly
            return refused(400, "send the arguments as one JSON object")
        if not key or not isinstance(arguments, dict):
            return refused(400, "send an Idempotency-Key header and the arguments as one JSON object")
        self.journal[key] += 1
        if step is None:
            return refused(404, f"no such call of {suite}.{tool} was recorded")
        if step["error"] is not None:
            return refused(422, step["error"])
        return web.json_response({"result": step["result"]})

    async def read_journal(self, _request: web.Request) -> web.Response:
        return web.json_response(dict(self.journal))


def refused(status: int, error: str) -> web.Response:
    return web.json_response({"error": error}, status=status)


def build_app(steps: Iterable[Step]) -> web.Application:
    recorded = Recorded(steps)
    app = web.Application()
    app.router.add_post("/{suite}/{tool}", recorded.call)
    app.router.add_get("/journal", recorded.read_journal)
    return app


def end_with_parent(app: web.Application) -> None:
    """End when standard input does: whoever started this holds the other end, and SIGKILL closes it too."""

    async def watch(_app: web.Application) -> None:
        loop = asyncio.get_running_loop()

        def heard() -> None:
            if not os.read(0, 4_096):
                loop.remove_reader(0)
                signal.raise_signal(signal.SIGTERM)

        loop.add_reader(0, heard)

    app.on_startup.append(watch)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer tool calls with what was recorded for them.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8900)
    parser.add_argument("--slice", type=Path, default=SLICE, help="folder with <suite>.jsonl.gz")
    parser.add_argument("--die-with-parent", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    app = build_app(load_steps(options.slice))
    if options.die_with_parent:
        end_with_parent(app)
    web.run_app(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
