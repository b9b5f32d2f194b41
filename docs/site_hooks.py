"""What mkdocs does to the pages beyond Markdown: fills in the command reference, unlinks files outside of docs/."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from typing import Any

from calib8.cli.main import build_parser

PLACEHOLDER = "<!-- the commands -->"
_WIDTH = "100"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs with the text of every page."""
    return unlinked(markdown.replace(PLACEHOLDER, command_reference()), page.file.src_uri)


def unlinked(markdown: str, page: str) -> str:
    """Links to the source tree, which is no part of the site, become plain text."""
    up = "../" * (page.count("/") + 1)
    return re.sub(rf"\[([^\]]+)\]\({re.escape(up)}[^)]*\)", r"\1", markdown)


def command_reference() -> str:
    """The help text of every command."""
    os.environ["COLUMNS"] = _WIDTH  # what argparse wraps its text to
    return "\n\n".join(f"## {p.prog}\n\n```text\n{p.format_help()}```" for p in commands(build_parser()))


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A command and its subcommands, depth first."""
    yield parser
    for action in parser._actions:  # argparse has no public way to a parser's subcommands
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)
