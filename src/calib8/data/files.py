"""Where a path in a prototxt, a list or a `param_str` may lead."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from calib8.errors import DataError

MAX_TEXT_BYTES = 256 * 2**20
"""Largest list of samples that is read."""


def find_path(path: str, folders: Iterable[str | os.PathLike[str]]) -> Path:
    """Take the path itself if it is absolute, else the first that exists: in the working directory, then in `folders`.

    A path that exists nowhere is returned as it stands in the working directory, for the caller's message.
    """
    plain = Path(path)
    if plain.is_absolute():
        return plain
    candidates = (plain, *(Path(folder) / path for folder in folders))
    return next((c for c in candidates if c.exists()), plain)


def read_lines(path: Path, what: str) -> list[str]:
    """Read the lines of a text file, UTF-8 or any 8-bit code, without their line ends.

    Raises:
        DataError: it cannot be read, is larger than MAX_TEXT_BYTES, or is no text; `what` says what it was for.
    """
    try:
        if not path.is_file():
            raise DataError(f"{what}: {path} is no file; relative paths start at {Path.cwd()} or the model's folder")
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(f"{what}: {path} has more than {MAX_TEXT_BYTES} bytes, the most that is read of a list")
        data = path.read_bytes()
    except (OSError, ValueError) as why:
        raise DataError(f"{what}: {path} cannot be read: {getattr(why, 'strerror', None) or why}") from None
    if b"\0" in data:
        raise DataError(f"{what}: {path} is a binary file, a list in text form is expected")
    # File names are bytes to the system, so bytes that are no UTF-8 must survive.
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").splitlines()
