"""Erf, the error function: y = 2 / sqrt(pi) * integral of exp(-t^2) from 0 to x.

Shapes: top as bottom, of any rank. No parameters.
Source: onnx/onnx, docs/Operators.md, Erf. No Caffe has the type: networks that come from ONNX have it in their GELU,
x * (1 + erf(x / sqrt(2))) / 2 (Hendrycks and Gimpel 2016, section 2).
"""

from __future__ import annotations

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Erf(Neuron):
    """The error function; ONNX Erf."""

    types = ("Erf",)

    def __init__(self, fields: Fields) -> None:
        del fields  # it has none

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Erf", call.bottoms[0])]


register(Erf)
