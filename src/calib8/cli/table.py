"""Tables of text for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from calib8.terminal import printable, shortened

_MOST = 100
"""Characters of a cell: one name of a thousand would push all others out of sight."""


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Write rows of equally many cells as lines, columns two blanks apart; the columns in `right` end flush."""
    cells = [[shortened(printable(cell), _MOST) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
