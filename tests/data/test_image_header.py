"""Sizes of images from their heads, and images that ask for more than they hold."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from calib8.data.datum import decode_image
from calib8.data.image_header import MAX_PIXELS, check_image
from calib8.errors import DataError, OptionError


def _skip_what_opencv_cannot_write(suffix: str) -> None:
    if not cv2.haveImageWriter(f"a.{suffix}"):
        pytest.skip(f"OpenCV {cv2.__version__} writes no {suffix}")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm", "pgm", "pbm", "pam", "gif"])
@pytest.mark.parametrize("size", [(1, 1), (37, 61), (300, 200)])
def test_the_size_that_opencv_finds(suffix, size):
    _skip_what_opencv_cannot_write(suffix)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    data = cv2.imencode(f".{suffix}", image[:, :, 0] if suffix in ("pgm", "pbm") else image)[1].tobytes()
    assert check_image(data) == size == decode_image(data, cv2.IMREAD_COLOR).shape[:2]


@pytest.mark.parametrize("options", [[cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]])
def test_jpegs_of_all_kinds(options):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    assert check_image(cv2.imencode(".jpg", image, options)[1].tobytes()) == (50, 70)


def chunk(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I4s", len(body) if length is None else length, kind) + body + struct.pack(
        ">I", zlib.crc32(kind + body)
    )  # fmt: skip


def png(height: int, width: int, *chunks: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(height: int, width: int, scans: int = 1) -> bytes:
    return b"\xff\xd8\xff\xc2" + struct.pack(">HBHHB", 8, 8, height, width, 1) + b"\xff\xda\0\2" * scans


def tiff(**fields: int) -> bytes:
    names = {
        "width": 256,
        "height": 257,
        "bits": 258,
        "samples": 277,
        "rows": 278,
        "tile_width": 322,
        "tile_height": 323,
    }
    entries = [struct.pack("<HHII", names[name], 4, 1, value) for name, value in sorted(fields.items())]
    return b"II\x2a\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries)


HOSTILE = {
    "png": (png(32_000, 32_000), "32000 x 32000 pixels, more than 33554432; if it does, set CALIB8_MAX_PIXELS"),
    "png chunk": (png(8, 8, chunk(b"tEXt", b"a", 0x7FFFFFF0)), "a chunk is longer than the file"),
    "png frame": (png(8, 8, chunk(b"fcTL", struct.pack(">III", 0, 60_000, 60_000))), "a frame is larger"),
    "png end": (png(8, 8, chunk(b"IEND", b""), chunk(b"tEXt", b"", 0x7FFFFFF0)), "it ends before its image"),
    "png long end": (png(8, 8, chunk(b"IEND", b"x" * 19), chunk(b"tEXt", b"", 0x7FFFFFF0)), "ends before its image"),
    "png 0": (png(0, 8), "0 x 8 pixels"),
    "jpeg": (jpeg(65_535, 65_535), "65535 x 65535 pixels"),
    "jpeg scans": (jpeg(5_000, 5_000, 1_000), "more than 200 scans"),
    "bmp": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 60_000, -60_000), "60000 x 60000 pixels"),
    "gif": (b"GIF89a" + struct.pack("<HH", 65_535, 65_535), "65535 x 65535 pixels"),
    "webp": (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff", "16777216 x 16777216 pixels"),
    "pnm": (b"P6 # a comment\n60000 60000\n255\n", "60000 x 60000 pixels"),
    "pam": (b"P7\nWIDTH 60000\nHEIGHT 60000\nENDHDR\n", "60000 x 60000 pixels"),
    "pnm without numbers": (b"P6\n\n", "damaged, or no image|its head cannot be read"),
    "tiff": (tiff(width=60_000, height=60_000, rows=1), "60000 x 60000 pixels"),
    "tiff tiles": (tiff(width=8, height=8, tile_width=60_000, tile_height=60_000), "tiles of more pixels"),
    "tiff samples": (tiff(width=8, height=8, samples=60_000), "more than 16 samples"),
    "empty": (b"", "no image of a format that is read"),
    "exr": (b"\x76\x2f\x31\x01" + bytes(50), "no image of a format that is read"),
    "cut": (b"\xff\xd8\xff", "its head cannot be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_refused_before_anything_is_decoded(name):
    data, message = HOSTILE[name]
    with pytest.raises(DataError, match=message):
        decode_image(data, cv2.IMREAD_COLOR)


@pytest.mark.parametrize("length", range(0, 60, 7))
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm", "gif"])
def test_a_file_that_ends_in_its_head(suffix, length):
    _skip_what_opencv_cannot_write(suffix)
    data = cv2.imencode(f".{suffix}", np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))[1].tobytes()
    with pytest.raises(DataError):
        decode_image(data[:length], cv2.IMREAD_COLOR)


def test_a_user_may_raise_the_limit(monkeypatch):
    monkeypatch.setenv("CALIB8_MAX_PIXELS", "100")
    check_image(png(10, 10))
    with pytest.raises(DataError, match="10 x 11 pixels, more than 100"):
        check_image(png(10, 11))
    monkeypatch.setenv("CALIB8_MAX_PIXELS", "many")
    with pytest.raises(OptionError, match="CALIB8_MAX_PIXELS is 'many'"):
        check_image(png(10, 10))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_largest_image_stays_below_512_megabytes(tmp_path, suffix):
    """As a sample of a network, in a process of its own; the file has less than 10 MB."""
    side = int(MAX_PIXELS**0.5)
    image = np.zeros((side, side, 3), np.uint8)
    image[::64] = 200
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if suffix == ".jpg" else []
    (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(suffix, image, options)[1].tobytes())
    assert (tmp_path / f"a{suffix}").stat().st_size < 10_000_000
    code = """
import sys
from pathlib import Path
from calib8.data import ImagesSource, Preprocess
source = ImagesSource(sys.argv[1], "x", (1, 3, 224, 224), Preprocess(resize="crop"))
next(source.batches())
# ru_maxrss would begin with the peak of the process that started this one.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / f"a{suffix}")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(done.stdout) < 512 * 1024  # KiB


@pytest.mark.shared
def test_the_93_bytes_that_took_two_gigabytes(shared):
    with pytest.raises(DataError, match="chunk is longer than the file"):
        decode_image((shared / "cases" / "hostile" / "13_chunk_length.png").read_bytes(), cv2.IMREAD_COLOR)
