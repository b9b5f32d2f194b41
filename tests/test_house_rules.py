"""What a linter has no rule for: how files of others may be looked at and opened, and what may load them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# Questions and reads of pathlib and os, which raise for odd names, wait for pipes and read devices without an end.
QUESTIONS = frozenset(
    ["exists", "is_dir", "is_file", "iterdir", "rglob", "glob", "lstat", "read_text", "read_bytes", "mkdir", "samefile",
     "touch", "write_text", "write_bytes", "symlink_to", "hardlink_to"]
)  # fmt: skip
FILE_ROOMS = ("calib8/atomic/", "calib8/reading.py")
# Loaders that take memory before they check, follow links, or execute: where each of them may stand, with its checks.
LOADERS = {
    "imdecode": ["calib8/data/datum.py"],
    "imread": [],
    "VideoCapture": [],
    "load": ["calib8/python_layers/isolation.py"],  # of yaml, put in the place of itself
    "unsafe_load": [],
    "full_load": [],
    "loadtxt": [],
    "genfromtxt": [],
    "fromfile": [],
    "memmap": [],
    "Environment": [],
    "eval": [],
    "exec": [],
    "system": [],
    "Popen": [],
    "extractall": [],
}
MODULES = {
    "lmdb": ["calib8/data/lmdb_writer.py"],
    "pickle": ["calib8/workflow/cluster.py", "calib8/workflow/cluster_trials.py"],  # no files: what Dask carries
    "marshal": [],
    "shelve": [],
    "subprocess": [],
    "h5py": ["calib8/proto/hdf5.py", "calib8/data/hdf5_data.py", "calib8/pycaffe/weights.py"],
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "src").as_posix()


def calls_in(tree: ast.AST):
    """Line and name of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.lineno, node.func.attr, node.func.value
            elif isinstance(node.func, ast.Name):
                yield node.lineno, node.func.id, None


def of_another_kind(value: ast.AST | None) -> bool:
    """`re.compile` and `platform.system` have nothing but their names in common with what is meant."""
    return isinstance(value, ast.Name) and value.id in ("re", "platform")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_are_asked_and_opened_in_two_rooms_only(path):
    if name_of(path).startswith((*FILE_ROOMS, "calib8/report/build.py")):  # which reads what lies in the package
        return
    found = [
        f"line {line}: .{name}()"
        for line, name, value in calls_in(ast.parse(path.read_text()))
        if value is not None and name in QUESTIONS
    ]
    assert not found, "use calib8.reading or calib8.atomic"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_opens_files_by_itself(path):
    """`open(...)`, and `.open("rb")` of a path; a journal, which goes on with its own file, opens it itself."""
    if name_of(path).startswith((*FILE_ROOMS, "calib8/analyze/journal.py")):
        return
    opened = [
        line
        for line, name, value in calls_in(ast.parse(path.read_text()))
        if (name == "open" and value is None) or (name == "open" and isinstance(value, ast.Call))
    ]
    assert not opened


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_loaders_of_libraries_stand_behind_checks(path):
    tree = ast.parse(path.read_text())
    found = [(line, name) for line, name, value in calls_in(tree) if name in LOADERS and not of_another_kind(value)]
    assert not [(line, name) for line, name in found if name_of(path) not in LOADERS[name]]
    imported = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    imported += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [m for m in imported if m in MODULES and name_of(path) not in MODULES[m]]


def test_the_rules_find_what_they_are_for():
    bad = (
        "from pathlib import Path\nimport pickle\nPath('a').exists()\nopen('a')\nPath('a').open('rb')\ncv2.imread('a')"
    )
    names = [
        name for _, name, value in calls_in(ast.parse(bad)) if value is None or name in QUESTIONS | {"open", "imread"}
    ]
    assert {"exists", "open", "imread", "Path"} == set(names)
