"""Detectors: where a text holds a secret, personal data, or letters made to look like others.

    secret         keys and tokens in their makers' own formats, private keys, passwords in URLs and assignments
    iban card      by checksum, country and length, grouped or not       phone   in international form, `+…` only
    national_id    US SSN, French NIR, Italian codice fiscale, Spanish DNI and NIE, Brazilian CPF, where a checksum
                   or an allotment rule tells them from other numbers   email   addresses
    lookalike      a word that mixes Latin with Greek or Cyrillic letters, styled letters, invisible characters

Checksums are python-stdnum's (docs/decisions/0013). Every pattern starts at the edge of a word and repeats possessively or
a bounded number of times, so the time is linear in the text. A detector is a net, not a proof: what is split over
two fields, encoded or spelt out passes. Never sends anything anywhere. Next: `guardrails/guardrails.py`, `guardrails/recipes.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from stdnum import iban, luhn, numdb
from stdnum.br import cpf
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.it import codicefiscale
from stdnum.us import ssn

Span = tuple[int, int]

MARK = "[redacted]"
"""What stands where a finding was."""

MAX_ROUNDS = 4
"""Passes over one text until nothing more is found: taking one finding out may leave the edge of another."""

MIN_NUMBER = 10**11
"""Whole numbers from here on are looked at as text: the shortest card number has 13 digits."""

_B = r"(?<![A-Za-z0-9_-])"
_TOKENS: tuple[tuple[str, str], ...] = (
    ("A", r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"),  # AWS
    ("AIza", r"AIza[0-9A-Za-z_-]{35}"),  # Google
    ("gh", r"gh[pousr]_[A-Za-z0-9]{36,255}+"),  # GitHub
    ("github_pat_", r"github_pat_[A-Za-z0-9_]{60,255}+"),
    ("gl", r"gl(?:pat|dt|ft|soat|rt|cbt|ptt|agent|oas|imt)-[A-Za-z0-9_-]{20,255}+"),  # GitLab
    ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,255}+"),  # Slack
    ("xapp-", r"xapp-[A-Za-z0-9-]{20,255}+"),
    ("hooks.slack.com", r"hooks\.slack\.com/services/[A-Za-z0-9_/]{20,255}+"),
    ("k_live_", r"[rs]k_live_[0-9a-zA-Z]{16,255}+"),  # Stripe
    ("sk-", r"sk-[A-Za-z0-9_-]{20,255}+"),  # OpenAI, Anthropic
    ("hf_", r"hf_[A-Za-z0-9]{30,60}+"),  # Hugging Face
    ("npm_", r"npm_[A-Za-z0-9]{36}"),
    ("pypi-", r"pypi-[A-Za-z0-9_-]{50,255}+"),
    ("SG.", r"SG\.[A-Za-z0-9_-]{16,32}+\.[A-Za-z0-9_-]{16,64}+"),  # SendGrid
    (":", r"[0-9]{8,10}:[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])"),  # Telegram
    ("AccountKey=", r"AccountKey=[A-Za-z0-9+/]{80,90}+={0,2}+"),  # Azure
    ("eyJ", r"eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+"),  # JWT
)
"""(letters that must occur, pattern): the first is looked for by a plain search, which is quick."""

_SECRETS = tuple((needle, re.compile(_B + pattern)) for needle, pattern in _TOKENS)
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_URL_PASSWORD = re.compile(r"://[^\s/:@\[\]]{1,128}+:([^\s/@\[\]]{1,256}+)@")
_ASSIGNED = re.compile(
    r"(?:password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|token)[\"']?[ \t]{0,4}+[:=][ \t]{0,4}+[\"']?"
    r"([^\s\"',;\[\]]{8,256}+)",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"(?<![^\s@<>\"'(),:;\[\]])[^\s@<>\"'(),:;\[\]]++@[\w-]{1,63}+(?:\.[\w-]{1,63}+)++")
_PHONE = re.compile(r"(?<![\w+])\+[1-9](?:[ ().\-/]{0,2}+[0-9]){6,14}+(?![0-9])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[ .-]?[0-9]{2}(?=[ .\-\u00a0]?[A-Za-z0-9])")
_CARD = re.compile(r"(?<![0-9])[2-6][0-9]{3}(?:[ -]?[0-9]){9,}+")
_NATIONAL: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = (
    (re.compile(r"(?<![\w-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-])"), ssn.is_valid),
    (
        re.compile(r"(?<!\w)[12](?: ?[0-9]{2}){2} ?[0-9][0-9AB](?: ?[0-9]{3}){2} ?[0-9]{2}(?!\w)"),
        nir.is_valid,
    ),
    (
        re.compile(r"(?<!\w)[A-Za-z]{6}[0-9]{2}[A-Za-z][0-9]{2}[A-Za-z][0-9]{3}[A-Za-z](?!\w)"),
        codicefiscale.is_valid,
    ),
    (re.compile(r"(?<!\w)[0-9]{8}-?[A-Za-z](?!\w)"), dni.is_valid),
    (re.compile(r"(?<!\w)[XYZxyz]-?[0-9]{7}-?[A-Za-z](?!\w)"), nie.is_valid),
    (re.compile(r"(?<!\w)[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?!\w)"), cpf.is_valid),
)
_TWO_DIGITS = re.compile(r"[0-9]{2}")
_WORD = re.compile(r"[^\W\d_]++")
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]++"
)
_STYLED = re.compile("[\uff21-\uff3a\uff41-\uff5a\U0001d400-\U0001d7ff]++")

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MAX_IBAN = 34


def _iban_lengths() -> dict[str, int]:
    book = numdb.get("iban")
    found: dict[str, int] = {}
    for country in (a + b for a in _LETTERS for b in _LETTERS):
        shape = book.info(country)[0][1].get("bban", "")
        if shape:
            found[country] = 4 + sum(int(n) for n in re.findall(r"([0-9]+)!", shape))
    return found


_IBAN_CHARS = _iban_lengths()
"""Country -> characters of its IBAN."""

_CARD_LENGTHS: tuple[tuple[re.Pattern[str], tuple[int, ...]], ...] = (
    (re.compile(r"4"), (16, 19, 13)),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"3[068]"), (14,)),  # Diners
    (re.compile(r"35|6011|64[4-9]|65|62"), (16, 19, 18, 17)),  # JCB, Discover, UnionPay
)


def _secrets(text: str) -> Iterator[Span]:
    if "-----BEGIN " in text:
        begin = _PEM.search(text)
        while begin is not None:
            end = _PEM_END.search(text, begin.end())
            stop = end.end() if end else len(text)
            yield begin.start(), stop
            begin = _PEM.search(text, stop)
    for needle, pattern in _SECRETS:
        if needle in text:
            yield from (m.span() for m in pattern.finditer(text))
    if "://" in text:
        yield from (m.span(1) for m in _URL_PASSWORD.finditer(text))
    for found in _ASSIGNED.finditer(text) if ":" in text or "=" in text else ():
        value = found[1]
        # "password: required" is a sentence, "password: hunter22" is not.
        if any(c.isdigit() for c in value) and any(c.isalpha() for c in value):
            yield found.span(1)


def _ibans(text: str) -> Iterator[Span]:
    for found in _IBAN.finditer(text):
        wanted = _IBAN_CHARS.get(found[0][:2].upper())
        if wanted is None:
            continue
        end = _end_of(text, found.start(), wanted, str.isalnum)
        if end and not text[end : end + 1].isalnum() and iban.is_valid(text[found.start() : end].replace("\u00a0", ""), check_country=False):  # fmt: skip
            yield found.start(), end


def _cards(text: str) -> Iterator[Span]:
    for run in _CARD.finditer(text):
        at, stop = run.span()
        while at < stop:
            end = _card_end(text, at)
            if end:
                yield at, end
            at = _next_group(text, end or at, stop)


def _card_end(text: str, at: int) -> int:
    """The end of a card number that begins here, or 0."""
    head = text[at : at + 7].replace(" ", "").replace("-", "")[:4]
    for prefix, lengths in _CARD_LENGTHS:
        if not prefix.match(head):
            continue
        for wanted in lengths:
            end = _end_of(text, at, wanted, str.isdigit)
            if end and not text[end : end + 1].isdigit() and luhn.is_valid(_digits(text[at:end])):
                return end
    return 0


def _next_group(text: str, at: int, stop: int) -> int:
    """Where the next group of digits begins: a number starts at the edge of a group only."""
    while at < stop and text[at].isdigit():
        at += 1
    while at < stop and not text[at].isdigit():
        at += 1
    return at


def _digits(text: str) -> str:
    return text.replace(" ", "").replace("-", "")


def _end_of(text: str, at: int, wanted: int, counts: Callable[[str], bool]) -> int:
    """Where `wanted` characters end that may stand in groups, or 0 when there are fewer."""
    seen, gap = 0, False
    for position in range(at, min(len(text), at + 2 * _MAX_IBAN)):
        if counts(text[position]) and text[position].isascii():
            seen, gap = seen + 1, False
            if seen == wanted:
                return position + 1
        elif gap or text[position] not in " -.\u00a0":
            return 0
        else:
            gap = True
    return 0


def _national(text: str) -> Iterator[Span]:
    if not _TWO_DIGITS.search(text):
        return
    for pattern, is_valid in _NATIONAL:
        yield from (m.span() for m in pattern.finditer(text) if is_valid(m[0]))


def _lookalikes(text: str) -> Iterator[Span]:
    if text.isascii():
        return
    yield from (m.span() for m in _INVISIBLE.finditer(text))
    yield from (m.span() for m in _STYLED.finditer(text))
    for word in _WORD.finditer(text):
        if not word[0].isascii() and _mixed(word[0]):
            yield word.span()


def _mixed(word: str) -> bool:
    latin = other = False
    for letter in word:
        code = ord(letter)
        latin = latin or code < 0x0250 or 0x1E00 <= code < 0x1F00
        # Greek, Coptic, Cyrillic, Armenian; Cherokee; Greek extended
        other = other or 0x0370 <= code < 0x0590 or 0x13A0 <= code < 0x1400 or 0x1F00 <= code < 0x2000
    return latin and other


def _all(pattern: re.Pattern[str], needle: str) -> Callable[[str], Iterator[Span]]:
    return lambda text: (m.span() for m in pattern.finditer(text)) if needle in text else iter(())


DETECTORS: dict[str, Callable[[str], Iterator[Span]]] = {
    "secret": _secrets,
    "iban": _ibans,
    "card": _cards,
    "national_id": _national,
    "email": _all(_EMAIL, "@"),
    "phone": _all(_PHONE, "+"),
    "lookalike": _lookalikes,
}
"""Kind -> where it stands in a text, in no order, perhaps overlapping."""


def detects(kind: str, value: object) -> bool:
    """Whether a JSON value holds such a thing anywhere, names of fields included. Raises `KeyError` for a kind that
    does not exist."""
    detector = DETECTORS[kind]
    return any(next(iter(detector(text)), None) is not None for text in texts(value))


def texts(value: object) -> Iterator[str]:
    """Every text of a JSON value: values, names of fields, and whole numbers long enough to say something."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            stack += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            stack += node
        elif type(node) is int and node >= MIN_NUMBER:
            yield str(node)


def scrub(kinds: tuple[str, ...], text: str) -> str:
    """The text with `[redacted]` for each finding; the same text where there is none."""
    for _ in range(MAX_ROUNDS):
        spans = sorted(span for kind in kinds for span in DETECTORS[kind](text))
        if not spans:
            break
        parts, at = [], 0
        for start, end in spans:
            if start >= at:
                parts += [text[at:start], MARK]
            at = max(at, end)
        text = "".join([*parts, text[at:]])
    return text
