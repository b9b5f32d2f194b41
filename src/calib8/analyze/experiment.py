"""A network run again and again over the same samples, each time with other integers: only what differs is computed.

A run stops wherever its caller wants to look, and goes on from values that were kept. What is kept at a position
belongs to what came before it: the layers in INT8, their integers, the thresholds of their bottoms. A run with the same
beginning takes it up from there; one that differs further on computes what lies behind the difference. So a change of
one threshold costs the layers that read or write it and those behind them, and a layer's own damage costs that layer.

Kept values are codes where a layer in INT8 wrote them (a byte an element), and take at most so much memory; what does
not fit is computed again. Results do not depend on what is kept, nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np

from calib8.analyze.kept_values import KeptValues, Samples
from calib8.arithmetic import dequantize
from calib8.choices import DEFAULT_BUDGET
from calib8.engine import Crew, EngineOptions, Executor, ExecutorCache
from calib8.errors import DataError
from calib8.graph import Array, Layer, Shape
from calib8.lowering import Model
from calib8.lowering.cuts import needed_layers
from calib8.lowering.integer import IntegerSetup, lower_stretch
from calib8.lowering.readings import Codes, Reading, value_of

Values = Mapping[Reading, Array]
T = TypeVar("T")
R = TypeVar("R", bound=Reading)
Item = TypeVar("Item")

_MOST_OPEN = 24
_MOST_BYTES = 2 << 30
_ALWAYS_OPEN = 12
"""More than one sample goes through, in all that it is run in for one unit or trial."""


@dataclass(frozen=True)
class ExperimentOptions:
    """How an experiment runs; nothing here changes a result, but for last bits where it says so.

    Attributes:
        threads: None takes the cores that this process may use.
        budget: most bytes of values that are kept between runs.
        elsewhere: the samples are run in other processes, so that nothing is run here.
        joined_affines: as `IntegerSetup` has it: other last bits of what stays in FP32, in less time.
    """

    threads: int | None = None
    budget: int = DEFAULT_BUDGET << 20
    elsewhere: bool = False
    joined_affines: bool = False


class Variant:
    """A network with some of its layers in INT8, made by `Experiment.variant`.

    Attributes:
        setup: which layers, with which integers.
        entries: for every layer what its results depend on, its bottoms' values apart.
    """

    def __init__(self, model: Model, setup: IntegerSetup) -> None:
        self.setup = setup
        producer = model.net.producer
        self.entries = tuple(_entry(setup, layer, [producer[b] for b in layer.bottoms]) for layer in model.net.layers)
        self._fitting: tuple[int, list[tuple[int, Samples]]] = (-1, [])

    def longest(self, kept: KeptValues, sample: int, last: int) -> tuple[int, Values]:
        """Find the last position up to `last` at which values of this sample are kept, and these; (0, {}) for none."""
        changes, fitting = self._fitting
        if changes != kept.changes:
            changes, fitting = self._fitting = kept.changes, kept.fitting(self.entries)
        return next(((at, samples[sample]) for at, samples in fitting if at <= last and sample in samples), (0, {}))


def _entry(setup: IntegerSetup, layer: Layer, writers: Sequence[Layer]) -> tuple[object, ...]:
    """The layer's integers, and the steps of bottoms that are quantised or dequantised for it."""
    in_int8 = layer.name in setup.int8_layers
    # A conversion rounds by the bottom's threshold, so the layer's result depends on it, whoever wrote the bottom.
    converted = [b for b, w in zip(layer.bottoms, writers, strict=True) if in_int8 != (w.name in setup.int8_layers)]
    steps = ((setup.thresholds[b], _bytes(setup.channel_units.get(b))) for b in converted)
    return (setup.forms[layer.name] if in_int8 else None, *steps)


def _bytes(units: Array | None) -> bytes:
    """Give numbers as something that compares."""
    return b"" if units is None else units.tobytes()


class Experiment:
    """A network and the samples that it is run on.

    Args:
        model: runs take one sample each, so its batch is that of a sample.
        samples: the inputs by value.
        outputs: the values that runs can be asked for at any time.

    Attributes:
        model: as given.
        fp32: the network in FP32.
        references: its outputs, by sample; none where samples are run elsewhere.
    """

    def __init__(
        self,
        model: Model,
        samples: Sequence[Mapping[str, Array]],
        outputs: Sequence[str],
        options: ExperimentOptions = ExperimentOptions(),
    ) -> None:
        if not samples:
            raise DataError(f"{model.net.source}: there is no sample to run the network on")
        self.model, self.outputs = model, tuple(outputs)
        self.samples: Sequence[Values] = [dict(sample.items()) for sample in samples]
        threads = EngineOptions(threads=options.threads).thread_count
        self._lanes = [Lane(self, index) for index in range(min(threads, len(samples)))]
        self._engine = EngineOptions(threads=max(1, threads // len(self._lanes)), repack_weights=True)
        self._joined_affines = options.joined_affines and self._engine.gpu is None
        self._reach = _Reach(model, self.outputs)
        self._kept = KeptValues(options.budget)
        self._executors: ExecutorCache[Executor] = ExecutorCache(_MOST_OPEN, _MOST_BYTES, _ALWAYS_OPEN)
        self._crew = Crew(len(self._lanes))
        self.fp32 = self.variant(IntegerSetup(frozenset(), {}, {}))
        run = range(0 if options.elsewhere else len(samples))
        self.references = self.each(lambda lane, sample: lasting(lane.run(sample, self.fp32, self.outputs)), run)

    def variant(self, setup: IntegerSetup) -> Variant:
        """Make a setup ready to be run."""
        return Variant(self.model, setup)

    def position(self, layer: str) -> int:
        """Return the place of a layer in the network, as `keep` and `split` of a run count it."""
        return self._reach.position[layer]

    @property
    def needed(self) -> Collection[str]:
        """Names of the layers that the outputs depend on."""
        return self._reach.needed

    def each(self, work: Callable[[Lane, Item], T], items: Sequence[Item]) -> list[T]:
        """Do `work` for every item, a sample's number or another one, on all threads; the results in that order."""
        return self._crew.each(lambda lane, item: work(self._lanes[lane], item), items)

    def executor(
        self,
        lane: int,
        variant: Variant,
        start: int,
        stop: int,
        available: Mapping[Reading, Shape],
        wanted: Sequence[Reading],
    ) -> Executor:
        """Return the executor of a lane for the layers from `start` to before `stop`.

        Args:
            available: the shapes of the values that they begin with, by name. Behind a layer in Python they may be
                others than the model's.
        """
        key = (start, stop, variant.entries[start:stop], tuple(available.items()), tuple(wanted))

        def opened() -> Executor:
            layers = self.model.net.layers[start:stop]
            setup = replace(
                variant.setup, integer_kernels=self._engine.integer_kernels, joined_affines=self._joined_affines
            )
            shapes = {value_of(reading): shape for reading, shape in available.items()}
            usual = all(self.model.shapes[value] == shape for value, shape in shapes.items())
            model = self.model if usual else self.model.with_shapes(shapes)
            steps = lower_stretch(model, setup, layers, (*self.model.inputs, *available), wanted)
            return Executor(steps, wanted, self._engine)

        return self._executors.get(key, opened, lane)

    def frontier(self, variant: Variant, position: int) -> tuple[Reading, ...]:
        """Return what layers from `position` on, or a caller, take from those before it."""
        return self._reach.frontier(variant.setup.int8_layers, position)

    @property
    def kept(self) -> KeptValues:
        """What runs have kept."""
        return self._kept


class Lane:
    """One thread's way through an experiment."""

    def __init__(self, experiment: Experiment, index: int) -> None:
        self._experiment, self.index = experiment, index

    def run(
        self,
        sample: int,
        variant: Variant,
        names: Sequence[R],
        keep: Collection[int] = (),
        split: Collection[int] = (),
    ) -> dict[R, Array]:
        """Compute values of one sample, and nothing that they do not need.

        Args:
            names: values that the outputs of the experiment depend on, or their codes.
            keep: positions at which values are kept for later runs, as far as this one comes.
            split: positions at which graphs end, so that what comes behind it can be run again with another beginning.

        Returns:
            Arrays that the lane's next run may change: copy what has to last.
        """
        x = self._experiment
        born = {name: x._reach.born(name) for name in names}
        stop = max(born.values()) + 1
        # Outputs are carried along to every later position. Other values are only there while their layers run: a run
        # that is asked for one begins before it.
        inner = [at for name, at in born.items() if value_of(name) not in x.outputs]
        position, values = variant.longest(x.kept, sample, min([stop - 1, *inner]))
        arrays = {name: self._known(name, values, variant) for name in names if born[name] < position}
        for end in sorted({p for p in (*keep, *split) if position < p < stop} | {stop}):
            # At the very end nobody reads on, unless what is there is to be kept.
            carried = x.frontier(variant, end) if end < stop or end in keep else ()
            asked = [name for name in names if position <= born[name] < end]
            made = self._stretch(sample, variant, position, end, values, dict.fromkeys((*carried, *asked)))
            arrays.update((name, made[name]) for name in asked)
            values = {name: made[name] if name in made else values[name] for name in carried}
            if end in keep:
                values = x.kept.keep(variant.entries[:end], sample, values)
            position = end
        return arrays

    def _stretch(
        self, sample: int, variant: Variant, start: int, stop: int, values: Values, wanted: Collection[Reading]
    ) -> dict[Reading, Array]:
        new = [name for name in wanted if name not in values]
        shapes = {name: array.shape for name, array in values.items()}
        executor = self._experiment.executor(self.index, variant, start, stop, shapes, new)
        made: dict[Reading, Array] = {}
        executor.run({**self._experiment.samples[sample], **values}, made.__setitem__)
        return made

    def _known(self, name: Reading, values: Values, variant: Variant) -> Array:
        if name in values:
            return values[name]
        value = value_of(name)
        setup = variant.setup
        return real_values(values[Codes(value)], setup.thresholds[value], setup.channel_units.get(value))


def lasting(values: Mapping[R, Array]) -> dict[R, Array]:
    """Copy values, so that later runs do not change them."""
    return {name: array.copy() for name, array in values.items()}


def real_values(codes: Array, threshold: float, units: Array | None = None) -> Array:
    """Turn codes (uint8, `code + 128`) into real units, float32.

    Args:
        units: of channels that have units of their own, (C); None for one unit.
    """
    if not codes.size:  # OpenCV gives nothing for nothing
        return np.zeros(codes.shape, np.float32)
    of_code = dequantize(np.arange(-128, 128), threshold)
    real: Array = cv2.LUT(codes.reshape(1, -1), of_code).reshape(codes.shape)
    return real if units is None else real * units.reshape(1, -1, *(1,) * (real.ndim - 2)).astype(np.float32)


class _Reach:
    """Which values are alive between two layers of the network."""

    def __init__(self, model: Model, outputs: Sequence[str]) -> None:
        self._inputs = frozenset(model.inputs)
        self._outputs = frozenset(outputs)
        self._writer = model.net.producer
        self.position = {layer.name: index for index, layer in enumerate(model.net.layers)}
        pairs = needed_layers(model, outputs)
        self.needed = frozenset(layer.name for layer, _ in pairs)
        self._readers: dict[str, list[tuple[int, bool]]] = {t: [] for layer, _ in pairs for t in layer.tops}
        for layer, op in pairs:
            for bottom in dict.fromkeys(layer.bottoms):
                if bottom not in self._inputs:
                    self._readers[bottom].append((self.position[layer.name], op.kind == "host"))
        self._frontiers: dict[tuple[int, frozenset[str]], tuple[Reading, ...]] = {}
        self._carried: dict[int, list[tuple[str, str, bool]]] = {}

    def born(self, name: Reading) -> int:
        """Return the position of the layer that writes a value."""
        return self.position[self._writer[value_of(name)].name]

    def frontier(self, int8_layers: frozenset[str], position: int) -> tuple[Reading, ...]:
        key = position, int8_layers
        if key not in self._frontiers:
            self._frontiers[key] = tuple(self._alive(int8_layers, position))
        return self._frontiers[key]

    def _alive(self, int8_layers: frozenset[str], position: int) -> list[Reading]:
        if position not in self._carried:
            self._carried[position] = list(self._values_at(position))
        names: list[Reading] = []
        for value, writer, in_python in self._carried[position]:
            coded = writer in int8_layers
            names += [Codes(value)] if coded else [value]
            if coded and in_python:
                names.append(value)
        return names

    def _values_at(self, position: int) -> Iterator[tuple[str, str, bool]]:
        """The values that are alive, who writes them, and whether a layer in Python reads them later."""
        for value, readers in self._readers.items():
            later = [in_python for at, in_python in readers if at >= position]
            if self.born(value) < position and (later or value in self._outputs):
                yield value, self._writer[value].name, any(later)
