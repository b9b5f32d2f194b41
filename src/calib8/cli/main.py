"""`calib8 COMMAND`: parses the command line, runs the command, turns errors into exit codes.

Results go to stdout; notes, progress and errors to stderr. Exit codes: 0, 1 (one clear message), 2 (usage).
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from calib8.cli import calibrate, check, completion, doctor, export, lmdb, sensitivity, tune
from calib8.cli.flags import Flags, flags_of, with_flags
from calib8.cli.version import VersionAction
from calib8.engine import EngineOptions, use_gpu
from calib8.engine.session import check_device
from calib8.errors import Calib8Error

_COMMANDS = (check, doctor, calibrate, sensitivity, tune, export, lmdb, completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    flags: Flags = {}
    try:
        options = build_parser().parse_args(arguments)
        flags = options.flags
        _set_up_logging(options.verbose, flags)
        use_gpu(getattr(options, "gpu", None))
        check_device(EngineOptions())
        code = int(options.run(options))
        sys.stdout.flush()
    except Calib8Error as why:
        print(f"calib8: error: {with_flags(str(why), flags)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader (head, less) has gone
        _close_stdout()
        return 1
    except OSError as why:
        if why.errno != errno.ENOSPC:
            raise
        _close_stdout()
        print(f"calib8: error: cannot write to stdout: {why.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("calib8: interrupted; no file was changed", file=sys.stderr)
        return 130
    return code


def _close_stdout() -> None:
    """What is left in stdout's buffer goes nowhere; python would complain again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Line(logging.Formatter):
    """`calib8: warning: what`."""

    def __init__(self, flags: Flags) -> None:
        super().__init__()
        self._flags = flags

    def format(self, record: logging.LogRecord) -> str:
        return f"calib8: {record.levelname.lower()}: {with_flags(record.getMessage(), self._flags)}"


def _set_up_logging(verbose: bool, flags: Flags) -> None:
    handler = logging.StreamHandler(sys.stderr)
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
