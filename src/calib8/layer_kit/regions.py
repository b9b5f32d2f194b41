"""Regions of interest: rows (image, x1, y1, x2, y2) in pixels of the network's input."""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import count
from calib8.layer_kit.fields import RefusedError


def region_count(bottoms: Sequence[Shape]) -> int:
    """Count the regions in the second of two bottoms: a feature map (N, C, H, W) and (R, 5) or (N, 1, R / N, 5).

    Raises:
        RefusedError: other shapes.
    """
    image, regions = bottoms[0], bottoms[1]
    if len(image) != 4:
        raise RefusedError(f"the feature map has {len(image)} dimensions, expected N, C, H, W")
    rows = count(regions) // 5
    if regions not in ((rows, 5), (rows, 5, 1, 1), (rows, 1, 1, 5), (image[0], 1, rows // image[0], 5)):
        raise RefusedError(f"the regions have the shape {'x'.join(map(str, regions))}, expected Rx5")
    return rows
