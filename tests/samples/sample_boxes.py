"""Boxes as the detectors print them, and how they compare with those that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Found(NamedTuple):
    """One line of a detector: class, score, corners in pixels."""

    label: str
    score: float
    corners: tuple[float, ...]


def read_boxes(out: str) -> list[Found]:
    """All lines but the last one, which names the picture."""
    rows = [line.split() for line in out.splitlines()[:-1]]
    return [Found(row[0], float(row[1]), tuple(map(float, row[2:]))) for row in rows]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def pairs(found: Sequence[Found], known: Sequence[tuple[str, Sequence[float]]], least: float) -> int:
    """How many known boxes are found: same class, overlap of at least `least`; each found box counts once."""
    free = list(found)
    count = 0
    for label, corners in known:
        best = max(
            (box for box in free if box.label == label), key=lambda box: overlap(box.corners, corners), default=None
        )
        if best is not None and overlap(best.corners, corners) >= least:
            free.remove(best)
            count += 1
    return count
