"""What the detectors share: boxes, printed and drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

COLORS = [(56, 56, 255), (255, 144, 30), (49, 210, 72), (0, 165, 255), (211, 0, 148), (180, 180, 0)]
"""B, G, R; class by class, then from the first one again."""


class Box(NamedTuple):
    """A detection; corners in pixels of the image."""

    label: int
    score: float
    left: float
    top: float
    right: float
    bottom: float


def print_boxes(boxes: Sequence[Box], names: Sequence[str]) -> None:
    """A line for each box, the best first: class, score, left, top, right, bottom."""
    for box in sorted(boxes, key=lambda box: -box.score):
        corners = " ".join(f"{corner:7.1f}" for corner in box[2:])
        print(f"{name_of(box, names):<14} {box.score:.3f} {corners}")


def drawn(image: np.ndarray, boxes: Sequence[Box], names: Sequence[str]) -> np.ndarray:
    """The image (H, W, 3) with every box, its class and its score; the best box is on top."""
    picture = image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 200))
    for box in sorted(boxes, key=lambda box: box.score):
        color = COLORS[box.label % len(COLORS)]
        left, top, right, bottom = (round(corner) for corner in box[2:])
        cv2.rectangle(picture, (left, top), (right, bottom), color, thickness)
        write_caption(picture, f"{name_of(box, names)} {box.score:.2f}", left, top, color)
    return picture


def write_caption(picture: np.ndarray, text: str, left: int, top: int, color: tuple[int, int, int]) -> None:
    """White text on a filled bar above (left, top), below it where there is no room."""
    size = max(0.3, min(picture.shape[:2]) / 900)
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    left = min(max(left, 0), max(picture.shape[1] - width, 0))
    bottom = top if top >= height + base else top + height + base
    cv2.rectangle(picture, (left, bottom - height - base), (left + width, bottom), color, cv2.FILLED)
    white = (255, 255, 255)
    cv2.putText(picture, text, (left, bottom - base), cv2.FONT_HERSHEY_SIMPLEX, size, white, 1, cv2.LINE_AA)


def name_of(box: Box, names: Sequence[str]) -> str:
    """The name of the box's class, or its number."""
    return names[box.label] if box.label < len(names) else str(box.label)
