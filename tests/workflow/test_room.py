"""What keeps the work apart from its faces: below the commands nothing reads a command line, prints, or names flags."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import calib8

SOURCE = Path(calib8.__file__).parent
FACES = {SOURCE / "cli"}
FLAG = re.compile(r"(?<![\w-])--[a-z]{2}")
OTHER_TOOLS = ("convert_imageset --backend", "docker run --gpus")


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if FACES.isdisjoint(path.parents)]


def texts(tree: ast.Module) -> Iterator[str]:
    """All strings but docstrings, those of f-strings too."""
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
            yield node.value


def test_the_walk_sees_what_it_looks_for():
    (tree,) = (ast.parse('"""--doc"""\nimport argparse\nf"give --images {x}"'),)
    assert [text for text in texts(tree) if FLAG.search(text)] == ["give --images "]
    assert len(modules()) > 100


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_command_line_below_the_commands(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "argparse" not in imported
    flags = [text for text in texts(tree) if FLAG.search(text)]
    assert [text for text in flags if not any(tool in text for tool in OTHER_TOOLS)] == []
    if path.is_relative_to(SOURCE / "workflow"):
        called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "id")}
        assert "print" not in called
