"""Text of files that may stand in a terminal: names in a prototxt, paths, keys of a database may hold anything."""

from __future__ import annotations

_GAP = " .. "


def printable(text: str) -> str:
    """Give the text escapes for what would move a terminal's cursor or change its colours."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """Make a text of several lines `printable`."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def shortened(text: str, most: int) -> str:
    """Leave out the middle of a text that is longer than `most` characters."""
    if len(text) <= most:
        return text
    head = (most - len(_GAP)) * 2 // 3
    return f"{text[:head]}{_GAP}{text[len(text) - (most - len(_GAP) - head) :]}"
