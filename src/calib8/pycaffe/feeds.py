"""What fills the tops of data layers, one batch for each forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.data import DATA_TYPES, Batch, SampleSource, open_source
from calib8.data.python_data import BUNDLED
from calib8.errors import DataError, UnsupportedError
from calib8.graph import Phase, Shape
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layers.dummy_data import DummyData
from calib8.proto import caffe_pb2
from calib8.pycaffe.fillers import fill, is_random
from calib8.python_layers import UserClass, UserLayer


class Feed(ABC):
    """The values of the tops of one data layer. `shapes` has those tops whose shape it knows before the first batch."""

    shapes: Mapping[str, Shape]

    def first(self) -> Batch:
        """Give what is in the tops before the first pass."""
        return {}

    @abstractmethod
    def batch(self) -> Batch:
        """Give the values for the next pass. Tops that it does not name keep theirs."""


class SourceFeed(Feed):
    """Samples of a data base or of files, which begin again after the last; a batch may hold both ends."""

    def __init__(self, source: SampleSource) -> None:
        self.shapes = source.shapes
        self._source = source
        self._batches: Iterator[Batch] = iter(())
        self._rest: Batch = {}

    def batch(self) -> Batch:
        """Give the next batch, see Feed."""
        size = self._source.batch_size
        # A source's last batch may be short: rows of its next round fill it up, and what is too much waits in `_rest`.
        batch = self._rest or self._pull()
        while _images(batch) < size:
            more = self._pull()
            batch = {top: np.concatenate([values, more[top]]) for top, values in batch.items()}
        self._rest = {top: values[size:] for top, values in batch.items()} if _images(batch) > size else {}
        return {top: values[:size] for top, values in batch.items()}

    def _pull(self) -> Batch:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = self._source.batches()
            batch = next(self._batches)
        return batch


def _images(batch: Batch) -> int:
    return len(next(iter(batch.values())))


class PythonFeed(Feed):
    """The tops of the user's Python layer; its one instance is set up once, as in Caffe."""

    def __init__(self, param: caffe_pb2.LayerParameter, model_folder: Path, phase: Phase) -> None:
        self.layer = UserLayer(UserClass(param, model_folder, [BUNDLED]), phase)
        self._tops = tuple(param.top)
        self.shapes = dict(zip(self._tops, self.layer.top_shapes, strict=True))

    def batch(self) -> Batch:
        """Give the next batch, see Feed."""
        return dict(zip(self._tops, self.layer.forward(), strict=True))


class MemoryFeed(Feed):
    """MemoryData: arrays that the program hands over, batch after batch, beginning again at the end.

    Source: BVLC/caffe, src/caffe/layers/memory_data_layer.cpp; python/caffe/_caffe.cpp, Net_SetInputArrays.
    """

    def __init__(self, param: caffe_pb2.LayerParameter) -> None:
        group = param.memory_data_param
        self.shapes = {}  # the layer itself knows them
        self._layer, self._tops = param.name, tuple(param.top)
        self._shape = (group.batch_size, group.channels, group.height, group.width)
        self._arrays: list[NDArray[np.float32]] = []
        self._next = 0

    def set_arrays(self, data: NDArray[Any], labels: NDArray[Any]) -> None:
        """Take data (N, C, H, W) and labels (N) or (N, 1, 1, 1), float32, N a multiple of the batch; no copy is made.

        Raises:
            DataError: anything else; all that is wrong.
        """
        problems = _array_problems("data", data, self._shape[1:]) + _array_problems("labels", labels, (1, 1, 1))
        if not problems and len(data) != len(labels):
            problems.append(f"there are {len(data)} data and {len(labels)} labels; their numbers must agree")
        if not problems and (len(data) == 0 or len(data) % self._shape[0]):
            problems.append(f"there are {len(data)} data, expected a multiple of the batch_size {self._shape[0]}")
        if problems:
            raise DataError(f"layer {self._layer!r} (MemoryData): set_input_arrays cannot take these arrays", problems)
        self._arrays = [data, labels]
        self._next = 0

    def batch(self) -> Batch:
        """Give the next batch, see Feed."""
        if not self._arrays:
            raise DataError(f"layer {self._layer!r} (MemoryData) has no data; call net.set_input_arrays(data, labels)")
        rows = slice(self._next, self._next + self._shape[0])
        self._next = rows.stop % len(self._arrays[0])
        return {top: array[rows] for top, array in zip(self._tops, self._arrays, strict=False)}


def _array_problems(name: str, array: Any, sides: Shape) -> list[str]:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.flags.c_contiguous:
        return [f"{name} is no C-contiguous float32 array; use np.ascontiguousarray({name}, np.float32)"]
    if array.shape[1:] != sides or array.ndim != 4:
        return [f"{name} has the shape {array.shape}; expected (N, {', '.join(map(str, sides))})"]
    return []


class DummyFeed(Feed):
    """DummyData: constants once, so that the user may write others; random numbers anew for every pass.

    Source: BVLC/caffe, src/caffe/layers/dummy_data_layer.cpp.
    """

    def __init__(self, param: caffe_pb2.LayerParameter) -> None:
        bare = type(param)()
        bare.CopyFrom(param)
        bare.dummy_data_param.ClearField("data_filler")  # the layer itself refuses random ones
        self._layer, tops = param.name, list(param.top)
        fillers = list(param.dummy_data_param.data_filler) or [caffe_pb2.FillerParameter()]
        try:
            shapes = DummyData(Fields(bare)).shapes
        except RefusedError as why:
            raise UnsupportedError(f"layer {self._layer!r} (DummyData): {why}") from None
        if len(fillers) not in (1, len(tops)):
            raise UnsupportedError(
                f"layer {self._layer!r} (DummyData): has {len(fillers)} data_filler for {len(tops)} tops; expected one "
                "for all or one for each"
            )
        self.shapes = dict(zip(tops, shapes, strict=True))
        self._fillers = dict(zip(tops, fillers * len(tops) if len(fillers) == 1 else fillers, strict=True))

    def first(self) -> Batch:
        """Give what the fillers say, see Feed."""
        return self._filled(self._fillers)

    def batch(self) -> Batch:
        """Give what changes from pass to pass, see Feed."""
        return self._filled([top for top, filler in self._fillers.items() if is_random(filler)])

    def _filled(self, tops: Iterable[str]) -> Batch:
        try:
            return {top: fill(self._fillers[top], self.shapes[top]) for top in tops}
        except UnsupportedError as why:
            raise UnsupportedError(f"layer {self._layer!r} (DummyData) {why}") from None


def make_feed(param: caffe_pb2.LayerParameter, model_folder: Path, phase: Phase) -> Feed | None:
    """Make the feed of a data layer; None for every other layer.

    Raises:
        DataError: the data cannot be used.
        UserLayerError: a Python layer cannot be used.
        UnsupportedError: DummyData with parameters that mean nothing.
    """
    if param.bottom:
        return None
    if param.type == "Python":
        return PythonFeed(param, model_folder, phase)
    if param.type == "MemoryData":
        return MemoryFeed(param)
    if param.type == "DummyData":
        return DummyFeed(param)
    return SourceFeed(open_source(param, model_folder, phase)) if param.type in DATA_TYPES else None
