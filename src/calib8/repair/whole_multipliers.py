"""Whole multipliers: thresholds are moved a little, so that what rescales codes does so without an error.

Layers without weights multiply codes by tx/ty as an integer over a power of two. What the integer is off by is a gain
that is wrong for every element alike, and such errors add up along a residual network:

- Eltwise: `mult = trunc(tx/ty * 2^rs)` with mult below 128 can be 1.5 % too small. The top's threshold is moved so that
  the multiplier of a bottom that cannot be moved is whole, by 3 % at most, and the other bottoms' so that theirs are.
  A product has one multiplier, cut off in the same way: its top alone is moved, by 0.8 % at most.
- AVE pooling: `floor(2^m / k)` and halving cut off, too (`average_pooling_constants`). The top's threshold is moved to
  what the constants really give.
- MAX pooling: the top takes the bottom's threshold. Its codes are then the bottom's largest ones, nothing is rounded,
  and nothing is lost but for the part of the range that large values of the bottom alone need. Where one of the two
  layers runs in FP32, the value is quantised with that threshold.

Groups of values that share a threshold are settled in the order of the network; what a layer has settled, a later one
leaves alone. The top of a MAX pooling that shares its threshold with values of other layers, as under a Concat, stays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from calib8.arithmetic import (
    INT8_LEVELS,
    average_pooling_constants,
    eltwise_multipliers,
    eltwise_product_multiplier,
    pooling_multiplier,
)
from calib8.errors import QuantizationError
from calib8.graph import Layer
from calib8.layers.eltwise import Eltwise, EltwiseForm
from calib8.layers.pooling import Pooling, PoolingForm
from calib8.lowering import Model
from calib8.measure.counters import Counter
from calib8.quantize import FoldGroup, QuantPlan, fold_groups, replan

_MOVED = 0.03  # most that the top of an Eltwise is moved by, as a part
_FEW_STEPS = 16  # a multiplier below is rounded up, lest its value's range shrinks by more than 3 %
_NUDGE = 2.0**-22  # so that a quotient of float32 thresholds lies on the right side of a whole number
_STEPS = 121


class WholeMultipliers:
    """The pass; see the module's text. It observes nothing.

    Args:
        pools: whether tops of poolings are moved.
        sums: whether tops and bottoms of Eltwise layers are.
    """

    name = "whole-multipliers"

    def __init__(self, pools: bool = True, sums: bool = True) -> None:
        self._pools, self._sums = pools, sums

    def counters(self, model: Model, plan: QuantPlan) -> Mapping[str, Counter]:
        """Ask for nothing."""
        return {}

    def apply(self, model: Model, plan: QuantPlan, observed: Mapping[str, Counter]) -> QuantPlan:
        """Move the thresholds, and quantise the layers that they concern anew."""
        settling = _Settling(model, plan)
        for layer, op in zip(model.net.layers, model.ops, strict=True):
            form = plan.forms.get(layer.name)
            if isinstance(op, Pooling) and isinstance(form, PoolingForm) and self._pools:
                settling.pooling(layer, op)
            elif isinstance(op, Eltwise) and isinstance(form, EltwiseForm) and self._sums:
                (settling.product if op.operation == "PROD" else settling.eltwise)(layer)
        return replan(model, plan, settling.changes())


class _Settling:
    """Thresholds while they are moved."""

    def __init__(self, model: Model, plan: QuantPlan) -> None:
        self._model, self._plan = model, plan
        groups = fold_groups(model, plan.enable_concat_quantize)
        self._group_of: dict[str, FoldGroup] = {v: g for g in groups for v in g.members}
        self._threshold = dict(plan.thresholds)
        self._settled: set[str] = set()

    def changes(self) -> dict[str, float]:
        """The thresholds that were moved, by value."""
        return {v: t for v, t in self._threshold.items() if t != self._plan.thresholds[v]}

    def pooling(self, layer: Layer, op: Pooling) -> None:
        """Settle the top of a pooling."""
        bottom, top = layer.bottoms[0], layer.tops[0]
        tx, ty = self._threshold[bottom], self._threshold[top]
        if self._is_free(top) and not self._same_group(bottom, top):
            divisors = np.unique(op.divisors(self._model.shapes[bottom], self._model.shapes[top]))
            if op.method == "MAX" and self._writers(top) == 1:
                self._settle(top, tx)
            elif op.method == "AVE" and len(divisors) == 1:
                self._settle(top, _average_threshold(tx, ty, int(divisors[0])))
        self._settled.update((self._name(bottom), self._name(top)))

    def eltwise(self, layer: Layer) -> None:
        """Settle the top of an Eltwise, then the bottoms that nothing has settled."""
        bottoms, top = list(dict.fromkeys(layer.bottoms)), layer.tops[0]
        if any(self._same_group(b, top) for b in bottoms):
            return
        txs = [self._threshold[b] for b in bottoms]
        fixed = [self._threshold[b] for b in bottoms if not self._is_free(b)]
        if self._is_free(top) and fixed:
            self._settle(top, _sum_threshold(self._threshold[top], txs, fixed))
        ty = self._threshold[top]
        try:
            rshift = eltwise_multipliers(txs, ty)[1]
        except QuantizationError:  # the quantiser says so, with the layer's name
            return
        for b, tx in zip(bottoms, txs, strict=True):
            if self._is_free(b):
                self._settle(b, _whole_multiple(tx / ty, rshift) * ty * (1 + _NUDGE))
        self._settled.update(map(self._name, (*bottoms, top)))

    def product(self, layer: Layer) -> None:
        """Settle the top of a product, whose bottoms stay."""
        bottoms, top = layer.bottoms, layer.tops[0]
        if self._is_free(top):
            self._settle(top, _product_threshold([self._threshold[b] for b in bottoms], self._threshold[top]))
        self._settled.update(map(self._name, (*bottoms, top)))

    def _settle(self, value: str, threshold: float) -> None:
        self._threshold.update(dict.fromkeys(self._group_of[value].members, float(np.float32(threshold))))
        self._settled.add(self._name(value))

    def _is_free(self, value: str) -> bool:
        return self._name(value) not in self._settled

    def _name(self, value: str) -> str:
        return self._group_of[value].name

    def _same_group(self, one: str, other: str) -> bool:
        return self._name(one) == self._name(other)

    def _writers(self, value: str) -> int:
        """Count the layers that write values of a group and do not only hand them on."""
        net = self._model.net
        writers = {net.producer[v].name: net.producer[v] for v in self._group_of[value].members}
        return sum(not self._model.op_of[name].passive for name in writers)


def _whole_multiple(ratio: float, rshift: int) -> float:
    """The ratio nearest to `ratio` that is whole in steps of 2^-rshift, at least 1 of them and at most 127."""
    steps = math.ldexp(ratio, rshift)
    whole = math.ceil(steps) if steps < _FEW_STEPS else round(steps)
    return math.ldexp(min(max(whole, 1), 127), -rshift)


def _sum_threshold(ty: float, txs: list[float], fixed: list[float]) -> float:
    """The top's threshold, near `ty`, with which least is cut off of the multipliers of the fixed bottoms.

    For a single one nothing is.
    """
    factors = sorted(np.exp(np.linspace(-_MOVED, _MOVED, _STEPS)), key=lambda factor: abs(math.log(factor)))
    found, least = ty, math.inf
    for factor in factors:
        near = ty * float(factor)
        for exact in (_exact_for(tx, near, txs) for tx in fixed):
            off = max(_off_whole(tx / exact, _rshift(txs, exact)) for tx in fixed)
            if abs(math.log(exact / ty)) <= 2 * _MOVED and off < least - _NUDGE:
                found, least = exact, off
    return found


def _exact_for(tx: float, ty: float, txs: list[float]) -> float:
    """The top's threshold next to `ty` with which the multiplier of one bottom is whole."""
    rshift = _rshift(txs, ty)
    steps = round(math.ldexp(tx / ty, rshift))
    return math.ldexp(tx / max(steps, 1), rshift) * (1 - _NUDGE)


def _product_threshold(txs: list[float], ty: float) -> float:
    """The threshold next to `ty` with which the multiplier of a product is whole."""
    try:
        mult, rshift = eltwise_product_multiplier(txs, ty)
    except QuantizationError:  # the quantiser says so, with the layer's name
        return ty
    gain = math.prod(tx / INT8_LEVELS for tx in txs) * INT8_LEVELS
    near = min((mult, min(mult + 1, 127)), key=lambda whole: abs(math.ldexp(gain / whole, rshift) - ty))
    return math.ldexp(gain / near, rshift) * (1 - _NUDGE)


def _rshift(txs: list[float], ty: float) -> int:
    """The right shift that brings the largest ratio into [64, 128), as `eltwise_multipliers` has it."""
    return max(0, 7 - math.frexp(max(txs) / ty)[1])


def _off_whole(ratio: float, rshift: int) -> float:
    """How much of a multiplier is cut off, as a part of it."""
    steps = math.ldexp(ratio, rshift)
    return (steps - math.floor(steps)) / steps if steps >= 1 else 1.0


def _average_threshold(tx: float, ty: float, window: int) -> float:
    """The threshold near `ty` with which the gain of an average over so many elements is nearest to what it should be.

    Each multiplier belongs to a range of thresholds. The best of a range is the one that its constants really give, or
    the end that is nearest to it.
    """
    try:
        rshift = pooling_multiplier(tx, ty)[1]
    except QuantizationError:
        return ty
    found, least = ty, math.inf
    for mult, shift in itertools.product(range(128, 256), range(max(rshift - 1, 0), rshift + 2)):
        factor, right = average_pooling_constants(window, mult, shift)
        exact = tx / (math.ldexp(factor, -right) * window)
        low, high = (math.ldexp(tx / (mult + end), shift) for end in (0.499, -0.499))
        low, high = max(low, ty * (1 - _MOVED)), min(high, ty * (1 + _MOVED))
        near = min(max(exact, low), high)
        off = abs(math.log(near / exact))
        possible = low <= high and pooling_multiplier(tx, float(np.float32(near))) == (mult, shift)
        if possible and off < least - _NUDGE:
            found, least = near, off
    return found
