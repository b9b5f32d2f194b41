"""Integer forms: what quantising one layer gives, one small class for each kind of integers.

A form holds every integer that the INT8 pass of its layer needs. It knows its blobs in the int8 caffemodel, its row of
the calibration table in both directions, and what its integers are worth in real units. Forms that several types share
are in this package (`SameCodes` here, `WeightedSum` in `weighted_sum`); others stand in the file of their layer.
Geometry is the layer's: `Op.lower_int8` brings both together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array
from calib8.layer_kit.real_scales import RealScales
from calib8.layer_kit.table_row import TableRow, multipliers

Integers = Array
"""Of int8 or int16."""
T = TypeVar("T")
FormT = TypeVar("FormT", bound="IntegerForm")


class IntegerForm:
    """The integers of one layer. A subclass is a frozen dataclass; its fields are the integers.

    Properties:
        blobs: integer weights in the order and the shapes of the caffemodel: int8 weights, int16 biases.
        warnings: one sentence each, without the layer's name: saturated biases and the like.
        accumulator_shift: the right shift of its accumulator, None for a layer without one.
        table_shift: the right shift in the layer's line of the plain table.
        hands_on: whether the tops are the first bottom's codes, though the layer computes something in float.
    """

    @property
    def blobs(self) -> tuple[Integers, ...]:
        """Integer weights as the int8 caffemodel has them; none by default."""
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not fit well, one sentence each."""
        return ()

    @property
    def accumulator_shift(self) -> int | None:
        """The right shift of the layer's accumulator; None by default."""
        return None

    @property
    def table_shift(self) -> int:
        """The right shift that the plain table shows: the accumulator's, 0 for none."""
        return self.accumulator_shift or 0

    @property
    def hands_on(self) -> bool:
        """Whether the tops are the first bottom's codes, because another layer does this one's work."""
        return False

    def with_blobs(self: FormT, blobs: Sequence[Integers]) -> FormT:
        """Give the same form with other weights, in the order, shapes and types of `blobs`."""
        if blobs:
            raise AssertionError(f"{type(self).__name__} has no blobs")
        return self

    def fill_row(self, row: TableRow) -> None:
        """Write the integers that are not in blobs into a row of the calibration table; none by default."""

    def from_row(self: FormT, row: TableRow, bottoms: int) -> FormT:
        """Give the same form with the integers of a row.

        Args:
            bottoms: how many the layer has.

        Raises:
            TableError: the row lacks what the form needs, or holds what no layer can have.
        """
        multipliers(row, 0)
        return self

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give real units per step.

        Args:
            bottoms, top: threshold / 128 of each bottom, and of the tops.
        """
        return RealScales(tuple(bottoms), top)


def same_integers(one: IntegerForm | None, other: IntegerForm | None) -> bool:
    """Tell whether two layers have the same integers: forms of one kind, equal in all fields but their warnings."""
    if one is None or other is None or type(one) is not type(other):
        return one is other
    names = [field.name for field in fields(one) if field.name != "warnings"]  # type: ignore[arg-type]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def expect(form: IntegerForm, kind: type[FormT]) -> FormT:
    """Give a form as one of its kind: what a layer's `quantize` has made comes back to the same layer."""
    if not isinstance(form, kind):
        raise AssertionError(f"expected {kind.__name__}, not {type(form).__name__}")
    return form


@dataclass(frozen=True)
class SameCodes(IntegerForm):
    """No integers: the layer moves codes, or rectifies them, and changes nothing else."""


@dataclass(frozen=True, eq=False)
class TableOfCodes(IntegerForm):
    """A function of one code.

    Attributes:
        table: the top's code for the bottom's codes -128 to 127, (256,).
    """

    table: NDArray[np.int8]


def blob_field(blobs: Sequence[T], index: int) -> T | None:
    """Give blob `index`, or None where there are fewer: an optional bias."""
    return blobs[index] if index < len(blobs) else None
