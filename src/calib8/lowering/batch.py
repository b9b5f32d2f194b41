"""Networks are calibrated one image at a time: batches cost memory, and their size must not change a result."""

from __future__ import annotations

from calib8.errors import ModelError
from calib8.graph import Shape
from calib8.lowering.model import Model, reshaped
from calib8.proto.text import Prototxt


def batch_of_one(prototxt: Prototxt, model: Model) -> Model | None:
    """The model with one image in each of its inputs; None where images do not go through it independently.

    They do when every blob keeps its shape but for the first axis, which holds as many images as the inputs do.
    A Reshape with a fixed first axis, or a blob without one, does not.
    """
    batch = _batch_size(model)
    if batch is None or batch == 1:
        return model if batch == 1 else None
    blobs = model.net.blob_of
    try:
        single = reshaped(prototxt, model, {blobs[v]: (1, *model.shapes[v][1:]) for v in model.inputs})
    except ModelError:
        return None
    same = all(_of_one(shape, single.shapes[value], batch) for value, shape in model.shapes.items())
    return single if same else None


def _of_one(shape: Shape, single: Shape, batch: int) -> bool:
    """Whether `single` is a shape with its images, whole multiples of the batch, divided by the batch."""
    return bool(shape) and shape[0] == batch * single[0] and shape[1:] == single[1:] if single else not shape


def _batch_size(model: Model) -> int | None:
    sizes = {model.shapes[v][0] if model.shapes[v] else 0 for v in model.inputs}
    return sizes.pop() if len(sizes) == 1 else None
