"""From single samples to batches, with one batch in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from calib8.data.datum import Sample
from calib8.data.faces import Batch
from calib8.data.transform import Transform
from calib8.errors import DataError
from calib8.graph import Shape

MAX_COUNT = 2**31 - 1
"""Most values of a blob in Caffe (include/caffe/blob.hpp)."""


def batch_shapes(tops: tuple[str, ...], image: Shape, batch_size: int, layer: str) -> dict[str, Shape]:
    """Shapes of an image top (N, C, H, W) and, where there is a second top, of labels (N).

    Raises:
        DataError: no top or more than two, a batch size that is not positive, a batch that is no Caffe blob any more.
    """
    if len(tops) not in (1, 2):
        raise DataError(f"layer {layer!r}: has {len(tops)} tops, expected one for the images and one for labels")
    if batch_size < 1:
        raise DataError(f"layer {layer!r}: batch_size is {batch_size}; it must be at least 1")
    count = batch_size * int(np.prod(image, dtype=object))
    if count > MAX_COUNT:
        raise DataError(f"layer {layer!r}: a batch of {batch_size} x {image} has {count} values, more than {MAX_COUNT}")
    return dict(zip(tops, [(batch_size, *image), (batch_size,)], strict=False))


def batches_of(
    samples: Iterable[tuple[Callable[[], str], Sample]],
    size: int,
    shapes: Mapping[str, Shape],
    transform: Transform,
) -> Iterator[Batch]:
    """Yield batches of transformed samples.

    Args:
        samples: what a sample is called (for messages), and the sample.
        size: number of samples.
        shapes: of a full batch; the first top takes the pixels, the second, if any, the labels.

    Raises:
        DataError: a sample does not fit the shape of the top.
    """
    batch_size = next(iter(shapes.values()))[0]
    batch: Batch = {}
    for index, (name, sample) in enumerate(samples):
        place = index % batch_size
        if place == 0:
            batch = _empty(shapes, size - index)
        tops = list(batch.values())
        _put(sample.pixels, tops[0][place], transform, name)
        if len(tops) > 1:
            tops[1][place] = sample.label
        if place + 1 == len(tops[0]):
            yield batch


def _empty(shapes: Mapping[str, Shape], missing: int) -> Batch:
    return {top: np.empty((min(shape[0], missing), *shape[1:]), np.float32) for top, shape in shapes.items()}


def _put(pixels: Any, top: Any, transform: Transform, name: Callable[[], str]) -> None:
    try:
        found = transform.top_shape(pixels.shape)
    except DataError as why:
        raise DataError(f"{name()} {why}") from None
    if found != top.shape:
        raise DataError(
            f"{name()} gives a top of the shape {found}, the first sample gives {top.shape}; all samples of a data set "
            "must have one shape: resize them, or set transform_param.crop_size"
        )
    transform.apply(pixels, top)
