"""Input: the network's inputs, with their shapes in the prototxt.

Shapes: no bottom; tops of `shape`, given once for all tops or once for each.
Parameters: `shape`; `enable_quantize` (BM1880): in an INT8 network the layer quantises real input itself.
Source: BVLC/caffe, src/caffe/layers/input_layer.cpp, lines 8-22; the guide, section 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Op, register
from calib8.layer_kit.fields import Fields, RefusedError


class Input(Op):
    """tops = whatever the user gives."""

    types = ("Input",)
    bottoms = (0, 0)
    tops = (1, UNLIMITED)
    kind = "source"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("input_param")
        self.shapes: tuple[Shape, ...] = tuple(tuple(s.dim) for s in group.shape)
        self.enable_quantize: bool = group.enable_quantize
        self._tops = len(fields.param.top)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not self.shapes:
            raise RefusedError("has no input_param.shape; the shape of the input must be given")
        if len(self.shapes) not in (1, self._tops):
            raise RefusedError(
                f"has {len(self.shapes)} shapes for {self._tops} tops; expected one for all or one for each"
            )
        return list(self.shapes) * (self._tops if len(self.shapes) == 1 else 1)


register(Input)
