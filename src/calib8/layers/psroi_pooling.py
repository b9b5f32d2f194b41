"""PSROIPooling: position-sensitive averages of regions (R-FCN). Each of g x g parts reads channels of its own.

A region (image, x1, y1, x2, y2) in pixels of the input covers round(x1) * spatial_scale up to
(round(x2) + 1) * spatial_scale of the feature map, at least 0.1 cells. Top (r, c, i, j) is the average of channel
(c * g + i) * g + j over the cells that part (i, j) touches, clipped to the map; 0 when there are none.

Shapes: bottoms (N, output_dim * g * g, H, W) and (R, 5), g = `group_size`; top (R, output_dim, g, g).
Parameters: spatial_scale, output_dim, group_size, all required.
Source: daijifeng001/caffe-rfcn, src/caffe/layers/psroi_pooling_layer.cu, lines 20-90 (its CPU version is in
openvinotoolkit/training_toolbox_caffe, src/caffe/layers/psroi_pooling_layer.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.errors import Calib8Error
from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.boxes import Floats
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.regions import region_count


class PSROIPooling(Op):
    """Runs in Python."""

    types = ("PSROIPooling",)
    bottoms = (2, 2)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("psroi_pooling_param")
        self.spatial_scale: float = group.spatial_scale
        self.output_dim: int = group.output_dim
        self.group_size: int = group.group_size
        if min(self.output_dim, self.group_size) < 1:
            raise RefusedError(
                f"output_dim is {self.output_dim} and group_size {self.group_size}; expected at least 1 for both"
            )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        regions, g = region_count(bottoms), self.group_size
        if bottoms[0][1] != self.output_dim * g * g:
            raise RefusedError(
                f"the feature map has {bottoms[0][1]} channels, expected output_dim * group_size * group_size = "
                f"{self.output_dim * g * g}"
            )
        return [(regions, self.output_dim, g, g)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        maps, regions = bottoms[0], bottoms[1].reshape(-1, 5)
        g = self.group_size
        channels = maps.reshape(len(maps), self.output_dim, g, g, *maps.shape[2:])
        top = np.zeros((len(regions), self.output_dim, g, g), dtype=np.float32)
        rows, columns = self._bounds(regions, maps.shape[2], 1), self._bounds(regions, maps.shape[3], 0)
        for r, image in enumerate(_images(regions, len(maps))):
            for i, (y0, y1) in enumerate(rows[r]):
                for j, (x0, x1) in enumerate(columns[r]):
                    if y1 > y0 and x1 > x0:
                        part = channels[image, :, i, j, y0:y1, x0:x1]
                        top[r, :, i, j] = part.sum(axis=(1, 2)) / np.float32((y1 - y0) * (x1 - x0))
        return [top]

    def _bounds(self, regions: Floats, size: int, axis: int) -> NDArray[np.intp]:
        """First cell and the one behind the last, (R, g, 2), along x (0) or y (1)."""
        scale, g = np.float32(self.spatial_scale), self.group_size
        start = _round(regions[:, 1 + axis]) * scale
        extent = np.maximum((_round(regions[:, 3 + axis]) + 1) * scale - start, np.float32(0.1))
        part = (extent / np.float32(g))[:, None]
        number = np.arange(g + 1, dtype=np.float32)
        low = np.floor(number[:-1] * part + start[:, None])
        high = np.ceil(number[1:] * part + start[:, None])
        bounds: NDArray[np.intp] = np.clip(np.stack([low, high], axis=-1), 0, size).astype(np.intp)
        return bounds


def _round(x: Floats) -> Floats:
    """C's roundf: halves go away from zero."""
    return np.copysign(np.floor(np.abs(x).astype(np.float64) + 0.5), x).astype(np.float32)


def _images(regions: Floats, images: int) -> NDArray[np.intp]:
    """The image of every region; Caffe cuts the number to a whole one."""
    number = np.trunc(regions[:, 0])
    if not np.all((number >= 0) & (number < images)):
        wrong = regions[:, 0][~((number >= 0) & (number < images))][0]
        raise Calib8Error(f"a region of a PSROIPooling layer belongs to image {wrong:g}; there are {images}")
    return number.astype(np.intp)


register(PSROIPooling)
