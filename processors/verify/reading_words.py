"""Stage, status and reason of a header: a few hundred combinations in all, so each is taken apart once and then known by its bytes.

Who reads many headers looks into `WORDS` first. Never checks what they mean. Next: `folding.py`, `verify/chain.py` (who read).
"""

from __future__ import annotations

MAX_WORDS = 4_096
"""Combinations that are remembered, about 500 bytes each: 2 MB."""

WORDS: dict[bytes, tuple[str, str, str]] = {}
"""The bytes of three short texts -> the texts."""


def words(b: bytes, p: int) -> tuple[tuple[str, str, str], int]:
    """Stage, status and reason, and where they end."""
    q = p
    for _ in range(3):
        n = b[q]
        if n > 0x7F or n & 1:
            raise ValueError("a word of more than 63 bytes")
        q += 1 + (n >> 1)
    raw = b[p:q]
    found = WORDS.get(raw)
    if found is None:
        texts, at = [], 0
        for _ in range(3):
            n = raw[at] >> 1
            texts.append(raw[at + 1 : at + 1 + n].decode())
            at += 1 + n
        if len(WORDS) >= MAX_WORDS:
            WORDS.clear()
        found = WORDS[raw] = (texts[0], texts[1], texts[2])
    return found, q
