"""Real values to codes on their way into a graph: compiled where it could be, numpy elsewhere, with the same codes.

ONNX has no node for it: in a graph it is five of them over float64, which ONNX Runtime computes one after another, some
on one thread. Of SqueezeNet in INT8 that was an eighth of the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array
from calib8.layer_kit.codes import PIXEL_CHANNELS, ZERO, quantizing_line

try:
    from calib8.engine import _entrance  # type: ignore[attr-defined]
except ImportError:  # installed without a compiler
    _entrance = None

_FORM = 2  # of the compiled functions; in a checkout they may be older than this file, until `make setup` builds them
COMPILED = getattr(_entrance, "FORM", None) == _FORM
_BLOCK = 1 << 15
_LARGEST = 255.0


def enter(values: Array, threshold: float, codes: NDArray[np.uint8], *, by_pixel: bool = False) -> None:
    """Write the codes of real values, as `arithmetic.quantize` rounds them: `code + 128`.

    Args:
        values: float32, C-contiguous.
        threshold: in real units.
        codes: C-contiguous, in the shape of the values.
        by_pixel: values (N, C, H, W), C up to 4, and codes (N, H, W, 4); channels that are missing get code 0.
    """
    factor, offset = quantizing_line(threshold)
    if COMPILED:
        images, channels = values.shape[:2] if by_pixel else (0, 0)
        _entrance.to_codes(values, codes, factor, offset, images, channels)
    elif by_pixel:
        planes = np.full((len(codes), PIXEL_CHANNELS, *values.shape[2:]), ZERO, np.uint8)
        for image, plane in zip(values, planes, strict=True):
            _enter(image, plane[: len(image)], factor, offset)
        codes[...] = np.moveaxis(planes, 1, -1)
    else:
        _enter(values, codes, factor, offset)


def _enter(values: Array, codes: NDArray[np.uint8], factor: float, offset: float) -> None:
    flat, written = values.reshape(-1), codes.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        places = flat[start : start + _BLOCK].astype(np.float64)  # NumPy 1 would stay in float32 for a scalar's sake
        places *= factor
        places += offset
        places[np.isnan(places)] = ZERO
        np.clip(places, 0.0, _LARGEST, out=places)
        written[start : start + _BLOCK] = places  # the cast cuts off, which is floor above 0
