"""The walk over a network that writes ncnn's files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from calib8.errors import OptionError, UnsupportedError
from calib8.export.ncnn.graph import NcnnLayer, param_text, with_splits
from calib8.export.ncnn.int8 import Int8Weights, table_text
from calib8.export.ncnn.layers import (
    Activation,
    Step,
    activation_of,
    convert,
    dims,
    runs_in_int8,
    takes_activation,
)
from calib8.export.tpu_mlir import non_negative_values
from calib8.graph import Layer
from calib8.layers import Op, RefusedError
from calib8.lowering import Model, fold_channel_affines

MAX_NAME = 255
"""Characters of a name that ncnn reads."""


@dataclass(frozen=True)
class NcnnFiles:
    """The two files of a network, and the table for ncnn2int8, which is empty without integers."""

    param: bytes
    bin: bytes
    table: bytes


def ncnn_export(model: Model, thresholds: Mapping[str, float] | None = None) -> NcnnFiles:
    """Write a network for ncnn.

    Convolutions, depthwise ones among them, and inner products run in INT8 where there are thresholds; everything else
    in FP32. BatchNorm and Scale are folded into the layer in front of them, rectifiers are computed along.

    Args:
        model: in FP32, with its weights.
        thresholds: of every value, in real units; None for a network in FP32.

    Raises:
        UnsupportedError: layers that ncnn has not, or has otherwise; all of them.
        OptionError: names that a `.param` file cannot hold; all of them.
    """
    if not model.net.has_weights:
        raise UnsupportedError(f"{model.net.source}: ncnn's files hold the weights; give the caffemodel, too")
    single = model.batch_of_one()
    if single is None:
        raise UnsupportedError(
            f"{model.net.source}: ncnn runs one image at a time, and images do not go through this network one by one"
        )
    folded = fold_channel_affines(single)
    walk = _Walk(folded, thresholds, non_negative=non_negative_values(folded))
    walk.run()
    layers = with_splits(walk.made)
    _check_names(model.net.source, layers)
    data = b"".join(part for layer in layers for part in layer.data)
    return NcnnFiles(param_text(layers).encode(), data, table_text(walk.int8).encode() if walk.int8 else b"")


@dataclass
class _Walk:
    model: Model
    thresholds: Mapping[str, float] | None
    made: list[NcnnLayer] = field(default_factory=list)
    int8: list[Int8Weights] = field(default_factory=list)
    blob: dict[str, str] = field(default_factory=dict)  # value -> ncnn's name
    non_negative: Collection[str] = ()
    computed: set[str] = field(default_factory=set)  # names of rectifiers that another layer computes along

    def run(self) -> None:
        problems = []
        for layer, op in self.model.pairs:
            try:
                self._visit(layer, op)
            except RefusedError as why:
                problems.append(f"layer {layer.name!r} ({layer.type}): {why}")
                self.blob.update((top, top) for top in layer.tops)
        if problems:
            raise UnsupportedError(f"{self.model.net.source}: layers that ncnn cannot run as Caffe does", problems)

    def _visit(self, layer: Layer, op: Op) -> None:
        if op.kind == "source":
            self.made += self._inputs(layer)
            return
        if layer.name in self.computed:
            return
        follower = self._along(layer, op)
        tops = layer.tops if follower is None else follower.tops
        step = Step(
            layer, self.model.call(layer), tuple(self.blob[b] for b in layer.bottoms), tops,
            self._threshold(layer, op), None if follower is None else self._activation(follower),
            layer.bottoms[0] in self.non_negative if layer.bottoms else False,
        )  # fmt: skip
        convert(step, op)
        if follower is not None:
            self.computed.add(follower.name)
        self._take(step)

    def _take(self, step: Step) -> None:
        """Keep what a step has made. An output that is another blob under a new name gets a layer of its own."""
        self.made += step.made
        self.int8 += [] if step.int8 is None else [step.int8]
        for top in step.tops:
            bottom = step.same.get(top)
            if bottom is not None and top in self.model.net.outputs:
                self.made.append(NcnnLayer("Noop", f"{step.layer.name}/{top}", (bottom,), (top,)))
                bottom = None
            self.blob[top] = top if bottom is None else bottom

    def _inputs(self, layer: Layer) -> Iterator[NcnnLayer]:
        read = [top for top in layer.tops if self.model.net.is_read(top)]
        for top in read:
            shape = self.model.shapes[top]
            self.blob[top] = self.model.net.blob_of[top]
            name = layer.name if len(read) == 1 else f"{layer.name}/{self.blob[top]}"
            yield NcnnLayer("Input", name, (), (self.blob[top],), dims(shape[1:]))

    def _along(self, layer: Layer, op: Op) -> Layer | None:
        """Find the rectifier behind a layer that can compute it along."""
        if not takes_activation(op) or len(layer.tops) != 1:
            return None
        readers = self.model.net.consumers[layer.tops[0]]
        if len(readers) == 1 and activation_of(self.model.op_of[readers[0].name]) is not None:
            return readers[0]
        return None

    def _activation(self, layer: Layer) -> Activation | None:
        return activation_of(self.model.op_of[layer.name])

    def _threshold(self, layer: Layer, op: Op) -> float | None:
        if self.thresholds is None or not runs_in_int8(op):
            return None
        return self.thresholds[layer.bottoms[0]]


def _check_names(source: str, layers: list[NcnnLayer]) -> None:
    """The file's columns are parted by blanks."""
    names = dict.fromkeys(name for layer in layers for name in (layer.name, *layer.bottoms, *layer.tops))
    problems = [f"{name!r}" for name in names if name.split() != [name] or len(name.encode()) > MAX_NAME]
    if problems:
        raise OptionError(
            f"{source}: names that ncnn's files cannot hold (blanks, or more than {MAX_NAME} bytes)", problems
        )
