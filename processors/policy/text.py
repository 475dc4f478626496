"""Where in a `*.cedar` file each policy stands, and each word of it: for messages that name a line.

Cedar's own parser says what a policy means; this only finds places, so at worst a message names a policy's first
line. Never judges a policy. Next: `policy/cedar.py` (parses), `policy/check.py` (who needs lines).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|[A-Za-z_]\w*|\S')


@dataclass(frozen=True, slots=True)
class Source:
    """One policy's text. `words` are (word or quoted text, line), comments left out."""

    path: str
    line: int
    text: str
    words: tuple[tuple[str, int], ...]

    def line_of(self, *candidates: str) -> int:
        """The line of the first candidate that stands in the policy, else the policy's first line."""
        for candidate in candidates:
            for word, line in self.words:
                if word == candidate:
                    return line
        return self.line


NOWHERE = Source("", 0, "", ())
"""Of a policy that no file holds."""


def split(path: str, text: str) -> list[Source]:
    """The policies of a file, in order. A policy ends with a `;` outside of quotes and comments."""
    found: list[Source] = []
    words: list[tuple[str, int]] = []
    begin, at, line = -1, 0, 1
    for token in _TOKEN.finditer(text):
        line += text.count("\n", at, token.start())
        at = token.start()
        word = token.group()
        if word.startswith("//"):
            continue
        if begin < 0:
            begin = token.start()
        words.append((word[1:-1] if word.startswith('"') and len(word) > 1 else word, line))
        if word == ";":
            found.append(Source(path, words[0][1], text[begin : token.end()], tuple(words)))
            words, begin = [], -1
    if words:
        found.append(Source(path, words[0][1], text[begin:], tuple(words)))
    return found
