"""Options that every command has."""

from __future__ import annotations

from typing import Any


def add_common_options(parser: Any) -> None:
    """Add `--threads` and `--verbose` to a parser or a group of one."""
    parser.add_argument("--threads", type=int, metavar="N", help="threads to use (default: all cores)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done, changed and left out")
