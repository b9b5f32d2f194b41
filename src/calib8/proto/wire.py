"""Protobuf's binary form, read in place: where every field begins and ends, nothing copied.

Encoding: https://protobuf.dev/programming-guides/encoding. Protobuf's own reader copies all weights and stops at 2 GB;
this one walks over a memory-mapped file and touches only tags and lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 2_000_000
"""Fields in one file; a network with 10,000 layers has about 300,000. Bounds time and memory of a hostile file."""

_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_WIRE_NAMES = {VARINT: "a varint", FIXED64: "8 bytes", LENGTH: "a length", FIXED32: "4 bytes"}


class WireError(ValueError):
    """Bytes that are no protobuf message, and where they stand."""

    def __init__(self, offset: int, what: str) -> None:
        self.offset = offset
        super().__init__(what)


class Field(NamedTuple):
    """One field: its bytes are data[start:end]; `value` is a varint's value, else 0; `tag` is where its tag stands."""

    number: int
    wire: int
    value: int
    start: int
    end: int
    tag: int


class Reader:
    """Walks over messages in a buffer; counts the fields of all of them."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._fields = 0

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields of the message in data[start:end], in order; see `field`."""
        while start < end:
            field = self.field(start, end)
            yield field
            start = field.end

    def field(self, start: int, end: int) -> Field:
        """Find the field that begins at `start` in a message that stops at `end`.

        Raises:
            WireError: a field that reaches past `end`, an unknown wire type, or far too many fields.
        """
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise WireError(start, f"more than {MAX_FIELDS} fields")
        tag, place = self.varint(start, end)
        number, wire = tag >> 3, tag & 7  # the lower three bits say how the field is stored
        if number == 0 or wire not in _WIRE_NAMES:
            raise WireError(start, f"byte 0x{self.data[start]:02x} begins no protobuf field")
        value = 0
        if wire == VARINT:
            value, stop = self.varint(place, end)
        elif wire == LENGTH:
            length, place = self.varint(place, end)
            stop = place + length
        else:
            stop = place + _FIXED_BYTES[wire]
        if stop > end:
            raise WireError(start, f"a field of {stop - place} bytes begins here, {stop - end} more than there are")
        return Field(number, wire, value, place, stop, start)

    def varint(self, start: int, end: int) -> tuple[int, int]:
        """Read a base-128 number; give it and the place behind it."""
        value = shift = 0
        for place in range(start, min(end, start + 10)):  # 64 bits in groups of seven, the lowest first
            byte = self.data[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # the highest bit is set as long as more bytes follow
                return value & 0xFFFFFFFFFFFFFFFF, place + 1
            shift += 7
        raise WireError(start, "the data end inside a number" if end < start + 10 else "a number has over ten bytes")

    def text(self, field: Field) -> str:
        """Decode a string field; names in old files may be in any 8-bit code."""
        data = bytes(self.data[field.start : field.end])
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.decode("latin-1")


def expect(field: Field, *wires: int, what: str) -> None:
    """Check a known field's wire type: another one means that this is no such message."""
    if field.wire not in wires:
        raise WireError(field.tag, f"{what} is stored as {_WIRE_NAMES[field.wire]}")


def encode_varint(value: int) -> bytes:
    """Write a number of 0 or more in base 128."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_header(number: int, length: int) -> bytes:
    """Write what stands before the bytes of a string, message or packed field."""
    return encode_varint(number << 3 | LENGTH) + encode_varint(length)
