"""Options into a record, and back: `calibrate --from RECORD`, and later commands that take the images of a record."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calib8.errors import OptionError
from calib8.export.record import MAX_RECORD_BYTES, Record, parse_record
from calib8.reading import exists, read_file
from calib8.terminal import printable
from calib8.workflow.recording import words_of_record

IMAGE_OPTIONS = (
    "images", "arrays", "input", "values", "size", "resize", "short_side", "color", "mean", "scale", "mirror",
)  # fmt: skip
CALIBRATE_OPTIONS = (
    "iteration", "method", "original", "percent", "ignore_zeros", "bins", "concat_quantize", "thresholds", "two_pass",
    "repair", "without",
    *IMAGE_OPTIONS,
)  # fmt: skip
"""Whatever changes a result; not threads, memory, and where files go."""
_IMAGE_FLAGS = (
    "--images", "--samples", "--input", "--value", "--size", "--resize", "--short-side", "--color", "--mean", "--scale",
    "--mirror",
)  # fmt: skip
_CALIBRATE_FLAGS = (
    "--iteration", "--method", "--original", "--percent", "--ignore-zeros", "--bins", "--concat-quantize",
    "--thresholds", "--two-pass", "--repair", "--without", *_IMAGE_FLAGS,
)  # fmt: skip
"""A record may come from anybody: it can say which numbers are used, and nothing that runs or writes."""
_FLAGS = {"arrays": "--samples"}
_PATHS = ("images", "arrays", "thresholds", "mean")


def words_of(options: argparse.Namespace, names: Iterable[str], flags: Mapping[str, Any], folder: Path) -> list[str]:
    """The options of these names that are not as usual, as words of a command.

    Args:
        flags: by name, their arguments.
        folder: where the record will lie; paths are written from there.
    """
    words: list[str] = []
    for name in names:
        value = getattr(options, name, None)
        action = flags.get("samples" if name == "arrays" else name)
        if action is None or value is None or (name != "arrays" and value == action.default):
            continue
        flag = _FLAGS.get(name) or next(o for o in action.option_strings if o.startswith("--"))
        if action.nargs == 0:
            words.append(flag)
        elif name == "values":
            words += [f"{flag}={blob}={_text(numbers)}" for blob, numbers in value]
        elif name == "size":
            words.append(f"{flag}={value[0]}x{value[1]}")
        else:
            words.append(f"{flag}={_path(value, folder) if name in _PATHS else _text(value)}")
    return words


def _text(value: Any) -> str:
    return ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)


def _path(value: Any, folder: Path) -> str:
    """From the record's folder; a mean in numbers stays as it is."""
    path = Path(value)
    return f"{{record}}/{Path(os.path.relpath(path, folder)).as_posix()}" if exists(path) else str(value)


def with_record(options: argparse.Namespace, given: Sequence[str]) -> list[str] | None:
    """The words of a command, with those of a record before the user's own; None where no record has a say.

    Raises:
        OptionError: `--from` names no record, or one without options.
    """
    path = getattr(options, "from_record", None)
    if path is not None:
        words = _words(path, "calibrate", _CALIBRATE_FLAGS)
        if not words:
            raise OptionError(f"{path}: holds no options of a calibration; it was written without them")
        _tell("options", words, path)
        return _inserted(given, words)
    if not _takes_recorded_images(options):
        return None
    path = options.path / f"bmnet_{options.name}.calib8.json"
    words = _words(path, "images", _IMAGE_FLAGS) if exists(path) else []
    if not words:
        return None
    _tell("images", words, path)
    return _inserted(given, words)


def _takes_recorded_images(options: argparse.Namespace) -> bool:
    """Whether it is a command on samples of a network in a folder, and no option says anything of them."""
    if hasattr(options, "from_record") or not all(hasattr(options, name) for name in ("name", "path", "arrays")):
        return False
    usual = {name: options.flags[name].default for name in IMAGE_OPTIONS if name in options.flags}
    untouched = all(getattr(options, name) == default for name, default in usual.items())
    return untouched and options.arrays is None and getattr(options, "image_params", None) is None


def _inserted(given: Sequence[str], words: Sequence[str]) -> list[str]:
    """Behind the command's name, so that what the user says comes later and wins."""
    return [given[0], *words, *given[1:]]


def _tell(what: str, words: Sequence[str], path: Path) -> None:
    print(printable(f"calib8: {what} as recorded in {path}: {' '.join(words)}"), file=sys.stderr)


def _words(path: Path, key: str, allowed: Sequence[str]) -> list[str]:
    words = words_of_record(_read(path).further, key, path.parent)
    strangers = [word for word in words if word.partition("=")[0] not in allowed]
    if strangers:
        raise OptionError(f"{path}: {key}: {strangers[0]!r} is no option that a record can have")
    return words


def _read(path: Path) -> Record:
    return parse_record(read_file(path, MAX_RECORD_BYTES, OptionError), str(path))
