"""ROIPooling: the largest value in every part of a region, regions cut into pooled_h x pooled_w parts.

A region is (image, x1, y1, x2, y2) in pixels of the input; on the feature map it has the corners
round(spatial_scale * x) and at least one cell. Part (i, j) covers the rows floor(i * h / pooled_h) up to
ceil((i + 1) * h / pooled_h), clipped to the map; an empty part gives 0.

Shapes: bottoms (N, C, H, W) and R regions (R, 5), or (N, 1, R / N, 5) as sophgo/caffe's Proposal gives them;
top (R, C, pooled_h, pooled_w). Parameters: pooled_h and pooled_w (required), spatial_scale 1.
Source: rbgirshick/caffe-fast-rcnn, src/caffe/layers/roi_pooling_layer.cpp, lines 17-120; the same file in sophgo/caffe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.regions import region_count


class ROIPooling(Op):
    """ONNX MaxRoiPool."""

    types = ("ROIPooling",)
    bottoms = (2, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("roi_pooling_param")
        self.pooled: tuple[int, int] = (group.pooled_h, group.pooled_w)
        self.spatial_scale: float = group.spatial_scale
        if min(self.pooled) < 1:
            raise RefusedError(f"pools to {self.pooled[0]}x{self.pooled[1]} (pooled_h, pooled_w); expected at least 1")
        if not (math.isfinite(self.spatial_scale) and self.spatial_scale > 0):
            raise RefusedError(f"has the spatial_scale {self.spatial_scale:g}; expected a number above 0")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(region_count(bottoms), bottoms[0][1], *self.pooled)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        regions = g.node("Reshape", call.bottoms[1], g.ints(-1, 5))
        return [
            g.node("MaxRoiPool", call.bottoms[0], regions, pooled_shape=self.pooled, spatial_scale=self.spatial_scale)
        ]


register(ROIPooling)
