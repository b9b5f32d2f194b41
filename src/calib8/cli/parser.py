"""The command line as a whole: all commands, their options, and what runs one of them.

A command's module imports what it computes with, which takes longer than most errors take to be found. So what can be
typed is described apart, in `calib8.cli.arguments`, and a command's own module is imported when it runs, here alone. Of
the commands that the arguments do not name, not even the description is imported: their names and summaries stand here.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TextIO

from calib8.cli.arguments.network import place
from calib8.cli.flags import Flags, flags_of, with_flags

SUMMARIES: Mapping[str, str] = {
    "check": "say what is in a network, and what is wrong with it",
    "doctor": "say whether images and preprocessing are right",
    "calibrate": "quantise a network to INT8",
    "evaluate": "say how much accuracy INT8 costs, on labelled data",
    "report": "write one page that shows what INT8 does",
    "thresholds": "find thresholds in kept histograms, and compare methods",
    "merge": "merge histograms of parts of the data",
    "sensitivity": "say which layer costs the accuracy",
    "tune": "tune thresholds, and choose layers that stay in FP32",
    "export": "write a network for other tools",
    "lmdb": "make and look into LMDBs",
    "completion": "a script that completes what you type",
}
"""All commands in the order of the help.

Each has a module in `calib8.cli.arguments` that describes it, with `add_parser`, and one in `calib8.cli` with `run`.
"""


# Threads of OpenBLAS, which numpy and OpenCV bring along, spin for 2^26 cycles before they sleep, as soon as numpy is
# imported and behind each product: on cores that forward passes want. Here it is 2^4.
_SETTINGS = {"OPENBLAS_THREAD_TIMEOUT": "4"}


def run_command(arguments: Sequence[str] | None, flags: CommandFlags) -> int:
    """Parse the arguments and run the command that they name.

    Args:
        flags: filled with the command's options, as soon as it is known.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parsed(given)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    options = _recorded(options, given) or options
    flags.own, options.flags = options.flags, flags
    _set_up_logging(options.verbose, flags)
    if hasattr(options, "gpu"):
        _choose_device(options.gpu)
    return int(importlib.import_module(f"calib8.cli.{options.command}").run(options))


def _parsed(given: list[str]) -> argparse.Namespace:
    """The options, and which files NAME and PATH mean."""
    options = build_parser(given).parse_args(given)
    if hasattr(options, "name"):
        place(options)
    return options


def _recorded(options: argparse.Namespace, given: list[str]) -> argparse.Namespace | None:
    """The options once more, with those of a record; None where no record has a say."""
    if not hasattr(options, "images"):
        return None
    from calib8.cli.recording import with_record  # noqa: PLC0415 - large, and needed by a line that is right

    words = with_record(options, given)
    return None if words is None else _parsed(words)


def _choose_device(gpu: int | None) -> None:
    from calib8.engine import EngineOptions, use_gpu  # noqa: PLC0415 - a command that takes a GPU imports it anyway
    from calib8.engine.session import check_device  # noqa: PLC0415

    use_gpu(gpu)
    check_device(EngineOptions())


class CommandFlags(Mapping[str, argparse.Action]):
    """The options of a command, and behind them those of all others, which a message may advise.

    Attributes:
        own: the command's; the others' modules are imported only when one of them is asked for.
    """

    def __init__(self) -> None:
        self.own: Flags = {}

    @cached_property
    def _all(self) -> dict[str, argparse.Action]:
        others = {name: flag for command in _commands(build_parser()) for name, flag in flags_of(command).items()}
        return {**others, **self.own}

    def __getitem__(self, name: str) -> argparse.Action:
        return self.own[name] if name in self.own else self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


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


def build_parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Build the parser of the whole command line; the documentation is made from it.

    Args:
        arguments: what will be parsed; only the command that they name has its options then. None for all commands.
    """
    parser = argparse.ArgumentParser(
        prog="calib8",
        description="INT8 calibration for Caffe networks, without Caffe.",
        epilog="`calib8 COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action=_VersionAction, help="print what a bug report needs: versions, and more")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", required=True)
    named = None if arguments is None else next((text for text in arguments if not text.startswith("-")), "")
    for name, summary in SUMMARIES.items():
        if named in (None, name):
            importlib.import_module(f"calib8.cli.arguments.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    for command in _commands(parser):
        command.set_defaults(flags=flags_of(command), usage_error=command.error)
    return parser


class _VersionAction(argparse.Action):
    """Prints the versions and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print; argparse calls it when the option is given."""
        from calib8.cli.version import version_lines  # noqa: PLC0415 - it looks at the libraries

        print("\n".join(version_lines()))
        parser.exit()


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """All commands, and all commands of commands."""
    for action in parser._actions:  # argparse has no public way to them
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from _commands(command)
