"""Elements of a page as text. All text and all attributes are escaped here, and nowhere else."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | Markup
_VOID = frozenset(["br", "hr", "img", "input", "meta"])


def tag(element: str, /, *contents: Content, **attributes: str | float | bool | None) -> Markup:
    """An element. `class_` is class, `_` in other names becomes `-`; None and False leave an attribute out."""
    known = {key: value for key, value in attributes.items() if value is not None and value is not False}
    start = element + "".join(_attribute(key, value) for key, value in known.items())
    if element in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{joined(contents)}</{element}>")


def joined(contents: Iterable[Content]) -> Markup:
    """One after another; what is no markup is escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(_visible(c), quote=False) for c in contents))


def number(value: float, digits: int = 4) -> str:
    """For people: as many digits as tell something."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "exact" if value > 0 else "no signal"
    return f"{value:.{digits}g}"


def percent(value: float) -> str:
    """A share from 0 to 1; "" for none."""
    return "" if math.isnan(value) else f"{value:.2%}" if 0 < value < 0.1 else f"{value:.1%}"


def short(value: float) -> str:
    """A coordinate of a drawing."""
    return f"{value:.1f}".removesuffix(".0")


def _attribute(key: str, value: str | float | bool) -> str:
    name = key.rstrip("_").replace("_", "-") if key not in ("viewBox", "preserveAspectRatio") else key
    if value is True:
        return f" {name}"
    text = short(value) if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(_visible(text))}"'


def _visible(text: str) -> str:
    """Without characters that no page may hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
