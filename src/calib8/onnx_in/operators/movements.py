"""Operators that move, cut and join elements and compute nothing.

Source: onnx/onnx, docs/Operators.md; the operators' names.
"""

from __future__ import annotations

import math

import numpy as np

from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.node import Node, slices
from calib8.onnx_in.operators.table import Results, operator
from calib8.onnx_in.shaping import as_blob, expanded, part, permuted, reshaped
from calib8.onnx_in.values import Blob, broadcast, canonical, integers
from calib8.onnx_in.writer import LayerWriter

_PADS = ("pad_t", "pad_l", "pad_b", "pad_r")


@operator("Reshape")
def reshape(node: Node, w: LayerWriter) -> Blob:
    """The same elements under another shape; 0 copies an axis, -1 is what is left."""
    x, wanted = node.blob(0), integers(node.constant(1, "shape"), "shape")
    if not node.whole("allowzero", 0):
        if any(d == 0 for d in wanted[x.rank :]):
            raise RefusedError(f"its shape {list(wanted)} copies axes that {list(x.shape)} does not have")
        wanted = tuple(x.shape[i] if d == 0 else d for i, d in enumerate(wanted))
    known = math.prod(d for d in wanted if d != -1)
    if wanted.count(-1) == 1 and known > 0:
        wanted = tuple(math.prod(x.shape) // known if d == -1 else d for d in wanted)
    return reshaped(w, x, wanted)


@operator("Flatten")
def flatten(node: Node, w: LayerWriter) -> Blob:
    """Two axes of all."""
    x, axis = node.blob(0), node.whole("axis", 1)
    axis = x.rank if axis == x.rank else canonical(axis, x.rank)
    return reshaped(w, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Squeeze")
def squeeze(node: Node, w: LayerWriter) -> Blob:
    """Axes of length 1 left out."""
    x, axes = node.blob(0), node.optional_integers(1, "axes", 13)
    gone = {canonical(a, x.rank, "axes") for a in axes} if axes else {i for i, d in enumerate(x.shape) if d == 1}
    if any(x.shape[a] != 1 for a in gone):
        raise RefusedError(f"axes {sorted(gone)} of {list(x.shape)} are not all of length 1")
    return reshaped(w, x, [d for i, d in enumerate(x.shape) if i not in gone])


@operator("Unsqueeze")
def unsqueeze(node: Node, w: LayerWriter) -> Blob:
    """Axes of length 1 put in."""
    x, axes = node.blob(0), node.optional_integers(1, "axes", 13) or ()
    rank = x.rank + len(axes)
    new = {canonical(a, rank, "axes") for a in axes}
    if len(new) != len(axes):
        raise RefusedError(f"axes {list(axes)} has an axis twice")
    rest = iter(x.shape)
    return reshaped(w, x, [1 if i in new else next(rest) for i in range(rank)])


@operator("Transpose")
def transpose(node: Node, w: LayerWriter) -> Blob:
    """The axes in another order."""
    x = node.blob(0)
    order = node.ints("perm", tuple(reversed(range(x.rank))))
    if sorted(order) != list(range(x.rank)):
        raise RefusedError(f"perm {list(order)} does not name every axis of {list(x.shape)} once")
    return permuted(w, x, order)


@operator("Concat")
def concat(node: Node, w: LayerWriter) -> Blob:
    """Values in a row; constants among them are layers."""
    blobs = [as_blob(w, node.value(i), "input") for i in range(len(node.inputs))]
    axis = canonical(node.whole("axis", 0), blobs[0].rank)
    return blobs[0] if len(blobs) == 1 else w.one("Concat", *blobs, concat_param={"axis": axis})


@operator("Split")
def split(node: Node, w: LayerWriter) -> Results:
    """Parts along one axis, of given lengths, or equal but for the last one."""
    x, parts = node.blob(0), len(node.outputs)
    axis = canonical(node.whole("axis", 0), x.rank)
    size, lengths = x.shape[axis], node.optional_integers(1, "split", 13)
    if node.opset >= 18 and node.whole("num_outputs", parts) != parts:
        raise RefusedError(f"num_outputs is not that of its outputs ({parts})")
    if lengths is None:
        longest = -(-size // parts)
        lengths = (longest,) * (parts - 1) + (size - longest * (parts - 1),)
    if len(lengths) != parts or sum(lengths) != size or min(lengths) < 1:
        raise RefusedError(f"parts of {list(lengths)} do not make {size} elements along axis {axis}")
    if parts == 1:
        return x
    points = np.cumsum(lengths)[:-1].tolist()
    return w.add("Slice", x, tops=parts, slice_param={"axis": axis, "slice_point": points})


@operator("Slice")
def slice_(node: Node, w: LayerWriter) -> Blob:
    """A part along some axes; every second element (or third ..) of the two axes of an image."""
    x = node.blob(0)
    strides: dict[int, int] = {}
    for given, start, end, step in slices(node):
        axis = canonical(given, x.rank, "axes")
        if step < 1:
            raise RefusedError(f"goes in steps of {step}; calib8 goes forward")
        first, last, _ = slice(start, end, step).indices(x.shape[axis])
        x = part(w, x, axis, first, last)
        if step > 1:
            strides[axis] = step
    return _every(w, x, strides) if strides else x


def _every(w: LayerWriter, x: Blob, strides: dict[int, int]) -> Blob:
    """Every so many elements: the maximum of windows of one element."""
    if x.rank != 4 or not set(strides) <= {2, 3}:
        raise RefusedError(f"steps along the axes {sorted(strides)} of {list(x.shape)}; calib8 takes them for H and W")
    param = {
        "pool": "MAX", "kernel_h": 1, "kernel_w": 1, "stride_h": strides.get(2, 1), "stride_w": strides.get(3, 1),
        "round_mode": "FLOOR",
    }  # fmt: skip
    return w.one("Pooling", x, pooling_param=param)


@operator("Gather")
def gather(node: Node, w: LayerWriter) -> Blob:
    """One element along an axis, or neighbours."""
    x, axis = node.blob(0), canonical(node.whole("axis", 0), node.blob(0).rank)
    indices = node.constant(1, "indices")
    if indices.dtype.kind not in "iu" or indices.ndim > 1 or indices.size < 1:
        raise RefusedError(f"its indices have the shape {list(indices.shape)}; calib8 takes one, or a row of them")
    size = x.shape[axis]
    places = [canonical(int(i), size, "index") for i in np.atleast_1d(indices)]
    if places != list(range(places[0], places[0] + len(places))):
        raise RefusedError("its indices are not neighbours in order")
    y = part(w, x, axis, places[0], places[-1] + 1)
    return y if indices.ndim else reshaped(w, y, y.shape[:axis] + y.shape[axis + 1 :])


@operator("Expand")
def expand(node: Node, w: LayerWriter) -> Blob:
    """Axes of length 1 repeated."""
    x = node.blob(0)
    return expanded(w, x, broadcast(x.shape, integers(node.constant(1, "shape"), "shape")))


@operator("Tile")
def tile(node: Node, w: LayerWriter) -> Blob:
    """The whole several times, along each axis."""
    x, repeats = node.blob(0), integers(node.constant(1, "repeats"), "repeats")
    if len(repeats) != x.rank or min(repeats) < 1:
        raise RefusedError(f"repeats {list(repeats)} are not one number above 0 for each axis of {list(x.shape)}")
    for axis, times in enumerate(repeats):
        x = x if times == 1 else w.one("Tile", x, tile_param={"axis": axis, "tiles": times})
    return x


@operator("Pad")
def pad(node: Node, w: LayerWriter) -> Blob:
    """A frame of one number around images; negative pads cut."""
    x = node.blob(0)
    node.only("mode", "constant")
    pads = node.optional_integers(1, "pads", 11) or ()
    axes = integers(node.constant(3, "axes"), "axes") if node.has(3) else tuple(range(x.rank))
    if len(pads) != 2 * len(axes):
        raise RefusedError(f"has {len(pads)} pads for {len(axes)} axes; expected two for each")
    value = node.optional_number(2, "constant_value", 11, 0.0, "value")
    sides = [0, 0, 0, 0]
    for i, given in enumerate(axes):
        axis, (before, after) = canonical(given, x.rank, "axes"), (pads[i], pads[i + len(axes)])
        if min(before, after) < 0:
            x = part(w, x, axis, max(-before, 0), x.shape[axis] - max(-after, 0))
        if max(before, after) > 0:
            if x.rank != 4 or axis < 2:
                raise RefusedError(f"pads axis {axis} of {list(x.shape)}; calib8 pads H and W of N, C, H, W")
            sides[axis - 2], sides[axis] = max(before, 0), max(after, 0)
    if not any(sides):
        return x
    if not value.is_integer():
        raise RefusedError(f"pads with {value:g}; calib8 takes whole numbers")
    return w.one("Padding", x, padding_param={**dict(zip(_PADS, sides, strict=True)), "pad_value": int(value)})


@operator("DepthToSpace", "SpaceToDepth")
def blocks(node: Node, w: LayerWriter) -> Blob:
    """Channels become blocks of pixels, or blocks channels."""
    x, size = node.blob(0), node.whole("blocksize", 0)
    if size < 1:
        raise RefusedError(f"blocksize is {size}; expected at least 1")
    if node.op_type == "SpaceToDepth":
        return w.one("Reorg", x, reorg_param={"stride": size})
    if node.only("mode", "DCR", "CRD") == "DCR":
        return w.one("Reorg", x, reorg_param={"stride": size, "reverse": True})
    return w.one("Reshape", x, reshape_param={"pixelshuffler": size}) if size > 1 else x


@operator("Cast")
def cast(node: Node, w: LayerWriter) -> Blob:
    """float32 to float32: nothing."""
    to = node.whole("to", 0)
    node.ignore("saturate", "round_mode")
    if to != 1:
        raise RefusedError(f"casts values of the network to type {to}; calib8 computes in float32 (1)")
    return node.blob(0)
