"""Real values to codes on their way into a graph: compiled where it could be, numpy elsewhere, with the same codes.

ONNX has no node for it: in a graph it is five of them over float64, which ONNX Runtime computes one after another, some
on one thread. Of SqueezeNet in INT8 that was an eighth of the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array
from calib8.layer_kit.codes import ZERO, quantizing_line

try:
    from calib8.engine import _entrance  # type: ignore[attr-defined]
except ImportError:  # installed without a compiler
    _entrance = None

COMPILED = _entrance is not None
_BLOCK = 1 << 15
_LARGEST = 255.0


def enter(values: Array, threshold: float, codes: NDArray[np.uint8]) -> None:
    """Write the codes of real values, as `arithmetic.quantize` rounds them: `code + 128`.

    Args:
        values: float32, C-contiguous.
        threshold: in real units.
        codes: C-contiguous, in the shape of the values.
    """
    factor, offset = quantizing_line(threshold)
    if COMPILED:
        _entrance.to_codes(values, codes, factor, offset)
        return
    flat, written = values.reshape(-1), codes.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        places = flat[start : start + _BLOCK].astype(np.float64)  # NumPy 1 would stay in float32 for a scalar's sake
        places *= factor
        places += offset
        places[np.isnan(places)] = ZERO
        np.clip(places, 0.0, _LARGEST, out=places)
        written[start : start + _BLOCK] = places  # the cast cuts off, which is floor above 0
