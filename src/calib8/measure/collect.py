"""Forward passes over the calibration data, and a histogram for every value that needs one.

Nothing is kept of a sample: each value is counted as soon as it is computed, and its buffer is used again.
Images go through the network one at a time wherever it treats them independently, so the size of the batches that
the data layer gives changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np

from calib8.choices import DEFAULT_BINS
from calib8.engine import Crew, EngineOptions, Executor, ExecutorCache
from calib8.engine.memory import empty_arena, settle
from calib8.errors import DataError
from calib8.graph import Array, Shape
from calib8.lowering import Model, Reading, lower_float
from calib8.measure.counters import Counter, Guarded
from calib8.measure.histogram import AbsMax, AdaptiveHistogram, BlobHistogram, Histogram, check_bins

Batches = Callable[[], Iterator[Mapping[str, Array]]]
"""Starts anew with every call and gives the same batches: the data layer's tops by blob name."""
Progress = Callable[[int], None]
"""Called with the number of images that are done, counting every pass."""

_RELEASE_BYTES = 1 << 19
"""With released blobs, a graph ends where its wanted outputs come to this or to twice as much; see `stretches`."""
PIECE_BYTES = 2 << 20
"""The same without, where every image has one thread: graphs that run in turn share memory, and what is counted is
still in a cache. Several threads would have to wait for work in every graph by itself."""
_SHAPES_KEPT = 4
_MOST_WORKERS = 4


@dataclass(frozen=True)
class CollectOptions:
    """How histograms are collected.

    Attributes:
        bins: bins of every histogram, a multiple of 128.
        two_passes: measure the maxima in a first pass and count in a second one, exactly by the formula. One pass
            gives exact maxima, and counts within the bound that `AdaptiveHistogram` states.
        engine: threads, and whether blobs are released behind their last reader.
    """

    bins: int = DEFAULT_BINS
    two_passes: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        check_bins(self.bins)

    @property
    def workers(self) -> int:
        """Images that are on their way at the same time: each needs buffers for all its observed blobs."""
        return 1 if self.engine.release_blobs else min(self.engine.thread_count, _MOST_WORKERS)

    @property
    def engine_of_worker(self) -> EngineOptions:
        """The threads that are left for each of them; weights are read where they lie."""
        threads = max(1, self.engine.thread_count // self.workers)
        return replace(self.engine, threads=threads, lend_weights=True)


def collect_histograms(
    model: Model,
    batches: Batches,
    observed: Sequence[str],
    options: CollectOptions = CollectOptions(),
    progress: Progress = lambda done: None,
) -> dict[str, BlobHistogram]:
    """Collect a histogram of |x| over all samples for every observed value.

    Raises:
        DataError: the data give no sample, or lack an input of the network.
        Calib8Error: what the data or a layer in Python raises.
    """
    with Passes(model, tuple(observed), options, progress) as run:
        counters: dict[str, AdaptiveHistogram | Histogram]
        if options.two_passes:
            largest = {value: AbsMax() for value in observed}
            run.over(batches(), largest)
            counters = {value: Histogram(largest[value].maximum, options.bins) for value in observed}
        else:
            counters = {value: AdaptiveHistogram(options.bins) for value in observed}
        run.over(batches(), counters)
    return {value: counter.result() for value, counter in counters.items()}


def collect(
    model: Model,
    batches: Batches,
    counters: Mapping[str, Counter],
    options: CollectOptions = CollectOptions(),
    progress: Progress = lambda done: None,
) -> None:
    """Feed counters of any kind in one pass over the samples: each takes in its value of every image.

    Args:
        counters: by value. Images may come in any order, and several may be on their way at the same time.

    Raises:
        DataError, Calib8Error: as `collect_histograms`.
    """
    with Passes(model, tuple(counters), options, progress) as run:
        run.over(batches(), counters)


class Passes:
    """Forward passes over batches, with an executor for each set of input shapes. Use it in a `with` block.

    Args:
        observed: values; counters are for some of them, or for all.
        progress: is told of all images, of every call of `over`.
    """

    def __init__(
        self,
        model: Model,
        observed: tuple[str, ...],
        options: CollectOptions = CollectOptions(),
        progress: Progress = lambda done: None,
    ) -> None:
        self._model, self._observed = model, observed
        self._options, self._progress = options, progress
        self._crew = Crew(options.workers)
        self._executors: ExecutorCache[Executor] = ExecutorCache(_SHAPES_KEPT)
        self._last: tuple[tuple[Shape, ...], _Network] | None = None
        self._done = 0

    def __enter__(self) -> Passes:
        self._crew.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.__exit__(kind, error, trace)
        self._executors.clear()
        empty_arena()

    def over(self, batches: Iterable[Mapping[str, Array]], counters: Mapping[str, Counter]) -> None:
        """Run batches; every counter has taken in its value of each image when this returns.

        Raises:
            DataError: there is no batch, or one lacks an input of the network.
        """
        guarded: dict[Reading, Guarded] = {value: Guarded(counter) for value, counter in counters.items()}

        def count(lane: int, run: tuple[_Network, Mapping[str, Array]]) -> int:
            network, inputs = run
            executor = self._executors.get(network.shapes, lambda: self._opened(network.model), lane)
            executor.run(inputs, lambda reading, array: guarded[reading].add(array))
            return network.images

        images = 0
        for done in self._crew.stream(count, self._runs(batches)):
            images += done
            self._progress(self._done + images)
        if images == 0:
            raise DataError(f"{self._model.net.source}: the calibration data give no sample")
        self._done += images

    def _runs(self, batches: Iterable[Mapping[str, Array]]) -> Iterator[tuple[_Network, Mapping[str, Array]]]:
        """Every forward pass: a network, and its inputs."""
        for batch in batches:
            inputs = self._model.inputs_of(batch)
            network = self._network(tuple(array.shape for array in inputs.values()))
            for part in network.parts(inputs):
                # With several threads it waits, while the data layer may write the next batch over this one.
                own = {value: np.array(array) for value, array in part.items()} if self._crew.count > 1 else part
                yield network, own

    def _network(self, shapes: tuple[Shape, ...]) -> _Network:
        """Shapes differ from sample to sample where a Python layer reshapes its tops."""
        if self._last is None or self._last[0] != shapes:
            self._last = shapes, self._laid_out(dict(zip(self._model.value_of_input, shapes, strict=True)))
        return self._last[1]

    def _laid_out(self, shapes: Mapping[str, Shape]) -> _Network:
        model = self._model
        if any(model.shapes[model.value_of_input[blob]] != shape for blob, shape in shapes.items()):
            model = model.reshaped(shapes)
        single = model.batch_of_one()
        own = tuple((single or model).shapes[value] for value in model.inputs)
        if single is None:
            return _Network(model, own, 1 if not shapes else next(iter(shapes.values()))[0], split=False)
        return _Network(single, own, 1, split=True)

    def _opened(self, model: Model) -> Executor:
        engine = self._options.engine_of_worker
        limit = _RELEASE_BYTES if engine.release_blobs else PIECE_BYTES if engine.thread_count == 1 else None
        steps = lower_float(model, self._observed, max_output_bytes=limit)
        executor = Executor(steps, self._observed, engine, share=not engine.release_blobs)
        settle(steps)
        return executor


@dataclass(frozen=True)
class _Network:
    """A network for batches of some shape.

    Attributes:
        shapes: of its inputs; batches of any size share the executors for one image.
        images: how many go through it at once.
        split: whether batches are split for it, into images.
    """

    model: Model
    shapes: tuple[Shape, ...]
    images: int
    split: bool

    def parts(self, inputs: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
        """Cut a batch into what goes through the network at once."""
        if not self.split:
            yield inputs
            return
        for index in range(next(iter(inputs.values())).shape[0]):
            yield {value: array[index : index + 1] for value, array in inputs.items()}
