"""A log description: what a witness or an auditor is given out of band. Names of the logs and the history of their keys, JSON.

    sluicegate checkpoint keys --file log.json

Times are microseconds. Never holds a secret. Next: `transparency/checkpoints.py` (what the keys mean), `transparency/witness.py` (who needs it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicegate.processors.transparency.checkpoints import CONTROL, LogKey, keys_of, origin_of
from sluicegate.schemas.errors import Terminal

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control

FORMAT = "sluicegate/log/v1"


@dataclass(frozen=True, slots=True)
class LogFile:
    """One environment's logs and keys, in one generation. `own`: control's log id where it is another, after a repartition."""

    env: str
    log_id: bytes
    partitions: int
    keys: tuple[LogKey, ...]
    own: bytes = b""

    @property
    def origins(self) -> list[str]:
        """Control's log, then each partition's."""
        control = origin_of(self.env, self.own or self.log_id, CONTROL)
        return [control, *(origin_of(self.env, self.log_id, p) for p in range(self.partitions))]

    @property
    def text(self) -> str:
        """The file."""
        keys = [
            {"kid": k.kid, "public": k.public.hex(), "not_before": k.not_before, "not_after": k.not_after}
            for k in self.keys
        ]
        found = {
            "format": FORMAT, "env": self.env, "log_id": self.log_id.hex(), "partitions": self.partitions,
            "origins": self.origins, "keys": keys,
        }  # fmt: skip
        if self.own:
            found["control_log_id"] = self.own.hex()
        return json.dumps(found, indent=1) + "\n"


def of_control(control: Control) -> LogFile:
    """An environment's own description."""
    own = control.own_log if control.own_log != control.log_id else b""
    return LogFile(control.env, control.log_id, control.partitions, keys_of(control), own)


def parse(text: str) -> LogFile:
    """Raises `Terminal`."""
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise ValueError(found["format"])
        keys = tuple(
            LogKey(str(k["kid"]), bytes.fromhex(k["public"]), int(k["not_before"]), int(k["not_after"]))
            for k in found["keys"]
        )
        own = bytes.fromhex(found.get("control_log_id", ""))
        return LogFile(str(found["env"]), bytes.fromhex(found["log_id"]), int(found["partitions"]), keys, own)
    except (ValueError, KeyError, TypeError) as error:
        raise Terminal(
            "it is no description of a log, get one with `sluicegate checkpoint keys --file FILE`"
        ) from error


def by_origin(files: Iterable[LogFile]) -> dict[str, Sequence[LogKey]]:
    """Keys by the log's name."""
    return {origin: file.keys for file in files for origin in file.origins}
