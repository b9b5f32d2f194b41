"""The layers that an ONNX graph becomes: Caffe's, with shapes and weights, in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from calib8.graph import Array, Layer, Shape
from calib8.layer_kit.fields import RefusedError
from calib8.layers import make_op
from calib8.onnx_in.made import Made
from calib8.onnx_in.offsets import with_offsets
from calib8.onnx_in.values import MAX_RANK, Blob, Value
from calib8.proto import caffe_pb2

_MAX_ELEMENTS = 2**31 - 1


class LayerWriter:
    """Collects layers. Between `start` and `finish` lie those of one node, which is named in theirs.

    Args:
        taken: names that blobs of the model have.
    """

    def __init__(self, taken: Collection[str]) -> None:
        self._made: list[Made] = []
        self._blobs, self._layers = _Names(taken), _Names()
        self._base = ""
        self._first = 0

    def start(self, name: str) -> None:
        """Begin with the layers of a node."""
        self._base, self._first = name, len(self._made)

    def give_up(self) -> None:
        """Forget the layers of a node that could not be finished."""
        del self._made[self._first :]

    def finish(self, results: Sequence[Value], names: Sequence[str]) -> list[Value]:
        """Give the blobs that this node's layers made for its outputs the names of these.

        A result that an earlier node made keeps its name: the node does nothing to it.
        """
        own = {top for made in self._made[self._first :] for top in made.param.top}
        renamed: dict[str, str] = {}
        found: list[Value] = []
        for value, name in zip(results, names, strict=True):
            if isinstance(value, Blob) and value.name in own and value.name not in renamed:
                renamed[value.name] = name
                found.append(Blob(name, value.shape))
            else:
                found.append(value)
        for made in self._made[self._first :]:
            for blobs in (made.param.bottom, made.param.top):
                blobs[:] = [renamed.get(blob, blob) for blob in blobs]
        return found

    def add(self, kind: str, *bottoms: Blob, blobs: Sequence[Array] = (), tops: int = 1, **messages: Any) -> list[Blob]:
        """Add a layer; return its tops.

        Args:
            blobs: its weights, float32.
            messages: its parameters, like `relu_param={"negative_slope": 0.1}`.

        Raises:
            RefusedError: parameters or shapes that the layer does not take.
        """
        name, names = self._layers.of(self._base), [self._blobs.numbered(self._base) for _ in range(tops)]
        try:
            param = caffe_pb2.LayerParameter(
                name=name, type=kind, bottom=[b.name for b in bottoms], top=names, **messages
            )
        except (ValueError, TypeError) as why:  # a number that the field cannot hold
            raise RefusedError(f"a number of its is out of range: {why}") from None
        read = tuple(b.name for b in bottoms)
        layer = Layer(name, kind, read, tuple(names), read, tuple(names), param)
        shapes = make_op(layer).top_shapes([b.shape for b in bottoms])
        for shape in shapes:
            _check(shape)
        sizes = [tuple(map(int, shape)) for shape in shapes]
        self._made.append(Made(param, [np.ascontiguousarray(b, np.float32) for b in blobs], sizes))
        return [Blob(top, shape) for top, shape in zip(names, sizes, strict=True)]

    def one(self, kind: str, *bottoms: Blob, blobs: Sequence[Array] = (), **messages: Any) -> Blob:
        """Add a layer with one top; see `add`."""
        return self.add(kind, *bottoms, blobs=blobs, **messages)[0]

    def input(self, name: str, shape: Shape) -> Blob:
        """Add an input of the network, under its own name."""
        self.start(name)
        blob = self.one("Input", input_param={"shape": [{"dim": list(shape)}]})
        self.finish([blob], [name])
        return Blob(name, tuple(shape))

    def called(self, blob: str, name: str) -> bool:
        """Give a blob another name, if a layer makes it and none reads it. Tell whether it has it now."""
        if any(blob in made.param.bottom for made in self._made):
            return False
        makers = [made for made in self._made if blob in made.param.top and made.param.type != "Input"]
        for made in makers:
            made.param.top[:] = [name if top == blob else top for top in made.param.top]
        return bool(makers)

    def closed(self, wanted: Collection[str]) -> tuple[caffe_pb2.NetParameter, dict[str, list[Array]]]:
        """Return the network, and its weights by layer, without the layers that `wanted` does not need.

        What a layer gives that nobody wants goes into a Silence, so that it is no output of the network.
        """
        needed, kept, idle = set(wanted), [], []
        for made in reversed(self._made):
            if made.param.type == "Input" or needed.intersection(made.param.top):
                kept.append(made)
                if made.param.type != "Input":
                    idle += [top for top in made.param.top if top not in needed]
                needed.update(made.param.bottom)
        layers = with_offsets(kept[::-1], wanted)
        net = caffe_pb2.NetParameter(layer=[made.param for made in layers])
        for top in reversed(idle):
            net.layer.add(name=self._layers.of(f"{top}:unread"), type="Silence", bottom=[top])
        return net, {made.param.name: made.blobs for made in layers if made.blobs}


class _Names:
    """Gives names that nothing has yet: the one that is asked for, or with a number behind it."""

    def __init__(self, taken: Collection[str] = ()) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}

    def of(self, name: str) -> str:
        """Give `name`, or `name:2` and so on."""
        if name not in self._taken:
            self._taken.add(name)
            self._last.setdefault(name, 1)
            return name
        return self.numbered(name)

    def numbered(self, name: str) -> str:
        """Give `name:1`, or what follows."""
        found = name
        while found in self._taken or found == name:
            self._last[name] = self._last.get(name, 0) + 1
            found = f"{name}:{self._last[name]}"
        self._taken.add(found)
        return found


def _check(shape: Shape) -> None:
    total = 1
    for size in shape:
        total *= size
    if min(shape, default=1) < 1 or total > _MAX_ELEMENTS or len(shape) > MAX_RANK:
        raise RefusedError(
            f"would give the shape {list(shape)}; sizes are at least 1, and a blob has at most {_MAX_ELEMENTS} "
            f"elements and {MAX_RANK} axes"
        )
