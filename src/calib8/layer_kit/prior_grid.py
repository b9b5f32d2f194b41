"""What prior box layers share: a set of boxes around the centre of every cell of a feature map.

Source: weiliu89/caffe (branch ssd), src/caffe/layers/prior_box_layer.cpp, LayerSetUp and Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Shape
from calib8.layer_kit.constants import check_constant
from calib8.layer_kit.fields import Group, RefusedError

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class PriorGrid:
    """Where the cells' centres lie, and what is done with the boxes around them.

    Attributes:
        image: height and width of the image; None takes those of the second bottom.
        step: height and width of a cell in pixels; None divides the image by the feature map.
        offset: the centre within a cell, in cells.
        clip: whether boxes are cut to the image.
        variance: one number for all coordinates, or four.
        y_first: whether the order of the coordinates is ymin, xmin, ymax, xmax.
    """

    image: tuple[int, int] | None
    step: tuple[float, float] | None
    offset: float
    clip: bool
    variance: tuple[float, ...]
    y_first: bool = False

    def top_shape(self, bottoms: Sequence[Shape], boxes: int) -> Shape:
        """Return (1, 2, height * width * boxes * 4): the boxes, and their variances."""
        for shape in bottoms:
            if len(shape) > 4:
                raise RefusedError(f"a bottom has {len(shape)} dimensions, expected at most N, C, H, W")
        if len(bottoms) == 1 and self.image is None:
            raise RefusedError("has one bottom and no img_size, or img_h and img_w; the image's size is needed")
        height, width = _sides(bottoms[0])
        count = height * width * boxes * 4
        if count == 0:
            raise RefusedError(f"makes {boxes} boxes in each of {height}x{width} cells; expected at least one box")
        check_constant(2 * count, "the top, a constant,")
        return 1, 2, count

    def values(self, bottoms: Sequence[Shape], boxes: Doubles, count: int) -> NDArray[np.float32]:
        """Compute the top, (1, 2, count).

        Args:
            boxes: (K, 5): per box the shift of its centre in x and y, its width and height in pixels, and by how
                much of the image its sides are moved inwards in the end.
        """
        image = self.image or _sides(bottoms[-1])
        coordinates = self._coordinates(_sides(bottoms[0]), image, boxes)
        top = np.zeros((1, 2, count), dtype=np.float32)
        top[0, 0, : coordinates.size] = coordinates.ravel()
        if self.clip:
            top[0, 0] = np.clip(top[0, 0], 0, 1)
        top[0, 1].reshape(-1, 4)[:] = np.array(self.variance, dtype=np.float32)
        return top

    def _coordinates(self, cells: tuple[int, int], image: tuple[int, int], boxes: Doubles) -> Doubles:
        """(H, W, K, 4)."""
        low, high = [], []
        # An axis counts as the shapes do (0 is y), a box as (x, y, width, height, ..): so 1 - axis and 3 - axis.
        for axis in (1, 0):  # x, then y
            shift, size, inset = boxes[:, 1 - axis], boxes[:, 3 - axis], boxes[:, 4]
            centre = self._centres(cells, image, axis)[:, None] + shift.astype(np.float32)
            centre = centre.astype(np.float64)
            low.append((centre - size / 2) / image[axis] + inset)
            high.append((centre + size / 2) / image[axis] - inset)
        order = (1, 0) if self.y_first else (0, 1)
        # x varies along the columns and y along the rows; broadcasting makes the grid of both.
        sides = [side[i][None, :] if i == 0 else side[i][:, None] for side in (low, high) for i in order]
        return np.stack(np.broadcast_arrays(*sides), axis=-1)

    def _centres(self, cells: tuple[int, int], image: tuple[int, int], axis: int) -> NDArray[np.float32]:
        number = np.arange(cells[axis], dtype=np.float32)
        step = np.float32(self.step[axis]) if self.step else np.float32(image[axis]) / np.float32(cells[axis])
        centres: NDArray[np.float32] = (number + np.float32(self.offset)) * step
        return centres


def read_grid(group: Group, *, y_first: bool = False) -> PriorGrid:
    """Read the grid of a PriorBoxParameter."""
    return PriorGrid(
        image=_read_image(group),
        step=_read_step(group),
        offset=group.offset,
        clip=group.clip,
        variance=_read_variance(group),
        y_first=y_first,
    )


def _read_image(group: Group) -> tuple[int, int] | None:
    has_sides, has_size = group.has("img_h") or group.has("img_w"), group.has("img_size")
    if has_sides and has_size:
        raise RefusedError("sets both img_size and img_h or img_w; keep one form")
    if not has_sides and not has_size:
        return None
    image = (group.img_size, group.img_size) if has_size else (group.img_h, group.img_w)
    if min(image) < 1:
        raise RefusedError(f"the image is {image[0]}x{image[1]} (img_size, or img_h and img_w); expected at least 1")
    return image


def _read_step(group: Group) -> tuple[float, float] | None:
    has_sides, has_step = group.has("step_h") or group.has("step_w"), group.has("step")
    if has_sides and has_step:
        raise RefusedError("sets both step and step_h or step_w; keep one form")
    if not has_sides and not has_step:
        return None
    step = (group.step, group.step) if has_step else (group.step_h, group.step_w)
    if not min(step) > 0:
        raise RefusedError(f"a step is {step[0]:g}x{step[1]:g} pixels (step, or step_h and step_w); expected above 0")
    return step


def _read_variance(group: Group) -> tuple[float, ...]:
    variance: tuple[float, ...] = group.variance or (0.1,)
    if len(variance) not in (1, 4) or not min(variance) > 0:
        raise RefusedError(f"prior_box_param.variance is {variance}; expected one or four numbers above 0")
    return variance


def _sides(shape: Shape) -> tuple[int, int]:
    """Height and width as Caffe's legacy accessors give them: 1 where an axis is missing."""
    padded = (*shape, 1, 1, 1, 1)[:4]
    return padded[2], padded[3]
