"""Transpose: Permute under the name that CTPN and CC4.0 have for it; `dim` names every axis of the bottom.

Shapes: bottom (d0, ...); top (d[dim[0]], d[dim[1]], ...).
Source: tianzhi0549/caffe, src/caffe/layers/transpose_layer.cpp, Reshape, permute.
"""

from __future__ import annotations

from calib8.layer_kit.base import register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layers.permute import Permute


class Transpose(Permute):
    """Other order of the axes; ONNX Transpose."""

    types = ("Transpose",)

    def __init__(self, fields: Fields) -> None:
        self.order: tuple[int, ...] = fields.group("transpose_param").dim

    def full_order(self, rank: int) -> tuple[int, ...]:
        """Return the order of all axes of a bottom."""
        if sorted(self.order) != list(range(rank)):
            raise RefusedError(
                f"transpose_param.dim is {list(self.order)}, and the bottom has {rank} dimensions: each of 0 to "
                f"{rank - 1} is needed once"
            )
        return self.order


register(Transpose)
