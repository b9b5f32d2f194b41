"""Dropout: y = x in TEST. In TRAIN y = mask * x / (1 - dropout_ratio), the mask 0 with the probability dropout_ratio.

Shapes: top as bottom. Parameters: `dropout_ratio` (default 0.5); Fast R-CNN's `scale_train: false` leaves out the
division in TRAIN and has y = (1 - dropout_ratio) * x in TEST. SpatialDropout draws for whole channels. The numbers are
numpy's, not Caffe's; a Net that was opened in TRAIN draws them from the generator of `caffe.set_random_seed`.
SegNet's `sample_weights_test: true` draws zeros in TEST, too (Bayesian SegNet averages many such passes): refused, as
no two passes agree.
Source: BVLC/caffe, src/caffe/layers/dropout_layer.cpp, Forward_cpu; rbgirshick/caffe-fast-rcnn and
alexgkendall/caffe-segnet, the same file; SpatialDropout: Tompson et al. 2015, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Phase
from calib8.layer_kit.base import Call, LiveBlob, RandomNumbers, register
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Dropout(Neuron):
    """Nothing to do in TEST; no node, or ONNX Mul. Random zeros in TRAIN, in Python."""

    types = ("Dropout", "SpatialDropout")

    def __init__(self, fields: Fields) -> None:
        group, spatial = fields.group("dropout_param"), fields.group("spatial_dropout_param")
        self.by_channel: bool = fields.param.type == "SpatialDropout"
        ratio, ratio_of_channels = group.dropout_ratio, spatial.dropout_ratio  # either message is known to both types
        self.ratio: float = ratio_of_channels if spatial.has("dropout_ratio") else ratio
        self.trains = fields.phase == Phase.TRAIN
        self.kind = "host" if self.trains else "onnx"
        # Either TRAIN divides or TEST multiplies, so that both have the same mean.
        self.factor: float = 1.0 - self.ratio if group.scale_train == self.trains else 1.0
        self._numbers: RandomNumbers | None = None
        if group.sample_weights_test and not self.trains:
            raise RefusedError(
                "dropout_param.sample_weights_test drops at random in TEST, so no two passes agree; remove it to get "
                "their mean"
            )
        if self.trains and not 0 <= self.ratio < 1:
            raise RefusedError(f"dropout_ratio is {self.ratio:g}; expected a number from 0 to below 1")

    def join_net(self, numbers: RandomNumbers, blobs: Sequence[LiveBlob]) -> None:
        self._numbers = numbers

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        if self._numbers is None:
            raise AssertionError("a Dropout in TRAIN runs in a net that has random numbers")
        (x,) = bottoms
        drawn = (*x.shape[:2], *(1,) * (x.ndim - 2)) if self.by_channel else x.shape
        kept = self._numbers().random(drawn) >= self.ratio
        return [np.where(kept, x / np.float32(self.factor), np.float32(0))]

    def channel_flow(self, call: Call) -> ChannelFlow:
        return ChannelFlow.CARRIED if self.passive else ChannelFlow.MIXED

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if self.factor == 1:
            return [call.bottoms[0]]
        return [g.node("Mul", call.bottoms[0], g.scalar(self.factor))]

    @property
    def passive(self) -> bool:
        return self.factor == 1 and not self.trains

    @property
    def moves_data(self) -> bool:
        return self.factor == 1 and not self.trains


register(Dropout)
