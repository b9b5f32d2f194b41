"""Recipes: ways from the pixels of an image, 0 to 255, to a sample; and those that people confuse.

    sample[c] = (pixel[c] - mean[c]) * scale[c]

and perhaps the channels in the opposite order. From samples that one recipe has made, those of another follow without
the images: `resampled`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Numbers = tuple[float, ...]

_SAME = 0.03
"""Two recipes are the same for a network if no pixel differs by more than this part of the sample's range."""
_PIXELS = 255.0
# In the order B, G, R. The means of ImageNet: those of Caffe's models; and those of torchvision with its deviations.
_IMAGENET = (104.0, 117.0, 123.0)
_IMAGENET_SCALE = (1 / 57.375, 1 / 57.12, 1 / 58.395)
_MOBILENET_SCALE = 0.017
_MNIST_MEAN, _MNIST_SCALE = 33.3, 1 / 78.6


@dataclass(frozen=True)
class Recipe:
    """From pixels to samples.

    Attributes:
        mean, scale: one number for each channel, in the order of the sample's channels.
        order: "bgr", "rgb" or "gray"; "given" or "swapped" where nobody knows which one the samples have.
    """

    mean: Numbers
    scale: Numbers
    order: str

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.scale):
            raise ValueError(f"{len(self.mean)} means and {len(self.scale)} scales")

    def swapped(self) -> Recipe:
        """Mean and scale in the opposite order, for images whose channels are in the opposite order."""
        return Recipe(self.mean[::-1], self.scale[::-1], _OPPOSITE[self.order])

    def same_as(self, other: Recipe) -> bool:
        """Whether a network can hardly tell samples of the two apart."""
        if self.order != other.order:
            return False
        ends = np.array([[0.0], [_PIXELS]])
        mine, others = ((ends - r.mean) * r.scale for r in (self, other))
        return bool(np.abs(mine - others).max() <= _SAME * np.abs(mine[1] - mine[0]).max())

    @property
    def text(self) -> str:
        """For people, like `bgr, mean 104,117,123, scale 1`."""
        return f"{self.order}, mean {_short(self.mean)}, scale {_short(self.scale)}"


_OPPOSITE = {"bgr": "rgb", "rgb": "bgr", "gray": "gray", "given": "swapped", "swapped": "given"}


def resampled(samples: Array, given: Recipe, other: Recipe) -> NDArray[np.float32]:
    """Samples (N, C, H, W) that `given` has made, as `other` would make them from the same images."""
    pixels = samples / _column(given.scale) + _column(given.mean)
    if other.order != given.order:
        pixels = pixels[:, ::-1]
    return ((pixels - _column(other.mean)) * _column(other.scale)).astype(np.float32)


def guessed_recipe(samples: Array) -> Recipe:
    """What may have made samples of which nobody knows how: photographs have pixels of 0 and of 255 in each channel."""
    low, high = samples.min(axis=(0, 2, 3)).astype(np.float64), samples.max(axis=(0, 2, 3)).astype(np.float64)
    step = max(float((high - low).max()) / _PIXELS, np.finfo(np.float32).tiny)
    if low.min() >= 0 and 200 < high.max() <= _PIXELS:  # pixels, as they are
        low, step = np.zeros_like(low), 1.0
    order = "gray" if samples.shape[1] == 1 else "given"
    return Recipe(tuple((-low / step).tolist()), (step,) * samples.shape[1], order)


def usual_recipes(given: Recipe) -> list[Recipe]:
    """The recipes that people confuse with the given one, without those that are the same for a network.

    Every usual mean with every usual scale, in both orders of the channels; the given mean and scale are among them.
    """
    found: list[Recipe] = []
    for recipe in _gray(given) if len(given.mean) == 1 else _coloured(given):
        if not any(recipe.same_as(known) for known in (given, *found)):
            found.append(recipe)
    return found


def _gray(given: Recipe) -> Iterator[Recipe]:
    pairs = [
        (0, 1), (0, 1 / 255), (127.5, 1 / 127.5), (127.5, 1), (127.5, 1 / 255), (0, 1 / 127.5), (_MNIST_MEAN, 1),
        (_MNIST_MEAN, _MNIST_SCALE), (255, -1), (255, -1 / 255), (127.5, -1 / 127.5),
    ]  # fmt: skip
    yield from (Recipe((float(m),), (float(s),), given.order) for m, s in pairs)
    (mean,), (scale,) = given.mean, given.scale
    yield Recipe((_PIXELS - mean,), (-scale,), given.order)  # dark on bright, or bright on dark


def _coloured(given: Recipe) -> Iterator[Recipe]:
    is_rgb = given.order == "rgb"
    imagenet = _IMAGENET[::-1] if is_rgb else _IMAGENET
    deviations = _IMAGENET_SCALE[::-1] if is_rgb else _IMAGENET_SCALE
    means: list[Sequence[float]] = [given.mean, (0.0,) * 3, imagenet, (127.5,) * 3]
    scales: list[Sequence[float]] = [given.scale, (1.0,) * 3, (1 / 255,) * 3, (1 / 127.5,) * 3]
    for mean in means:
        for scale in [*scales, (_MOBILENET_SCALE,) * 3, deviations]:
            recipe = Recipe(tuple(mean), tuple(scale), given.order)
            yield recipe
            yield recipe.swapped()  # the channels in the other order, each with the mean of its colour
    yield Recipe(given.mean, given.scale, _OPPOSITE[given.order])  # the same numbers, for the other order


def _column(values: Numbers) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def _short(values: Numbers) -> str:
    """One number where all are the same."""
    return ",".join(f"{v:.4g}" for v in (values[:1] if len(set(values)) == 1 else values))
