"""What becomes of a positive factor that every channel of a value is multiplied by, on its way through a layer.

A layer whose weights take such factors up, before and behind it, can change the unit that a channel is counted in, and
nothing else of the network sees it; layers that hand the factors on lie between two of them.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1:
s * f(x) = f(s * x) for a ReLU f and s > 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array

Units = NDArray[np.float64]
"""What a channel is counted in, above 0, (C)."""


class ChannelFlow(Enum):
    """How a layer treats factors of channels, which are those of axis 1.

    Attributes:
        MIXED: not at all; its bottoms and tops have to be as they are.
        CARRIED: a channel of a top has the factor of that channel of every bottom, which all need the same one.
        JOINED: the channels of the top are those of the bottoms, one bottom behind the other.
        WEIGHTED: weights take them up on both sides (`Op.blobs_in_units`).
        TAKEN: weights take those of the bottom up, and the tops have none.
    """

    MIXED = 0
    CARRIED = 1
    JOINED = 2
    WEIGHTED = 3
    TAKEN = 4


def divided(blobs: Sequence[Array], top: Units | None) -> tuple[Array, ...]:
    """Divide weights and biases, whose first axis is that of the outputs, by the units of a top, (O)."""
    if top is None:
        return tuple(blobs)
    units = top.astype(np.float32)
    return tuple(blob / units.reshape(-1, *(1,) * (blob.ndim - 1)) for blob in blobs)


def scaled(weights: Array, bottom: Array | None, top: Units | None) -> Array:
    """Multiply weights by numbers, and divide them by the units of a top, (O); one array of their size is made at most.

    Args:
        weights: their first axis is that of the outputs.
        bottom: float32, repeated over the weights as numpy does it; None for ones.
    """
    if bottom is None or top is None:
        return divided((weights if bottom is None else weights * bottom,), top)[0]
    found = weights * bottom
    found /= top.astype(np.float32).reshape(-1, *(1,) * (found.ndim - 1))
    return found
