"""The `param_str` of general_data_layer: YAML, JSON or a Python dict, read without executing anything."""

from __future__ import annotations

import ast
import math
import reprlib
from dataclasses import dataclass
from typing import Any

from calib8.data.preprocess import Preprocess
from calib8.errors import DataError

MAX_BYTES = 1 << 16
MAX_SIDE = 1 << 15
_FLIP_OF_MIRROR = {1: -1, 2: None, 3: 1}
_MEANS_OF_COLOR = {"rgb": ("r_mean", "g_mean", "b_mean"), "bgr": ("b_mean", "g_mean", "r_mean")}
_WITHOUT_EFFECT = frozenset(["debug"])  # a variant of the original writes its samples into a folder


@dataclass(frozen=True)
class GeneralDataParam:
    """A `param_str`, checked. `size` is (height, width)."""

    data_list: str
    size: tuple[int, int]
    batch_size: int
    preprocess: Preprocess


def read_param(text: str, what: str) -> GeneralDataParam:
    """Read a `param_str`.

    Raises:
        DataError: all unknown, missing and wrong keys; `what` says whose they are.
    """
    what = f"{what}: param_str"
    reader = KeyReader(parse_keys(text, what))
    data_list = reader.take("data_list", _text, "a path")
    size = (reader.take("h", side, "a positive number"), reader.take("w", side, "a positive number"))
    color = take_color(reader)
    mean, scale = take_mean(reader, color), reader.take("scale", number, "a number", 1.0)
    mirror = reader.take("mirror", _mirror, "1 (flip both ways), 2 (no flip) or 3 (flip left to right)", None)
    transpose = reader.take("transpose", _transpose, "an order of 0, 1, 2 such as [2, 0, 1]", (2, 0, 1))
    padding = take_padding(reader)
    batch_size = reader.take("batch_size", side, "a positive number", 1)
    reader.finish(what)
    preprocess = Preprocess(
        resize="letterbox" if padding else "warp",
        color_format=color,
        mean=mean,
        scale=scale,
        mirror=mirror,
        transpose=transpose,
    )
    return GeneralDataParam(data_list, size, batch_size, preprocess)


def take_color(reader: KeyReader) -> str:
    """Take `color_format`."""
    return str(reader.take("color_format", _color, "rgb or bgr", "rgb"))


def take_mean(reader: KeyReader, color: str) -> tuple[float, ...]:
    """Take `r_mean`, `g_mean` and `b_mean`, in the order of the channels."""
    means = {name: reader.take(name, number, "a number", 0.0) for name in _MEANS_OF_COLOR["rgb"]}
    return tuple(means[name] for name in _MEANS_OF_COLOR[color])


def take_padding(reader: KeyReader) -> bool:
    """Take `padding`."""
    return bool(reader.take("padding", _flag, "true or false", False))


def parse_keys(text: str, what: str) -> dict[object, object]:
    """Parse keys and values in YAML, JSON or as a Python dict.

    Raises:
        DataError: it is none; `what` says what.
    """
    if len(text) > MAX_BYTES:
        raise DataError(f"{what} has {len(text)} characters, more than {MAX_BYTES}")
    parsed: Any
    try:
        parsed = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # no Python literal: YAML, then
        try:
            parsed = _yaml(text)
        except (ValueError, RecursionError) as why:
            reason = " ".join(str(why).split())
            raise DataError(f"{what} is no YAML, JSON or Python dict: {reason}") from None
    if not isinstance(parsed, dict):
        raise DataError(f"{what} is {text[:80]!r}; expected keys and values as in {{'data_list': list.txt, ...}}")
    return parsed


def _yaml(text: str) -> Any:
    """Parse a text; raises ValueError."""
    import yaml  # noqa: PLC0415 - a Python dict does without

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as why:
        raise ValueError(str(why)) from None


class KeyReader:
    """Takes keys out of the dict, and remembers what was wrong."""

    def __init__(self, values: dict[object, object]) -> None:
        self._values = dict(values)
        self._problems: list[str] = []
        self._known: list[str] = []

    def take(self, key: str, convert: Any, expected: str, default: Any = ...) -> Any:
        """Take the value of a key, converted; without a default, the key must be there."""
        self._known.append(key)
        if key not in self._values:
            if default is ...:
                self._problems.append(f"{key!r} is missing, expected {expected}")
            return default
        value = self._values.pop(key)
        try:
            return convert(value)
        except (ValueError, TypeError, KeyError, OverflowError):
            self._problems.append(f"{key!r} is {reprlib.repr(value)}, expected {expected}")
            return default

    def finish(self, what: str) -> None:
        """Raise DataError with all problems, unknown keys among them."""
        unknown = sorted(str(key) for key in self._values if key not in _WITHOUT_EFFECT)
        known = ", ".join(self._known)
        self._problems += [f"{key!r} is unknown; known are {known}" for key in unknown]
        if self._problems:
            raise DataError(f"{what} cannot be used", self._problems)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def number(value: Any) -> float:
    """Convert to a finite number. Raises ValueError or TypeError for anything else."""
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError(value)
    return float(value)


def side(value: object) -> int:
    """Convert to a number of pixels. Raises ValueError or TypeError for anything else."""
    pixels = number(value)
    if not (pixels.is_integer() and 0 < pixels <= MAX_SIDE):
        raise ValueError(value)
    return int(pixels)


def _color(value: object) -> str:
    if not isinstance(value, str) or value.lower() not in _MEANS_OF_COLOR:
        raise ValueError(value)
    return value.lower()


def _mirror(value: object) -> int | None:
    return _FLIP_OF_MIRROR[side(value)]


def _flag(value: object) -> bool:
    if not isinstance(value, bool | int | str):
        raise ValueError(value)
    return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]


def _transpose(value: Any) -> tuple[int, ...]:
    order = tuple(value)
    if any(isinstance(axis, bool) for axis in order) or sorted(order) != [0, 1, 2]:
        raise ValueError(value)
    return order
