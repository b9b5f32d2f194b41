"""Scenes with circles, squares and triangles on a restless background, and where they are."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

NAMES = ("circle", "square", "triangle")
Image = NDArray[np.uint8]
Boxes = NDArray[Any]
"""(boxes, 5): the shape's number, left, top, right, bottom in pixels."""


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[Image, Boxes]:
    """An image (height, width, 3) with one to four shapes that do not overlap, and their boxes."""
    image = background(rng, height, width)
    boxes: list[tuple[float, ...]] = []
    for _ in range(rng.integers(1, 5)):
        side = rng.uniform(0.16, 0.65) * min(height, width)
        left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
        box = (float(rng.integers(len(NAMES))), left, top, left + side, top + side)
        if not any(touch(box, other) for other in boxes):
            boxes.append(box)
            draw(image, box, contrasting(rng, image[int(top) : int(top + side), int(left) : int(left + side)]))
    image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.2, 0.8))
    noisy = image + rng.normal(0, rng.uniform(0, 8), image.shape)
    return noisy.clip(0, 255).astype(np.uint8), np.array(boxes)


def background(rng: np.random.Generator, height: int, width: int) -> Image:
    """Soft colours, crossed by lines."""
    coarse = rng.integers(0, 256, (3, 4, 3)) * rng.uniform(0.2, 1)
    image = cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 6)):
        ends = (rng.random((2, 2)) * (width, height)).astype(int).tolist()
        cv2.line(image, ends[0], ends[1], rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return image


def contrasting(rng: np.random.Generator, under: Image) -> list[int]:
    """A colour that is far from what is under the shape."""
    mean = under.reshape(-1, 3).mean(0)
    while True:
        color = rng.integers(0, 256, 3)
        if np.linalg.norm(color - mean) > 120:
            return color.tolist()


def draw(image: Image, box: tuple[float, ...], color: list[int]) -> None:
    """Fill the shape that touches all four sides of the box."""
    label, left, top, right, bottom = box
    middle, half = ((left + right) / 2, (top + bottom) / 2), (right - left) / 2
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if NAMES[int(label)] == "circle":
        turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        corners = [(middle[0] + half * np.cos(t), middle[1] + half * np.sin(t)) for t in turns]
    elif NAMES[int(label)] == "triangle":
        corners = [(middle[0], top), (right, bottom), (left, bottom)]
    fixed = np.round(np.array(corners) * 16).astype(np.int32)  # with four bits behind the point
    cv2.fillPoly(image, [fixed], color, cv2.LINE_AA, 4)


def touch(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes have a point in common."""
    return a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
