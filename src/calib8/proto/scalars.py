"""One value of protobuf's text form, checked against the field that it is meant for."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from calib8.proto.tokens import NAME, NUMBER, STRING, Token

_INT_RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
# FieldDescriptor.TYPE_* by number, those that Caffe's messages use.
_KINDS = {1: "float", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 11: "message"}
_KINDS |= {12: "bytes", 13: "uint32", 14: "enum"}
_TRUTH = {**dict.fromkeys(("true", "True", "t", "1"), True), **dict.fromkeys(("false", "False", "f", "0"), False)}
_INTEGER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]+|[1-9]\d*|0")
# 010 for a float is eight to some versions of protobuf, ten to others, and an error to most.
_OCTAL = re.compile(r"0([xX]|\d+$)")
_LONGEST_FLOAT = 1000  # digits; a million of them would take minutes to convert
_NOT_FINITE = {"inf": math.inf, "infinity": math.inf, "nan": math.nan}
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"?])|x([0-9a-fA-F]{1,2})|([0-7]{1,3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))",
    re.DOTALL,
)
_ESCAPED = dict(zip("abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))


Scalar = bool | int | float | str | bytes


class Field(NamedTuple):
    """What reading needs to know of a field."""

    name: str
    kind: str
    repeated: bool
    required: bool
    message: Descriptor | None  # the Descriptor of a message field's type, None for scalars
    values: dict[str, int]  # an enum's members in the order of the schema, empty for other kinds


class BadValueError(ValueError):
    """A value that its field cannot hold: what the field expects ("" if nothing definite), what was found."""

    def __init__(self, expects: str, found: str) -> None:
        self.expects = expects
        self.found = found
        super().__init__(f"expects {expects}, {found}" if expects else found)


@cache
def fields_of(descriptor: Descriptor) -> dict[str, Field]:
    """List the fields of a message type by name."""
    return {d.name: _field(d) for d in descriptor.fields}


def _field(descriptor: FieldDescriptor) -> Field:
    # `label` is deprecated in protobuf 7, `is_repeated` is missing in protobuf 4.
    repeated = descriptor.is_repeated if hasattr(descriptor, "is_repeated") else descriptor.label == 3
    required = descriptor.is_required if hasattr(descriptor, "is_required") else descriptor.label == 2
    values = {v.name: v.number for v in descriptor.enum_type.values} if descriptor.enum_type else {}
    return Field(descriptor.name, _KINDS[descriptor.type], repeated, required, descriptor.message_type, values)


def scalar(field: Field, negative: bool, tokens: list[Token]) -> Scalar:
    """Read the value of a scalar field from its tokens: one, or several strings that stand in a row.

    Raises:
        BadValueError: "expects ..., found ...".
    """
    token = tokens[0]
    if field.kind in ("string", "bytes"):
        if token.kind != STRING or negative:
            raise _bad('a "quoted string"', negative, token)
        data = b"".join(_unquote(t.text) for t in tokens)
        return data if field.kind == "bytes" else _to_text(data)
    if token.kind == STRING:
        raise _bad(_expectation(field), negative, token)
    if field.kind == "float":
        return _float(token, negative)
    if field.kind == "bool":
        if negative or token.text not in _TRUTH:
            raise _bad("true or false", negative, token)
        return _TRUTH[token.text]
    return _enum(field, negative, token) if field.kind == "enum" else _integer(field, negative, token)


def _expectation(field: Field) -> str:
    if field.kind == "enum":
        return "one of " + ", ".join(field.values)
    if field.kind in _INT_RANGES:
        low, high = _INT_RANGES[field.kind]
        return f"a whole number from {low} to {high}"
    return {"float": "a number", "bool": "true or false"}[field.kind]


def _bad(expectation: str, negative: bool, token: Token) -> BadValueError:
    written = ("-" if negative else "") + token.text
    return BadValueError(expectation, f"found {written[:60]}")


def _whole(token: Token, negative: bool) -> int | None:
    """Read a decimal, 0x or 0 (octal) number; None where the token is something else."""
    # int() takes quadratic time in the digits, and no field holds more than 20 of them.
    if token.kind != NUMBER or len(token.text) > 40 or not _INTEGER.fullmatch(token.text):
        return None
    octal = len(token.text) > 1 and token.text[0] == "0" and token.text[1] not in "xX"
    value = int(token.text, 8 if octal else 0)
    return -value if negative else value


def _integer(field: Field, negative: bool, token: Token) -> int:
    value = _whole(token, negative)
    low, high = _INT_RANGES[field.kind]
    if value is None or not low <= value <= high:
        raise _bad(_expectation(field), negative, token)
    return value


def _enum(field: Field, negative: bool, token: Token) -> int:
    if token.kind == NAME and not negative and token.text in field.values:
        return field.values[token.text]
    value = _whole(token, negative)
    if value is None or value not in field.values.values():
        raise _bad(_expectation(field), negative, token)
    return value


def _float(token: Token, negative: bool) -> float:
    if token.kind == NAME and token.text.lower() in _NOT_FINITE:
        value = _NOT_FINITE[token.text.lower()]
    elif token.kind == NUMBER and len(token.text) < _LONGEST_FLOAT and not _OCTAL.match(token.text):
        value = float(token.text.rstrip("fF"))
    else:
        raise _bad("a number", negative, token)
    return -value if negative else value


def _unquote(literal: str) -> bytes:
    """Give the bytes that a quoted literal stands for."""
    inside = literal[1:-1]
    if "\\" not in inside:
        return inside.encode("utf-8", "surrogatepass")
    parts, place = [], 0
    for match in _ESCAPE.finditer(inside):
        parts.append(inside[place : match.start()].encode("utf-8", "surrogatepass"))
        parts.append(_escape(match))
        place = match.end()
    parts.append(inside[place:].encode("utf-8", "surrogatepass"))
    return b"".join(parts)


def _escape(match: re.Match[str]) -> bytes:
    letter, hexadecimal, octal, short, long, other = match.groups()
    if letter:
        return bytes([_ESCAPED[letter]])
    # \x and octal give one byte, \u and \U a character; `other` is what may not follow a backslash.
    number = int(hexadecimal or short or long, 16) if other is None and not octal else int(octal or "0", 8)
    if other is not None or number > 0x10FFFF or (octal and number > 255):
        raise BadValueError("", f"has an unknown escape {match.group()}; a backslash itself is written \\\\")
    return chr(number).encode("utf-8", "surrogatepass") if short or long else bytes([number])


def _to_text(data: bytes) -> str:
    """Decode a string: UTF-8, or any 8-bit code in the paths and names of old files."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
