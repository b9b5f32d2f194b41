"""The original tool's second metric: YOLO outputs are decoded to boxes and scores before they are compared.

An output is (N, A * (5 + C), H, W) with A anchors; for each anchor come x, y, w, h, objectness and C classes. Of cell
(i, j) with the anchor (a_w, a_h), relative to the image:

    centre = ((j + sigmoid(x)) / W, (i + sigmoid(y)) / H)
    size   = (a_w * exp(w) / input width, a_h * exp(h) / input height)
    score of class c = sigmoid(objectness) * sigmoid(class c)

Source: J. Redmon, A. Farhadi, "YOLOv3: An Incremental Improvement", arXiv:1804.02767, section 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.analyze.judges import MeanJudge, Outputs
from calib8.errors import OptionError
from calib8.graph import Array
from calib8.layer_kit.yolo_map import holds_boxes
from calib8.lowering import Model

Doubles = NDArray[np.float64]
Anchors = tuple[tuple[float, float], ...]

YOLOV3_ANCHORS: Anchors = (
    (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326),
)  # fmt: skip
"""Width and height in pixels, from the finest map to the coarsest, three for each."""
_LARGEST_EXPONENT = 20.0
_TINY = 1e-12


@dataclass(frozen=True)
class Decoded:
    """One output: boxes (N, A, H, W, 4) as centre and size in parts of the image, scores (N, A, H, W, C)."""

    boxes: Doubles
    scores: Doubles


def decode(output: Array, anchors: Anchors, input_size: tuple[int, int]) -> Decoded:
    """See the module's text; `input_size` is (height, width)."""
    images, channels, height, width = output.shape
    maps = output.astype(np.float64).reshape(images, len(anchors), channels // len(anchors), height, width)
    maps = maps.transpose(0, 1, 3, 4, 2)
    # From here on (N, A, H, W, 5 + C), so that (x, y) and (width, height) broadcast over the last axis.
    cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    centres = (cells + _sigmoid(maps[..., :2])) / (width, height)
    sides = np.array(anchors)[:, None, None] / input_size[::-1]
    sizes = np.exp(np.minimum(maps[..., 2:4], _LARGEST_EXPONENT)) * sides
    scores = _sigmoid(maps[..., 4:5]) * _sigmoid(maps[..., 5:])
    return Decoded(np.concatenate([centres, sizes], axis=-1), scores)


class YoloDifference(MeanJudge):
    """Squared differences of decoded outputs, summed over outputs, averaged over samples.

    With s the largest FP32 score of a box, for each output: `sum s * |box - box'|^2 / sum s`, plus
    `sum |scores - scores'|^2 / sum s`. Cells without an object have boxes of no meaning, and hardly count.

    Args:
        anchors: by value, those of each output, width and height in pixels of the input.
        input_size: (height, width).
    """

    name = "yolo"

    def __init__(self, anchors: Mapping[str, Anchors], input_size: tuple[int, int]) -> None:
        self.values, self._anchors, self._input_size = tuple(anchors), anchors, input_size

    @property
    def key(self) -> str:
        """With the anchors."""
        return repr((self.name, self._anchors, self._input_size))

    def part(self, reference: Outputs, result: Outputs) -> float:
        """Sum over all outputs that have anchors."""
        return sum(self._difference(reference[name], result[name], own) for name, own in self._anchors.items())

    def _difference(self, reference: Array, result: Array, anchors: Anchors) -> float:
        x, y = (decode(output, anchors, self._input_size) for output in (reference, result))
        # By the FP32 scores: an INT8 network must not get better by being less sure.
        weights = x.scores.max(axis=-1)
        boxes = (weights * ((x.boxes - y.boxes) ** 2).sum(axis=-1)).sum()
        scores = ((x.scores - y.scores) ** 2).sum()
        return float(boxes + scores) / max(float(weights.sum()), _TINY)


def yolo_difference(model: Model, values: Sequence[str], anchors: Anchors = ()) -> YoloDifference:
    """Make the judge for a network's YOLO outputs.

    Args:
        values: the outputs that are compared.
        anchors: of all maps, from the finest map to the coarsest; () takes YOLOv3's (the coarsest ones, where the
            network has fewer maps).

    Raises:
        OptionError: the outputs are no YOLO maps, or the anchors do not divide among them.
    """
    shapes = {v: model.shapes[v] for v in values}
    maps = sorted((v for v, s in shapes.items() if len(s) == 4), key=lambda v: -shapes[v][2] * shapes[v][3])
    inputs = [model.shapes[v] for v in model.inputs if len(model.shapes[v]) == 4]
    if not maps or not inputs:
        raise OptionError(f"{model.net.source}: metric yolo needs outputs (N, anchors * (5 + classes), H, W)")
    own = anchors or YOLOV3_ANCHORS[-3 * len(maps) :]
    each, rest = divmod(len(own), len(maps))
    if rest or any(not holds_boxes(shapes[v], each) for v in maps):
        sizes = ", ".join(f"{model.net.blob_of[v]!r} {'x'.join(map(str, shapes[v]))}" for v in maps)
        raise OptionError(
            f"{model.net.source}: metric yolo: {len(own)} anchors do not divide among the outputs {sizes}; an output "
            "has anchors * (5 + classes) channels; give the network's own with `anchors`"
        )
    shared = {v: tuple(own[i * each : (i + 1) * each]) for i, v in enumerate(maps)}
    return YoloDifference(shared, (inputs[0][2], inputs[0][3]))


def _sigmoid(x: Doubles) -> Doubles:
    with np.errstate(over="ignore"):
        share: Doubles = 1 / (1 + np.exp(-x))
    return share
