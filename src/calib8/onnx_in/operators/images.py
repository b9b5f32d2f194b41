"""Larger and smaller images, and what is left of them when axes become one number.

Source: onnx/onnx, docs/Operators.md, Resize, ReduceMean and its like; onnx/reference/ops/op_resize.py.
"""

from __future__ import annotations

import math

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.node import Node
from calib8.onnx_in.operators.table import operator
from calib8.onnx_in.shaping import permuted, reshaped
from calib8.onnx_in.values import Blob, canonical, integers
from calib8.onnx_in.writer import LayerWriter

_REDUCTIONS = {
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceL1": "ASUM",
    "ReduceSumSquare": "SUMSQ",
    "ReduceL2": "SUMSQ",
}
_LARGEST = {"ReduceMax"}
_HAS_RULES = 11
"""The opset from which on a Resize says how places are counted, and has a region for its second input."""
_AXES_ARE_INPUT_FROM = {"ReduceSum": 13}


@operator("Upsample")
def upsample(node: Node, w: LayerWriter) -> Blob:
    """What Resize was called below opset 10."""
    return resize(node, w)


@operator("Resize")
def resize(node: Node, w: LayerWriter) -> Blob:
    """Repetition by whole factors, or linear interpolation."""
    x = node.blob(0)
    if x.rank != 4:
        raise RefusedError(f"its input has {x.rank} dimensions; calib8 resizes N, C, H, W")
    size, scales = _size(node, x)
    mode = node.only("mode", "nearest", "linear")
    first_rules = node.opset < _HAS_RULES  # there was one way, and no attribute to say another
    how = node.text("coordinate_transformation_mode", "asymmetric" if first_rules else "half_pixel")
    nearest = node.text("nearest_mode", "floor" if first_rules else "round_prefer_floor")
    node.ignore("cubic_coeff_a", "extrapolation_value")
    if node.whole("antialias", 0) or node.whole("exclude_outside", 0) or how == "tf_crop_and_resize":
        raise RefusedError("sets antialias, exclude_outside or a region; calib8 resizes the whole image without them")
    if size == x.shape:
        return x
    return _repeated(w, x, size, how, nearest) if mode == "nearest" else _interpolated(w, x, size, scales, how)


def _size(node: Node, x: Blob) -> tuple[Shape, tuple[float, ...]]:
    """The shape of the result, and what the rows and columns are multiplied by."""
    axes = tuple(canonical(a, x.rank, "axes") for a in node.ints("axes", range(x.rank)))
    node.only("keep_aspect_ratio_policy", "stretch")
    factors, sizes = [1.0] * x.rank, list(x.shape)
    if node.has(3):
        wanted = integers(node.constant(3, "sizes"), "sizes")
        if len(wanted) != len(axes):
            raise RefusedError(f"sizes {list(wanted)} are not those of {len(axes)} axes")
        for axis, length in zip(axes, wanted, strict=True):
            sizes[axis], factors[axis] = length, length / x.shape[axis]
    else:
        scales = _scales(node)
        if len(scales) != len(axes):
            raise RefusedError(f"scales {scales.tolist()} are not those of {len(axes)} axes")
        for axis, factor in zip(axes, scales.tolist(), strict=True):
            if not 0 < factor < 2**20:
                raise RefusedError(f"scales are {scales.tolist()}; expected above 0")
            sizes[axis], factors[axis] = math.floor(x.shape[axis] * factor), factor
    if tuple(sizes[:2]) != x.shape[:2] or min(sizes) < 1:
        raise RefusedError(f"would give {sizes} for {list(x.shape)}; calib8 resizes H and W")
    return tuple(sizes), tuple(factors)


def _scales(node: Node) -> Array:
    """The factors: an attribute below opset 9, then the second input, and from opset 11 on the third."""
    if node.opset < 9:
        return np.array(node.real_numbers("scales"), np.float32)
    return node.floats(2 if node.opset >= _HAS_RULES else 1, "scales").reshape(-1)


def _repeated(w: LayerWriter, x: Blob, size: Shape, how: str, nearest: str) -> Blob:
    """By whole factors, where all usual rules agree: output h is input h div factor."""
    pairs = list(zip(x.shape[2:], size[2:], strict=True))
    if any(large % small for small, large in pairs):
        raise RefusedError(f"goes from {list(x.shape[2:])} to {list(size[2:])} by the nearest element: no whole factor")
    factors = [large // small for small, large in pairs]
    if any(_nearest(i, f, how, nearest) != i // f for f in factors for i in range(2 * f)):
        raise RefusedError(f"{how!r} with nearest_mode {nearest!r} does not repeat all elements equally often")
    return w.one("Upsample", x, upsample_param={"scale_h": factors[0], "scale_w": factors[1]})


def _nearest(place: int, factor: int, how: str, nearest: str) -> int:
    """Which element lies nearest, by ONNX's rule."""
    if how not in ("asymmetric", "half_pixel", "pytorch_half_pixel"):
        raise RefusedError(f"coordinate_transformation_mode is {how!r}; not taken for the nearest element")
    at = place / factor if how == "asymmetric" else (place + 0.5) / factor - 0.5
    rounded = {
        "floor": math.floor(at), "ceil": math.ceil(at), "round_prefer_floor": math.ceil(at - 0.5),
        "round_prefer_ceil": math.floor(at + 0.5),
    }.get(nearest)  # fmt: skip
    if rounded is None:
        raise RefusedError(f"nearest_mode is {nearest!r}, which ONNX does not have")
    return max(rounded, 0)


def _interpolated(w: LayerWriter, x: Blob, size: Shape, scales: tuple[float, ...], how: str) -> Blob:
    param: dict[str, object] = {"height": size[2], "width": size[3], "coordinates": how}
    by_size = tuple(large / small for large, small in zip(size[2:], x.shape[2:], strict=True))
    if scales[2:] != by_size and how != "align_corners":
        param |= {"scale_h": scales[2], "scale_w": scales[3]}
    return w.one("Interp", x, interp_param=param)


@operator(*_REDUCTIONS, *_LARGEST)
def reduce(node: Node, w: LayerWriter) -> Blob:
    """Some axes become one number: Pooling over whole images, else Reduction."""
    x = node.blob(0)
    axes = node.optional_integers(1, "axes", _AXES_ARE_INPUT_FROM.get(node.op_type, 18))
    keeps, idle = bool(node.whole("keepdims", 1)), bool(node.whole("noop_with_empty_axes", 0))
    if not axes and idle:
        return x
    gone = sorted({canonical(a, x.rank, "axes") for a in axes or range(x.rank)})
    shape = [1 if i in gone else d for i, d in enumerate(x.shape)]
    kept = shape if keeps else [d for i, d in enumerate(shape) if i not in gone]
    if x.rank == 4 and gone == [2, 3] and node.op_type in ("ReduceMean", "ReduceMax"):
        how = "AVE" if node.op_type == "ReduceMean" else "MAX"
        return reshaped(w, w.one("Pooling", x, pooling_param={"pool": how, "global_pooling": True}), kept)
    if node.op_type in _LARGEST:
        raise RefusedError(f"goes over the axes {gone} of {list(x.shape)}; calib8 takes H and W of N, C, H, W")
    order = [i for i in range(x.rank) if i not in gone] + gone
    param = {"operation": _REDUCTIONS[node.op_type], "axis": x.rank - len(gone)}
    y = w.one("Reduction", permuted(w, x, order), reduction_param=param)
    return reshaped(w, w.one("Power", y, power_param={"power": 0.5}) if node.op_type == "ReduceL2" else y, kept)
