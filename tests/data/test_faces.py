from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from calib8.data import Batch, takes
from calib8.errors import DataError, OptionError


class Numbers:
    """Samples 0, 1, 2, ... with a label each and a top that does not count images."""

    def __init__(self, count: int, batch_size: int, size: int | None) -> None:
        self.shapes = {"data": (batch_size, 1), "label": (batch_size,), "info": (1, 3)}
        self.count, self.batch_size, self.size, self.notes = count, batch_size, size, ()
        self.closed = False

    def batches(self) -> Iterator[Batch]:
        try:
            for start in range(0, self.count, self.batch_size):
                values = np.arange(start, min(start + self.batch_size, self.count), dtype=np.float32)
                yield {"data": values[:, None], "label": -values, "info": np.full((1, 3), start, np.float32)}
        finally:
            self.closed = True


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 50])
@pytest.mark.parametrize("iteration", [1, 2, 6, 7])
def test_takes_gives_as_many_images_as_asked(batch_size: int, iteration: int) -> None:
    source = Numbers(7, batch_size, 7)
    batches = list(takes(source, iteration))
    assert [x for b in batches for x in b["data"][:, 0]] == list(range(iteration))
    assert [x for b in batches for x in b["label"]] == [-x for x in range(iteration)]
    assert all(len(b["data"]) == batch_size for b in batches[:-1])
    assert all(b["info"].shape == (1, 3) for b in batches)
    assert source.closed


def test_every_call_begins_anew() -> None:
    source = Numbers(5, 2, 5)
    first, second = ([b["data"].tobytes() for b in takes(source, 4)] for _ in range(2))
    assert first == second


def test_more_images_than_there_are_is_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"8 images.*has 7"):
        takes(Numbers(7, 2, 7), 8)


def test_a_source_of_unknown_size_that_ends_is_an_error() -> None:
    with pytest.raises(DataError, match=r"8 images.*ended after 7"):
        list(takes(Numbers(7, 2, None), 8))


@pytest.mark.parametrize("iteration", [0, -3])
def test_iteration_must_be_positive(iteration: int) -> None:
    with pytest.raises(OptionError, match=re.escape(str(iteration))):
        takes(Numbers(7, 2, 7), iteration)


def test_leaving_early_closes_the_source() -> None:
    source = Numbers(7, 2, 7)
    batches = takes(source, 6)
    next(batches)
    batches.close()
    assert source.closed
