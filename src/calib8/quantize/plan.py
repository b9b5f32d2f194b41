"""`make_plan`: from thresholds to the integers of every layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from calib8.errors import QuantizationError
from calib8.graph import Layer
from calib8.layers import LayerPlan, Op, QuantizeCall
from calib8.lowering import Model
from calib8.quantize.folding import fold_thresholds
from calib8.quantize.pairs import batch_norm_pairs, gamma_and_beta


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
    walk = _Walk(model, fold_thresholds(model, thresholds, enable_concat_quantize, dead))
    for layer, op in zip(model.net.layers, model.ops, strict=True):
        walk.visit(layer, op)
    if walk.problems:
        raise QuantizationError(f"{model.net.source}: layers that cannot be quantised", walk.problems)
    warnings = tuple(
        f"layer {name!r}: {text}" for name, plan in walk.plans.items() if plan is not None for text in plan.warnings
    )
    return QuantPlan(walk.thresholds, walk.plans, enable_concat_quantize, warnings)


class _Walk:
    """One pass over the layers that collects all problems."""

    def __init__(self, model: Model, thresholds: Mapping[str, float]) -> None:
        self._model = model
        self._scale_of = batch_norm_pairs(model)
        self._batch_norm_of = {scale.name: name for name, scale in self._scale_of.items()}
        self._coded: set[str] = set()  # values that are codes when all that can runs in INT8
        self.thresholds = thresholds
        self.plans: dict[str, LayerPlan | None] = {}
        self.problems: list[str] = []

    def visit(self, layer: Layer, op: Op) -> None:
        stays_real = (op.passive or op.moves_data) and not self._coded.intersection(layer.bottoms)
        plan = None
        if op.kind != "source" and not stays_real:
            try:
                plan = self._quantize(layer, op)
            except QuantizationError as why:
                self.problems.append(f"layer {layer.name!r} ({layer.type}): {why}")
        self.plans[layer.name] = plan
        if plan is not None or op.kind == "source":
            self._coded.update(layer.tops)

    def _quantize(self, layer: Layer, op: Op) -> LayerPlan | None:
        batch_norm, scale = self._batch_norm_of.get(layer.name), self._scale_of.get(layer.name)
        plan = op.quantize(
            QuantizeCall(
                call=self._model.call(layer),
                bottom_thresholds=tuple(self.thresholds[b] for b in layer.bottoms),
                top_thresholds=tuple(self.thresholds[t] for t in layer.tops),
                fused_scale=gamma_and_beta(self._model, scale) if scale is not None else None,
                fused_into=batch_norm is not None,
            )
        )
        done = self.plans.get(batch_norm) if batch_norm is not None else None
        # Both rows of the calibration table carry the shift of the one affine step.
        return replace(plan, rshift=done.rshift) if plan is not None and done is not None else plan
