"""Images for a network's input: they take the place of whatever fills it in the prototxt."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from calib8.data import ImagesSource, Preprocess
from calib8.errors import DataError
from calib8.graph import Layer, Shape, build_net
from calib8.layers import RefusedError, make_op, registry
from calib8.proto import caffe_pb2
from calib8.proto.text import Prototxt

_log = logging.getLogger(__name__)
DATA_LAYER = "data"
"""Name of the layer whose samples are used; the guide asks for it."""
_IMAGE_AXES = 4
_MADE_BY_THE_NETWORK = frozenset(["Parameter", "ContinuationIndicator"])  # they read nothing, and are no inputs
_PREPARATION = frozenset(["scale", "mean_file", "mean_value"])


@dataclass(frozen=True)
class Images:
    """Images that become samples of one input: `sample = (pixels - mean) * scale`.

    Attributes:
        images: a text file with a path per line, a folder of images, or one image.
        input: the blob that takes them, a top of an Input or of a data layer; None for the only one that can.
        values: the numbers of other inputs, by blob, the same for every image: one for all elements, or as many as the
            input or one of its samples has.
        preprocess: how the pixels become a sample. Its size is needed for data layers that say none.
    """

    images: str | os.PathLike[str]
    input: str | None = None
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    preprocess: Preprocess = Preprocess()

    def placed_in(self, prototxt: Prototxt) -> tuple[Prototxt, ImagesSource]:
        """Find the images and the input that takes them.

        Returns:
            The network, and the samples. A layer whose tops are no inputs is an Input layer, if images take its place.

        Raises:
            DataError: the network has no such input, the size of its samples is not known, or the images or values do
                not fit it.
        """
        inputs = _inputs(prototxt)
        blob = self._blob(prototxt.source, inputs)
        layer, shape = (
            inputs[blob].layer,
            inputs[blob].shape or self._shape_of_data(prototxt.source, inputs[blob].layer),
        )
        others = {name: x.shape for name, x in inputs.items() if name != blob and x.shape is not None}
        constants = {name: _constant(prototxt, others, name, numbers) for name, numbers in self.values.items()}
        source = ImagesSource(self.images, blob, shape, self.preprocess, constants)
        _warn_of_transformation(prototxt.source, layer, self.preprocess)
        return _with_input(prototxt, layer, {**others, blob: shape}, shape[:1]), source

    def source_for(self, prototxt: Prototxt) -> ImagesSource:
        """The samples alone; see `placed_in`."""
        return self.placed_in(prototxt)[1]

    def _blob(self, source: str, inputs: Mapping[str, _Input]) -> str:
        """The input that takes the images."""
        able = _able(inputs)
        if self.input in inputs or (self.input is None and len(able) == 1):
            return self.input or able[0]
        raise DataError(
            f"{source}: which input takes the images? Say `input=..`; "
            f"inputs of the network: {', '.join(map(repr, inputs)) or 'none'}"
        )

    def _shape_of_data(self, source: str, layer: Layer) -> Shape:
        """Of one sample of a data layer, whose data nobody opens."""
        size, transform, data = self.preprocess.size, layer.param.transform_param, layer.param.image_data_param
        if size is None and transform.crop_size:
            size = (transform.crop_size, transform.crop_size)
        elif size is None and data.new_height and data.new_width:
            size = (data.new_height, data.new_width)
        if size is None:
            raise DataError(
                f"{source}: only its data tell how large samples of layer {layer.name!r} ({layer.type}) are; where "
                "images take their place, say `size` (height x width)"
            )
        gray = self.preprocess.color_format == "gray" or transform.force_gray or not data.is_color
        return (1, 1 if gray else 3, *size)


@dataclass(frozen=True)
class _Input:
    """A top of a layer that reads nothing; its shape, where the prototxt has it."""

    layer: Layer
    shape: Shape | None

    @property
    def can_be_images(self) -> bool:
        return self.shape is None or len(self.shape) == _IMAGE_AXES


def _inputs(prototxt: Prototxt) -> dict[str, _Input]:
    """The tops of layers that read nothing, by blob."""
    sources = [x for x in build_net(prototxt).layers if not x.bottoms and x.type not in _MADE_BY_THE_NETWORK]
    return {blob: _Input(x, shape) for x in sources for blob, shape in zip(x.top_blobs, _shapes(x), strict=True)}


def _shapes(layer: Layer) -> Sequence[Shape | None]:
    try:
        return make_op(layer).top_shapes([])
    except RefusedError:  # a data layer, whose data tell; or a type that is not known
        return [None] * len(layer.top_blobs)


def _able(inputs: Mapping[str, _Input]) -> list[str]:
    """The blobs that images may be meant for: those of Input layers, else of the data layer, else of dummies."""
    able = {b: x.layer for b, x in inputs.items() if x.can_be_images}
    plain = [b for b, layer in able.items() if layer.type == "Input"]
    data = [b for b, layer in able.items() if layer.type not in ("Input", "DummyData") and b == layer.top_blobs[0]]
    named = [b for b in data if able[b].name == DATA_LAYER]
    return plain or (named or data)[:1] or list(able)


def _with_input(prototxt: Prototxt, layer: Layer, shapes: Mapping[str, Shape], batch: Shape) -> Prototxt:
    """The network with an Input layer in the place of one whose tops are no inputs: a dummy, or an unknown type."""
    op_type = registry().get(layer.type)
    if layer.type == "Python" or (op_type is not None and op_type.kind == "source"):
        return prototxt
    net = caffe_pb2.NetParameter()
    net.CopyFrom(prototxt.net)
    index = next(i for i, x in enumerate(prototxt.net.layer) if x.name == layer.name and x == layer.param)
    own = caffe_pb2.LayerParameter(name=layer.name, type="Input", top=layer.top_blobs, include=layer.param.include)
    for blob in layer.top_blobs:
        own.input_param.shape.add().dim.extend(shapes.get(blob, batch))
    net.layer[index].CopyFrom(own)
    return replace(prototxt, net=net)


def _warn_of_transformation(source: str, layer: Layer, preprocess: Preprocess) -> None:
    """Say that the layer's own preparation does not count, where nobody gave another one."""
    named = [f.name for f, _ in layer.param.transform_param.ListFields() if f.name in _PREPARATION]
    if named and not preprocess.mean and preprocess.scale == 1.0:
        _log.warning(
            "%s: images take the place of layer %r (%s), whose transform_param (%s) is not followed then; prepare them "
            "in the same way, by a mean and a scale", source, layer.name, layer.type, ", ".join(named),
        )  # fmt: skip


def _constant(
    prototxt: Prototxt, shapes: Mapping[str, Shape], blob: str, numbers: Sequence[float]
) -> NDArray[np.float32]:
    """The numbers of one input, in its shape."""
    if blob not in shapes:
        raise DataError(
            f"{prototxt.source}: `values` {blob}: no input of this name takes values; "
            f"these do: {', '.join(map(repr, shapes)) or 'none'}"
        )
    shape = shapes[blob]
    if len(numbers) not in (1, math.prod(shape), math.prod(shape[1:])):
        raise DataError(
            f"{prototxt.source}: `values` {blob}: {len(numbers)} numbers for an input of the shape "
            f"{'x'.join(map(str, shape))}; expected one for all, or {math.prod(shape)}"
        )
    return np.resize(np.array(numbers, np.float32), shape)
