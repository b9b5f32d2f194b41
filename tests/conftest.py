"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and golden data: ../shared, or $CALIB8_SHARED; skips where it is missing."""
    folder = Path(os.environ.get("CALIB8_SHARED", _REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no real models and golden data in {folder}")
    return folder
