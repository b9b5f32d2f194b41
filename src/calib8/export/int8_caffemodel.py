"""The int8 caffemodel: the layers of the network as the prototxt has them, their integers stored as float32.

No threshold, scale or shift is in it; those stand in the calibration table. A layer that stays in FP32 keeps its float
weights. What the blobs of a layer mean is the business of its `Op.quantize`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import CaffemodelError, TableError
from calib8.layer_kit.form import Integers
from calib8.layers import IntegerForm
from calib8.lowering import Model
from calib8.lowering.weights import bind_blobs
from calib8.proto.caffemodel import read_caffemodel, write_caffemodel
from calib8.quantize import QuantPlan, with_given

_BLOCK = 1 << 16


def write_int8_model(path: str | os.PathLike[str], model: Model, plan: QuantPlan) -> None:
    """Write the quantised network; the file appears whole or not at all.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    write_caffemodel(
        path,
        model.net.name,
        (
            (layer.param, layer.blobs if (form := plan.forms[layer.name]) is None else form.blobs)
            for layer in model.net.layers
        ),
    )


def read_int8_model(path: str | os.PathLike[str], model: Model, plan: QuantPlan) -> QuantPlan:
    """Give `plan` the integer weights of the file instead of its own.

    Raises:
        CaffemodelError: the file cannot be read.
        TableError: it is the int8 model of another network, or holds no integers; all such layers.
    """
    source = read_caffemodel(path)
    stored = {layer.name: layer.blobs for layer in source.layers}
    read: dict[str, IntegerForm] = {}
    problems = [f"layer {n!r} is not in the network" for n in stored if stored[n] and n not in plan.forms]
    for name, own in plan.forms.items():
        if own is None or not own.blobs:
            continue
        try:
            read[name] = own.with_blobs(_integers(own.blobs, stored.get(name)))
        except CaffemodelError as why:
            problems.append(f"layer {name!r} {why}")
    if problems:
        raise TableError(f"{path} is not the int8 model of {model.net.source}", problems)
    return with_given(plan, read, str(path))


def _integers(own: Sequence[Integers], stored: Sequence[NDArray[np.float32]] | None) -> tuple[Integers, ...]:
    """Bring stored blobs into the shapes and the integer types of a layer's own."""
    bound = bind_blobs([blob.shape for blob in own], stored)
    return tuple(_cast(i, blob, like.dtype) for i, (blob, like) in enumerate(zip(bound, own, strict=True)))


def _cast(index: int, blob: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Turn integers stored as float32 into integers, block by block; what is none of this type is refused."""
    result = np.empty(blob.shape, dtype=dtype)
    flat_in, flat_out = blob.reshape(-1), result.reshape(-1)
    for start in range(0, flat_in.size, _BLOCK):
        floats, integers = flat_in[start : start + _BLOCK], flat_out[start : start + _BLOCK]
        with np.errstate(invalid="ignore"):
            np.copyto(integers, floats, casting="unsafe")
        if not np.array_equal(integers, floats):
            limits, first = np.iinfo(dtype), floats[integers != floats][0]
            raise CaffemodelError(
                f"has {first:.6g} in blob {index}; expected integers from {limits.min} to {limits.max} "
                "(is this the FP32 model?)"
            )
    return result
