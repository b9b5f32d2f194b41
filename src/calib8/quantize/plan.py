"""`make_plan`: from thresholds to the integers of every layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from calib8.errors import QuantizationError
from calib8.graph import Layer
from calib8.layers import LayerPlan, Op, QuantizeCall
from calib8.lowering import Model
from calib8.quantize.folding import fold_groups, fold_thresholds
from calib8.quantize.pairs import gamma_and_beta


@dataclass(frozen=True, eq=False)
class QuantPlan:
    """A quantised network.

    Attributes:
        thresholds: of every value, in real units, folded, exact in float32.
        plans: the integers by layer name, in the order of the layers. None for data layers and for layers that run in
            FP32: without an integer rule, or passive ones between FP32 layers, where codes would only lose precision.
        enable_concat_quantize: whether bottoms of a Concat keep thresholds of their own.
        warnings: what does not fit well, one sentence each, beginning with the layer.
    """

    thresholds: Mapping[str, float]
    plans: Mapping[str, LayerPlan | None]
    enable_concat_quantize: bool = False
    warnings: tuple[str, ...] = ()


def make_plan(
    model: Model,
    thresholds: Mapping[str, float],
    enable_concat_quantize: bool = False,
    dead: Collection[str] = (),
) -> QuantPlan:
    """Fold the thresholds and quantise every layer.

    Args:
        thresholds: in real units by value, measured or given; those of `observed_values` are needed.
        dead: values that were 0 in all samples; see `fold_thresholds`.

    Raises:
        TableError: values without a threshold; all of them.
        QuantizationError: thresholds and weights that the integer contract cannot express; all such layers.
    """
    if not model.net.has_weights:
        raise QuantizationError(f"{model.net.source}: quantising needs the weights; give the caffemodel, too")
    folded = fold_thresholds(model, thresholds, enable_concat_quantize, dead)
    walk = _Walk(model, folded, QuantPlan({}, {}, enable_concat_quantize))
    return walk.through({name for name, reason in fp32_reasons(model, folded).items() if reason is None})


def replan(
    model: Model, before: QuantPlan, changes: Mapping[str, float], layers: Collection[str] | None = None
) -> QuantPlan:
    """`before` with other thresholds: only the layers that read or write a changed value are quantised anew.

    The plans of all other layers are the very objects of `before`.

    Args:
        changes: in real units by value; all values of a group (`fold_groups`) must be given the same.
        layers: quantise no others: the plan is for a network in which only these run in INT8. None for all.

    Raises:
        QuantizationError: as `make_plan`.
    """
    rounded = {value: float(np.float32(threshold)) for value, threshold in changes.items()}
    walk = _Walk(model, {**before.thresholds, **rounded}, before)
    in_integers = {name for name, own in before.plans.items() if own is not None}
    if _switches(model, walk.thresholds, in_integers, {v for v in rounded if rounded[v] != before.thresholds[v]}):
        in_integers = {name for name, reason in fp32_reasons(model, walk.thresholds).items() if reason is None}
    return walk.through(in_integers if layers is None else in_integers.intersection(layers))


def _switches(model: Model, thresholds: Mapping[str, float], in_integers: set[str], changed: set[str]) -> bool:
    """Whether a layer that reads or writes a changed value goes from INT8 to FP32, or back."""
    layers = [(x, op) for x, op in zip(model.net.layers, model.ops, strict=True) if op.kind != "source"]
    coded = {*model.inputs, *(t for x, _ in layers if x.name in in_integers for t in x.tops)}
    return any(
        (_fp32_reason(model, x, op, thresholds, coded) is None) != (x.name in in_integers)
        for x, op in layers
        if not changed.isdisjoint((*x.bottoms, *x.tops))
    )


def fp32_reasons(model: Model, thresholds: Mapping[str, float] | None = None) -> dict[str, str | None]:
    """Why each layer runs in FP32 when all that can run in INT8; None for those that do. Inputs are left out.

    Args:
        thresholds: of every value, folded; None where there are none yet, and then values have different ones unless
            they share one whatever it is.
    """
    if thresholds is None:
        groups = enumerate(fold_groups(model), start=1)
        thresholds = {value: float(number) for number, group in groups for value in group.members}
    coded: set[str] = set()  # values that are codes
    reasons: dict[str, str | None] = {}
    for layer, op in zip(model.net.layers, model.ops, strict=True):
        reason = None
        if op.kind != "source":
            reason = reasons[layer.name] = _fp32_reason(model, layer, op, thresholds, coded)
        if reason is None:
            coded.update(layer.tops)
    return reasons


def _fp32_reason(
    model: Model, layer: Layer, op: Op, thresholds: Mapping[str, float], coded: Collection[str]
) -> str | None:
    reason = op.fp32_reason(_quantize_call(model, layer, thresholds))
    if reason is None and (op.passive or op.moves_data) and not any(b in coded for b in layer.bottoms):
        return "hands on what FP32 layers gave"  # codes would only lose precision there
    return reason


def _quantize_call(model: Model, layer: Layer, thresholds: Mapping[str, float]) -> QuantizeCall:
    return QuantizeCall(
        call=model.call(layer),
        bottom_thresholds=tuple(thresholds[b] for b in layer.bottoms),
        top_thresholds=tuple(thresholds[t] for t in layer.tops),
    )


class _Walk:
    """One pass over the layers that collects all problems."""

    def __init__(self, model: Model, thresholds: Mapping[str, float], before: QuantPlan) -> None:
        self._model = model
        self._before = before
        self._scale_of = model.batch_norm_pairs
        self._batch_norm_of = {scale.name: name for name, scale in self._scale_of.items()}
        self.thresholds = thresholds
        self.plans: dict[str, LayerPlan | None] = {}
        self.problems: list[str] = []

    def through(self, in_integers: Collection[str]) -> QuantPlan:
        """The plan with integers for these layers."""
        for layer, op in zip(self._model.net.layers, self._model.ops, strict=True):
            self.plans[layer.name] = self._visit(layer, op) if layer.name in in_integers else None
        if self.problems:
            raise QuantizationError(f"{self._model.net.source}: layers that cannot be quantised", self.problems)
        found = ((name, own) for name, own in self.plans.items() if own is not None)
        warnings = tuple(f"layer {name!r}: {text}" for name, own in found for text in own.warnings)
        return QuantPlan(self.thresholds, self.plans, self._before.enable_concat_quantize, warnings)

    def _visit(self, layer: Layer, op: Op) -> LayerPlan | None:
        try:
            return self._unchanged(layer) or self._quantize(layer, op)
        except QuantizationError as why:
            self.problems.append(f"layer {layer.name!r} ({layer.type}): {why}")
            return None

    def _unchanged(self, layer: Layer) -> LayerPlan | None:
        """The plan of before, where nothing that it depends on has changed."""
        batch_norm = self._batch_norm_of.get(layer.name)
        depends_on = (*layer.bottoms, *layer.tops)
        if batch_norm is not None:  # its shift is that of the BatchNorm
            depends_on += self._model.net.layer_by_name[batch_norm].bottoms
        if any(self.thresholds[v] != self._before.thresholds.get(v) for v in depends_on):
            return None
        return self._before.plans.get(layer.name)

    def _quantize(self, layer: Layer, op: Op) -> LayerPlan:
        batch_norm, scale = self._batch_norm_of.get(layer.name), self._scale_of.get(layer.name)
        q = _quantize_call(self._model, layer, self.thresholds)
        fused_scale = gamma_and_beta(self._model, scale) if scale is not None else None
        plan = op.quantize(replace(q, fused_scale=fused_scale, fused_into=batch_norm is not None))
        done = self.plans.get(batch_norm) if batch_norm is not None else None
        # Both rows of the calibration table carry the shift of the one affine step.
        return replace(plan, rshift=done.rshift) if done is not None else plan
