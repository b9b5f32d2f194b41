"""Nets from the text of a prototxt, through the files that pycaffe's scripts have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import caffe


@pytest.fixture
def write_prototxt(tmp_path: Path) -> Callable[[str], Path]:
    """A file with this text, each time another one."""
    numbers = itertools.count()

    def write(text: str) -> Path:
        path = tmp_path / f"net{next(numbers)}.prototxt"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def make_net(write_prototxt: Callable[[str], Path]) -> Callable[..., caffe.Net]:
    """make_net(text, phase=caffe.TEST, **options)."""
    return lambda text, phase=caffe.TEST, **options: caffe.Net(str(write_prototxt(text)), phase, **options)


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Device and seed of the process are as at its start."""
    caffe.set_mode_cpu()
    caffe.set_random_seed(0)
    yield
    caffe.set_mode_cpu()
