"""Calibration that repairs: several sets of thresholds from one run over the samples, and the plan that loses least.

With given thresholds only the integers are repaired.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from calib8.choices import REPAIR_METHODS
from calib8.data import SampleSource, takes
from calib8.data.faces import Seekable
from calib8.errors import QuantizationError
from calib8.measure.histogram import BlobHistogram
from calib8.measure.thresholds import ThresholdOptions, find_threshold
from calib8.quantize import QuantPlan, make_plan
from calib8.repair import Repaired, RepairOptions, Split, ThresholdSets, repair, split
from calib8.repair.guard import MOST_RUNS
from calib8.repair.tail_room import TAIL_ROOM, room_of_answers
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet
from calib8.workflow.samples import images_per_run

_log = logging.getLogger(__name__)
_GIVEN = "given thresholds"
_KEPT_BYTES = 24 << 20  # of samples


def repaired_plan(
    network: Network,
    histograms: Mapping[str, BlobHistogram],
    images: int,
    options: RepairOptions,
    *,
    concat_quantize: bool = False,
    method: tuple[str, ThresholdOptions] | None = None,
    progress: ProgressCallback = quiet,
) -> Repaired | None:
    """Find the plan that loses least, on samples that are held out.

    Args:
        histograms: of all values that are quantised.
        images: how many samples there are; every fifth one is held out to choose on.
        method: take the thresholds of this one alone; None tries those of `calib8.choices.REPAIR_METHODS`.

    Returns:
        None where there are too few samples to hold one out.

    Raises:
        QuantizationError: the contract cannot express the thresholds.
        DataError, UserLayerError: the samples cannot be used.
    """
    model = network.of_one_sample
    dead = frozenset(v for v, histogram in histograms.items() if histogram.dead)
    room = room_of_answers(model, histograms, concat_quantize) if options.does(TAIL_ROOM) else {}

    def threshold_of(name: str, histogram: BlobHistogram) -> float:
        return find_threshold(histogram, name, method[1] if method else ThresholdOptions())

    def plan_of(name: str) -> QuantPlan:
        """Make the contract's own plan, with room for answers where the contract can express it."""
        found = {v: threshold_of(name, histogram) for v, histogram in histograms.items()}
        with_room = {v: max(threshold, room.get(v, 0.0)) for v, threshold in found.items()}
        try:
            return make_plan(model, with_room, concat_quantize, dead)
        except QuantizationError:
            if with_room == found:
                raise
            return make_plan(model, found, concat_quantize, dead)

    names = [method[0]] if method else list(REPAIR_METHODS)
    sets = ThresholdSets(names, plan_of, threshold_of, room, nan=any(h.nans for h in histograms.values()))
    return _repaired(network, sets, images, options, progress)


def repaired_integers(
    network: Network,
    thresholds: Mapping[str, float],
    images: int,
    options: RepairOptions,
    *,
    concat_quantize: bool = False,
    dead: Collection[str] = (),
    progress: ProgressCallback = quiet,
) -> Repaired | None:
    """Find the integers that lose least with given thresholds, none of which is moved.

    Args:
        thresholds: by value, in real units, before folding.
        images: how many samples there are; every fifth one is held out to choose on.
        options: parts that move thresholds are left out, whatever is said here.
        dead: values that were 0 in all samples.

    Returns:
        None where there are too few samples to hold one out.

    Raises:
        QuantizationError, DataError, UserLayerError: as `repaired_plan`.
    """

    def plan_of(name: str) -> QuantPlan:
        return make_plan(network.of_one_sample, thresholds, concat_quantize, dead)

    def threshold_of(name: str, histogram: BlobHistogram) -> float:
        raise AssertionError("thresholds are given, and none is looked for")

    sets = ThresholdSets([_GIVEN], plan_of, threshold_of)
    return _repaired(network, sets, images, replace(options, keep_thresholds=True), progress)


def _repaired(
    network: Network, sets: ThresholdSets, images: int, options: RepairOptions, progress: ProgressCallback
) -> Repaired | None:
    """Repair, and log what was found; None where no sample can be held out."""
    model = network.of_one_sample
    samples = _split(network, images)
    if not samples.guarding:
        _log.warning("%s: no sample can be held out of %d, so nothing is repaired", model.net.source, images)
        return None

    def told(stage: str, done: int, total: int) -> None:
        progress(Progress(stage, done, total))

    found = repair(model, sets, samples, options, told)
    for line in found.lines():
        _log.info("%s: %s", model.net.source, line)
    return found


def _split(network: Network, images: int) -> Split:
    """Split the samples that a repair looks at; those that it does not look at are not read, where that is possible."""
    per_run, source = images_per_run(network.of_one_sample), network.samples

    def batches() -> Iterator[Mapping[str, Any]]:
        return takes(source, images)

    runs = _Runs(source, per_run)
    # A source that gives large batches would read one of them for every run, again and again.
    seeks = isinstance(source, Seekable) and (source.batch_size <= per_run or images // per_run > MOST_RUNS)
    return split(batches, images, per_run, only=runs.only if seeks else None)


class _Runs:
    """Runs of a source that can be read alone. Those that are read first are kept, as far as `_KEPT_BYTES` go: a repair
    goes through its samples ten to twenty times, and a small network computes them in less time than they take to read.
    """

    def __init__(self, source: SampleSource, per_run: int) -> None:
        self._source, self._per_run = source, per_run
        self._kept: dict[int, list[dict[str, Any]]] = {}
        self._bytes = 0

    def only(self, runs: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """Yield the batches of some runs."""
        for run in runs:
            if run in self._kept:
                # Copies: a layer in Python may write over what it reads.
                yield from ({blob: array.copy() for blob, array in batch.items()} for batch in self._kept[run])
            else:
                yield from self._read(run)

    def _read(self, run: int) -> Iterator[Mapping[str, Any]]:
        read = []
        for batch in takes(self._source, (run + 1) * self._per_run, run * self._per_run):
            self._bytes += sum(array.nbytes for array in batch.values())
            if self._bytes <= _KEPT_BYTES:
                read.append({blob: array.copy() for blob, array in batch.items()})
            yield batch
        if self._bytes <= _KEPT_BYTES:
            self._kept[run] = read
