"""Random numbers of user code that repeat from run to run."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np


class RandomNumbers:
    """The state of `random` and `numpy.random` for one instance of a user's layer, begun with the seed 0.

    A data layer that shuffles its list thus gives the same samples in every pass and every run.
    """

    def __init__(self) -> None:
        self._python = random.Random(0).getstate()
        self._numpy = np.random.RandomState(0).get_state()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Go on with this state inside, and leave the generators outside as they were."""
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)
