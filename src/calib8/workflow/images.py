"""Images for a network's input: they take the place of whatever fills it in the prototxt."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calib8.boundary import closed_class
from calib8.data import ImagesSource, Preprocess
from calib8.errors import DataError
from calib8.graph import Layer, Shape
from calib8.proto.text import Prototxt
from calib8.workflow.inputs import DATA_LAYER, NetInput, constant_of, inputs_of, with_input

_log = logging.getLogger(__name__)
_IMAGE_AXES = 4
_PREPARATION = frozenset(["scale", "mean_file", "mean_value"])


@closed_class
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
        inputs = inputs_of(prototxt)
        blob = self._blob(prototxt.source, inputs)
        layer, shape = (
            inputs[blob].layer,
            inputs[blob].shape or self._shape_of_data(prototxt.source, inputs[blob].layer),
        )
        others = {name: x.shape for name, x in inputs.items() if name != blob and x.shape is not None}
        constants = {name: constant_of(prototxt, others, name, numbers) for name, numbers in self.values.items()}
        source = ImagesSource(self.images, blob, shape, self.preprocess, constants)
        _warn_of_transformation(prototxt.source, layer, self.preprocess)
        return with_input(prototxt, layer, {**others, blob: shape}, shape[:1]), source

    def _blob(self, source: str, inputs: Mapping[str, NetInput]) -> str:
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


def _able(inputs: Mapping[str, NetInput]) -> list[str]:
    """The blobs that images may be meant for: those of Input layers, else of the data layer, else of dummies."""
    able = {b: x.layer for b, x in inputs.items() if x.shape is None or len(x.shape) == _IMAGE_AXES}
    plain = [b for b, layer in able.items() if layer.type == "Input"]
    data = [b for b, layer in able.items() if layer.type not in ("Input", "DummyData") and b == layer.top_blobs[0]]
    named = [b for b in data if able[b].name == DATA_LAYER]
    return plain or (named or data)[:1] or list(able)


def _warn_of_transformation(source: str, layer: Layer, preprocess: Preprocess) -> None:
    """Say that the layer's own preparation does not count, where nobody gave another one."""
    named = [f.name for f, _ in layer.param.transform_param.ListFields() if f.name in _PREPARATION]
    if named and not preprocess.mean and preprocess.scale == 1.0:
        _log.warning(
            "%s: images take the place of layer %r (%s), whose transform_param (%s) is not followed then; prepare them "
            "in the same way, by a mean and a scale", source, layer.name, layer.type, ", ".join(named),
        )  # fmt: skip
