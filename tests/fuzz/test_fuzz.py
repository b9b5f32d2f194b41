"""The corpus, with every failure of the past in it, and some hundred mutations of it for each reader."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.run import CORPUS, mutations, seeds_of
from fuzz.targets import TARGETS, refuses

_CASES = {"hdf5": 40, "command_line": 40, "lmdb": 100}
FILES = sorted(CORPUS.rglob("*"))


@pytest.fixture(autouse=True)
def _without_log() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_every_target_has_a_corpus():
    assert sorted(TARGETS) == sorted(path.name for path in CORPUS.iterdir())


@pytest.mark.parametrize("path", [p for p in FILES if p.is_file()], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_has_failed_before(path, tmp_path):
    TARGETS[path.parent.name](path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_damaged_inputs(name, tmp_path):
    rng = random.Random(0)
    for count, data in enumerate(mutations(seeds_of(name), rng)):
        if count == _CASES.get(name, 200):
            break
        try:
            TARGETS[name](data, tmp_path)
        except BaseException:
            (tmp_path / "failed").write_bytes(data)
            raise


def test_a_target_fails_for_other_exceptions():
    with pytest.raises(ZeroDivisionError):
        refuses(lambda: 1 / 0)


def test_the_corpus_is_small():
    assert sum(p.stat().st_size for p in FILES if p.is_file()) < 2**20
    assert Path(CORPUS).is_dir()
