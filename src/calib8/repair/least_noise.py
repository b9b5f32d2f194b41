"""Least noise: the units of channels with which values and weights together lose least, by a model of their noise.

A small unit gives a channel's values more codes. But a layer's weights share one scale as well, and are written in
units: W[o, c] u[c] / u[o]. So small units of a bottom's channels leave its columns fewer steps, and small ones of a
top's channels make its rows larger - where the row was small they cost nothing. For a layer with weights, of the
channels c of a bottom and o of a top, rounding makes the noise, relative to the power P of its top,

    A = sum_c q[c] (u[c] T)^2 / (12 * 128^2 P)                             T = max_c r[c] / u[c]
    B = s^2 sum_o u[o]^2 * k sum_c m[c] / u[c]^2 / (12 * 128^2 P)          s = max_oc |W[o, c]| u[c] / u[o]

of values and of weights: r[c] the largest |x| of a channel, m[c] its mean square, q[c] the sum of its column's squared
weights, k the products of a channel in a window. A convolution whose BatchNorm takes units up has a scale s[o] for
each row. The units are those with the least sum of A + B over all layers.

That is what white noise would do, which rounding errors are not: good enough to say which units are better, not how
good they are. The guard measures that. Maxima are taken as norms of a high power, so that there is a gradient; the
descent is Adam's, in the logarithms of the units, from 1 on. Units are cut to ten bits in the end, so that the last
bits of a machine's exponential function cannot decide anything.

Source: the two noises are Nagel et al., A White Paper on Neural Network Quantization, 2021, equation 2.14 and section
2.3, with ranges by channel; Kingma and Ba, Adam, 2015, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.engine.memory import forget
from calib8.graph import Layer
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.window_product import WindowProduct
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.quantize.channel_units import batch_norm_factors, is_before_batch_norm
from calib8.repair.channel_values import ChannelMoments

Array = NDArray[np.float64]
Classes = NDArray[np.intp]

_STEP = 1 / (12 * INT8_LEVELS**2)
_STEPS, _RATE = 120, 0.1
_FIRST, _SECOND, _TINY = 0.9, 0.99, 1e-12  # Adam's beta_1, beta_2 and epsilon
_SQUARINGS = 4  # the power of the norms: 16
_LARGEST_KEPT = 8  # weights of a row and of a column: the largest of all is among them, whatever the units are, nearly
_ROWS = 256  # at a time
_BITS = 10


@dataclass(frozen=True, eq=False)
class NoisyLayer:
    """A layer with weights, as the module's text has it; its G groups have C bottoms and O tops each.

    Attributes:
        bottoms: the classes of the groups' channels, (G, C); the last class is that of units that stay 1.
        tops: likewise, (G, O).
        rows, columns, sizes: the largest weights: in which row of G * O, which column of G * C, and |W|.
        energies: q, (G, C).
        largest: r, (G, C).
        squares: m, (G, C).
        products: k.
        power: P.
        by_row: whether each row has a scale of its own; its unit does not count then.
    """

    bottoms: Classes
    tops: Classes
    rows: Classes
    columns: Classes
    sizes: Array
    energies: Array
    largest: Array
    squares: Array
    products: int
    power: float
    by_row: bool

    def noise(self, logs: Array, gradient: Array) -> float:
        """Compute A + B, and add to the gradient by the logarithms of the units.

        Args:
            logs: of the units, by class.
        """
        bottom, step = np.exp(logs[self.bottoms]), _STEP / self.power
        top = np.ones(self.tops.shape) if self.by_row else np.exp(logs[self.tops])
        threshold, at_most = _soft_maximum(self.largest / bottom)
        of_values = step * threshold**2 * self.energies * bottom**2
        values = float(of_values.sum())
        np.add.at(gradient, self.bottoms, 2 * of_values - 2 * values * at_most)

        scaled = self.sizes * bottom.ravel()[self.columns] / top.ravel()[self.rows]
        scale, share = _soft_maxima(scaled, self.rows, top.size) if self.by_row else _soft_maximum(scaled)
        reads = self.products * self.squares / bottom**2  # (G, C)
        writes = step * (scale * top.ravel()).reshape(top.shape) ** 2  # (G, O)
        by_row = writes * reads.sum(axis=1, keepdims=True)
        np.add.at(gradient, self.bottoms, -2 * writes.sum(axis=1, keepdims=True) * reads)
        moved = 2 * share * (by_row.ravel()[self.rows] if self.by_row else by_row.sum())
        np.add.at(gradient, self.bottoms.ravel()[self.columns], moved)
        if not self.by_row:
            np.add.at(gradient, self.tops, 2 * by_row)
            np.add.at(gradient, self.tops.ravel()[self.rows], -moved)
        return values + float(by_row.sum())


def _soft_maximum(x: Array) -> tuple[float, Array]:
    """Take the norm of a high power of numbers >= 0, and the derivative of its logarithm by each one's."""
    most = float(x.max(initial=0.0))
    if most <= 0:
        return 0.0, np.zeros(x.shape)
    powers = _power(x / most)
    total = float(powers.sum())
    return most * total ** (1 / (1 << _SQUARINGS)), powers / total


def _soft_maxima(x: Array, rows: Classes, count: int) -> tuple[Array, Array]:
    """Do so for the numbers of each row, (count)."""
    most = np.zeros(count)
    np.maximum.at(most, rows, x)
    powers = _power(np.divide(x, most[rows], out=np.zeros(x.shape), where=most[rows] > 0))
    total = np.bincount(rows, powers, count)
    shares = np.divide(powers, total[rows], out=np.zeros(x.shape), where=total[rows] > 0)
    return most * total ** (1 / (1 << _SQUARINGS)), shares


def _power(x: Array) -> Array:
    for _ in range(_SQUARINGS):
        x = x * x
    return x


def least_noise(layers: Sequence[NoisyLayer], classes: int, smallest: float) -> Array:
    """Find the units with the least noise, (classes), from `smallest` to 1."""
    logs, first, second = np.zeros(classes + 1), np.zeros(classes + 1), np.zeros(classes + 1)
    for step in range(_STEPS if layers else 0):
        gradient = np.zeros(classes + 1)
        for layer in layers:
            layer.noise(logs, gradient)
        gradient[-1] = 0
        first = _FIRST * first + (1 - _FIRST) * gradient
        second = _SECOND * second + (1 - _SECOND) * gradient**2
        mean, deviation = first / (1 - _FIRST ** (step + 1)), np.sqrt(second / (1 - _SECOND ** (step + 1)))
        logs = np.clip(logs - _RATE * (1 - step / _STEPS) * mean / (deviation + _TINY), np.log(smallest), 0)
    mantissas, exponents = np.frexp(np.exp(logs[:-1]))
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissas, _BITS)), exponents - _BITS))


class NoiseModel:
    """The layers with weights of a network in INT8, and the values whose channels have to be looked at.

    Args:
        model, plan: the network, and which of its layers are in INT8.

    Attributes:
        values: bottoms and tops.
    """

    def __init__(self, model: Model, plan: QuantPlan) -> None:
        self._model = model
        self._layers: list[tuple[Layer, WindowProduct, str, Array | None]] = []
        for layer, op in model.pairs:
            if plan.forms.get(layer.name) is not None and isinstance(op, WindowProduct) and _flat(model, layer):
                norm = model.net.consumers[layer.tops[0]][0] if is_before_batch_norm(model, layer.tops[0]) else None
                if norm is None or plan.forms.get(norm.name) is None:
                    self._layers.append((layer, op, layer.tops[0], None))
                else:
                    behind = model.batch_norm_pairs.get(norm.name, norm).tops[0]
                    self._layers.append((layer, op, behind, np.abs(batch_norm_factors(model, norm))))
        self.values = tuple(dict.fromkeys(v for layer, _, top, _ in self._layers for v in (layer.bottoms[0], top)))

    def layers(
        self, classes_of: Mapping[str, Classes], classes: int, seen: Mapping[str, ChannelMoments]
    ) -> Iterator[NoisyLayer]:
        """Describe all layers, as far as their values were seen and are not always 0.

        Args:
            classes_of: by value, the class of every channel, -1 for one that can have no unit; values that are not in
                it have no other ones.
            classes: how many classes there are.
            seen: by value.
        """

        def of(value: str) -> Classes:
            own = classes_of.get(value, np.full(self._model.shapes[value][1], -1, np.intp))
            return np.where(own < 0, classes, own)

        for layer, op, top, factors in self._layers:
            bottom = layer.bottoms[0]
            power = float(seen[top].squares.sum()) if top in seen else 0.0
            if bottom in seen and power > 0:
                matrices = op.product_matrix(layer.blobs[0])
                sizes, energies = _columns(matrices, self._model.shapes[bottom][1], factors)
                rows, columns = _largest_of(sizes)
                groups, outputs, inputs = sizes.shape
                width = matrices.shape[2] // inputs
                forget(layer.blobs)
                yield NoisyLayer(
                    of(bottom).reshape(groups, inputs), of(top).reshape(groups, outputs), rows, columns,
                    sizes[rows // outputs, rows % outputs, columns % inputs].astype(np.float64), energies,
                    seen[bottom].largest.reshape(groups, inputs), seen[bottom].squares.reshape(groups, inputs),
                    width, power, factors is not None,
                )  # fmt: skip


def _flat(model: Model, layer: Layer) -> bool:
    """Tell whether the columns of a layer's matrix are channels of its bottom, and its rows those of its top."""
    return model.op_of[layer.name].channel_flow(model.call(layer)) is ChannelFlow.WEIGHTED


def _columns(matrices: NDArray[np.float32], channels: int, factors: Array | None) -> tuple[NDArray[np.float32], Array]:
    """Find the largest |W| of each row and channel, (G, O, C), and of each channel the sum of its squares, (G, C)."""
    groups, outputs, width = matrices.shape
    inputs = channels // groups
    sizes, energies = np.empty((groups, outputs, inputs), np.float32), np.zeros((groups, inputs))
    scales = None if factors is None else factors.reshape(groups, outputs, 1).astype(np.float32)
    for start in range(0, outputs, _ROWS):
        rows = slice(start, start + _ROWS)
        part = matrices[:, rows].reshape(groups, -1, inputs, width // inputs)
        scale = None if scales is None else scales[:, rows]
        largest, squares = np.abs(part).max(axis=3), np.square(part).sum(axis=3)
        sizes[:, rows] = largest if scale is None else largest * scale
        energies += (squares if scale is None else squares * scale**2).sum(axis=1, dtype=np.float64)
    return sizes, energies


def _largest_of(sizes: NDArray[np.float32]) -> tuple[Classes, Classes]:
    """Pick the largest of each row and of each column: their rows, of all groups', and their columns, in order."""
    _, outputs, inputs = sizes.shape
    chosen = np.zeros(sizes.shape, bool)
    for axis, count in ((2, inputs), (1, outputs)):
        kept = min(_LARGEST_KEPT, count)
        np.put_along_axis(chosen, np.argpartition(-sizes, kept - 1, axis=axis).take(range(kept), axis=axis), True, axis)
    group, row, column = np.nonzero(chosen)
    return group * outputs + row, group * inputs + column
