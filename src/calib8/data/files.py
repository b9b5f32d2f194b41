"""Where a path in a prototxt, a list or a `param_str` may lead."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from calib8.errors import DataError
from calib8.reading import exists, is_file, read_file

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
    return next((c for c in candidates if exists(c)), plain)


def read_lines(path: Path, what: str) -> list[str]:
    """Read the lines of a text file, UTF-8 or any 8-bit code, without their line ends.

    Raises:
        DataError: it cannot be read, is larger than MAX_TEXT_BYTES, or is no text; `what` says what it was for.
    """
    if not is_file(path):
        raise DataError(f"{what}: {path} is no file; relative paths start at {Path.cwd()} or the model's folder")
    data = read_file(path, MAX_TEXT_BYTES, DataError, what)
    if b"\0" in data:
        raise DataError(f"{what}: {path} is a binary file, a list in text form is expected")
    # File names are bytes to the system, so bytes that are no UTF-8 must survive.
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").splitlines()
