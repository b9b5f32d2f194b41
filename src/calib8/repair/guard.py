"""The guard: samples that nothing was solved on say which of several plans is the best.

A plan is measured at the network's outputs, before a Softmax or an ArgMax and before layers that run in Python,
against FP32:

    noise = mean over outputs of  sum (y - x)^2 / sum (x - mean x)^2      x in FP32, y in INT8

so that every output counts the same, whatever its unit. Of what goes into a Softmax, x and y are taken off their mean
over the classes, which it does not see. In decibels: -10 log10(noise).

Where the network decodes boxes, they are judged, too (`box_agreement`): the noise is then the geometric mean of both. A
handful of boxes ranks plans badly, and what they are decoded from does not tell all of it. In the same way maps of a
YOLO network that is cut off before its boxes are judged by what is read from them, too (`yolo_maps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import dequantize, quantize
from calib8.engine import Crew, EngineOptions, Executor, ExecutorCache
from calib8.engine.memory import empty_arena, forget, settle
from calib8.graph import Shape
from calib8.layer_kit.window_product import evenly
from calib8.layers.arg_max import ArgMax
from calib8.layers.softmax import Softmax
from calib8.lowering import Model, Step, lower_float
from calib8.lowering.integer import lower_int8
from calib8.measure.collect import Batches
from calib8.quantize import QuantPlan, setup_of
from calib8.repair.box_agreement import box_values, in_common
from calib8.repair.rounded_values import rounded_inputs, with_rounded_values
from calib8.repair.yolo_maps import are_mostly_empty, as_read, undecoded_maps

Array = NDArray[Any]

_KEPT = 1 << 16  # elements of an output and sample that are compared
MOST_RUNS = 320
"""Runs that a repair looks at: what it keeps of them, and its time, do not grow with the samples."""
_SHAPES_OPEN = 4
_LARGE_BYTES = 64 << 20  # weights from which on it is worth its time to give memory back behind each plan
RunsOnly = Callable[[Sequence[int]], Iterator[Mapping[str, Array]]]
"""Gives the batches of the runs of these numbers, which go up, and of no others."""


@dataclass(frozen=True)
class Split:
    """Samples in two parts that share none.

    Attributes:
        solve, guard: the batches of each, a run a batch.
        solving, guarding: how many images there are.
        per_run: images in a run.
        wider: from a number of runs to solve on, to the batches of the guard and of so many of them.
    """

    solve: Batches
    guard: Batches
    solving: int
    guarding: int
    per_run: int
    wider: Callable[[int], Batches]

    @property
    def solving_runs(self) -> int:
        """How many runs there are to solve on."""
        return self.solving // self.per_run


def split(batches: Batches, images: int, per_run: int = 1, every: int = 5, only: RunsOnly | None = None) -> Split:
    """Hold every fifth run out, and at least one of two. Of more than 320 runs, so many are taken, evenly.

    Args:
        images: how many there are.
        per_run: how many go through the network together; a part of a run that is left over at the end is left out.
        only: where runs can be read without the others; None reads `batches`, and leaves out what is not wanted.
    """
    taken = evenly(images // per_run, MOST_RUNS).tolist()
    every = min(every, max(len(taken), 2))  # a single run is solved on, and nothing is held out
    guard = taken[every - 1 :: every]
    solve = [run for place, run in enumerate(taken) if place % every != every - 1]

    def of(runs: Sequence[int]) -> Batches:
        return lambda: _runs(only(runs), per_run) if only is not None else _picked(_runs(batches(), per_run), runs)

    def wider(more: int) -> Batches:
        return of(sorted([*guard, *(solve[at] for at in evenly(len(solve), more))]))

    return Split(of(solve), of(guard), len(solve) * per_run, len(guard) * per_run, per_run, wider)


def _picked(runs: Iterator[Mapping[str, Array]], numbers: Sequence[int]) -> Iterator[Mapping[str, Array]]:
    wanted = set(numbers)
    return (run for number, run in enumerate(runs) if number in wanted)


def _runs(batches: Iterator[Mapping[str, Array]], per_run: int) -> Iterator[Mapping[str, Array]]:
    """Cut batches of any size into runs; an array that does not count images belongs to all runs of its batch."""
    waiting: dict[str, Array] = {}
    for given in batches:
        batch = {b: np.concatenate([waiting[b], array]) if b in waiting else array for b, array in given.items()}
        images = len(next(iter(batch.values())))
        counting = {blob for blob, array in batch.items() if array.ndim and len(array) == images}
        whole = images // per_run * per_run
        for at in range(0, whole, per_run):
            yield {b: array[at : at + per_run] if b in counting else array for b, array in batch.items()}
        waiting = {blob: batch[blob][whole:] for blob in counting if images > whole}


def judged_values(model: Model) -> dict[str, int | None]:
    """Find the values that stand for the network's outputs, with the class axis of those that go into a Softmax.

    On the way back from the outputs, layers that run in Python are passed, and those that only move elements of a
    Softmax's top. What goes into an ArgMax, too, stands for its places, which are numbers without a distance.
    """
    found: dict[str, int | None] = {}
    waiting = list(model.net.outputs)
    while waiting:
        value = waiting.pop(0)
        layer = model.net.producer[value]
        op = model.op_of[layer.name]
        if isinstance(op, Softmax):
            found[layer.bottoms[0]] = op.axis
        elif isinstance(op, ArgMax) and op.gives_places:
            if _before_softmax(model, layer.bottoms[0]):
                waiting[:0] = layer.bottoms
            else:
                found.setdefault(layer.bottoms[0], op.class_axis(model.shapes[layer.bottoms[0]]))
        elif op.kind == "host" or _before_softmax(model, value):
            waiting[:0] = layer.bottoms
        elif value not in model.inputs:
            found.setdefault(value, None)
    return found


def _before_softmax(model: Model, value: str) -> bool:
    """Tell whether a value is a Softmax's top, or one whose elements were only moved."""
    layer = model.net.producer[value]
    op = model.op_of[layer.name]
    if isinstance(op, Softmax):
        return True
    return bool(op.moves_data) and any(_before_softmax(model, b) for b in layer.bottoms)


@dataclass(frozen=True)
class Compared:
    """What is compared of a value of one sample.

    Attributes:
        numbers: some of them, (n).
        read: of a map that is decoded elsewhere, what is read from it; see `yolo_maps`.
    """

    numbers: Array
    read: Array | None = None


class OutputNoise:
    """The noise of the module's text, from what is compared of each sample.

    Attributes:
        values: that are compared.
    """

    def __init__(self, model: Model) -> None:
        self._axes, self._maps = judged_values(model), undecoded_maps(model)
        self.values = tuple(self._axes)

    def seen(self, value: str, array: Array) -> Compared:
        """Return what is compared of a value."""
        axis, read = self._axes[value], as_read(array) if value in self._maps else None
        if axis is not None:
            array = array - array.mean(axis=axis, keepdims=True, dtype=np.float64)
        flat = array.reshape(-1)
        return Compared(flat[evenly(flat.size, _KEPT)].astype(np.float32), read)

    def signals(self, references: Sequence[Mapping[str, Compared]]) -> Signals:
        """Sum the squares of what FP32 gives."""
        numbers, read = {}, {}
        for value in self.values:
            ours = [one[value] for one in references]
            numbers[value] = math.fsum(_squares(x.numbers - x.numbers.mean(dtype=np.float64)) for x in ours)
            read[value] = [x.read for x in ours if x.read is not None]
        if not all(map(are_mostly_empty, read.values())):
            return Signals(numbers)
        return Signals(numbers, {value: math.fsum(map(_squares, maps)) for value, maps in read.items()})

    def squares(self, reference: Mapping[str, Compared], output: Mapping[str, Compared]) -> Signals:
        """Sum the squares of the differences of one sample."""
        numbers, read = {}, {}
        for value in self.values:
            x, y = reference[value], output[value]
            numbers[value] = _squares(y.numbers.astype(np.float64) - x.numbers)
            if x.read is not None and y.read is not None:
                read[value] = _squares(y.read - x.read)
        return Signals(numbers, read)

    def of(self, signals: Signals, squares: Sequence[Signals]) -> float:
        """Put the squares of all samples together."""
        of_numbers = _relative(signals.numbers, [one.numbers for one in squares])
        if not signals.read:
            return of_numbers
        return math.sqrt(of_numbers * _relative(signals.read, [one.read for one in squares]))


@dataclass(frozen=True)
class Signals:
    """Sums of squares, by value.

    Attributes:
        numbers: of the values themselves.
        read: of what is read from maps; empty where these are no maps.
    """

    numbers: Mapping[str, float]
    read: Mapping[str, float] = field(default_factory=dict)


def _relative(signals: Mapping[str, float], squares: Sequence[Mapping[str, float]]) -> float:
    """Noise over signal, in the mean of the values that have a signal."""
    parts = []
    for value, signal in signals.items():
        noise = math.fsum(one[value] for one in squares)
        if signal > 0:
            parts.append(noise / signal if math.isfinite(noise) else math.inf)
    return math.fsum(parts) / len(parts) if parts else 0.0


class Guard:
    """The held-out samples, and what FP32 makes of them.

    Args:
        model: of one run.
        batches: the held-out samples, a run each.
        threads: None for all cores; no result depends on it.
        nan: whether values may hold NaN; where it is known that none does, thresholds are measured in less time.
    """

    def __init__(self, model: Model, batches: Batches, threads: int | None = None, *, nan: bool = True) -> None:
        self._model, self._batches, self._nan = model, batches, nan
        self._measure, self._boxes = OutputNoise(model), box_values(model)
        self._values = (*self._measure.values, *self._boxes)
        self._threads = EngineOptions(threads=threads).thread_count
        # Repacked: the same last bits in FP32 and in INT8.
        self._engine = EngineOptions(threads=1, repack_weights=True, lend_weights=True)
        self._large = sum(blob.nbytes for layer in model.net.layers for blob in layer.blobs) >= _LARGE_BYTES
        self._references = self._outputs(lambda model: lower_float(model, self._values))
        self._signals = self._measure.signals(self._references)

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(self._references)

    @property
    def judges_boxes(self) -> bool:
        """Whether FP32 finds boxes in the samples, or the outputs are maps from which boxes are read."""
        return self._box_noise(self._references) is not None or bool(self._signals.read)

    def noise(self, plan: QuantPlan) -> float:
        """Measure a plan, all layers that can in INT8, by values and boxes; 0 is FP32."""
        setup = replace(setup_of(plan), integer_kernels=self._engine.integer_kernels)
        outputs = self._outputs(lambda model: lower_int8(model, setup, self._values))
        of_values, of_boxes = self._noise(outputs), self._box_noise(outputs)
        return of_values if of_boxes is None else math.sqrt(of_values * of_boxes)

    def noise_of_values(self, plan: QuantPlan) -> float:
        """Measure a plan's thresholds and units, with weights in float; see `rounded_values`."""
        inputs = rounded_inputs(self._model, plan)

        def prepared(value: str, array: Array) -> Array:
            return dequantize(quantize(array, inputs[value]), inputs[value]) if value in inputs else array

        def lowered(model: Model) -> tuple[Step, ...]:
            return lower_float(with_rounded_values(model, plan, nan=self._nan), self._values)

        return self._noise(self._outputs(lowered, prepared))

    def _outputs(
        self,
        lowered: Callable[[Model], Sequence[Step]],
        prepared: Callable[[str, Array], Array] = lambda _, array: array,
    ) -> list[dict[str, Compared]]:
        """Run all samples; of every judged value what is compared, in the order of the samples."""
        executors: ExecutorCache[Executor] = ExecutorCache(_SHAPES_OPEN)
        if self._large:
            forget(blob for layer in self._model.net.layers for blob in layer.blobs)

        def work(lane: int, batch: Mapping[str, Array]) -> dict[str, Compared]:
            found: dict[str, Compared] = {}
            inputs = {value: prepared(value, array) for value, array in self._model.inputs_of(batch).items()}
            shapes = tuple((value, array.shape) for value, array in inputs.items())
            executors.get(shapes, lambda: self._executor(lowered, dict(shapes)), lane).run(
                inputs, lambda reading, array: found.__setitem__(str(reading), self._seen(str(reading), array))
            )
            return found

        with Crew(self._threads) as crew:
            found = list(crew.stream(work, self._batches()))
        executors.clear()
        if self._large:
            empty_arena()
        return found

    def _executor(self, lowered: Callable[[Model], Sequence[Step]], shapes: Mapping[str, Shape]) -> Executor:
        """Make the executor for inputs of these shapes, which a Python layer may have given its own."""
        model = self._model
        if any(model.shapes[value] != shape for value, shape in shapes.items()):
            model = model.reshaped({model.net.blob_of[value]: shape for value, shape in shapes.items()})
        steps = lowered(model)
        executor = Executor(steps, self._values, self._engine)
        if self._large:
            settle(steps)
        return executor

    def _seen(self, value: str, array: Array) -> Compared:
        return Compared(np.array(array)) if value in self._boxes else self._measure.seen(value, array)

    def _box_noise(self, outputs: Sequence[Mapping[str, Compared]]) -> float | None:
        """Say what is missing of FP32's boxes; None where it has none."""
        own, others = ([[one[v].numbers for v in self._boxes] for one in run] for run in (self._references, outputs))
        pairs = [in_common(a, b) for x, y in zip(own, others, strict=True) for a, b in zip(x, y, strict=True)]
        there = math.fsum(in_common(boxes, boxes)[0] for x in own for boxes in x)
        if there <= 0:
            return None
        return 1 - math.fsum(common for common, _ in pairs) / math.fsum(half for _, half in pairs)

    def _noise(self, outputs: Sequence[Mapping[str, Compared]]) -> float:
        pairs = zip(self._references, outputs, strict=True)
        return self._measure.of(self._signals, [self._measure.squares(*pair) for pair in pairs])


def _squares(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def decibels(noise: float) -> float:
    """Signal over noise in decibels; infinite for none."""
    return -10 * math.log10(noise) if noise > 0 else math.inf
