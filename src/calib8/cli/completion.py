"""`calib8 completion SHELL`: a script that completes commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import shtab

from calib8.cli.options import Commands

_DESCRIPTION = """\
Print a script that completes commands, options, their values and the names of files.

To have it in every new shell:
  bash   echo 'source <(calib8 completion bash)' >> ~/.bashrc
  zsh    calib8 completion zsh > FOLDER/_calib8, where FOLDER is one of $fpath
  fish   calib8 completion fish > ~/.config/fish/completions/calib8.fish"""

_SHELLS = ("bash", "zsh", "fish")


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "completion", help="a script that completes what you type", description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    parser.add_argument("shell", choices=_SHELLS, help="the shell that you use")
    parser.add_argument("-v", "--verbose", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Print the script.

    Returns:
        The exit code.
    """
    from calib8.cli.main import build_parser  # noqa: PLC0415 - which imports this module

    print(script(build_parser(), options.shell))
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Write the script for a parser with commands."""
    for action in _actions(parser):
        if action.nargs != 0 and action.choices is None and action.type in (None, Path):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads it
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of the parser, and of the parsers of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
