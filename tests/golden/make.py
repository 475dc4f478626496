"""Writes `tests/golden/schemas.json`: fingerprint and bytes of one record of every schema, `python -m tests.golden.make`.

The file is checked in. A change of it is a change of the wire format: fields may be added with a default (every reader
knows the old fingerprint for ever), nothing else. Never run it to make a red test green without that thought.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from sluicegate.schemas import codec

FILE = Path(__file__).with_name("schemas.json")


def sample(avro_type: object, ordinal: int, fixed: dict[str, int]) -> object:
    """A value of an Avro type, the same every time, different from its neighbours'."""
    if isinstance(avro_type, list):
        return sample(avro_type[1], ordinal, fixed)
    if isinstance(avro_type, dict):
        kind = avro_type["type"]
        if kind == "fixed":
            fixed[avro_type["name"].rsplit(".", 1)[-1]] = avro_type["size"]
            return bytes((ordinal + i) % 256 for i in range(avro_type["size"]))
        if kind == "array":
            return [sample(avro_type["items"], ordinal + i, fixed) for i in range(2)]
        return sample(kind, ordinal, fixed)
    if avro_type == "string":
        return f"text {ordinal} é€𝄞"
    if avro_type == "bytes":
        return bytes([ordinal, 0, 255])
    if avro_type == "boolean":
        return ordinal % 2 == 0
    if avro_type == "int":
        return -70_000 * (ordinal + 1)
    if avro_type == "long":
        return 1_795_000_000_000_000 + ordinal
    return sample(
        {"type": "fixed", "name": avro_type, "size": fixed[cast(str, avro_type).rsplit(".", 1)[-1]]},
        ordinal,
        fixed,
    )


def record(name: str) -> object:
    """One record of a schema with every optional field set."""
    schema = codec.SCHEMAS[name]
    fixed: dict[str, int] = {}
    values = {
        f["name"]: sample(f["type"], i, fixed)
        for i, f in enumerate(cast("list[dict[str, str]]", schema.parsed["fields"]))
    }
    return schema.cls(**values)


def golden() -> dict[str, dict[str, str]]:
    """What the file holds."""
    return {
        name: {"fingerprint": schema.prefix[2:].hex(), "bytes": codec.encode(record(name)).hex()}
        for name, schema in codec.SCHEMAS.items()
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden(), indent=1) + "\n", "utf-8")
