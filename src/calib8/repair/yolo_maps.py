"""What the maps of a YOLO network say, where no layer of it decodes them.

The raw numbers tell little of its boxes: most of their squares are objectness far below 0, of cells in which there is
nothing, whether it is -8 or -15. So the maps are compared as what is read from them. Of an anchor in a cell, with the
objectness o, the box x, y, w, h and the scores c of the classes, these are

    sigmoid(o) * (1, sigmoid(c), sigmoid(x), sigmoid(y), w, h)

and cells without an object hardly count. Anchors are not needed: w and h are logarithms of sizes relative to them.

Source: J. Redmon, A. Farhadi, YOLOv3: An Incremental Improvement, arXiv:1804.02767, section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.layer_kit.window_product import evenly
from calib8.layer_kit.yolo_map import are_maps, sigmoid
from calib8.layers.convolution import Convolution
from calib8.lowering import Model

Array = NDArray[Any]

_ANCHORS = 3
_KEPT = 1 << 18
_SIZES, _SIZE_END = 2, 4
_LARGEST_SIZE = 20.0
_MOSTLY_EMPTY = 0.1


def undecoded_maps(model: Model) -> frozenset[str]:
    """Name the outputs that look like YOLO maps by their shapes: all outputs, or none; see `are_mostly_empty`."""
    outputs = model.net.outputs
    images = [model.shapes[v] for v in model.inputs if len(model.shapes[v]) == 4]
    if not outputs or not images or not all(_is_convolution(model, v) for v in outputs):
        return frozenset()
    return frozenset(outputs if are_maps([model.shapes[v] for v in outputs], images[0], _ANCHORS) else ())


def _is_convolution(model: Model, value: str) -> bool:
    return value not in model.inputs and isinstance(model.op_of[model.net.producer[value].name], Convolution)


def as_read(values: Array) -> Array:
    """Give what is read from a map (N, A * (5 + C), H, W); see the module's text.

    Returns:
        (5 + C, n) float32, objectness in the first row; n anchors and cells, all of them or so many evenly that there
        are `_KEPT` numbers.
    """
    maps = np.moveaxis(values.reshape(len(values), _ANCHORS, -1, *values.shape[2:]), 2, 0)
    maps = maps.reshape(len(maps), -1)
    maps = maps[:, evenly(maps.shape[1], _KEPT // len(maps))].astype(np.float32)
    box = maps[:_SIZE_END]
    with np.errstate(over="ignore"):  # exp of far below 0 is infinite, and the sigmoid 0
        sure, scores, centres = map(sigmoid, (maps[_SIZE_END], maps[_SIZE_END + 1 :], box[:_SIZES]))
    sizes = np.clip(box[_SIZES:], -_LARGEST_SIZE, _LARGEST_SIZE)
    return np.asarray(np.concatenate([sure[None], sure * np.concatenate([scores, centres, sizes])]))


def are_mostly_empty(maps: Iterable[Array]) -> bool:
    """Tell whether there is nothing in most cells of maps, as they are read.

    A map of classes may have a detector's shape by chance, but its sixth channel is no objectness.
    """
    means = [float(one[0].mean(dtype=np.float64)) for one in maps]
    return bool(means) and sum(means) / len(means) < _MOSTLY_EMPTY
