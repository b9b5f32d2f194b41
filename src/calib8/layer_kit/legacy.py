"""Shapes of layers that still see every blob as num, channels, height and width.

Source: BVLC/caffe, include/caffe/blob.hpp, LegacyShape.
"""

from __future__ import annotations

from calib8.graph import Shape
from calib8.layer_kit.fields import RefusedError


def four_axes(bottom: Shape) -> Shape:
    """Append ones to a shape, up to four axes. Raise RefusedError for more than four."""
    if len(bottom) > 4:
        raise RefusedError(f"bottom has {len(bottom)} dimensions, expected 4 (N, C, H, W) at most")
    return bottom + (1,) * (4 - len(bottom))
