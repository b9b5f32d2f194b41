"""Options into a record, and back: `calibrate --from RECORD`, and commands that take the images of a record."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calib8.errors import Calib8Error, OptionError
from calib8.export.record import MAX_RECORD_BYTES, Record, note_command, parse_record
from calib8.reading import exists, read_file
from calib8.terminal import printable
from calib8.workflow.recording import what_computed, words_of_record

_log = logging.getLogger(__name__)

IMAGE_OPTIONS = (
    "images", "arrays", "input", "values", "shapes", "size", "resize", "short_side", "color", "mean", "scale", "mirror",
    "skip_bad",
)  # fmt: skip
CALIBRATE_OPTIONS = (
    "iteration", "method", "original", "percent", "ignore_zeros", "bins", "concat_quantize", "thresholds", "two_pass",
    "repair", "without",
    *IMAGE_OPTIONS,
)  # fmt: skip
"""Whatever changes a result; not threads, memory, and where files go."""
_IMAGE_FLAGS = (
    "--images", "--samples", "--input", "--value", "--shape", "--size", "--resize", "--short-side", "--color", "--mean",
    "--scale", "--mirror", "--skip-bad",
)  # fmt: skip
_CALIBRATE_FLAGS = (
    "--iteration", "--method", "--original", "--percent", "--ignore-zeros", "--bins", "--concat-quantize",
    "--thresholds", "--two-pass", "--repair", "--without", *_IMAGE_FLAGS,
)  # fmt: skip
"""A record may come from anybody: it can say which numbers are used, and nothing that runs or writes."""
_OF_ARRAYS = ("--value", "--shape", "--skip-bad")
_OF_PIXELS = ("--color", "--mean", "--scale")
"""What makes numbers of pixels: who says one of them says all, or else the factor of a wrong try stays."""
_OF_IMAGE_PARAMS = ("--images", "--samples", "--input", "--value", "--shape", "--skip-bad")
_FLAGS = {"arrays": "--samples"}
_PATHS = ("images", "arrays", "thresholds", "mean", "boxes", "maps", "pictures")
_NO_MATTER = frozenset([
    "help", "threads", "gpu", "verbose", "budget", "output", "json", "no_picture", "no_verdict", "from_record",
    "no_record", "memory_opt", "cluster",
])  # fmt: skip
"""Options that change no number, and where files go."""


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
            continue
        words += [f"{flag}={text}" for text in _texts(name, value, folder)]
    return words


def _texts(name: str, value: Any, folder: Path) -> list[str]:
    """The arguments of an option, one for each time that it was given."""
    if name in ("values", "shapes"):
        return [f"{blob}={_text(numbers)}" for blob, numbers in value]
    if name == "size":
        return [f"{value[0]}x{value[1]}"]
    if name == "anchors":
        return [" ".join(map(_text, value))]
    every = value if isinstance(value, list) else [value]
    return [_path(one, folder) if name in _PATHS or isinstance(one, Path) else _text(one) for one in every]


def _text(value: Any) -> str:
    return ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)


def entry_of(
    options: argparse.Namespace, folder: Path, samples: Mapping[str, object], **further: object
) -> dict[str, object]:
    """Make what a record says of a command: all options that matter, samples, model, versions.

    Args:
        folder: of the record.
        samples: as `HashedSource.samples` describes them.
        further: keys of the command's own.
    """
    own = options.flags.own
    names = [name for name in own if name not in _NO_MATTER]
    words = words_of(options, [*names, "arrays"], own, folder)
    proto, model = getattr(options, "proto", None), getattr(options, "model", None)
    files = proto or options.files.definition, model or options.files.weights
    return {"options": words, "samples": dict(samples), **further, **what_computed(*files)}


def source_of(origin: str, folder: Path) -> str:
    """Where thresholds come from, as a record in a folder says it: without the names of other folders."""
    return _path(origin, folder)


def note(options: argparse.Namespace, folder: Path, command: str, entry: Mapping[str, object]) -> None:
    """Write it into the record of a folder, within the `write_together` that writes the command's files.

    Raises:
        OptionError: the folder cannot be written.
    """
    note_command(folder, options.name, command, entry, words_of(options, IMAGE_OPTIONS, options.flags.own, folder))


def note_if_possible(options: argparse.Namespace, command: str, entry: Mapping[str, object]) -> None:
    """Do so for a command that writes no other file, whose folder need not be one that it may write into.

    Raises:
        OptionError: `--output` names a folder that cannot be written.
    """
    try:
        note(options, options.output or options.path, command, entry)
    except Calib8Error as why:
        if options.output is not None:
            raise
        _log.info("nothing is recorded of this: %s", why)


def _path(value: Any, folder: Path) -> str:
    """From the record's folder, or from the root where that is all that the two share; a mean in numbers stays."""
    if not exists(Path(value)):
        return str(value)
    # Not by the names alone: `..` goes up from where a symbolic link leads to.
    path, start = Path(os.path.realpath(Path(value).parent), Path(value).name), os.path.realpath(folder)
    if os.path.commonpath([path, start]) == os.path.sep:
        return path.as_posix()
    return f"{{record}}/{Path(os.path.relpath(path, start)).as_posix()}"


def with_record(options: argparse.Namespace, given: Sequence[str]) -> list[str] | None:
    """The words of a command, with those of a record before the user's own; None where no record has a say.

    Raises:
        OptionError: `--from` names no record, or one without options.
    """
    if getattr(options, "no_record", False):
        return None
    path = getattr(options, "from_record", None)
    if path is not None:
        words = _words(path, "calibrate", _CALIBRATE_FLAGS)
        if not words:
            raise OptionError(f"{path}: holds no options of a calibration; it was written without them")
        _tell("options", words, path)
        return _inserted(given, words)
    if not all(hasattr(options, name) for name in ("name", "path", "arrays")):
        return None  # no command on samples of a network in a folder
    path = options.path / f"bmnet_{options.name}.calib8.json"
    words = _words(path, "images", _IMAGE_FLAGS) if exists(path) else []
    words = [word for word in words if not _is_settled(word.partition("=")[0], options, given)]
    if not words:
        return None
    _tell("images", words, path)
    _refuse_moved(words, path)
    return _inserted(given, words)


def _refuse_moved(words: Sequence[str], record: Path) -> None:
    for flag, _, value in (word.partition("=") for word in words):
        if flag in ("--images", "--samples") and not exists(Path(value)):
            raise OptionError(
                f"{record}: {flag}: {value}: no such file; it was there when this was recorded, and one of the two has"
                f" moved since; say {flag} yourself"
            )


def _is_settled(flag: str, options: argparse.Namespace, given: Sequence[str]) -> bool:
    """Whether the user has said himself what an option of the record says, or something that it does not go with."""
    if options.arrays is not None:
        return flag not in _OF_ARRAYS
    if flag == "--samples" and options.images is not None:
        return True
    if getattr(options, "image_params", None) is not None and flag not in _OF_IMAGE_PARAMS:
        return True
    together = _OF_PIXELS if flag in _OF_PIXELS else (flag,)
    actions = [next(a for a in options.flags.values() if one in a.option_strings) for one in together]
    spellings = [spelling for action in actions for spelling in action.option_strings]
    words = [word.partition("=")[0] for word in given if word.startswith("--")]
    return flag != "--samples" and any(s.startswith(word) for word in words for s in spellings if len(word) > 2)


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
