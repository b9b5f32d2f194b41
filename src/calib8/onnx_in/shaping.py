"""Other shapes for the same elements, and repetition: what several operators need around what they compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.values import Blob, Value
from calib8.onnx_in.writer import LayerWriter


def reshaped(w: LayerWriter, x: Blob, shape: Sequence[int]) -> Blob:
    """Give a blob another shape of as many elements; itself where it has it already.

    Axes in front that stay are copied, and the first one behind them is taken from what is left, so that the network
    can have another batch.

    Raises:
        RefusedError: the number of elements is another.
    """
    wanted = tuple(int(d) for d in shape)
    if wanted == x.shape:
        return x
    if math.prod(wanted) != math.prod(x.shape) or min(wanted, default=1) < 1:
        raise RefusedError(f"a value of the shape {list(x.shape)} cannot have the shape {list(wanted)}")
    same = 0
    while same < min(len(wanted), x.rank) and wanted[same] == x.shape[same]:
        same += 1
    dims = [0] * same + list(wanted[same:])
    if 0 < same < len(wanted):
        dims[same] = -1
    return w.one("Reshape", x, reshape_param={"shape": {"dim": dims}})


def permuted(w: LayerWriter, x: Blob, order: Sequence[int]) -> Blob:
    """Put the axes into another order; axis i is axis order[i] of x."""
    return x if list(order) == list(range(x.rank)) else w.one("Permute", x, permute_param={"order": list(order)})


def as_blob(w: LayerWriter, value: Value, what: str) -> Blob:
    """Make a layer of a constant. Raise RefusedError for one that is not float32."""
    if isinstance(value, Blob):
        return value
    if value.dtype != np.float32:
        raise RefusedError(f"its {what} is a constant of {value.dtype}; calib8 computes in float32")
    return w.one("Parameter", blobs=[value], parameter_param={"shape": {"dim": list(value.shape)}})


def expanded(w: LayerWriter, x: Blob, shape: Shape) -> Blob:
    """Repeat a blob along axes of length 1, and give it axes in front, as ONNX does it."""
    y = reshaped(w, x, (*(1,) * (len(shape) - x.rank), *x.shape))
    for axis, (have, want) in enumerate(zip(y.shape, shape, strict=True)):
        if have != want:
            y = w.one("Tile", y, tile_param={"axis": axis, "tiles": want})
    return y


def part(w: LayerWriter, x: Blob, axis: int, begin: int, end: int) -> Blob:
    """Cut elements begin to end - 1 out along an axis.

    Raises:
        RefusedError: nothing is left.
    """
    size = x.shape[axis]
    if not 0 <= begin < end <= size:
        raise RefusedError(f"elements {begin} to {end} of {size} along axis {axis} are none")
    points = [p for p in (begin, end) if 0 < p < size]
    if not points:
        return x
    tops = w.add("Slice", x, tops=len(points) + 1, slice_param={"axis": axis, "slice_point": points})
    return tops[1 if begin else 0]


def covering(array: Array, shape: Shape) -> tuple[int, Array]:
    """Find the run of axes of a blob that a constant covers, which is repeated over all others.

    Returns:
        The first axis, and the constant with exactly the axes of the run; without dimensions for one number.
    """
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    wide = [axis for axis, size in enumerate(full.shape) if size != 1]
    if not wide:
        return 0, full.reshape(())
    first, last = wide[0], wide[-1]
    run = full.reshape(full.shape[first : last + 1])
    return first, np.broadcast_to(run, shape[first : last + 1])


def along(w: LayerWriter, x: Blob, constant: Array, kind: str) -> Blob:
    """Add a Scale or a Bias along the axes that a constant covers."""
    axis, blob = covering(constant, x.shape)
    name = "scale_param" if kind == "Scale" else "bias_param"
    return w.one(kind, x, blobs=[blob], **{name: {"axis": axis, "num_axes": blob.ndim}})
