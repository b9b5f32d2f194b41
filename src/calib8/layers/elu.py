"""ELU, the exponential linear unit: y = x for x > 0, alpha * (exp(x) - 1) for x <= 0.

In integers it is what the BM1880's CPU makes of it: negative results are cut off towards zero.

Shapes: top as bottom, of any rank. Parameters: `alpha`, default 1.
Source: BVLC/caffe, src/caffe/layers/elu_layer.cpp, ELULayer::Forward_cpu; Clevert et al. 2015, equation 15.
"""

from __future__ import annotations

from calib8.arithmetic import elu_codes
from calib8.layer_kit.base import Call, QuantizeCall, register
from calib8.layer_kit.codes import look_up
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.form import IntegerForm, TableOfCodes, expect
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class ELU(Neuron):
    """Exponential linear unit; ONNX Elu."""

    types = ("ELU",)

    def __init__(self, fields: Fields) -> None:
        self.alpha: float = fields.group("elu_param").alpha

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Elu", call.bottoms[0], alpha=self.alpha)]

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return None

    def quantize(self, q: QuantizeCall) -> TableOfCodes:
        return TableOfCodes(elu_codes(self.alpha, q.bottom_thresholds[0], q.top_thresholds[0]))

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        return [look_up(g, call.bottoms[0], expect(form, TableOfCodes).table)]


register(ELU)
