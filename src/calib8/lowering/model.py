"""A network ready to be lowered: every layer read, every value with a shape, every weight in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from calib8.errors import DataError, ModelError
from calib8.graph import Array, Layer, Net, Shape
from calib8.layers import Call, Op
from calib8.lowering.pairs import scales_of_batch_norms
from calib8.lowering.problems import problem_of, raise_problems
from calib8.lowering.shapes import InputShapes, infer_shapes, unknown_inputs, values_that_are_read
from calib8.lowering.weights import fit_layers


@dataclass(frozen=True, eq=False)
class Model:
    """A Net whose layers are read and fit together.

    Attributes:
        net: the network; its layers carry their weights, in the shapes that the layers want.
        ops: what each of net.layers computes, in the same order.
        shapes: Caffe's shape of every value.
        notes: what was changed, left out or ignored, one sentence each.
    """

    net: Net
    ops: tuple[Op, ...]
    shapes: Mapping[str, Shape]
    notes: tuple[str, ...] = ()

    @cached_property
    def op_of(self) -> dict[str, Op]:
        """The Op of every layer by the layer's name."""
        return {layer.name: op for layer, op in self.pairs}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Values that come from outside: tops of Input and data layers."""
        return tuple(top for layer, op in self.pairs if op.kind == "source" for top in layer.tops)

    def call(self, layer: Layer, bottoms: Sequence[str] = ()) -> Call:
        """Collect what a layer is called with; `bottoms` are the ONNX names of its bottoms, if there are any yet."""
        return Call(
            bottoms=tuple(bottoms),
            bottom_shapes=tuple(self.shapes[b] for b in layer.bottoms),
            top_shapes=tuple(self.shapes[t] for t in layer.tops),
            blobs=layer.blobs,
        )

    @cached_property
    def pairs(self) -> tuple[tuple[Layer, Op], ...]:
        """Every layer with what it computes, in order."""
        return tuple(zip(self.net.layers, self.ops, strict=True))

    @cached_property
    def value_of_input(self) -> dict[str, str]:
        """The values that come from outside, by the names of their blobs."""
        return {self.net.blob_of[value]: value for value in self.inputs}

    @cached_property
    def batch_norm_pairs(self) -> dict[str, Layer]:
        """The Scale of every BatchNorm that has one, by the BatchNorm's name: the two are one affine step.

        The Scale is the only reader of the BatchNorm's top, has no second bottom, and one gamma per channel. Where the
        two stand in the file does not matter.
        """
        return scales_of_batch_norms(self.net, self.op_of, self.shapes)

    def reshaped(self, input_shapes: Mapping[str, Shape]) -> Model:
        """Make the same network for inputs of other shapes; its weights are shared.

        Args:
            input_shapes: by blob. Inputs that are not named keep their shapes.

        Raises:
            PrototxtError: names that are no inputs.
            UnsupportedError: layers that do not fit together any more; all of them.
            CaffemodelError: layers that would need weights of other shapes; all of them.
            UserLayerError: layers in Python that failed.
        """
        source, ops = self.net.source, tuple(op.renewed() for op in self.ops)
        pairs = list(zip(self.net.layers, ops, strict=True))
        given = InputShapes(input_shapes, values_that_are_read(self.net.layers), self.shapes)
        stored = {layer.name: layer.blobs for layer in self.net.layers} if self.net.has_weights else None
        fitted = fit_layers(pairs, given, stored)
        problems = [problem_of(source, pairs[index][0], why) for index, why in sorted(fitted.failures.items())]
        raise_problems(source, problems + unknown_inputs(source, pairs, input_shapes))
        return replace(self, net=replace(self.net, layers=fitted.layers), ops=ops, shapes=fitted.shapes)

    def batch_of_one(self) -> Model | None:
        """Make the network with one image in each input; None where images do not go through it independently.

        They do when every blob keeps its shape but for the first axis, which holds as many images as the inputs do.
        A Reshape with a fixed first axis does not; blobs without axes are left out. Networks are calibrated one image
        at a time where that is possible: batches cost memory, and their size must not change a result.
        """
        sizes = {self.shapes[v][0] if self.shapes[v] else 0 for v in self.inputs}
        if len(sizes) != 1:
            return None
        batch = sizes.pop()
        if batch == 1:
            return self
        try:
            single = self.reshaped({blob: (1, *self.shapes[v][1:]) for blob, v in self.value_of_input.items()})
        except ModelError:
            return None
        same = all(_is_of_one(single.shapes[value], shape, batch) for value, shape in self.shapes.items())
        return single if same else None

    def inputs_of(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Give the network's inputs by value, float32, from one sample or batch, as the data give it by blob.

        An input that no layer reads, a label, may be missing; it is then 0.

        Raises:
            DataError: inputs that layers read are missing; all of them.
        """
        missing = [b for b, value in self.value_of_input.items() if b not in sample and self.net.is_read(value)]
        if missing:
            raise DataError(
                f"{self.net.source}: the data give {', '.join(map(repr, sample))}; "
                f"the network also needs {', '.join(map(repr, missing))}; let the data layer give them, or, "
                "with `images`, say `values=..`"
            )
        return {
            value: np.asarray(sample[blob] if blob in sample else np.zeros(self.shapes[value]), dtype=np.float32)
            for blob, value in self.value_of_input.items()
        }

    def with_shapes(self, shapes: Mapping[str, Shape]) -> Model:
        """Make the same network where some values have other shapes, and with them what depends on them.

        Layers that run in Python may give another number of rows than they announced: a detector's proposals.

        Args:
            shapes: by value, tops of layers that run in Python.

        Raises:
            UnsupportedError: a later layer cannot take such a bottom.
        """
        outside = {value: shape for value, shape in self.shapes.items() if value not in self.net.producer}
        inferred = infer_shapes(self.pairs, {**outside, **shapes}, self.shapes, smallest=0)
        return replace(self, shapes=inferred.all_or_error(self.net.source, self.pairs))


def _is_of_one(single: Shape, shape: Shape, batch: int) -> bool:
    """Whether `single` is a shape with its images, whole multiples of the batch, divided by the batch."""
    return bool(shape) and shape[0] == batch * single[0] and shape[1:] == single[1:] if single else not shape
