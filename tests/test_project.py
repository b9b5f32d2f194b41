"""What the project says of itself in more than one place: versions, dependencies, licences."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import calib8

_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    return tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]


def _bounds(project: dict[str, Any]) -> dict[str, str]:
    """The lower bound of every dependency, those of extras included."""
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    return dict(requirement.split(">=") for requirement in requirements)


def _is_bound(bound: str, version: str) -> bool:
    """Whether a version is the bound, or the first that exists of its series."""
    return f"{version}.".startswith(f"{bound}.")


def test_lowest_versions_are_the_bounds(project):
    lines = (_ROOT / "tests" / "lowest.txt").read_text().splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    bounds = _bounds(project)
    del bounds["onnxruntime-gpu"]  # the same package as onnxruntime, under another name
    assert set(lowest) == set(bounds)
    assert {name: version for name, version in lowest.items() if not _is_bound(bounds[name], version)} == {}


def test_another_series_is_no_bound():
    assert _is_bound("1.4", "1.4") and _is_bound("1.4", "1.4.1")
    assert not _is_bound("1.4", "1.40.0") and not _is_bound("1.4.1", "1.4")


def test_changelog_has_this_version():
    headings = re.findall(r"^## (.*)$", (_ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert calib8.__version__ in headings


def test_licence_files_exist_and_hold_the_notices(project):
    texts = [(_ROOT / name).read_text() for name in project["license-files"]]
    assert "Apache License" in texts[0] and "Version 2.0, January 2004" in texts[0]
    assert "The Regents of the University of California" in texts[1]
    assert "Redistributions in binary form must reproduce the above copyright notice" in texts[1]
    assert project["license"] == "Apache-2.0 AND BSD-2-Clause"
