"""The tokens of protobuf's text form, with line numbers.

Grammar: https://protobuf.dev/reference/protobuf/textformat-spec, as far as Caffe's parser (the C++ TextFormat) takes
it. Nothing here grows with the input but the text itself: tokens are made one at a time.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BLANK = re.compile(r"[ \t\n\f\v]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.])")
_WORD = re.compile(r"[^\s{}\[\]<>:;,#\"']+")
_STOP = {'"': re.compile(r'["\\\n]'), "'": re.compile(r"['\\\n]")}
_SYMBOLS = frozenset("{}[]<>:;,-/")
MAX_STRING = 2**20
"""Characters of a quoted string."""

NAME, NUMBER, STRING, SYMBOL = "a name", "a number", "a string", "a symbol"
END, BAD = "the end of the file", "text"


class Token(NamedTuple):
    """One token: what it is, its text as written, and where it begins."""

    kind: str
    text: str
    start: int


class Tokens:
    """A text read token by token; `token` is the next one, `taken` counts those that were stepped over."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.taken = 0
        self._end = 0
        self._counted = (0, 1)
        self.token = self._scan()

    def take(self) -> Token:
        """Return the next token and step over it."""
        taken = self.token
        self.taken += 1
        self.token = self._scan()
        return taken

    def take_symbol(self, symbol: str) -> bool:
        """Step over `symbol` if it comes next, and say whether it did."""
        if self.token.text == symbol and self.token.kind == SYMBOL:
            self.taken += 1
            self.token = self._scan()
            return True
        return False

    def line(self, start: int) -> int:
        """Count the line, from 1, of a place in the text. Cheap when asked in the order of the text."""
        place, line = self._counted
        if start < place:
            return self.text.count("\n", 0, start) + 1
        line += self.text.count("\n", place, start)
        self._counted = (start, line)
        return line

    def line_text(self, start: int) -> str:
        """Cut out the line that holds a place, without its end."""
        first = self.text.rfind("\n", 0, start) + 1
        last = self.text.find("\n", start)
        return self.text[first : last if last >= 0 else len(self.text)]

    def _scan(self) -> Token:
        text, start = self.text, self._skip_blank()
        if start == len(text):
            return Token(END, "", start)
        if (match := _NAME.match(text, start)) or (number := _NUMBER.match(text, start)):
            kind, end = (NAME, match.end()) if match else (NUMBER, number.end())  # type: ignore[union-attr]
        elif text[start] in _SYMBOLS:
            kind, end = SYMBOL, start + 1
        elif text[start] in _STOP:
            kind, end = self._string(start)
        else:
            word = _WORD.match(text, start)
            kind, end = BAD, word.end() if word else start + 1
        self._end = end
        return Token(kind, text[start:end], start)

    def _skip_blank(self) -> int:
        text, place = self.text, self._end
        while True:
            place = _BLANK.match(text, place).end()  # type: ignore[union-attr]
            if not text.startswith("#", place):
                return place
            newline = text.find("\n", place)
            place = len(text) if newline < 0 else newline

    def _string(self, start: int) -> tuple[str, int]:
        """Find the end of a quoted string; without its closing quote on the same line it is bad text."""
        stop, place = _STOP[self.text[start]], start + 1
        while match := stop.search(self.text, place):
            if match.group() == "\n":
                return BAD, match.start()
            if match.group() != "\\":
                return (STRING if match.end() - start <= MAX_STRING else BAD), match.end()
            place = match.end() + 1
        return BAD, len(self.text)
