"""How large the image in a file is, read from its head, before anything is decoded.

A file of 93 bytes can ask a decoder for gigabytes. So the sizes, and what decoders take memory or time by (chunks of a
PNG, scans of a JPEG, tiles of a TIFF), are looked at first; an image in another format is refused, since nobody knows
what it would ask for.

Sources: PNG (ISO/IEC 15948) 5.3; JPEG (ITU-T T.81) B.1 and B.2; TIFF 6.0, section 2; BigTIFF; WebP (RFC 9649) 2.4 to
2.7; Netpbm's pages pbm to pam; GIF89a; BITMAPINFOHEADER of Windows.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from calib8.errors import DataError, OptionError

MAX_PIXELS = 2**25
"""Most pixels of an image that is decoded, 33.5 million; $CALIB8_MAX_PIXELS is another number."""
_VARIABLE = "CALIB8_MAX_PIXELS"
_MAX_SCANS = 200  # a progressive JPEG has about ten; each costs a walk over the image


class ImageSize(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


def check_image(data: bytes) -> ImageSize:
    """Read the size of an image file that may be decoded.

    Raises:
        DataError: it is no image of a known format, damaged in its head, or larger than allowed; begins with a verb.
    """
    try:
        read = next(read for is_it, read in _FORMATS if is_it(data))
        size = read(data)
    except StopIteration:
        raise DataError(f"is damaged, or no image of a format that is read ({', '.join(_NAMES)})") from None
    except (struct.error, IndexError, ValueError, OverflowError):
        raise DataError("is a damaged image: its head cannot be read") from None
    most = max_pixels()
    if min(size) < 1:
        raise DataError(f"is a damaged image: it says that it has {size.height} x {size.width} pixels")
    if size.height * size.width > most:
        raise DataError(
            f"says that it has {size.height} x {size.width} pixels, more than {most}; if it does, set {_VARIABLE}"
        )
    return size


def max_pixels() -> int:
    """Most pixels of an image. Raises OptionError for a variable that is no number."""
    text = os.environ.get(_VARIABLE, "")
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 19 and int(text) > 0):
        raise OptionError(f"the environment variable {_VARIABLE} is {text!r}; expected a number of pixels")
    return int(text)


def _png(data: bytes) -> ImageSize:
    """Chunk by chunk: a decoder makes room for a chunk before it has it."""
    size, has_image = ImageSize(0, 0), False
    place = 8
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if place + 12 + length > len(data):
            raise DataError("is a damaged PNG: a chunk is longer than the file")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, place + 8)
            size = ImageSize(height, width)
        elif kind == b"fcTL":  # a frame of an animation may not be larger than the image
            width, height = struct.unpack_from(">II", data, place + 12)
            if width > size.width or height > size.height:
                raise DataError("is a damaged PNG: a frame is larger than the image")
        elif kind == b"IDAT":
            has_image = True
        elif kind == b"IEND":
            if length or not has_image:  # a decoder reads on behind this one
                raise DataError("is a damaged PNG: it ends before its image")
            break
        place += 12 + length
    return size


def _jpeg(data: bytes) -> ImageSize:
    if data.count(b"\xff\xda") > _MAX_SCANS:
        raise DataError(f"is a JPEG with more than {_MAX_SCANS} scans")
    place = 2
    while True:
        while data[place] != 0xFF:  # decoders pass over what stands between segments
            place += 1
        while data[place] == 0xFF:
            place += 1
        marker = data[place]
        place += 1
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 3)
            return ImageSize(height, width)
        if marker not in _WITHOUT_LENGTH:
            place += struct.unpack_from(">H", data, place)[0]


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset([0x00, 0x01, *range(0xD0, 0xD9)])


def _bmp(data: bytes) -> ImageSize:
    (length,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", data, 18)
    return ImageSize(abs(height), abs(width))


def _gif(data: bytes) -> ImageSize:
    """The screen; decoders make the first frame as large as that."""
    width, height = struct.unpack_from("<HH", data, 6)
    return ImageSize(height, width)


def _webp(data: bytes) -> ImageSize:
    kind = data[12:16]
    if kind == b"VP8X":
        return ImageSize(1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little"))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageSize(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF))
    width, height = struct.unpack_from("<HH", data, 26)
    return ImageSize(height & 0x3FFF, width & 0x3FFF)


def _pnm(data: bytes) -> ImageSize:
    words = _words(data, 2)
    width, height = int(next(words)), int(next(words))
    return ImageSize(height, width)


def _words(data: bytes, place: int) -> Iterator[bytes]:
    """The words of a head of at most some lines, without comments."""
    for line in data[place : place + 4096].split(b"\n"):
        yield from line.partition(b"#")[0].split()


def _pam(data: bytes) -> ImageSize:
    words = list(_words(data, 2))
    values = dict(itertools.pairwise(words))
    return ImageSize(int(values.get(b"HEIGHT", b"0")), int(values.get(b"WIDTH", b"0")))


def _tiff(data: bytes) -> ImageSize:
    """The first directory, which is the one that is decoded."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    count_form, entry_form, offset_form = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
    (place,) = struct.unpack_from(f"{order}{offset_form}", data, 8 if is_big else 4)
    (count,) = struct.unpack_from(f"{order}{count_form}", data, place)
    place += struct.calcsize(f"={count_form}")
    step = struct.calcsize(f"={entry_form}")
    fields: dict[int, int] = {}
    for at in range(place, place + step * min(count, 4096), step):
        tag, kind, number, value = struct.unpack_from(f"{order}{entry_form}", data, at)
        form = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if form is not None and number == 1:
            fields[tag] = struct.unpack_from(f"{order}{form}", value)[0]
    size = ImageSize(fields.get(257, 0), fields.get(256, 0))
    rows = min(fields.get(278, size.height), size.height)
    if max(size.width * rows, fields.get(322, 0) * fields.get(323, 0)) > max_pixels():
        raise DataError("is a TIFF with strips or tiles of more pixels than an image may have")
    if fields.get(277, 1) > 16 or fields.get(258, 8) > 64:
        raise DataError("is a TIFF with more than 16 samples a pixel, or more than 64 bits a sample")
    return size


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(magics)


_NAMES = ("PNG", "JPEG", "BMP", "TIFF", "WebP", "PNM", "GIF")
_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], ImageSize]], ...] = (
    (_starts(b"\x89PNG\r\n\x1a\n"), _png),
    (_starts(b"\xff\xd8\xff"), _jpeg),
    (_starts(b"BM"), _bmp),
    (_starts(b"GIF87a", b"GIF89a"), _gif),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
    (_starts(b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b"), _tiff),
    (_starts(b"P7"), _pam),
    (_starts(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), _pnm),
)
