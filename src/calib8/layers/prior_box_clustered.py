"""PriorBoxClustered: prior boxes whose widths and heights are listed. A constant, as PriorBox.

Per cell one box for every `width` and `height` (pixels), around the same centre as PriorBox has. Shapes, variances,
`clip`, `step`, `offset` and the image's size: see PriorBox.
Source: openvinotoolkit/training_toolbox_caffe, src/caffe/layers/prior_box_clustered_layer.cpp, lines 45-190.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.prior_grid import read_grid


class PriorBoxClustered(Op):
    """An ONNX initializer."""

    types = ("PriorBoxClustered",)
    bottoms = (1, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("prior_box_param")
        group.ignore("flip")  # there are no aspect ratios
        self.grid = read_grid(group)
        self.widths: tuple[float, ...] = group.width
        self.heights: tuple[float, ...] = group.height
        if not self.widths or len(self.widths) != len(self.heights):
            raise RefusedError(
                f"has {len(self.widths)} prior_box_param.width and {len(self.heights)} height; expected as many of "
                "both, at least one"
            )
        if not min(self.widths + self.heights) > 0:
            raise RefusedError(f"a width or height is {min(self.widths + self.heights):g}; expected above 0")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.grid.top_shape(bottoms, len(self.widths))]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Identity", g.constant(self.priors(call)))]

    def priors(self, call: Call) -> NDArray[np.float32]:
        """Compute the top, (1, 2, H * W * boxes * 4)."""
        boxes = np.zeros((len(self.widths), 5))
        boxes[:, 2], boxes[:, 3] = self.widths, self.heights
        return self.grid.values(call.bottom_shapes, boxes, call.top_shapes[0][2])


register(PriorBoxClustered)
