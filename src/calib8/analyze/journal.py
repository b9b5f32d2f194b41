"""The record of a search: every loss that it asked for, in a file that grows by a line each.

A search decides the same on the same losses. So a search that was killed is begun again and given the recorded losses
until they are used up; what is lost is the trial that was running. A loss that has reached its question's bound is
there as far as it was known. A last line that was not written to its end does not count, and a record of another search
(other weights, samples, thresholds or options) is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from calib8.atomic import note_write
from calib8.errors import OptionError
from calib8.graph import Array
from calib8.lowering import Model

_FORMAT = 1
MAX_JOURNAL_BYTES = 64 * 2**20
"""Most that is read of a record: some 500,000 trials."""


class Journal:
    """One search's record. Use it in a `with` block.

    Args:
        path: the file; its folder exists.
        digest: of everything that the losses depend on.

    Attributes:
        seconds: that earlier runs of this search have taken.
        recorded: losses found in the file.

    Raises:
        OptionError: the file cannot be read or written.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path, self._header = path, {"calib8 tuning": _FORMAT, "digest": digest}
        self._lines: list[dict[str, Any]] = []
        self._next = 0
        self.seconds = 0.0
        self.recorded = 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Journal:
        with self._said():
            self._file = _opened(self._path)
            valid = self._read(self._file.read(MAX_JOURNAL_BYTES))
            self._file.seek(valid)
            self._file.truncate()
            note_write(self._path)
        if not valid:
            self._append(self._header)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def recall(self, asked: Sequence[Mapping[str, object]]) -> list[float]:
        """Return the recorded losses of what is asked now, as far as the record goes.

        Raises:
            OptionError: the record tells another story.
        """
        lines = self._lines[self._next : self._next + len(asked)]
        for line, one in zip(lines, asked, strict=False):
            if {key: line[key] for key in line if key not in ("loss", "seconds")} != dict(one):
                raise OptionError(
                    f"{self._path}: the record has {line} where the search asks for {dict(one)}; delete the file to "
                    "begin anew"
                )
        self._next += len(lines)
        return [math.inf if line["loss"] is None else float(line["loss"]) for line in lines]

    def record(self, asked: Mapping[str, object], loss: float, seconds: float) -> None:
        """Add a loss. It is in the file when this returns."""
        self._append({**asked, "loss": loss if math.isfinite(loss) else None, "seconds": round(seconds, 3)})

    def _append(self, line: Mapping[str, object]) -> None:
        if self._file is None:
            raise AssertionError("a journal is used in a `with` block")
        with self._said():
            self._file.write(json.dumps(line).encode() + b"\n")

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as why:
            reason = "it is a link, which is not followed" if why.errno == errno.ELOOP else why.strerror or why
            raise OptionError(f"{self._path}: the search cannot record its progress: {reason}") from None

    def _read(self, data: bytes) -> int:
        """Take in the lines of this search; returns where they end, 0 for a record of another one."""
        valid = 0
        for number, raw in enumerate(data.splitlines(keepends=True)):
            line = _parsed(raw)
            if line is None or (line != self._header if number == 0 else not _is_trial(line)):
                break
            valid += len(raw)
            if number:
                self._lines.append(line)
        self.recorded = len(self._lines)
        self.seconds = float(self._lines[-1]["seconds"]) if self._lines else 0.0
        return valid


def _opened(path: Path) -> IO[bytes]:
    """The file itself, unbuffered: what was written is in it. In a folder from elsewhere it may be anything."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OptionError(f"{path}: the search cannot record its progress: it is no file of its own; remove it")
    return os.fdopen(descriptor, "r+b", buffering=0)


def _is_trial(line: Mapping[str, Any]) -> bool:
    """Whether a line can be one of ours: a loss or none, and seconds."""
    return _is_number(line.get("seconds")) and ("loss" in line and (line["loss"] is None or _is_number(line["loss"])))


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _parsed(data: bytes) -> dict[str, Any] | None:
    if not data.endswith(b"\n"):
        return None
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def digest_of(model: Model, samples: Iterable[Mapping[str, Array]], *facts: object) -> str:
    """Name everything that losses depend on: the network, its weights, the samples, and what can be printed."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in model.net.layers:
        digest.update(repr((layer.name, layer.type, layer.bottoms, layer.tops)).encode())
        digest.update(layer.param.SerializeToString(deterministic=True))
        for blob in layer.blobs:
            digest.update(repr(blob.shape).encode())
            digest.update(np.ascontiguousarray(blob).data)
    for sample in samples:
        for value, array in sample.items():
            digest.update(repr((value, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
    digest.update(repr(facts).encode())
    return digest.hexdigest()
