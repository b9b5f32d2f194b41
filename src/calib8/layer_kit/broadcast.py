"""Which axes of a bottom a smaller operand covers: the rule that Scale and Bias share.

The operand's shape equals a run of the bottom's axes from `axis` on; it is repeated over all others. The operand is a
weight, whose shape follows from `axis` and `num_axes`, or a second bottom, which brings its shape along.
Source: BVLC/caffe, src/caffe/layers/scale_layer.cpp and bias_layer.cpp, LayerSetUp and Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calib8.graph import Shape
from calib8.layer_kit.base import canonical_axis
from calib8.layer_kit.fields import Group, RefusedError


@dataclass(frozen=True)
class Span:
    """`axis`: the first covered axis, may be negative. `num_axes`: how many, -1 for all that follow."""

    axis: int
    num_axes: int
    field: str

    def operand(self, bottoms: Sequence[Shape]) -> Shape:
        """Return the operand's shape: the second bottom's, or that of a weight."""
        return bottoms[1] if len(bottoms) > 1 else self._weight(bottoms[0])

    def _weight(self, bottom: Shape) -> Shape:
        axis = canonical_axis(self.axis, len(bottom), f"{self.field}.axis")
        end = len(bottom) if self.num_axes == -1 else axis + self.num_axes
        if end > len(bottom):
            raise RefusedError(
                f"{self.field}.axis {self.axis} and num_axes {self.num_axes} go beyond a bottom of {len(bottom)} "
                "dimensions"
            )
        return bottom[axis:end]

    def aligned(self, bottom: Shape, operand: Shape) -> Shape:
        """Return the operand's shape with ones appended, so that it lies on its axes of the bottom.

        Raises:
            RefusedError: the operand does not equal the bottom's axes.
        """
        # Caffe does not look at `axis` when the operand is a single number without dimensions.
        axis = canonical_axis(self.axis, len(bottom), f"{self.field}.axis") if operand else 0
        if bottom[axis : axis + len(operand)] != operand:
            raise RefusedError(
                f"the second operand has shape {list(operand)}, expected that of the bottom {list(bottom)} from axis "
                f"{axis} on"
            )
        return operand + (1,) * (len(bottom) - axis - len(operand))


def read_span(group: Group, field: str) -> Span:
    """Read the axes that `axis` (default 1) and `num_axes` (default 1) of a ScaleParameter or BiasParameter name."""
    span = Span(group.axis, group.num_axes, field)
    if span.num_axes < -1:
        raise RefusedError(f"{field}.num_axes is {span.num_axes}, expected -1 (all that follow), 0 or more")
    return span
