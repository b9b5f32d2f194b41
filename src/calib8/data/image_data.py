"""ImageData layers: samples from a list of image files.

Source: BVLC/caffe, src/caffe/layers/image_data_layer.cpp; src/caffe/util/io.cpp, ReadImageToCVMat.

Deviations: `shuffle` and `rand_skip` are not followed, so that every run sees the same samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import cv2

from calib8.data.batching import NamedSample, batches_of, check_fit, first_shapes
from calib8.data.datum import Sample, chw
from calib8.data.faces import Batch, Linear, SampleSource
from calib8.data.files import find_path
from calib8.data.image_list import ListedImage, label_notes, read_image_list
from calib8.data.looking import first_usable, problem_of
from calib8.data.transform import read_transform
from calib8.errors import DataError
from calib8.proto import caffe_pb2


class ImageDataSource(SampleSource):
    """A SampleSource over the list of an ImageData layer; tops: pixels, labels."""

    def __init__(self, param: caffe_pb2.LayerParameter, model_folder: Path) -> None:
        """Read the parameters, the list, and the first image.

        Raises:
            DataError: missing images (the first 20), a first image that cannot be read, fields without a meaning.
        """
        data = param.image_data_param
        _check(data, param.name)
        self._size = (data.new_width, data.new_height)
        self._flags = cv2.IMREAD_COLOR if data.is_color else cv2.IMREAD_GRAYSCALE
        self._transform = read_transform(param.transform_param, model_folder, param.name)
        path = find_path(data.source, [model_folder])
        self._images = read_image_list(path, f"layer {param.name!r}", [model_folder], data.root_folder)
        self.names = tuple(listed.path.name for listed in self._images)
        self.size = len(self._images)
        self.batch_size = data.batch_size
        self.notes = (*self._transform.notes, *_notes(data, param.name), *label_notes(self._images, str(path)))
        self.shapes = first_shapes(param, data.batch_size, self._first(), self._transform)

    @property
    def linear(self) -> Linear:
        """What happens to pixels, channel by channel."""
        return self._transform.linear(next(iter(self.shapes.values()))[1])

    def batches(self) -> Iterator[Batch]:
        """Yield batches, see SampleSource."""
        return self.batches_from(0)

    def batches_from(self, start: int) -> Iterator[Batch]:
        """Yield batches, see Seekable."""
        return batches_of(self._samples(start), len(self._images) - start, self.shapes, self._transform)

    def problems(self, *, decode: bool) -> Iterator[str]:
        """Look at every image, see Examinable."""
        for listed in self._images:
            yield problem_of(partial(self._check_fit, listed) if decode else listed.check)

    def without(self, bad: Collection[int]) -> ImageDataSource:
        """Leave images out, see Examinable."""
        twin = copy.copy(self)
        twin._images = [listed for index, listed in enumerate(self._images) if index not in bad]
        twin.names = tuple(listed.path.name for listed in twin._images)
        twin.size = len(twin._images)
        return twin

    def _samples(self, start: int = 0) -> Iterator[NamedSample]:
        return map(self._sample, self._images[start:])

    def _sample(self, listed: ListedImage) -> NamedSample:
        image = listed.read(self._flags)
        if self._size != (0, 0):
            image = cv2.resize(image, self._size)
        return _name_of(listed), Sample(chw(self._transform.resized(image)), listed.label)

    def _first(self) -> Iterator[NamedSample]:
        return iter([first_usable(partial(self._sample, listed) for listed in self._images)])

    def _check_fit(self, listed: ListedImage) -> None:
        """Decode it. Raises DataError, also if it does not give the first one's top."""
        check_fit(self._sample(listed), next(iter(self.shapes.values()))[1:], self._transform)


def _name_of(listed: ListedImage) -> Callable[[], str]:
    return lambda: f"{listed.place}: {listed.path}"


def _check(data: caffe_pb2.ImageDataParameter, layer: str) -> None:
    problems = []
    if not data.source:
        problems.append("image_data_param.source is missing; it names the list of images")
    if bool(data.new_height) != bool(data.new_width):
        problems.append("image_data_param has one of new_height and new_width; both are needed")
    problems += [f"image_data_param.{n} is not implemented" for n in ("min_height", "min_width") if getattr(data, n)]
    if problems:
        raise DataError(f"layer {layer!r}: the samples cannot be read as the prototxt says", problems)


def _notes(data: caffe_pb2.ImageDataParameter, layer: str) -> tuple[str, ...]:
    ignored = [name for name in ("rand_skip", "shuffle") if getattr(data, name)]
    return tuple(f"layer {layer!r}: {x} is not followed; samples come in the order of the list" for x in ignored)
