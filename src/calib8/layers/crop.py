"""Crop: a part of the first bottom, as large as the second one, whose values do not count.

Shapes: bottoms x (d0, ...) and reference (e0, ...); top (d0, ..., d[axis-1], e[axis], e[axis+1], ...). Parameters:
`axis` 2, may be negative; `offset`, where the part begins: one number for each axis from `axis` on, one for all of
them, or none (0). Source: BVLC/caffe, src/caffe/layers/crop_layer.cpp, Reshape, crop_copy.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Crop(Op):
    """Cuts a box; ONNX Slice."""

    types = ("Crop",)
    bottoms = (2, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("crop_param")
        self.axis: int = group.axis
        self.offset: tuple[int, ...] = group.offset

    def starts(self, rank: int) -> dict[int, int]:
        """Return where the box begins, for every axis that is cut."""
        axis = canonical_axis(self.axis, rank, "crop_param.axis")
        offsets = self.offset or (0,)
        if len(offsets) not in (1, rank - axis):
            raise RefusedError(
                f"has {len(offsets)} offset, and {rank - axis} axes from axis {axis} on; expected as many, or one"
            )
        return dict(zip(range(axis, rank), offsets * (rank - axis) if len(offsets) == 1 else offsets, strict=True))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, reference = bottoms
        top = list(x)
        for axis, start in self.starts(len(x)).items():
            if axis >= len(reference):
                raise RefusedError(f"the second bottom {list(reference)} has no axis {axis}, which is cut")
            if start + reference[axis] > x[axis]:
                raise RefusedError(
                    f"axis {axis} has {x[axis]} elements, too few for {reference[axis]} of them from {start} on"
                )
            top[axis] = reference[axis]
        return [tuple(top)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        starts = self.starts(len(call.bottom_shapes[0]))
        ends = [start + call.top_shapes[0][axis] for axis, start in starts.items()]
        return [g.node("Slice", call.bottoms[0], g.ints(*starts.values()), g.ints(*ends), g.ints(*starts))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Crop)
