"""The command line as a whole: all commands, their options, and what runs one of them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from calib8.cli import calibrate, check, completion, doctor, export, lmdb, sensitivity, tune
from calib8.cli.flags import Flags, flags_of, with_flags
from calib8.cli.version import VersionAction
from calib8.engine import EngineOptions, use_gpu
from calib8.engine.session import check_device

_COMMANDS = (check, doctor, calibrate, sensitivity, tune, export, lmdb, completion)


def run_command(arguments: Sequence[str] | None, flags: dict[str, argparse.Action]) -> int:
    """Parse the arguments and run the command that they name.

    Args:
        flags: filled with the command's options, as soon as it is known.

    Returns:
        The exit code.
    """
    options = build_parser().parse_args(arguments)
    flags.update(options.flags)
    _set_up_logging(options.verbose, flags)
    use_gpu(getattr(options, "gpu", None))
    check_device(EngineOptions())
    return int(options.run(options))


class _Line(logging.Formatter):
    """`calib8: warning: what`."""

    def __init__(self, flags: Flags) -> None:
        super().__init__()
        self._flags = flags

    def format(self, record: logging.LogRecord) -> str:
        return f"calib8: {record.levelname.lower()}: {with_flags(record.getMessage(), self._flags)}"


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever is stderr at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """stderr."""
        return sys.stderr


def _set_up_logging(verbose: bool, flags: Flags) -> None:
    handler = _Stderr()
    handler.setFormatter(_Line(flags))
    logger = logging.getLogger("calib8")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the documentation is made from it."""
    parser = argparse.ArgumentParser(
        prog="calib8",
        description="INT8 calibration for Caffe networks, without Caffe.",
        epilog="`calib8 COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action=VersionAction, help="print what a bug report needs: versions, and more")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add_parser(commands)
    every = list(_commands(commands))
    elsewhere = {name: flag for command in every for name, flag in flags_of(command).items()}
    for command in every:  # its own flags, and those of other commands that a message may advise
        command.set_defaults(flags={**elsewhere, **flags_of(command)})
    return parser


def _commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> Iterator[argparse.ArgumentParser]:
    """All commands, and all commands of commands."""
    for command in commands.choices.values():
        yield command
        for action in command._actions:  # argparse has no public way to them
            if isinstance(action, argparse._SubParsersAction):
                yield from _commands(action)
