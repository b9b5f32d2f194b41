"""Compensated rounding: weights are rounded so that their errors cancel over the inputs that the layer really gets.

Every layer that is a matrix times windows of codes (`WindowProduct`) is solved by itself, over windows of its bottom's
codes, with the two steps of `rounding`. Its float weights are the target, not the FP32 layer's outputs: what the codes
of the bottom are off by is left alone.

- Where the mean error can go into an offset, the layer's bias or that of the BatchNorm behind it, it does; the weights
  then only have to be good around the mean, and the covariance takes the place of E[x x^T]:

      b' = b + (V - Q) E[x]

  (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, equation 17).
- The right shift is the contract's, or another one where that is better: one more, with the largest weights clipped
  (where few are large, 8 bits hold the others twice as finely), or fewer, where the bias would not fit its 16 bits and
  would be clamped.
- An InnerProduct has one window a sample, and thousands of inputs. What few windows tell of how inputs go together is
  worth it from four on (decision 0024); they leave so much freedom that a descent behind the first rounding brings
  nothing.

The damping of a group is 1 % of the mean of the diagonal, as in GPTQ, and at least that of a rounded input, 1/12.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS, MAX_RSHIFT, quantize_bias, round_half_up, saturate_int16
from calib8.engine.memory import trim
from calib8.graph import Layer
from calib8.layer_kit.weighted_sum import WeightedSum
from calib8.layer_kit.window_product import WindowProduct
from calib8.layers.batch_norm import AffineChannels
from calib8.lowering import Model
from calib8.quantize import QuantPlan, with_given
from calib8.repair.input_windows import InputWindows, Windows, codes_of
from calib8.repair.rounding import compensated, curvature, descended, nearest

Array = NDArray[np.float64]

_WINDOWS = 4096  # of a layer: twice as many were measured to bring 0.1 dB at most
_BYTES = 128 << 20  # of all windows; wide and many layers get fewer
_FEWEST = 4  # windows: of a single one even the mean is chance
_BLOCK_ELEMENTS = 2 << 20  # of weights that are solved at a time
_WIDE = 1 << 10  # inputs: matrices of so many squared are worth it that windows which have gone are given back before
_DAMPING, _LEAST_DAMPING = 0.01, 1 / 12


class CompensatedRounding:
    """The pass; see the module's text.

    Args:
        samples: how many there will be; each gives its part of the windows.
    """

    name = "compensated-rounding"

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def counters(self, model: Model, plan: QuantPlan) -> dict[str, WindowsOfLayers]:
        """Ask for windows of the bottoms of all layers that can be solved."""
        layers = [layer for layer in model.net.layers if problem_of(model, plan, layer) is not None]
        width = sum(_width(model, layer) for layer in layers)
        windows = min(_WINDOWS, max(1, _BYTES // max(width, 1)))
        per_sample = -(-windows // self._samples)
        found: dict[str, WindowsOfLayers] = {}
        for layer in layers:
            value, op = layer.bottoms[0], model.op_of[layer.name]
            if isinstance(op, WindowProduct):
                counter = InputWindows(op, plan.thresholds[value], per_sample)
                found.setdefault(value, WindowsOfLayers(plan.thresholds[value], {})).by_layer[layer.name] = counter
        return found

    def apply(self, model: Model, plan: QuantPlan, observed: Mapping[str, WindowsOfLayers]) -> QuantPlan:
        """Give all layers that were observed their integers."""
        for layer in model.net.layers:
            problem = problem_of(model, plan, layer)
            if problem is not None:
                windows = observed[layer.bottoms[0]].by_layer.pop(layer.name)  # they go as layers are solved
                if problem.is_known(windows):
                    if problem.inputs >= _WIDE:
                        trim()
                    plan = with_given(plan, problem.solved(windows), self.name)
        return plan


@dataclass(frozen=True)
class WindowsOfLayers:
    """The windows of one value, for each layer that reads it.

    Attributes:
        threshold: of the value, in real units.
    """

    threshold: float
    by_layer: dict[str, InputWindows]

    def add(self, values: NDArray[Any]) -> None:
        """Take in a value of one sample."""
        codes = codes_of(values, self.threshold)
        for windows in self.by_layer.values():
            windows.add_codes(codes)


def _width(model: Model, layer: Layer) -> int:
    """Count the numbers in the windows of all groups at one place."""
    op = model.op_of[layer.name]
    if not isinstance(op, WindowProduct):
        return 0
    groups, _, inputs = op.product_matrix(layer.blobs[0]).shape
    return int(groups * inputs)


def problem_of(model: Model, plan: QuantPlan, layer: Layer) -> LayerProblem | None:
    """Say what is to be solved of a layer; None where its weights are no matrix times windows, or not in INT8."""
    op, form = model.op_of[layer.name], plan.forms.get(layer.name)
    if not isinstance(op, WindowProduct) or not isinstance(form, WeightedSum) or len(layer.bottoms) != 1:
        return None
    tx, ty = plan.thresholds[layer.bottoms[0]], plan.thresholds[layer.tops[0]]
    units = plan.channel_units.get(layer.tops[0], np.ones(1)).reshape(-1)
    matrices = op.product_matrix(layer.blobs[0])
    of_rows = np.broadcast_to(units, matrices.shape[0] * matrices.shape[1]).reshape(*matrices.shape[:2], 1)
    bias = layer.blobs[1].astype(np.float64).reshape(-1) / units if len(layer.blobs) > 1 else None
    behind = None if bias is not None else _batch_norm_behind(model, plan, layer)
    return LayerProblem(layer, op, form, matrices, tx / ty, of_rows, ty, bias, behind)


def _batch_norm_behind(model: Model, plan: QuantPlan, layer: Layer) -> tuple[str, AffineChannels] | None:
    """Find the BatchNorm, with its integers, that alone reads the layer's top."""
    readers = model.net.consumers[layer.tops[0]]
    form = plan.forms.get(readers[0].name) if len(readers) == 1 else None
    return (readers[0].name, form) if isinstance(form, AffineChannels) else None


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """One layer to be solved.

    Attributes:
        matrices: its weights, (G, O/G, K).
        ratio, units: weights * ratio / units are in steps of the integers, at a right shift of 0; the units are those
            of the top's channels, (G, O/G, 1).
        ty: the top's threshold.
        bias: in real units, (O); None for a layer without one.
        behind: the BatchNorm that takes the mean error where there is no bias, by name, with its integers.
    """

    layer: Layer
    op: WindowProduct
    form: WeightedSum
    matrices: NDArray[np.float32]
    ratio: float
    units: Array
    ty: float
    bias: Array | None
    behind: tuple[str, AffineChannels] | None

    @property
    def inputs(self) -> int:
        """K, the numbers in a window."""
        return int(self.matrices.shape[2])

    def is_known(self, windows: Windows) -> bool:
        """Tell whether there are enough windows to say how the inputs go together."""
        return windows.count >= _FEWEST

    def target(self, rows: slice, inputs: slice) -> Array:
        """Give a part of the weights in steps at a right shift of 0: these rows of every group."""
        part = self.matrices[:, rows, inputs].astype(np.float64)
        return np.asarray(part * self.ratio / self.units[:, rows])

    def solved(self, windows: Windows) -> dict[str, WeightedSum | AffineChannels]:
        """Solve for the weights, and give the mean error to the offset that takes it; forms by layer name."""
        rshift = self._best_rshift(windows)
        rounded = np.empty(self.matrices.shape, np.int8)
        mean_error = np.zeros(self.matrices.shape[:2])
        takes_mean = self.bias is not None or self.behind is not None
        for inputs in _ranges(self.inputs, windows.widest):
            moments = windows.moments(inputs.start, inputs.stop)
            wanted_of = moments.chosen(np.ldexp(self._sample(inputs), rshift), centred=takes_mean)
            about = moments.covariance if takes_mean else moments.second
            over = curvature(about, damping(about))
            del about
            for rows in self._blocks(inputs):
                wanted = wanted_of(np.ldexp(self.target(rows, inputs), rshift))
                found = compensated(wanted.weights, over)
                if windows.count >= inputs.stop - inputs.start:  # else there is freedom enough without
                    found = descended(wanted.weights, found, over)
                mean_error[:, rows] += wanted.means - np.einsum("gok,gk->go", found, moments.means)
                rounded[:, rows, inputs] = found
        return self._forms(rounded, rshift, mean_error.reshape(-1))

    def _blocks(self, inputs: slice) -> Iterator[slice]:
        """Cut the rows, so that what is solved at a time fits into some memory."""
        groups, rows, _ = self.matrices.shape
        most = max(1, _BLOCK_ELEMENTS // (groups * (inputs.stop - inputs.start)))
        yield from (slice(first, min(first + most, rows)) for first in range(0, rows, most))

    def _sample(self, inputs: slice) -> Array:
        """Give the first block of rows, which what is chosen for a layer is judged by."""
        return self.target(next(self._blocks(inputs)), inputs)

    def _forms(
        self, rounded: NDArray[np.int8], rshift: int, mean_error: Array
    ) -> dict[str, WeightedSum | AffineChannels]:
        """Make the forms; `mean_error` is E[(V - Q) x], (O), in steps of the accumulator."""
        shape = self.form.weights.shape
        weights = np.ascontiguousarray(self.op.product_weights(rounded).reshape(shape))
        bias, found = self.form.bias, {}
        if self.bias is not None and bias is not None:
            real = self.bias + np.ldexp(mean_error * self.ty / INT8_LEVELS, -rshift)
            bias = quantize_bias(real, self.ty, rshift).values.reshape(bias.shape)
        elif self.behind is not None:
            name, affine = self.behind
            found[name] = _shifted(affine, np.ldexp(mean_error, -rshift))
        return {self.layer.name: replace(self.form, weights=weights, bias=bias, rshift=rshift, warnings=()), **found}

    def _best_rshift(self, windows: Windows) -> int:
        """Choose the right shift by the errors of nearest integers, inputs taken as independent, and clamped biases."""
        squares = windows.mean_squares()
        last = min(self.form.rshift + 1, MAX_RSHIFT)
        errors = [self._rough_error(rshift, squares) for rshift in range(last + 1)]
        return int(np.argmin(errors))

    def _rough_error(self, rshift: int, squares: Array) -> float:
        error = 0.0
        for rows in self._blocks(slice(0, self.inputs)):
            target = np.ldexp(self.target(rows, slice(None)), rshift)
            error += float(np.einsum("gok,gk->", (target - nearest(target)) ** 2, squares))
        if self.bias is not None:
            steps = np.ldexp(self.bias * INT8_LEVELS / self.ty, rshift)
            error += float(((steps - saturate_int16(round_half_up(steps))) ** 2).sum())
        return float(np.ldexp(error, -2 * rshift))


def _shifted(affine: AffineChannels, mean_error: Array) -> AffineChannels:
    """Add the mean error of an affine step's bottom, (C) in codes, to its offset."""
    moved = affine.shift.astype(np.float64) + affine.scale.astype(np.float64) * mean_error.reshape(affine.shift.shape)
    return replace(affine, shift=saturate_int16(round_half_up(moved)))


def _ranges(inputs: int, widest: int) -> Iterator[slice]:
    """Cut the inputs into ranges of about equal length that are solved together."""
    parts = -(-inputs // widest)
    edges = [inputs * part // parts for part in range(parts + 1)]
    return itertools.starmap(slice, itertools.pairwise(edges))


def damping(second_moments: Array) -> Array:
    """Give what is added to the diagonal of each group's moments, (G); see the module's text."""
    means = np.diagonal(second_moments, axis1=1, axis2=2).mean(axis=1)
    return np.asarray(_DAMPING * means + _LEAST_DAMPING)
