"""The code blocks of the project's Markdown pages: what a reader would type, run or save."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
COMMAND_LANGUAGES = frozenset(["console", "bash", "sh"])
SHOWN_LANGUAGES = frozenset(["text", "json", "yaml", "dockerfile", "toml"])
"""Languages of blocks that nobody runs. `prototxt` is read, `python` is run."""

_NOT_RUN = re.compile(r"<!--\s*not run:\s*(.*?)\s*-->", re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_LOOKS_LIKE_A_COMMAND = re.compile(r"^(\$ |(calib8|python3?|pip|make|docker|export|source|git) )", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced or indented code block.

    Attributes:
        page, line: where it stands.
        language: the first word of the fence; "" for none, "console" for indented commands.
        title: the file that the reader saves it as; "" for none.
        text: what stands in it.
        reason: why it is not run, as its marker says; None without a marker.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        """`docs/quickstart.md:12`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def looks_like_commands(self) -> bool:
        """Whether a line of it is something to type."""
        return _LOOKS_LIKE_A_COMMAND.search(self.text) is not None


def pages() -> list[Path]:
    """The pages of the root and everything in docs/."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    return list(_blocks(page, page.read_text(encoding="utf-8")))


def _blocks(page: Path, text: str) -> Iterator[Block]:
    reason: str | None = None
    for token in MarkdownIt().parse(text):
        if token.type == "html_block":
            marker = _NOT_RUN.search(token.content)
            reason = marker.group(1) if marker else None
        elif token.type in ("fence", "code_block"):
            title = _TITLE.search(token.info)
            language = token.info.split()[0] if token.info.split() else ""
            line = token.map[0] + 1 if token.map else 0
            block = Block(page, line, language, title.group(1) if title else "", token.content, reason)
            yield _as_console(block) if token.type == "code_block" else block
            reason = None
        else:
            reason = None  # a marker stands directly above its block


def _as_console(block: Block) -> Block:
    """An indented block of commands as a console block; another one stays without a language."""
    if not block.looks_like_commands:
        return block
    lines = [line if line.startswith("$ ") else f"$ {line}" for line in block.text.splitlines() if line]
    return Block(block.page, block.line, "console", "", "\n".join(lines), block.reason)


@dataclass(frozen=True)
class Command:
    """A command and the output that the page shows for it; None where it shows none."""

    text: str
    shown: str | None


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block with what it shows, or of a shell script."""
    if block.language != "console":
        return [Command(text, None) for text in _joined(block.text.splitlines())]
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0][:-1] + line.removeprefix("> "), [])
        elif found:
            found[-1][1].append(line)
        else:
            raise ValueError(f"{block.place}: a console block begins with `$ ` and a command")
    return [Command(text, "\n".join(shown).strip("\n") or None) for text, shown in found]


def _joined(lines: list[str]) -> Iterator[str]:
    """Lines of a script; a backslash at the end joins a line to the next, comments and empty lines are nothing."""
    text = ""
    for line in lines:
        text += line.removesuffix("\\")
        if not line.endswith("\\"):
            if shlex.split(text, comments=True):
                yield text
            text = ""


def shows(shown: str, output: str) -> bool:
    """Whether the output is what a page shows; `...` stands for anything, also for lines."""
    pattern = ".*".join(re.escape(part) for part in _without_trailing_blanks(shown).split("..."))
    return re.fullmatch(pattern, _without_trailing_blanks(output), re.DOTALL) is not None


def _without_trailing_blanks(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
