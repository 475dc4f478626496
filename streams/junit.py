"""JUnit XML: what CI systems read as test results.

One suite of cases; a case fails with a message and a text. Deterministic: no times, no host names.
Next: `commands/release.py`, `commands/replay.py` (who write it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class TestCase:
    """One case. `failure` is empty when it passed; `text` says more."""

    group: str
    name: str
    failure: str = ""
    text: str = ""


def to_xml(suite: str, cases: Iterable[TestCase]) -> str:
    """The document."""
    rows = list(cases)
    failed = sum(bool(c.failure) for c in rows)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites tests="{len(rows)}" failures="{failed}">',
        f'<testsuite name={_attr(suite)} tests="{len(rows)}" failures="{failed}" errors="0" skipped="0">',
    ]
    for case in rows:
        head = f"<testcase classname={_attr(case.group)} name={_attr(case.name)}"
        if case.failure:
            text = escape(_NOT_XML.sub("?", case.text))
            lines.append(f"{head}><failure message={_attr(case.failure)}>{text}</failure></testcase>")
        else:
            lines.append(head + "/>")
    return "\n".join([*lines, "</testsuite>", "</testsuites>", ""])


def write(path: Path, suite: str, cases: Iterable[TestCase]) -> None:
    """Write the document to a file."""
    path.write_text(to_xml(suite, cases), "utf-8")


def _attr(text: str) -> str:
    return quoteattr(_NOT_XML.sub("?", text))
