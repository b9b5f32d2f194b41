"""PriorBox: the boxes of SSD that a detector's codes are relative to. A constant: only the bottoms' shapes count.

Per cell (h, w) with the centre ((w + offset) * step_w, (h + offset) * step_h) and per `min_size` m, with its
`max_size` M: a square of side m, a square of side sqrt(m * M), then m * sqrt(r) by m / sqrt(r) for every aspect ratio
r but 1 (with `flip` also for 1 / r). Sizes are cut to whole pixels, as Caffe does. Coordinates are divided by the
image's size; `clip` cuts them to [0, 1].

Shapes: bottoms (N, C, H, W) and the image (N, C, H', W'), not needed where `img_size`, or `img_h` and `img_w`, are
set; top (1, 2, H * W * boxes * 4): (xmin, ymin, xmax, ymax) of each box, then the `variance`s.
Parameters: step (default: image / feature map), offset 0.5, flip true, clip false, variance 0.1.
`use_default_aspect_ratio: false` (sophgo/caffe) leaves the square of side m out.
`box_width` and `box_height` in place of sizes and ratios, `yx_order` (y before x), `tf` (the second square last, the
first of side 60 smaller by a tenth of the image) and `faceboxes` (sides 32 and 64 densified) are of synopsys-caffe.
Source: weiliu89/caffe (branch ssd), src/caffe/layers/prior_box_layer.cpp, lines 9-190; the same file in sophgo/caffe
and in foss-for-synopsys-dwc-arc-processors/synopsys-caffe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.prior_grid import Doubles, read_grid

_LARGEST_SIDE = 1 << 24  # pixels; float32 counts them up to here
_SAME = 1e-6  # two aspect ratios that are closer are one
_DENSE = {32: range(-2, 2), 64: range(-1, 1)}  # faceboxes: shifts of the centre, in units of a quarter of the side


class PriorBox(Op):
    """An ONNX initializer."""

    types = ("PriorBox",)
    bottoms = (1, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("prior_box_param")
        self.grid = read_grid(group, y_first=group.yx_order)
        self.explicit: tuple[tuple[float, float], ...] = _read_explicit(group)
        self.min_sizes, self.max_sizes = _read_sizes(group, optional=bool(self.explicit))
        self.has_unit_ratio: bool = group.use_default_aspect_ratio
        self.ratios = _read_ratios(group, self.has_unit_ratio)
        self.tf: bool = group.tf
        self.faceboxes: bool = group.faceboxes
        if self.faceboxes and (self.max_sizes or len(self.ratios) > 1):
            raise RefusedError("sets faceboxes with max_size or aspect_ratio; those boxes have sides of min_size only")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.grid.top_shape(bottoms, self._boxes_per_cell())]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Identity", g.constant(self.priors(call)))]

    def priors(self, call: Call) -> NDArray[np.float32]:
        """Compute the top, (1, 2, H * W * boxes * 4)."""
        return self.grid.values(call.bottom_shapes, self._boxes(), call.top_shapes[0][2])

    def _boxes_per_cell(self) -> int:
        """What Caffe reserves. Without the default ratio it is too much for a ratio of 1; zeros fill the rest."""
        if self.explicit or self.faceboxes:
            return len(self._boxes())
        return len(self.ratios) * len(self.min_sizes) + len(self.max_sizes)

    def _boxes(self) -> Doubles:
        """(K, 5); see PriorGrid.values."""
        if self.explicit:
            boxes = [(0.0, 0.0, width, height, 0.0) for width, height in self.explicit]
        elif self.faceboxes:
            boxes = [box for size in self.min_sizes for box in _dense(int(size))]
        else:
            boxes = [box for i in range(len(self.min_sizes)) for box in self._boxes_of(i)]
        return np.array(boxes, dtype=np.float64).reshape(-1, 5)

    def _boxes_of(self, i: int) -> Iterator[tuple[float, float, float, float, float]]:
        size = int(self.min_sizes[i])
        if self.has_unit_ratio:
            yield _square(size, 0.05 if self.tf and size == 60 else 0.0)
        between = [_square(float(np.float32(np.sqrt(size * int(m))))) for m in self.max_sizes[i : i + 1]]
        if not self.tf:
            yield from between
        for ratio in self.ratios:
            if abs(ratio - 1) >= _SAME:
                root = np.sqrt(np.float32(ratio))
                yield 0.0, 0.0, float(np.float32(size) * root), float(np.float32(size) / root), 0.0
        if self.tf:
            yield from between


def _square(side: float, inset: float = 0.0) -> tuple[float, float, float, float, float]:
    return 0.0, 0.0, side, side, inset


def _dense(size: int) -> Iterator[tuple[float, float, float, float, float]]:
    """FaceBoxes: the last pixel is inside, so that a side is one shorter."""
    shifts = [k * size / 4 for k in _DENSE.get(size, (0,))]
    for down in shifts:
        for right in shifts:
            yield right, down, size - 1.0, size - 1.0, 0.0


def _read_sizes(group: Group, *, optional: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    small, large = group.min_size, group.max_size
    if not small and not optional:
        raise RefusedError("has no prior_box_param.min_size")
    for size in (*small, *large):
        if not 0 < size <= _LARGEST_SIDE:
            raise RefusedError(f"a min_size or max_size is {size:g}; expected above 0, at most {_LARGEST_SIDE}")
    if large and len(large) != len(small):
        raise RefusedError(f"has {len(small)} min_size and {len(large)} max_size; expected one each, or no max_size")
    for low, high in zip(small, large, strict=False):
        if not high > low:
            raise RefusedError(f"max_size {high:g} is not larger than min_size {low:g}")
    return small, large


def _read_explicit(group: Group) -> tuple[tuple[float, float], ...]:
    widths, heights = group.box_width, group.box_height
    if len(widths) != len(heights):
        raise RefusedError(f"has {len(widths)} box_width and {len(heights)} box_height; expected as many")
    return tuple(zip(widths, heights, strict=True))


def _read_ratios(group: Group, has_unit_ratio: bool) -> tuple[float, ...]:
    """The ratios in Caffe's order, as float32 values, doubles left out."""
    ratios: list[float] = [1.0] if has_unit_ratio else []
    for ratio in group.aspect_ratio:
        if not 1 / _LARGEST_SIDE <= ratio <= _LARGEST_SIDE:
            raise RefusedError(f"an aspect_ratio is {ratio:g}; expected above 0, and no more than pixels can have")
        if any(abs(ratio - known) < _SAME for known in ratios):
            continue
        ratios.append(ratio)
        if group.flip:
            ratios.append(float(np.float32(1 / ratio)))
    group.ignore("flip")
    return tuple(ratios)


register(PriorBox)
