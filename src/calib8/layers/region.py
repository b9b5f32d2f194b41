"""Region: YOLO v2's output in Darknet's order, with object and class scores activated.

Channels move behind the cells: the top's values are those of (N, H, W, boxes, coords + 1 + classes). Of every box the
object score becomes sigmoid(x), and with `softmax` the class scores become softmax(x); coordinates stay.

Shapes: bottom (N, boxes_of_each_grid * (coords + 1 + classes), H, W); the top says the same shape, although its
values lie in another order. Parameters: classes 20, coords 4, boxes_of_each_grid 5, softmax false.
Source: src/caffe/layers/region_layer.cpp of the YOLO v2 forks with a RegionParameter, Forward_cpu; its constants 4 and
5 allow no `coords` but 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder

_COORDS = 4


class Region(Op):
    """ONNX Transpose, Split, Sigmoid, Softmax, Concat."""

    types = ("Region",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("region_param")
        self.classes: int = group.classes
        self.boxes: int = group.boxes_of_each_grid
        self.has_softmax: bool = group.softmax
        if group.coords != _COORDS:
            raise RefusedError(f"region_param.coords is {group.coords}; only {_COORDS} has a meaning")
        if self.classes < 1:
            raise RefusedError("region_param.classes is 0; expected at least 1")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        channels = self.boxes * (_COORDS + 1 + self.classes)
        if len(bottoms[0]) != 4 or bottoms[0][1] != channels:
            raise RefusedError(
                f"bottom has the shape {'x'.join(map(str, bottoms[0]))}, expected N x {channels} x H x W: "
                f"{self.boxes} boxes of {_COORDS} coordinates, an object score and {self.classes} classes"
            )
        return list(bottoms)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        cells = g.node("Transpose", call.bottoms[0], perm=(0, 2, 3, 1))
        boxes = g.node("Reshape", cells, g.ints(-1, _COORDS + 1 + self.classes))
        coords, score, classes = g.nodes("Split", boxes, g.ints(_COORDS, 1, self.classes), outputs=3, axis=1)
        if self.has_softmax:
            classes = g.node("Softmax", classes, axis=1)
        y = g.node("Concat", coords, g.node("Sigmoid", score), classes, axis=1)
        return [g.node("Reshape", y, g.ints(*call.top_shapes[0]))]


register(Region)
