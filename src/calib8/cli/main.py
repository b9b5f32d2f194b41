"""`calib8 COMMAND`: parses the command line, runs the command, turns errors into exit codes.

Results go to stdout; notes, progress and errors to stderr. Exit codes: 0, 1 (one clear message), 2 (usage).

The commands, and everything that they need, are imported inside of the boundary: a Ctrl-C, or a library that is broken,
is one line then, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from calib8.cli.boundary import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    flags: list[Mapping[str, argparse.Action]] = []

    def run() -> int:
        from calib8.cli.parser import CommandFlags, run_command  # noqa: PLC0415 - see above

        own = CommandFlags()
        flags.append(own)
        return run_command(arguments, own)

    def in_flags(text: str) -> str:
        from calib8.cli.flags import with_flags  # noqa: PLC0415

        return with_flags(text, flags[0]) if flags else text

    return guarded("calib8", run, in_flags)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line; the documentation is made from it."""
    from calib8.cli import parser  # noqa: PLC0415 - see above

    return parser.build_parser()
