"""Options in the place of parameters: the library says `samples`, who reads a command's message knows --samples."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

Flags = Mapping[str, argparse.Action]
"""By parameter, the option that fills it."""

_NAMED = re.compile(r"`(\w+)(?:=([^`]*))?`")
_ANY = ".."


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the options of a command, by the parameters that they fill."""
    actions = parser._actions  # argparse has no public way to them
    return {action.dest: action for action in reversed(actions) if action.option_strings}


def with_flags(text: str, flags: Flags) -> str:
    """Put a message of the library into the words of a command.

    `samples` becomes `--samples`, `images=..` becomes `--images LIST`, and `method=mse` becomes `--method mse`. What
    the command has no option for stays as it is.
    """
    return _NAMED.sub(lambda named: _flag(named, flags), text)


def _flag(named: re.Match[str], flags: Flags) -> str:
    name, value = named.groups()
    action = flags.get(name)
    if action is None:
        return named[0]
    flag = next((option for option in action.option_strings if option.startswith("--")), action.option_strings[0])
    if value is None or action.nargs == 0:
        return flag
    return f"{flag} {_metavar(action) if value == _ANY else value}"


def _metavar(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())
