"""`calib8 COMMAND`: parses the command line, runs the command, turns errors into exit codes.

Results go to stdout; notes, progress and errors to stderr. Exit codes: 0, 1 (one clear message), 2 (usage).

The commands, and everything that they need, are imported inside of the boundary: a Ctrl-C, or a library that is broken,
is one line then, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from calib8.cli.boundary import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    flags: dict[str, argparse.Action] = {}

    def run() -> int:
        from calib8.cli.parser import run_command  # noqa: PLC0415 - see above

        return run_command(arguments, flags)

    def in_flags(text: str) -> str:
        from calib8.cli.flags import with_flags  # noqa: PLC0415

        return with_flags(text, flags)

    return guarded("calib8", run, in_flags)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the documentation is made from it."""
    from calib8.cli import parser  # noqa: PLC0415 - see above

    return parser.build_parser()
