"""Reshape: the same elements under another shape, or moved from channels to pixels.

Shapes: bottom of any rank; top of as many elements.
Parameters: `shape` replaces the axes from `axis` (default 0; -1 stands behind the last one) to `axis + num_axes`
(default -1: all that follow). In it, 0 copies the bottom's axis at that place, and one -1 takes what is left.
Synopsys's `pixelshuffler: r` (default 1: off) takes (N, C, H, W) to (N, C/r^2, H*r, W*r) instead: channel
c*r^2 + i*r + j becomes row i and column j of every r x r pixels of channel c.
Source: BVLC/caffe, src/caffe/layers/reshape_layer.cpp, LayerSetUp, Reshape;
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Reshape(Op):
    """Other axes for the same elements; ONNX Reshape, or Reshape, Transpose, Reshape."""

    types = ("Reshape",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("reshape_param")
        self.dims: Shape = tuple(group.shape.dim)
        self.axis: int = group.axis
        self.num_axes: int = group.num_axes
        self.shuffle: int = group.pixelshuffler
        self.shares_memory = self.shuffle == 1
        if self.dims.count(-1) > 1 or min(self.dims, default=0) < -1:
            raise RefusedError(f"reshape_param.shape is {list(self.dims)}; expected sizes, 0, and -1 at most once")
        if self.num_axes < -1:
            raise RefusedError(f"reshape_param.num_axes is {self.num_axes}, expected -1 (all that follow), 0 or more")
        if self.shuffle < 1:
            raise RefusedError(f"reshape_param.pixelshuffler is {self.shuffle}, expected at least 1")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if self.shuffle > 1:
            return [self._shuffled(bottoms[0])]
        start, end = self._replaced(len(bottoms[0]))
        dims = self._copied(bottoms[0], start)
        kept = count(bottoms[0][:start]) * count(bottoms[0][end:])
        return [(*bottoms[0][:start], *_inferred(dims, kept, bottoms[0]), *bottoms[0][end:])]

    def _replaced(self, rank: int) -> tuple[int, int]:
        """The run of axes that `shape` replaces."""
        start = self.axis if self.axis >= 0 else rank + self.axis + 1
        end = rank if self.num_axes == -1 else start + self.num_axes
        if not 0 <= start <= end <= rank:
            raise RefusedError(
                f"reshape_param.axis {self.axis} with num_axes {self.num_axes} is outside a bottom of {rank} dimensions"
            )
        return start, end

    def _copied(self, bottom: Shape, start: int) -> Shape:
        """`shape` with its zeros replaced by the bottom's sizes."""
        places = [start + i for i, d in enumerate(self.dims) if d == 0]
        if places and places[-1] >= len(bottom):
            raise RefusedError(
                f"reshape_param.shape has a 0 for axis {places[-1]}, which a bottom of {len(bottom)} dimensions lacks"
            )
        return tuple(d or bottom[start + i] for i, d in enumerate(self.dims))

    def _shuffled(self, bottom: Shape) -> Shape:
        r = self.shuffle
        if len(bottom) != 4 or bottom[1] % (r * r):
            raise RefusedError(
                f"bottom is {list(bottom)}; pixelshuffler {r} expects N, C, H, W with C a multiple of {r * r}"
            )
        return (bottom[0], bottom[1] // (r * r), bottom[2] * r, bottom[3] * r)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        x = call.bottoms[0]
        if self.shuffle > 1:
            n, c, _, _ = call.top_shapes[0]
            x = g.node("Reshape", x, g.ints(n, c, self.shuffle, self.shuffle, *call.bottom_shapes[0][2:]))
            x = g.node("Transpose", x, perm=(0, 1, 4, 2, 5, 3))
        return [g.node("Reshape", x, g.ints(*call.top_shapes[0]))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


def _inferred(dims: Shape, kept: int, bottom: Shape) -> Shape:
    """`dims` with its -1 replaced, such that `kept` times `dims` is the bottom's number of elements."""
    total, known = count(bottom), kept * count([d for d in dims if d != -1])
    if -1 in dims and known and total % known == 0:
        return tuple(total // known if d == -1 else d for d in dims)
    if -1 in dims or known != total:
        raise RefusedError(f"reshape_param.shape {list(dims)} does not fit the bottom {list(bottom)}")
    return dims


register(Reshape)
