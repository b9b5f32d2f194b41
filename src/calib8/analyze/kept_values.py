"""Values of earlier runs, by what they depend on, within a budget of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from calib8.graph import Array
from calib8.lowering import Reading

Entries = tuple[object, ...]
"""One entry a layer; runs whose entries are equal up to a position have equal values there."""
Samples = dict[int, Mapping[Reading, Array]]
"""Values, or their codes, by sample."""


class KeptValues:
    """The values at positions of a network, for every sample. Any thread may call.

    What was kept first goes first when room is needed. What has no room even then is not kept.

    Args:
        budget: most bytes.

    Attributes:
        changes: goes up whenever there are values at another position, or no longer.
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._bytes = budget, 0
        self._kept: OrderedDict[Entries, Samples] = OrderedDict()
        self._lock = threading.Lock()
        self.changes = 0

    def fitting(self, entries: Entries) -> list[tuple[int, Samples]]:
        """Return positions at which there may be values for a run, the latest first, each with its samples."""
        with self._lock:
            beginnings = [(len(b), samples) for b, samples in self._kept.items() if entries[: len(b)] == b]
            return sorted(beginnings, key=lambda at: -at[0])

    def keep(self, beginning: Entries, sample: int, values: Mapping[Reading, Array]) -> Mapping[Reading, Array]:
        """Keep copies of a sample's values behind its first layers, where there is room; returns what to go on with.

        Arrays that are kept already, at an earlier position, are shared with it.
        """
        with self._lock:
            there = self._kept.get(beginning, {}).get(sample)
            if there is not None:
                return there
            needed = sum(array.nbytes for array in values.values() if array.flags.writeable)
            while self._bytes + needed > self._budget and self._drop_oldest(but=beginning):
                pass
            if self._bytes + needed > self._budget:
                return dict(values)
            self._bytes += needed
            own = {name: array if not array.flags.writeable else _frozen(array) for name, array in values.items()}
            if beginning not in self._kept:
                self._kept[beginning] = {}
                self.changes += 1
            self._kept[beginning][sample] = own
            return own

    def forget(self, position: int) -> None:
        """Give up what is kept before a position: no later run begins there."""
        with self._lock:
            gone = [beginning for beginning in self._kept if len(beginning) < position]
            for beginning in gone:
                del self._kept[beginning]
            if gone:
                self._recount()

    def _drop_oldest(self, but: Entries) -> bool:
        oldest = next((beginning for beginning in self._kept if beginning != but), None)
        if oldest is None:
            return False
        del self._kept[oldest]
        self._recount()
        return True

    def _recount(self) -> None:
        self.changes += 1
        # Counted anew, each array once: later positions share arrays with those before them.
        alive = (array for samples in self._kept.values() for values in samples.values() for array in values.values())
        self._bytes = sum({id(array): array.nbytes for array in alive}.values())


def _frozen(array: Array) -> Array:
    own = array.copy()
    own.flags.writeable = False
    return own
