"""Words: what one input says, prepared so that a value can be found in it without reading it again.

Normalised: NFC, ASCII letters in lower case, runs of blanks as one. Only ASCII folds: a look-alike from another
alphabet stays another letter, since the tool would get it as it is. Numbers and dates are kept by their value.
Never decides what counts as found: that is `grounding.py`. Pure. Next: `labels.py` (paths), `sessions/library.py`.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

import orjson
from sluicegate.processors.labels import leaves
from sluicegate.processors.results import observed
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import Envelope, Message

Json = object
Paths = tuple[str, ...]

MAX_COMPACT_CHARS = 64
"""Longest value looked for without its blanks and hyphens; an IBAN has 34."""
MAX_NUMBERS = 2_000
"""Numbers and dates kept of one input; a bank statement of 64 kB has about 1,500."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_RUN_ON = re.compile(r"(?<=[a-z0-9])[.!?](?=[A-Z][a-z]+\s)")
"""People forget the blank after a sentence: `look at www.example.com.They sent it` names no host `com.They`."""
_NUMBER = re.compile(
    r"(?<![\w.,])[-+]?(?:\d{1,3}(?:[,'\u2019 ]\d{3})+(?:\.\d+)?|\d{1,3}(?:\.\d{3})+,\d+|\d+(?:[.,]\d+)?)(?!\w|[.,]\d)"
)
_DIGIT = re.compile(r"\d")
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
_MONTH = "(" + "|".join(f"{m}|{m[:3]}" for m in _MONTHS) + r")\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_DATES = (
    (re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"), (0, 1, 2)),
    (re.compile(r"(?<!\d)(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)"), (2, 1, 0)),
    (re.compile(rf"(?<!\w){_DAY}(?: of)? {_MONTH},? (\d{{4}})(?!\d)"), (2, 1, 0)),
    (re.compile(rf"(?<!\w){_MONTH} {_DAY},? (\d{{4}})(?!\d)"), (2, 0, 1)),
)


@dataclass(slots=True)
class Words:
    """What one input says. Numbers, dates and compact forms are found when first asked for: most calls never do.

    Attributes:
        whole: a normalised leaf -> the paths it stands at.
        texts: (path, normalised text) of leaves that have more than letters and digits, or are a person's message.
    """

    size_bytes: int
    whole: dict[str, Paths] = field(default_factory=dict)
    texts: list[tuple[str, str]] = field(default_factory=list)
    _numbers: dict[str, Paths] | None = None
    _dates: dict[str, Paths] | None = None
    _compact: dict[str, Paths] | None = None

    @property
    def numbers(self) -> dict[str, Paths]:
        """By value -> paths."""
        if self._numbers is None:
            self._numbers = self._index(numbers_in)
        return self._numbers

    @property
    def dates(self) -> dict[str, Paths]:
        """`YYYY-MM-DD` -> paths."""
        if self._dates is None:
            self._dates = self._index(dates_in)
        return self._dates

    @property
    def compact(self) -> dict[str, Paths]:
        """Leaves of up to `MAX_COMPACT_CHARS` without blanks and hyphens -> paths."""
        if self._compact is None:
            self._compact = {}
            for text, paths in self.whole.items():
                short = compact(text)
                if len(short) <= MAX_COMPACT_CHARS:
                    for path in paths:
                        _keep(self._compact, short, path)
        return self._compact

    def _index(self, values_in: Callable[[str], set[str]]) -> dict[str, Paths]:
        found: dict[str, Paths] = {}
        for text, paths in self.whole.items():
            if _DIGIT.search(text):
                for value in sorted(values_in(text)):
                    for path in paths:
                        _keep(found, value, path)
        return found


NOTHING = Words(0)


def normal(text: str) -> str:
    """The form two texts are compared in."""
    lower = text.lower() if text.isascii() else unicodedata.normalize("NFC", text).translate(_LOWER)
    return " ".join(lower.split())


def compact(text: str) -> str:
    """A normalised text without blanks and hyphens: how accounts and phone numbers are grouped does not matter."""
    return text.replace(" ", "").replace("-", "")


def number(value: Json) -> str | None:
    """A JSON number, or a text that is one, by its value."""
    try:
        found = Decimal(value if isinstance(value, str) else repr(value))
    except (InvalidOperation, TypeError):
        return None
    if not found.is_finite() or abs(found.adjusted()) > 30:
        return None
    return f"{found.normalize():f}" if found else "0"


def numbers_in(text: str) -> set[str]:
    """Numbers of a text by value. `1,000` and `1 000` are a thousand, `98,70` and `1.000,50` have decimals."""
    found: set[str] = set()
    for match in _NUMBER.finditer(text):
        raw = match[0].replace("'", "").replace("\u2019", "").replace(" ", "")
        whole, comma, rest = raw.rpartition(",")
        if comma and "." not in rest and (len(rest) != 3 or "." in whole):
            raw = whole.replace(".", "").replace(",", "") + "." + rest
        value = number(raw.replace(",", ""))
        if value is not None:
            found.add(value)
    return found


def dates_in(text: str) -> set[str]:
    """Dates of a normalised text as `YYYY-MM-DD`. Month before day is read only where the month is a word."""
    found: set[str] = set()
    for pattern, order in _DATES:
        for match in pattern.finditer(text):
            year, month, day = (match.group(i + 1) for i in order)
            number_of = (
                next((i for i, m in enumerate(_MONTHS, 1) if m.startswith(month)), 0)
                if month.isalpha()
                else int(month)
            )
            if 1 <= number_of <= 12 and 1 <= int(day) <= 31:
                found.add(f"{int(year):04}-{number_of:02}-{int(day):02}")
    return found


def words_of(value: bytes) -> Words:
    """The words of one input: a channel's message, or the result in a receipt. Others say nothing."""
    words = Words(len(value))
    try:
        record = codec.decode(value)
        if isinstance(record, Envelope):
            record = codec.decode(record.payload)
        if isinstance(record, Message):
            _add(words, "$", record.goal if record.kind == "session.open" else record.text, True)
        elif (result := observed(record)) is not None:
            for path, leaf in leaves(orjson.loads(result)):
                _add(words, path, leaf, False)
    except (Unreadable, orjson.JSONDecodeError):
        pass  # it stands on the ledger as what it is; nothing can be found in it
    return words


def _add(words: Words, path: str, leaf: Json, message: bool) -> None:
    if isinstance(leaf, bool) or leaf is None:
        return
    if isinstance(leaf, str):
        text = normal(leaf)
        _keep(words.whole, text, path)
        if message or not text.isalnum():
            words.texts.append((path, text))
        if message and _RUN_ON.search(leaf):
            words.texts.append((path, normal(_RUN_ON.sub(". ", leaf))))
        return
    text_of = number(leaf)
    if text_of is not None:
        _keep(words.whole, text_of, path)


def _keep(index: dict[str, Paths], key: str, path: str) -> None:
    known = index.get(key)
    if known is None:
        if len(index) < MAX_NUMBERS:
            index[key] = (path,)
    elif path not in known:
        index[key] = (*known, path)
