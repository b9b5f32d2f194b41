"""Images for a network with a plain Input layer, which says nothing of where its samples come from."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calib8.data import ImagesSource, Preprocess
from calib8.errors import DataError
from calib8.graph import Shape, build_net
from calib8.layers import make_op
from calib8.proto.text import Prototxt


@dataclass(frozen=True)
class Images:
    """Images that become samples of one input: `sample = (pixels - mean) * scale`.

    Attributes:
        images: a text file with a path per line, a folder of images, or one image.
        input: the input blob that takes them; None for the only one.
        values: the numbers of other inputs, by blob, the same for every image: one for all elements, or as many as the
            input or one of its samples has.
        preprocess: how the pixels become a sample.
    """

    images: str | os.PathLike[str]
    input: str | None = None
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    preprocess: Preprocess = Preprocess()

    def source_for(self, prototxt: Prototxt) -> ImagesSource:
        """Find the images and the input that takes them.

        Raises:
            DataError: the network has no such input, or the images or values do not fit it.
        """
        shapes = _inputs(prototxt)
        blob = self.input or next(iter(shapes), "")
        if blob not in shapes or (self.input is None and len(shapes) > 1):
            raise DataError(
                f"{prototxt.source}: which input takes the images? Say `input=..`; "
                f"Input layers of the network: {', '.join(map(repr, shapes)) or 'none'}"
            )
        others = {name: shape for name, shape in shapes.items() if name != blob}
        constants = {name: _constant(prototxt, others, name, numbers) for name, numbers in self.values.items()}
        return ImagesSource(self.images, blob, shapes[blob], self.preprocess, constants)


def _constant(
    prototxt: Prototxt, shapes: Mapping[str, Shape], blob: str, numbers: Sequence[float]
) -> NDArray[np.float32]:
    """The numbers of one input, in its shape."""
    if blob not in shapes:
        raise DataError(
            f"{prototxt.source}: `values` {blob}: no input of this name takes values; "
            f"these do: {', '.join(map(repr, shapes)) or 'none'}"
        )
    shape = shapes[blob]
    if len(numbers) not in (1, math.prod(shape), math.prod(shape[1:])):
        raise DataError(
            f"{prototxt.source}: `values` {blob}: {len(numbers)} numbers for an input of the shape "
            f"{'x'.join(map(str, shape))}; expected one for all, or {math.prod(shape)}"
        )
    return np.resize(np.array(numbers, np.float32), shape)


def _inputs(prototxt: Prototxt) -> dict[str, Shape]:
    """The tops of Input layers with their shapes."""
    layers = [layer for layer in build_net(prototxt).layers if layer.type == "Input"]
    return {b: s for x in layers for b, s in zip(x.top_blobs, make_op(x).top_shapes([]), strict=True)}
