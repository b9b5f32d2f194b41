"""Dropout: y = x in TEST; the random zeros and the scale that balances them belong to training.

Shapes: top as bottom. Parameters: `dropout_ratio` (default 0.5) matters only with Fast R-CNN's `scale_train: false`,
which scales in TEST instead of in training: y = (1 - dropout_ratio) * x. SegNet's `sample_weights_test: true` draws
zeros in TEST, too (Bayesian SegNet averages many such passes): refused, as no two passes agree. SpatialDropout drops
whole channels in training: in TEST the same identity.
Source: BVLC/caffe, src/caffe/layers/dropout_layer.cpp, Forward_cpu; rbgirshick/caffe-fast-rcnn and
alexgkendall/caffe-segnet, the same file.
"""

from __future__ import annotations

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Dropout(Neuron):
    """Nothing to do in TEST; no node, or ONNX Mul."""

    types = ("Dropout", "SpatialDropout")

    def __init__(self, fields: Fields) -> None:
        group = fields.group("dropout_param")
        fields.group("spatial_dropout_param").ignore("dropout_ratio")
        self.factor: float = 1.0 if group.scale_train else 1.0 - group.dropout_ratio
        group.ignore("dropout_ratio")
        if group.sample_weights_test:
            raise RefusedError(
                "dropout_param.sample_weights_test drops at random in TEST, so no two passes agree; remove it to get "
                "their mean"
            )

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if self.factor == 1:
            return [call.bottoms[0]]
        return [g.node("Mul", call.bottoms[0], g.scalar(self.factor))]

    @property
    def passive(self) -> bool:
        return self.factor == 1

    @property
    def moves_data(self) -> bool:
        return self.factor == 1


register(Dropout)
