"""From thresholds to the integers of every layer, and plans whose integers do not follow from thresholds alone.

- `make_plan`: integers that follow from thresholds, by the contract's own rounding
- `replan`: the same after a change of thresholds; integers that were given stay where nothing that they depend on moves
- `refined`, `with_given`: integers that a pass has made, or that a file holds
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from calib8.errors import QuantizationError
from calib8.graph import Layer
from calib8.layer_kit.weighted_sum import PLAIN, Refinement
from calib8.layers import IntegerForm, Op, QuantizeCall, same_integers
from calib8.lowering import Model
from calib8.lowering.integer import ChannelUnits
from calib8.quantize.channel_units import blobs_in_units, is_before_batch_norm
from calib8.quantize.folding import fold_groups, fold_thresholds
from calib8.quantize.idle import is_idle, without_idle_layers


@dataclass(frozen=True, eq=False)
class QuantPlan:
    """A quantised network.

    Attributes:
        thresholds: of every value, in real units, folded, exact in float32.
        forms: the integers by layer name, in the order of the layers. None for data layers and for layers that run in
            FP32: without an integer rule, or passive ones between FP32 layers, where codes would only lose precision.
        enable_concat_quantize: whether bottoms of a Concat keep thresholds of their own.
        warnings: what does not fit well, one sentence each, beginning with the layer.
        given: where the integers of a layer come from, by its name: a file's path, or the name of the pass that made
            them. Those of layers that are not in it follow from the thresholds.
        channel_units: by value, (C), above 0 and at most 1: a code of channel c is worth threshold / 128 times this.
            Values that are not in it have one unit for all channels, as the contract has it; see
            `repair.channel_units` and `repair.equalised_channels`.
        unexplained: layers whose integers, read from files, count channels in units that nothing tells; see
            `unexplained_layers`.
    """

    thresholds: Mapping[str, float]
    forms: Mapping[str, IntegerForm | None]
    enable_concat_quantize: bool = False
    warnings: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    channel_units: ChannelUnits = field(default_factory=dict)
    unexplained: tuple[str, ...] = ()


def make_plan(
    model: Model,
    thresholds: Mapping[str, float],
    enable_concat_quantize: bool = False,
    dead: Collection[str] = (),
    channel_units: ChannelUnits = MappingProxyType({}),
) -> QuantPlan:
    """Fold the thresholds and quantise every layer.

    Args:
        thresholds: in real units by value, measured or given; those of `observed_values` are needed.
        dead: values that were 0 in all samples; see `fold_thresholds`.
        channel_units: see `QuantPlan`.

    Raises:
        TableError: values without a threshold; all of them.
        QuantizationError: thresholds and weights that the integer contract cannot express; all such layers.
    """
    if not model.net.has_weights:
        raise QuantizationError(f"{model.net.source}: quantising needs the weights; give the caffemodel, too")
    folded = fold_thresholds(model, thresholds, enable_concat_quantize, dead)
    quantizer = _Quantizer(model, folded, QuantPlan({}, {}, enable_concat_quantize, channel_units=dict(channel_units)))
    return quantizer.through({name for name, reason in fp32_reasons(model, folded).items() if reason is None})


def replan(
    model: Model, before: QuantPlan, changes: Mapping[str, float], layers: Collection[str] | None = None
) -> QuantPlan:
    """Quantise `before` with other thresholds: only the layers that read or write a changed value anew.

    The forms of all other layers are the very objects of `before`, given ones among them. Where a given form's layer is
    quantised anew, its integers follow from the thresholds from then on.

    Args:
        changes: in real units by value; all values of a group (`fold_groups`) must be given the same.
        layers: quantise no others: the plan is for a network in which only these run in INT8. None for all.

    Raises:
        QuantizationError: as `make_plan`.
    """
    rounded = {value: float(np.float32(threshold)) for value, threshold in changes.items()}
    quantizer = _Quantizer(model, {**before.thresholds, **rounded}, before)
    in_integers = {name for name, own in before.forms.items() if own is not None}
    if _switches(model, quantizer.thresholds, in_integers, {v for v in rounded if rounded[v] != before.thresholds[v]}):
        in_integers = {name for name, reason in fp32_reasons(model, quantizer.thresholds).items() if reason is None}
    return quantizer.through(in_integers if layers is None else in_integers.intersection(layers))


def _switches(model: Model, thresholds: Mapping[str, float], in_integers: set[str], changed: set[str]) -> bool:
    """Whether a layer that reads or writes a changed value goes from INT8 to FP32, or back."""
    coded = {*model.inputs, *(t for x in model.net.layers if x.name in in_integers for t in x.tops)}

    def is_able(layer: Layer, op: Op) -> bool:
        reason = op.fp32_reason(_quantize_call(model, layer, thresholds))
        return reason is None and not is_idle(layer, op, coded)

    return any(
        is_able(layer, op) != (layer.name in in_integers)
        for layer, op in model.pairs
        if op.kind != "source" and not changed.isdisjoint((*layer.bottoms, *layer.tops))
    )


def fp32_reasons(model: Model, thresholds: Mapping[str, float] | None = None) -> dict[str, str | None]:
    """Say why each layer runs in FP32 when all that can run in INT8; None for those that do. Inputs are left out.

    Args:
        thresholds: of every value, folded; None where there are none yet, and then values have different ones unless
            they share one whatever it is.
    """
    if thresholds is None:
        groups = enumerate(fold_groups(model), start=1)
        thresholds = {value: float(number) for number, group in groups for value in group.members}
    calls = {layer.name: _quantize_call(model, layer, thresholds) for layer, op in model.pairs if op.kind != "source"}
    reasons = {name: model.op_of[name].fp32_reason(call) for name, call in calls.items()}
    able = {name for name, reason in reasons.items() if reason is None}
    return {**reasons, **dict.fromkeys(able - without_idle_layers(model, able), "hands on what FP32 layers gave")}


def refined(model: Model, plan: QuantPlan, refinements: Mapping[str, Refinement], by: str) -> QuantPlan:
    """Quantise some layers anew, with the plan's thresholds and with refinements of rounding and biases.

    Args:
        refinements: by layer name; those of a BatchNorm with a Scale are under the BatchNorm's name.
        by: the name of the pass that asks for it.

    Raises:
        QuantizationError: the contract cannot express it; all such layers.
    """
    partners = {name: (name, scale.name) for name, scale in model.batch_norm_pairs.items()}
    layers = {name for asked in refinements for name in partners.get(asked, (asked,))}
    quantizer = _Quantizer(model, plan.thresholds, plan, refinements, layers)
    made = quantizer.through({name for name, own in plan.forms.items() if own is not None})
    return replace(made, given={**plan.given, **dict.fromkeys(layers, by)})


def with_given(plan: QuantPlan, forms: Mapping[str, IntegerForm], by: str) -> QuantPlan:
    """Give a plan with other integers for some of its layers.

    Args:
        by: where they come from: a file's path, or the name of a pass.
    """
    gone = set(_warnings({name: plan.forms[name] for name in forms}))
    warnings = (*(text for text in plan.warnings if text not in gone), *_warnings(forms))
    own, given = {**plan.forms, **forms}, {**plan.given, **dict.fromkeys(forms, by)}
    return replace(plan, forms=own, given=given, warnings=warnings)


def settled(model: Model, plan: QuantPlan) -> QuantPlan:
    """Find out which given integers follow from the plan's thresholds after all; those are no longer given."""
    if not plan.given:
        return plan
    try:
        plain = make_plan(model, plan.thresholds, enable_concat_quantize=True, channel_units=plan.channel_units).forms
    except QuantizationError:  # the contract's own rounding has no answer to these thresholds: nothing follows
        return plan
    given = {name: by for name, by in plan.given.items() if not same_integers(plan.forms[name], plain[name])}
    return replace(plan, given=given)


def _quantize_call(
    model: Model,
    layer: Layer,
    thresholds: Mapping[str, float],
    refinement: Refinement = PLAIN,
    units: ChannelUnits = MappingProxyType({}),
) -> QuantizeCall:
    asked = [v for v in (*layer.bottoms, *layer.tops) if v in units]
    before_batch_norm = {v: units[v] for v in asked if is_before_batch_norm(model, v)}
    return QuantizeCall(
        call=replace(model.call(layer), blobs=blobs_in_units(model, layer, units) if asked else layer.blobs),
        bottom_thresholds=tuple(thresholds[b] for b in layer.bottoms),
        top_thresholds=tuple(thresholds[t] for t in layer.tops),
        refinement=refinement,
        bottom_units=tuple(before_batch_norm.get(b) for b in layer.bottoms),
        top_units=tuple(before_batch_norm.get(t) for t in layer.tops),
    )


def _warnings(forms: Mapping[str, IntegerForm | None]) -> tuple[str, ...]:
    return tuple(f"layer {name!r}: {text}" for name, own in forms.items() if own for text in own.warnings)


class _Quantizer:
    """One pass over the layers that collects all problems.

    Args:
        before: the plan whose forms stay where nothing that they depend on has changed.
        refinements: of some layers, by name.
        anew: layers that are quantised in any case.
    """

    def __init__(
        self,
        model: Model,
        thresholds: Mapping[str, float],
        before: QuantPlan,
        refinements: Mapping[str, Refinement] = MappingProxyType({}),
        anew: Collection[str] = (),
    ) -> None:
        self._model, self._before, self._refinements, self._anew = model, before, refinements, anew
        self._scale_of = model.batch_norm_pairs
        self._batch_norm_of = {scale.name: name for name, scale in self._scale_of.items()}
        self.thresholds = thresholds
        self.forms: dict[str, IntegerForm | None] = {}
        self.problems: list[str] = []

    def through(self, in_integers: Collection[str]) -> QuantPlan:
        """Give the plan with integers for these layers."""
        for layer, op in self._model.pairs:
            if layer.name not in self.forms:  # a Scale may have its own already, from its BatchNorm
                self.forms[layer.name] = None
                if layer.name in in_integers:
                    self._visit(layer, op)
        if self.problems:
            raise QuantizationError(f"{self._model.net.source}: layers that cannot be quantised", self.problems)
        forms = {layer.name: self.forms[layer.name] for layer in self._model.net.layers}
        kept = {n: by for n, by in self._before.given.items() if forms.get(n) is self._before.forms.get(n)}
        return replace(self._before, thresholds=self.thresholds, forms=forms, warnings=_warnings(forms), given=kept)

    def _visit(self, layer: Layer, op: Op) -> None:
        try:
            self.forms[layer.name] = self._unchanged(layer)
            if self.forms[layer.name] is None:
                self._quantize(layer, op)
        except QuantizationError as why:
            self.problems.append(f"layer {layer.name!r} ({layer.type}): {why}")

    def _unchanged(self, layer: Layer) -> IntegerForm | None:
        """The form of before, where nothing that it depends on has changed."""
        batch_norm = self._batch_norm_of.get(layer.name)
        depends_on = (*layer.bottoms, *layer.tops)
        if batch_norm is not None:  # its shift is that of the BatchNorm
            depends_on += self._model.net.layer_by_name[batch_norm].bottoms
        if layer.name in self._anew or any(self.thresholds[v] != self._before.thresholds.get(v) for v in depends_on):
            return None
        return self._before.forms.get(layer.name)

    def _quantize(self, layer: Layer, op: Op) -> None:
        refinement = self._refinements.get(layer.name, PLAIN)
        q = _quantize_call(self._model, layer, self.thresholds, refinement, self._before.channel_units)
        if q.has_units and not op.takes_channel_units:
            raise AssertionError(f"layer {layer.name!r} ({layer.type}) quantises channels in one unit only")
        scale = self._scale_of.get(layer.name)
        if scale is None:
            self.forms[layer.name] = op.quantize(q)
            return
        blobs = blobs_in_units(self._model, scale, self._before.channel_units)
        own, skipped = op.quantize_with(q, self._model.op_of[scale.name], blobs)
        self.forms[layer.name], self.forms[scale.name] = own, skipped
