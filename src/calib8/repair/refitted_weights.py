"""Refitted weights: what the codes of a layer's bottom are off by is made up for by its weights.

Behind layers in INT8 a layer gets x' where FP32 has x. Its weights W are replaced by those that give FP32's outputs
from x' with the least error, held near W by a ridge, since few windows are seen:

    V = argmin  E |V x' - W x|^2 + ridge |V - W|^2  =  W (E[x x'^T] + ridge) (E[x' x'^T] + ridge)^-1

about the means where an offset takes them, which then also takes the whole mean error, that of the bottom too:
b' = b + W E[x] - Q E[x']. V is rounded over the moments of x' as in `compensated_rounding`.

Layers are solved in the order of the network: x' is what the INT8 network, with all layers before it solved, gives.
A small ridge was measured to fit the samples and nothing else. So each layer has its own, a multiple of the mean of the
diagonal: the one with the least error on every fifth sample, for which V is solved on the others. Where W itself is
better there, the layer is rounded as in `compensated_rounding`.

Sums are exact whatever the order of the samples: x' is codes, x whole numbers of 1/64 of a code.

Source: the least squares, layer by layer over the quantised inputs, are those of Hubara et al., Accurate Post Training
Quantization With Small Calibration Sets, 2021 (AdaQuant), equation 2; here in closed form, with a ridge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.engine import Crew, EngineOptions, Executor
from calib8.graph import Layer
from calib8.layer_kit.codes import ZERO
from calib8.layer_kit.window_product import WindowProduct
from calib8.lowering import Codes, Model
from calib8.lowering.integer import IntegerSetup, lower_stretch
from calib8.lowering.readings import Reading, value_of
from calib8.measure.collect import Batches
from calib8.quantize import QuantPlan, setup_of, with_given
from calib8.repair.compensated_rounding import problem_of
from calib8.repair.input_windows import InputWindows, Moments, Wanted

Array = NDArray[Any]
Progress = Callable[[int, int], None]
_Live = tuple[Mapping[Reading, Array], Mapping[Reading, Array]]
"""What is alive of a sample between two layers, in FP32 and in INT8."""

REFITTED = "refitted-weights"
_WINDOWS = 8192
_BYTES = 128 << 20  # of the windows of one value
_KEPT_BYTES = 64 << 20  # of what is alive of all samples between two layers
_FINE = 64  # steps of a code, of x
_FURTHEST = 1 << 8  # codes: what lies further out is clipped
_EVERY = 5  # a sample of so many says which ridge
_RIDGES = (1.0, 4.0, 16.0, 64.0)


@dataclass(frozen=True, eq=False)
class PairedMoments(Moments):
    """Moments of x', and of x beside it.

    Attributes:
        float_sums: of x, (G, K).
        cross: of x x'^T, (G, K, K).
    """

    float_sums: NDArray[np.float64]
    cross: NDArray[np.float64]

    def plus(self, other: PairedMoments) -> PairedMoments:
        """Put the windows of both together."""
        return PairedMoments(
            self.count + other.count, self.sums + other.sums, self.products + other.products,
            self.float_sums + other.float_sums, self.cross + other.cross,
        )  # fmt: skip

    @property
    def float_means(self) -> NDArray[np.float64]:
        """E[x], (G, K), in codes."""
        return self.float_sums / self.count

    def refitted(self, weights: NDArray[np.float64], ridge: float, *, centred: bool) -> NDArray[np.float64]:
        """Give V for the weights W, (G, O, K); see the module's text.

        Args:
            ridge: in multiples of the mean of the diagonal, to which that of a rounded input, 1/12, is added.
        """
        own, cross = self._about(centred)
        diagonal = ridge * (np.diagonal(own, axis1=1, axis2=2).mean(axis=1) + 1 / 12)
        held = diagonal[:, None, None] * np.eye(own.shape[-1])
        # V (own + held) = W (cross + held), and own is symmetric.
        right = (weights @ (cross + held)).transpose(0, 2, 1)
        found: NDArray[np.float64] = np.linalg.solve(own + held, right).transpose(0, 2, 1)
        return found

    def error(self, weights: NDArray[np.float64], found: NDArray[np.float64], *, centred: bool) -> float:
        """Compute E |V x' - W x|^2 - E |W x|^2, summed over the outputs."""
        own, cross = self._about(centred)
        return float(np.einsum("gok,gok->", found @ own - 2 * (weights @ cross), found))

    def _about(self, centred: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """E[x' x'^T] and E[x x'^T], about the means where these are taken elsewhere."""
        if not centred:
            return self.second, self.cross / self.count
        means = self.float_means[:, :, None] * self.means[:, None, :]
        return self.covariance, self.cross / self.count - means


@dataclass(frozen=True, eq=False)
class ChosenMoments(PairedMoments):
    """Moments of all windows, and of two parts of them.

    Attributes:
        part, held_out: of most samples, and of the others, which say how tightly weights are to be held.
        ridge: the loosest that is tried; up to 64 times as much, and weights as they are, are the others.
    """

    part: PairedMoments
    held_out: PairedMoments
    ridge: float

    def chosen(self, weights: NDArray[np.float64], *, centred: bool) -> Callable[[NDArray[np.float64]], Wanted]:
        """Refit weights, with the ridge that is best on the part that was held out."""
        errors: dict[float | None, float] = {None: self.held_out.error(weights, weights, centred=centred)}
        for ridge in (factor * self.ridge for factor in _RIDGES):
            found = self.part.refitted(weights, ridge, centred=centred)
            errors[ridge] = self.held_out.error(weights, found, centred=centred)
        best = min(errors, key=lambda ridge: errors[ridge])
        if best is None:
            return super().chosen(weights, centred=centred)
        return lambda rows: Wanted(
            self.refitted(rows, best, centred=centred), np.einsum("gok,gk->go", rows, self.float_means)
        )


class PairedWindows:
    """Windows of the codes that a layer gets, and of what FP32 has at the same places.

    Args:
        op: the layer that reads the value.
        threshold: of the value, in real units.
        per_sample: how many windows of a sample are kept.
        ridge: see `ChosenMoments`.
    """

    widest = 1536  # three times two matrices of them are alive, 19 MB each

    def __init__(self, op: WindowProduct, threshold: float, per_sample: int, ridge: float) -> None:
        self._codes = InputWindows(op, threshold, per_sample)
        self._op, self._per_sample, self._ridge = op, per_sample, ridge
        self._step = threshold / INT8_LEVELS / _FINE
        self._parts: list[NDArray[np.int16]] = []

    def add(self, codes: Array, values: Array) -> None:
        """Take in a value of one sample: its codes, int8, and FP32's, in real units."""
        self._codes.add_codes(codes)
        steps = np.rint(np.nan_to_num(self._op.product_windows(values, self._per_sample), nan=0.0) / self._step)
        most = _FINE * _FURTHEST - 1
        self._parts.append(np.clip(steps, -most, most).astype(np.int16))

    @property
    def count(self) -> int:
        """Number of windows so far."""
        return self._codes.count

    def mean_squares(self) -> NDArray[np.float64]:
        """Compute E[x'^2] of every input, (G, K)."""
        return self._codes.mean_squares()

    def moments(self, first: int = 0, last: int | None = None) -> Moments:
        """Compute the moments of a range of the K inputs, all by default; of a single sample there is none of x."""
        if len(self._parts) < 2:
            return self._codes.moments(first, last)
        held = [at % _EVERY == min(_EVERY, len(self._parts)) - 1 for at in range(len(self._parts))]
        part, held_out = (
            self._of([at for at, out in enumerate(held) if out == wanted], first, last) for wanted in (False, True)
        )
        whole = part.plus(held_out)
        return ChosenMoments(
            whole.count, whole.sums, whole.products, whole.float_sums, whole.cross, part, held_out, self._ridge
        )

    def _of(self, samples: Sequence[int], first: int, last: int | None) -> PairedMoments:
        """The moments of some samples."""
        groups, _, inputs = self._parts[0][:, :, first:last].shape
        count, (sums, float_sums) = 0, np.zeros((2, groups, inputs))
        products, cross = np.zeros((2, groups, inputs, inputs))
        for at in samples:
            codes = self._codes.parts[at][:, :, first:last].astype(np.float64)
            floats = self._parts[at][:, :, first:last].astype(np.float64)
            count, sums, float_sums = count + codes.shape[1], sums + codes.sum(axis=1), float_sums + floats.sum(axis=1)
            products += codes.transpose(0, 2, 1) @ codes
            cross += floats.transpose(0, 2, 1) @ codes
        return PairedMoments(count, sums, products, float_sums / _FINE, cross / _FINE)


def refit_weights(
    model: Model,
    plan: QuantPlan,
    ridge: float,
    batches: Batches,
    runs: int,
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> QuantPlan:
    """Refit and round the weights of all layers that are matrices times windows; see the module's text.

    Args:
        ridge: the loosest that is tried, in multiples of the mean of the diagonal.
        batches: samples to solve on, a run each.
        runs: how many there are.
        threads: None for all cores; no result depends on it.
        progress: called with values that are done, and how many there are.

    Raises:
        Calib8Error: what the samples or a layer in Python raise.
    """
    by_value: dict[str, list[Layer]] = {}
    for layer in model.net.layers:
        if problem_of(model, plan, layer) is not None:
            by_value.setdefault(layer.bottoms[0], []).append(layer)
    observe = _Observer(model, batches, runs, threads)
    with observe.crew:
        for done, (value, layers) in enumerate(by_value.items()):
            progress(done, len(by_value))
            windows = observe.windows(plan, value, layers, ridge)
            for layer in layers:
                plan = _solved(model, plan, layer, windows[layer.name])
    progress(len(by_value), len(by_value))
    return plan


def _solved(model: Model, plan: QuantPlan, layer: Layer, windows: PairedWindows) -> QuantPlan:
    problem = problem_of(model, plan, layer)
    if problem is None or not problem.is_known(windows):
        return plan
    return with_given(plan, problem.solved(windows), REFITTED)


class _Observer:
    """Runs FP32 and INT8 side by side up to a value.

    What is alive of all samples between two layers is kept, where it is small enough, and the next value is reached
    from there; else from where it was last. So early layers, which are large, are run again for each value, and the
    others, which are many, once.
    """

    def __init__(self, model: Model, batches: Batches, runs: int, threads: int | None) -> None:
        self._model, self._batches, self._runs = model, batches, runs
        self.crew = Crew(EngineOptions(threads=threads).thread_count)
        self._engine = EngineOptions(threads=1)
        self._position = {layer.name: at for at, layer in enumerate(model.net.layers)}
        self._at = 0
        self._kept: list[_Live] | None = None  # of every sample, before layer `_at`; None for its inputs

    def windows(self, plan: QuantPlan, value: str, layers: list[Layer], ridge: float) -> dict[str, PairedWindows]:
        """Collect the windows of a value for layers that read it; those before them stay as they are from here on."""
        model, threshold = self._model, plan.thresholds[value]
        ops: dict[str, WindowProduct] = {}
        for layer in layers:
            op = model.op_of[layer.name]
            if isinstance(op, WindowProduct):
                ops[layer.name] = op
        width = sum(_width(op, layer) for op, layer in zip(ops.values(), layers, strict=True))
        per_sample = -(-min(_WINDOWS, max(1, _BYTES // (3 * width))) // self._runs)
        found = {name: PairedWindows(op, threshold, per_sample, ridge) for name, op in ops.items()}
        for codes, values in self._pairs(plan, value, min(self._position[layer.name] for layer in layers)):
            for windows in found.values():
                windows.add(codes, values)
        return found

    def _pairs(self, plan: QuantPlan, value: str, until: int) -> Iterator[tuple[Array, Array]]:
        """Give a value's codes and what FP32 has, of every sample, and begin before layer `until` the next time."""
        coded = Codes(value)
        integers, floats = setup_of(plan), replace(setup_of(plan), int8_layers=frozenset())
        alive = [self._alive(setup, until) for setup in (floats, integers)]
        keeps = self._bytes(alive[0]) + self._bytes(alive[1]) <= _KEPT_BYTES // self._runs
        wanted = [(value, *(alive[0] if keeps else ())), (coded, *(alive[1] if keeps else ()))]
        lanes = [[self._stretch(*one, until) for one in zip((floats, integers), wanted, strict=True)]]
        lanes += [[executor.sibling() for executor in lanes[0]] for _ in range(self.crew.count - 1)]

        def work(lane: int, live: _Live) -> tuple[Array, Array, _Live]:
            found: list[dict[Reading, Array]] = [{}, {}]
            for executor, taken, given in zip(lanes[lane], live, found, strict=True):
                executor.run(taken, lambda reading, array: given.__setitem__(reading, array.copy()))  # noqa: B023
            codes = (found[1][coded].astype(np.int16) - ZERO).astype(np.int8)
            return codes, found[0][value], (self._of(found[0], alive[0]), self._of(found[1], alive[1]))

        kept: list[_Live] = []
        for codes, values, live in self.crew.stream(work, self._begun()):
            yield codes, values
            if keeps:
                kept.append(live)
        # Shapes that a layer in Python has changed are told from the samples alone: these begin at the input each time.
        if keeps and all(a.shape == self._model.shapes[value_of(r)] for one in kept for s in one for r, a in s.items()):
            self._at, self._kept = until, kept

    def _begun(self) -> Iterator[_Live]:
        """What there is of every sample to go on from."""
        if self._kept is not None:
            yield from self._kept
            return
        for batch in self._batches():
            inputs: dict[Reading, Array] = dict(self._model.inputs_of(batch).items())
            yield inputs, inputs

    def _stretch(self, setup: IntegerSetup, wanted: Sequence[Reading], until: int) -> Executor:
        """The layers from where all samples are, up to before layer `until`."""
        available = self._model.inputs if self._kept is None else tuple(self._alive(setup, self._at))
        layers = self._model.net.layers[self._at : until]
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

    def _of(self, found: Mapping[Reading, Array], alive: Sequence[Reading]) -> dict[Reading, Array]:
        return {reading: found[reading] for reading in alive if reading in found}


def _width(op: WindowProduct, layer: Layer) -> int:
    groups, _, inputs = op.product_matrix(layer.blobs[0]).shape
    return int(groups * inputs)
