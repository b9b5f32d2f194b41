"""What the edges of an ONNX graph hold while it is converted: blobs of the network, or numbers that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.fields import RefusedError

MAX_RANK = 8
"""Most axes of a value; PixelShuffle takes six."""


@dataclass(frozen=True)
class Blob:
    """What layers compute: the name of the blob, and the shape, which is ONNX's own."""

    name: str
    shape: Shape

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)


Value = Blob | Array
"""A blob, or a constant: an array of whatever type ONNX has for it."""


def canonical(axis: int, rank: int, what: str = "axis") -> int:
    """Count a negative axis from the end. Raise RefusedError outside [-rank, rank)."""
    if not -rank <= axis < rank:
        raise RefusedError(f"{what} {axis} is outside a value of {rank} dimensions")
    return axis % rank


def integers(array: Array, what: str) -> tuple[int, ...]:
    """Read a constant of whole numbers as a tuple. Raise RefusedError for other types, and for more than a few axes."""
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > MAX_RANK * 2:
        raise RefusedError(f"{what} is {array.dtype} of shape {list(array.shape)}; expected a few whole numbers")
    return tuple(int(number) for number in np.atleast_1d(array))


def broadcast(*shapes: Sequence[int]) -> Shape:
    """Return the shape that ONNX (and numpy) repeats all these to. Raise RefusedError where there is none."""
    try:
        return tuple(np.broadcast_shapes(*map(tuple, shapes)))
    except ValueError:
        raise RefusedError(f"shapes do not go together: {', '.join(str(list(s)) for s in shapes)}") from None
