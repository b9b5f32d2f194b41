"""The command line of `calib8 completion`."""

from __future__ import annotations

import argparse

from calib8.cli.arguments.common_options import Commands

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
    parser.add_argument("shell", choices=_SHELLS, help="the shell that you use")
    parser.add_argument("-v", "--verbose", action="store_true", help=argparse.SUPPRESS)
