"""HardSwish: y = x * min(max(x + 3, 0), 6) / 6.

Shapes: top as bottom, of any rank. No parameters.
Source: foss-for-synopsys-dwc-arc-processors/synopsys-caffe, src/caffe/layers/hard_swish_layer.cpp; Howard et al. 2019,
section 5.2.
"""

from __future__ import annotations

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class HardSwish(Neuron):
    """Swish in straight lines; ONNX HardSwish."""

    types = ("HardSwish",)

    def __init__(self, fields: Fields) -> None:
        del fields  # it has none

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("HardSwish", call.bottoms[0])]


register(HardSwish)
