"""FP32 and INT8 side by side, from one value to the next: what a layer gets, and what it should get.

Samples go through the network once, as far as that is possible: what is alive of them between two layers is kept, and
the next value is reached from there. Early layers are large, so that fewer samples have room there; each of those gives
more windows. The others join where there is room for them, from the inputs. Where not even a sixteenth has room, that
is run again for each value, from where it was last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calib8.engine import Crew, EngineOptions, Executor
from calib8.graph import Layer
from calib8.layer_kit.codes import ZERO
from calib8.layer_kit.window_product import WindowProduct, evenly
from calib8.lowering import Codes, Model
from calib8.lowering.integer import IntegerSetup, lower_stretch
from calib8.lowering.readings import Reading, value_of
from calib8.measure.collect import Batches
from calib8.quantize import QuantPlan, setup_of
from calib8.repair.output_noise import products_of_a_run
from calib8.repair.paired_windows import PairedWindows, Seen

Array = NDArray[Any]
T = TypeVar("T")
_Live = tuple[Mapping[Reading, Array], Mapping[Reading, Array]]
"""What is alive of a sample between two layers, in FP32 and in INT8."""

_WINDOWS = 4096  # of a layer: twice as many were measured to bring nothing
_BYTES = 128 << 20  # of the windows of one value
_KEPT_BYTES = 96 << 20  # of what is alive of all samples between two layers
_FEWEST = 40  # samples: half of them were measured to cost a decibel, twice as many to bring nothing
_PRODUCTS = 2e9  # of all samples: a small network runs more of them in no time
_PARTS = (1, 2, 4, 8, 16)  # of the samples, by how much room there is


class PairedRuns:
    """The samples on their way through both networks.

    Args:
        model: of one run.
        batches: samples to solve on, a run each.
        runs: how many there are; of more than are needed, some are taken, evenly.
        threads: None for all cores; no result depends on it.

    Attributes:
        crew: of the threads; they end with its `with` block.
    """

    def __init__(self, model: Model, batches: Batches, runs: int, threads: int | None) -> None:
        self._model, self._batches = model, batches
        most = max(_FEWEST, int(_PRODUCTS / max(products_of_a_run(model), 1)))
        self._chosen = evenly(runs, min(runs, most)).tolist()
        self.crew = Crew(EngineOptions(threads=threads).thread_count)
        self._engine = EngineOptions(threads=1)
        self._position = {layer.name: at for at, layer in enumerate(model.net.layers)}
        self._at = 0
        self._kept: dict[int, _Live] = {}  # by place among the chosen, before layer `_at`

    def windows(self, plan: QuantPlan, value: str, layers: Sequence[Layer]) -> dict[str, PairedWindows]:
        """Collect the windows of a value for layers that read it; those before them stay as they are from here on.

        Args:
            plan: the INT8 network's.

        Returns:
            By layer name.

        Raises:
            Calib8Error: what the samples or a layer in Python raise.
        """
        ops = {layer.name: op for layer in layers if isinstance(op := self._model.op_of[layer.name], WindowProduct)}
        width = sum(_width(op, layer) for op, layer in zip(ops.values(), layers, strict=True))
        reach = self._reach(plan, value, min(self._position[layer.name] for layer in layers))
        per_sample = -(-min(_WINDOWS, max(1, _BYTES // (3 * width))) // len(reach.places))
        found = {name: PairedWindows(op, plan.thresholds[value], per_sample) for name, op in ops.items()}

        def look(codes: Array, values: Array) -> dict[str, Seen]:
            return {name: windows.seen(codes, values) for name, windows in found.items()}

        for seen in self._each(reach, look):
            for name, windows in found.items():
                windows.add(seen[name])
        return found

    def _reach(self, plan: QuantPlan, value: str, until: int) -> _Reach:
        integers = replace(setup_of(plan), integer_kernels=self._engine.integer_kernels)
        floats = replace(integers, int8_layers=frozenset())
        alive = (self._alive(floats, until), self._alive(integers, until))
        room = _KEPT_BYTES // max(sum(map(self._bytes, alive)), 1)
        count = len(self._chosen)
        part = next((part for part in _PARTS if len(range(0, count, part)) <= room), _PARTS[-1])
        places = range(0, count, part)
        return _Reach(value, until, (floats, integers), alive, places, keeps=len(places) <= room)

    def _each(self, reach: _Reach, look: Callable[[Array, Array], T]) -> Iterator[T]:
        """Look at a value's codes and what FP32 has, of samples in their order, and begin behind it the next time."""
        kept: dict[int, _Live] = {}
        for begun, places in self._groups(reach):
            first = [self._stretch(reach, which, begun) for which in (0, 1)]
            lanes = [first, *([executor.sibling() for executor in first] for _ in range(self.crew.count - 1))]
            work = partial(self._looked, reach, look, lanes)
            for seen, place, live in self.crew.stream(work, self._begun(reach, places, begun)):
                yield seen
                if reach.keeps:
                    kept[place] = live
        if reach.keeps:
            self._at, self._kept = reach.until, kept if self._has_known_shapes(kept) else {}

    def _looked(
        self,
        reach: _Reach,
        look: Callable[[Array, Array], T],
        lanes: Sequence[Sequence[Executor]],
        lane: int,
        of: tuple[int, _Live],
    ) -> tuple[T, int, _Live]:
        """Run a sample in a lane, and give what is seen of it, its place, and what is alive then."""
        place, live = of
        floats: dict[Reading, Array] = {}
        codes: dict[Reading, Array] = {}
        for executor, taken, given in zip(lanes[lane], live, (floats, codes), strict=True):
            executor.run(taken, given.__setitem__)
        own = (codes[Codes(reach.value)].astype(np.int16) - ZERO).astype(np.int8)
        return look(own, floats[reach.value]), place, (self._of(floats, reach, 0), self._of(codes, reach, 1))

    def _has_known_shapes(self, kept: Mapping[int, _Live]) -> bool:
        """Tell whether no layer in Python has changed a shape: only samples tell, and begin at the input each time."""
        arrays = [item for live in kept.values() for side in live for item in side.items()]
        return all(array.shape == self._model.shapes[value_of(reading)] for reading, array in arrays)

    def _groups(self, reach: _Reach) -> Iterator[tuple[int, list[int]]]:
        """Yield where samples begin, and which."""
        fresh = [place for place in reach.places if place not in self._kept]
        if fresh:
            yield 0, fresh
        if len(fresh) < len(reach.places):
            yield self._at, [place for place in reach.places if place in self._kept]

    def _begun(self, reach: _Reach, places: Sequence[int], begun: int) -> Iterator[tuple[int, _Live]]:
        """What there is of samples to go on from; it goes where what is behind it is kept."""
        if begun:
            yield from ((place, self._kept.pop(place) if reach.keeps else self._kept[place]) for place in places)
            return
        place_of = {self._chosen[place]: place for place in places}
        for run, batch in enumerate(self._batches()):
            if run in place_of:
                inputs: dict[Reading, Array] = dict(self._model.inputs_of(batch).items())
                yield place_of[run], (inputs, inputs)

    def _stretch(self, reach: _Reach, which: int, begun: int) -> Executor:
        """The layers from where samples begin up to before the value's readers, in FP32 or in INT8."""
        setup = reach.setups[which]
        wanted = [reach.value if which == 0 else Codes(reach.value), *(reach.alive[which] if reach.keeps else ())]
        available = tuple(self._alive(setup, begun)) if begun else self._model.inputs
        layers = self._model.net.layers[begun : reach.until]
        return Executor(lower_stretch(self._model, setup, layers, available, wanted), wanted, self._engine)

    def _alive(self, setup: IntegerSetup, at: int) -> list[Reading]:
        """What layers from `at` on read of those before: codes of what a layer in INT8 writes, real numbers else."""
        model, found = self._model, dict[Reading, None]()
        for layer in model.net.layers[at:]:
            for value in layer.bottoms:
                writer = None if value in model.inputs else model.net.producer[value].name
                if writer is not None and self._position[writer] >= at:
                    continue
                is_coded = writer in setup.int8_layers
                found[Codes(value) if is_coded else value] = None
                if is_coded and model.op_of[layer.name].kind == "host":
                    found[value] = None
        return list(found)

    def _bytes(self, alive: Sequence[Reading]) -> int:
        sizes = ((r, math.prod(self._model.shapes[value_of(r)])) for r in alive)
        return sum(size * (1 if isinstance(r, Codes) else 4) for r, size in sizes)

    def _of(self, found: Mapping[Reading, Array], reach: _Reach, which: int) -> dict[Reading, Array]:
        """What is kept of a sample; the arrays are the executor's own."""
        return {r: found[r].copy() for r in reach.alive[which] if r in found} if reach.keeps else {}


@dataclass(frozen=True, eq=False)
class _Reach:
    """How a value is reached.

    Attributes:
        until: the first layer that reads it, by its place in the network.
        setups, alive: of FP32 and of INT8.
        places: of the samples, among those that were chosen.
        keeps: whether what is alive of them has room.
    """

    value: str
    until: int
    setups: tuple[IntegerSetup, IntegerSetup]
    alive: tuple[list[Reading], list[Reading]]
    places: range
    keeps: bool


def _width(op: WindowProduct, layer: Layer) -> int:
    groups, _, inputs = op.product_matrix(layer.blobs[0]).shape
    return int(groups * inputs)
