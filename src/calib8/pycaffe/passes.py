"""Forward passes over a stretch of layers, from what the blobs hold to what they hold afterwards.

A pass computes the blobs that it is asked for, and those that were read after the pass before. The others it leaves
pending: the first read of one of them computes all, from copies of what the pass has read. So a pass costs what its
outputs cost, and every blob still shows its value; see docs/decisions/0007-blobs-of-a-net.md.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from calib8.engine import EngineOptions, Executor, ExecutorCache
from calib8.engine.options import gpu_in_use
from calib8.graph import Layer, Shape
from calib8.layers import Op
from calib8.lowering import Model, Reading, Step, lower_float, value_of
from calib8.pycaffe.blob import NetBlob, Parameter
from calib8.pycaffe.feeds import Feed
from calib8.pycaffe.stretch import Stretch, Weights, make_stretch, read_from_outside
from calib8.python_layers import BlobVec

Array = NDArray[Any]
Lowering = Callable[[Model, Collection[str]], Sequence[Step]]
"""From a model and the values that are wanted to the steps that compute them: what kind of arithmetic runs."""

CACHE_BYTES = 512 * 2**20
"""About how much memory executors that wait for their next use may take."""
_MOST_OPEN = 64  # each has threads of its own
_MOST_STRETCHES = 1000
_ALWAYS_KEPT = 2  # the executor of the outputs, and the one of what is left pending


class ForwardPasses:
    """Runs layers of a net on its blobs.

    Args:
        model: the net without weights.
        blobs: every blob by name.
        params: the weights of every layer that has some, by the layer's name.
        feeds: what fills the tops of data layers, by the layer's name.
        lower: the arithmetic.
    """

    def __init__(
        self,
        model: Model,
        blobs: Mapping[str, NetBlob],
        params: Mapping[str, BlobVec],
        feeds: Mapping[str, Feed],
        lower: Lowering = lower_float,
    ) -> None:
        self._model, self._blobs = model, blobs
        # A layer that trains reads its weights itself: they change in every pass, and no session holds them.
        self._params = {name: vec for name, vec in params.items() if not model.op_of[name].trains}
        self._feeds = [(i, feeds[x.name]) for i, x in enumerate(model.net.layers) if x.name in feeds]
        self._executors = _Executors(lower)
        # Kept from pass to pass, by first and last layer: where a stretch is cut off, and the stretch laid out for the
        # shapes of what it reads. The latter and the executors hold weights, and go when those change.
        self._epoch = -1
        self._settled: list[Array] = []
        self._weights: Weights = {}
        self._cuts: dict[tuple[int, int], tuple[list[tuple[Layer, Op]], tuple[str, ...]]] = {}
        self._stretches: dict[tuple[int, int, tuple[Shape, ...]], _Place] = {}

    def run(self, first: int, last: int, asked: Collection[str]) -> None:
        """Run the layers with these indices, both included; the values of the blobs `asked` are there afterwards.

        Raises:
            UnsupportedError: the blobs' shapes or the weights do not fit the layers.
            DataError, UserLayerError: a data layer or a layer in Python failed.
            DeviceError: the device cannot be used.
        """
        for index, feed in self._feeds:
            if first <= index <= last:
                for top, values in feed.batch().items():
                    self._blobs[top].take(values)
        _Pass(self._place(first, last), self._executors).run(asked)

    def finish(self) -> None:
        """Compute all blobs that passes have left pending."""
        for blob in self._blobs.values():
            blob.settle()

    def reshape(self) -> None:
        """Give every blob the shape that follows from the inputs' shapes."""
        for _, blob, shape in self._place(0, len(self._model.net.layers) - 1).written:
            _set_shape(blob, shape)

    def _place(self, first: int, last: int) -> _Place:
        self._follow_weights()
        pairs, given = self._cut(first, last)
        blob_of = self._model.net.blob_of
        shapes = tuple(self._blobs[blob_of[value]].shape for value in given)
        key = first, last, shapes
        if key not in self._stretches:
            if len(self._stretches) == _MOST_STRETCHES:
                self._stretches.clear()
            known = dict(zip(given, shapes, strict=True))
            self._stretches[key] = _Place.of(make_stretch(self._model, pairs, known, self._weights), self._blobs)
        return self._stretches[key]

    def _cut(self, first: int, last: int) -> tuple[list[tuple[Layer, Op]], tuple[str, ...]]:
        if (first, last) not in self._cuts:
            everything = self._model.pairs
            pairs = [(layer, op) for layer, op in everything[first : last + 1] if op.kind != "source"]
            self._cuts[first, last] = pairs, read_from_outside([layer for layer, _ in pairs])
        return self._cuts[first, last]

    def _follow_weights(self) -> None:
        """Forget what was made with weights that have changed."""
        if not Parameter.may_have_changed(self._epoch):
            return
        current = [p.settled() for vec in self._params.values() for p in vec if isinstance(p, Parameter)]
        if len(current) != len(self._settled) or not all(map(operator.is_, current, self._settled)):
            self._settled = current
            self._weights = settled_weights(self._params)
            self._stretches.clear()
            self._executors.clear()
        self._epoch = Parameter.epoch


def settled_weights(params: Mapping[str, BlobVec]) -> Weights:
    """Collect the weights as they are now, read-only, by layer name."""
    return {name: tuple(p.settled() for p in vec if isinstance(p, Parameter)) for name, vec in params.items()}


class _Executors:
    """Executors of stretches in one kind of arithmetic."""

    def __init__(self, lower: Lowering) -> None:
        self._lower = lower
        self._open: ExecutorCache[Executor] = ExecutorCache(_MOST_OPEN, CACHE_BYTES, _ALWAYS_KEPT)

    def get(self, stretch: Stretch, values: frozenset[str], *, hosts: bool) -> Executor:
        """Find or make the executor that computes `values`; without `hosts` it takes the tops of layers in Python as
        given.
        """

        def opened() -> Executor:
            model = stretch.model if hosts else stretch.without_hosts
            return Executor(self._lower(model, values), values, EngineOptions())

        return self._open.get((stretch, values, hosts, gpu_in_use()), opened)

    def clear(self) -> None:
        """Close all."""
        self._open.clear()


@dataclass(frozen=True)
class _Place:
    """A stretch and the blobs that it works on: its values with their blobs, those that it writes with their shapes.

    `blobs` are those of `written`, without holding them.
    """

    stretch: Stretch
    read: Sequence[tuple[str, NetBlob]]
    written: Sequence[tuple[str, NetBlob, Shape]]
    blobs: Sequence[tuple[str, weakref.ref[NetBlob]]]

    @classmethod
    def of(cls, stretch: Stretch, blobs: Mapping[str, NetBlob]) -> _Place:
        shapes, blob_of = stretch.model.shapes, stretch.model.net.blob_of
        written = [(value, blobs[name], shapes[value]) for name, value in stretch.written.items()]
        weakly = [(value, weakref.ref(blob)) for value, blob, _ in written]
        return cls(stretch, [(value, blobs[blob_of[value]]) for value in stretch.given], written, weakly)


class _Pass:
    """One run of a stretch."""

    def __init__(self, place: _Place, executors: _Executors) -> None:
        self._place, self._stretch, self._executors = place, place.stretch, executors
        self._given: dict[str, Array] = {}

    def run(self, asked: Collection[str]) -> None:
        """Compute the blobs `asked`, those that are wanted, and the tops of layers in Python."""
        stretch = self._stretch
        for _, blob in self._place.read:
            blob.settle()
        inputs = {v: b.values.copy() if stretch.rewrites else b.values for v, b in self._place.read}
        wanted = {stretch.written[name] for name in asked if name in stretch.written} | stretch.host_tops
        now: dict[str, NetBlob] = {}
        later: list[NetBlob] = []
        for value, blob, shape in self._place.written:
            _set_shape(blob, shape)
            if value in wanted or blob.wanted:
                now[value] = blob
            else:
                later.append(blob)
        if later:
            self._given = inputs if stretch.rewrites else {v: values.copy() for v, values in inputs.items()}
        self._execute(inputs, now)
        for blob in now.values():
            blob.pending, blob.computed, blob.read = None, True, False
        rest = _Rest(stretch, self._executors, self._place.blobs, self._given)
        for blob in later:
            blob.pending, blob.computed, blob.read = rest, True, False

    def _execute(self, inputs: Mapping[str, Array], now: Mapping[str, NetBlob]) -> None:
        stretch = self._stretch
        heard: dict[str, Array] = {}

        def visit(reading: Reading, array: Array) -> None:
            value = value_of(reading)
            if value in stretch.heard:
                heard[value] = array
            if value in now and array is not targets[value]:
                now[value].take(array)

        targets: dict[Reading, Array] = {v: b.values for v, b in now.items()}
        self._executors.get(stretch, stretch.heard.union(now), hosts=True).run(inputs, visit, targets)
        read = dict(self._place.read)
        for layer, op in stretch.mute:
            bottoms = [read[b].as_real(heard[b]) if b in read else heard[b] for b in layer.bottoms]
            op.run(bottoms, stretch.model.call(layer))
        for value in stretch.host_tops:
            self._given[value] = heard[value].copy()  # it may be a view of what the next pass writes


@dataclass(frozen=True, eq=False)
class _Rest:
    """What it takes to compute the blobs that a pass has left pending.

    They hold it. It must not hold them: a net that nobody has any more would keep its sessions, hundreds of MB, until
    Python looks for cycles.
    """

    stretch: Stretch
    executors: _Executors
    blobs: Sequence[tuple[str, weakref.ref[NetBlob]]]
    given: Mapping[str, Array]

    def finish(self) -> None:
        """Compute all that is still pending."""
        there = ((value, ref()) for value, ref in self.blobs)
        pending = {value: blob for value, blob in there if blob is not None and blob.pending is self}
        targets: dict[Reading, Array] = {v: b.values for v, b in pending.items()}

        def visit(reading: Reading, array: Array) -> None:
            if array is not targets[reading]:
                pending[value_of(reading)].take(array)

        stretch = self.stretch.with_host_tops({v: self.given[v].shape for v in self.stretch.host_tops})
        self.executors.get(stretch, frozenset(pending), hosts=False).run(self.given, visit, targets)
        for blob in pending.values():
            blob.pending = None


def _set_shape(blob: NetBlob, shape: Shape) -> None:
    """Change a blob's shape; with another one it has no value until it is computed, or written."""
    if blob.shape != shape:
        blob.pending = None
        blob.set_shape(shape)
