"""From single samples to batches, with one batch in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from calib8.data.datum import Sample
from calib8.data.faces import Batch
from calib8.data.transform import Transform
from calib8.errors import DataError
from calib8.graph import Shape
from calib8.proto import caffe_pb2

MAX_COUNT = 2**31 - 1
"""Most values of a blob in Caffe (include/caffe/blob.hpp)."""


NamedSample = tuple[Callable[[], str], Sample]
"""What a sample is called in messages, and the sample."""


def first_shapes(
    param: caffe_pb2.LayerParameter, batch_size: int, samples: Iterator[NamedSample], transform: Transform
) -> dict[str, Shape]:
    """Find the shapes of a full batch as the first sample settles them: pixels (N, C, H, W), labels (N) for a second
    top.

    Raises:
        DataError: no top or more than two, a batch size that is not positive, a first sample that does not fit the
            transformation, a batch that is no Caffe blob any more.
    """
    what = f"layer {param.name!r}"
    if len(param.top) not in (1, 2):
        raise DataError(f"{what}: has {len(param.top)} tops, expected one for the images and one for labels")
    if batch_size < 1:
        raise DataError(f"{what}: batch_size is {batch_size}; it must be at least 1")
    name, sample = next(samples)
    try:
        image = transform.top_shape(sample.pixels.shape)
    except DataError as why:
        raise DataError(f"{name()} {why}") from None
    if batch_size * math.prod(image) > MAX_COUNT:
        raise DataError(f"{what}: a batch of {batch_size} x {image} has more than {MAX_COUNT} values")
    return dict(zip(param.top, [(batch_size, *image), (batch_size,)], strict=False))


def batches_of(
    samples: Iterable[NamedSample],
    size: int,
    shapes: Mapping[str, Shape],
    transform: Transform,
) -> Iterator[Batch]:
    """Yield batches of transformed samples.

    Args:
        samples: all of them, in order.
        size: number of samples.
        shapes: of a full batch; the first top takes the pixels, the second, if any, the labels.

    Raises:
        DataError: a sample does not fit the shape of the top.
    """
    first = next(iter(shapes))
    batch_size = shapes[first][0]
    batch: Batch = {}
    for index, named in enumerate(samples):
        sample = named[1]
        place = index % batch_size
        if place == 0:
            batch = _empty(shapes, size - index)
        tops = list(batch.values())
        check_fit(named, shapes[first][1:], transform)
        transform.apply(sample.pixels, tops[0][place])
        if len(tops) > 1:
            tops[1][place] = sample.label
        if place + 1 == len(tops[0]):
            yield batch


def _empty(shapes: Mapping[str, Shape], missing: int) -> Batch:
    return {top: np.empty((min(shape[0], missing), *shape[1:]), np.float32) for top, shape in shapes.items()}


def check_fit(named: NamedSample, shape: Shape, transform: Transform) -> None:
    """Raise DataError, with the sample's name, if it does not give a top (C, H, W) of this shape."""
    name, sample = named
    try:
        own = transform.top_shape(sample.pixels.shape)
    except DataError as why:
        raise DataError(f"{name()} {why}") from None
    if own != shape:
        raise DataError(
            f"{name()} gives a top of the shape {own}, the first sample gives {shape}; all samples of a data set "
            "must have one shape: resize them, or set transform_param.crop_size"
        )
