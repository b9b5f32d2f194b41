"""What the YOLO layers share: the activation of codes, and the rows that eric612/MobileNet-YOLO makes of boxes.

And how the maps of a YOLO network are told whose prototxt ends before its boxes are decoded.

Source: eric612/MobileNet-YOLO, src/caffe/layers/yolov3_detection_output_layer.cpp, ApplyNms and Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.boxes import Floats, centre_jaccard, exp, from_centres
from calib8.layer_kit.fields import RefusedError
from calib8.layer_kit.std_sort import std_sort_descending
from calib8.layer_kit.suppression import first_come

_AXES = 4
_OF_A_BOX = 5  # x, y, width, height, objectness
_STRIDES = (8, 16, 32, 64)


def check_maps(bottoms: Sequence[Shape], boxes: int, classes: int, *, square: bool) -> None:
    """Refuse bottoms that are no feature maps (N, boxes * (5 + classes), H, W) of the same images."""
    channels = boxes * (5 + classes)
    for shape in bottoms:
        if len(shape) != 4 or shape[:2] != (bottoms[0][0], channels) or (square and shape[2] != shape[3]):
            raise RefusedError(
                f"a bottom has the shape {'x'.join(map(str, shape))}, expected {bottoms[0][0]} x {channels} x "
                f"{'S x S' if square else 'H x W'}: {boxes} boxes of 4 coordinates, a score and {classes} classes"
            )


def holds_boxes(shape: Shape, anchors: int) -> bool:
    """Tell whether the channels of a map (N, C, H, W) are those of so many anchors, each with at least one class."""
    return anchors > 0 and shape[1] % anchors == 0 and shape[1] // anchors > _OF_A_BOX


def are_maps(shapes: Sequence[Shape], image: Shape, anchors: int) -> bool:
    """Tell whether outputs look like maps (N, anchors * (5 + classes), H, W) of one YOLO network, by their shapes.

    Args:
        shapes: of all outputs.
        image: (N, C, H, W), of the network's input.
        anchors: of each map.
    """
    return (
        len(image) == _AXES
        and all(len(s) == _AXES and holds_boxes(s, anchors) for s in shapes)
        and all(image[3] / s[3] in _STRIDES for s in shapes)
        and len({s[1] for s in shapes}) == 1
    )


def sigmoid(x: Floats) -> Floats:
    """Compute 1 / (1 + exp(-x)), the sum in double precision as C++ promotes it."""
    return (1 / (1 + exp(-x).astype(np.float64))).astype(np.float32)


def detection_rows(boxes: Floats, threshold: float, images: int) -> Floats:
    """Make the top (1, 1, rows, 7) of boxes (D, 6): x, y, width, height, class, score, in the order they were read.

    Boxes are sorted by score; of boxes that overlap by `threshold` or more the better one stays, whatever its class
    and its image. A row is 0, class + 1, score, xmin, ymin, xmax, ymax. Without a box there is a row of -1 for each
    image, with the image's number.
    """
    limit = np.float32(threshold)
    boxes = boxes[std_sort_descending(boxes[:, 5])]
    kept = boxes[first_come(boxes[:, :4], lambda others, box: centre_jaccard(others, box) >= limit)]
    if len(kept) == 0:
        top = np.full((images, 7), -1, dtype=np.float32)
        top[:, 0] = np.arange(images)
    else:
        corners = from_centres(kept[:, :2], kept[:, 2:4])
        top = np.column_stack([np.zeros(len(kept), np.float32), kept[:, 4] + 1, kept[:, 5], corners])
    return top[None, None]
