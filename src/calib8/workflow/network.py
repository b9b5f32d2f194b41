"""`open_network`: a network with its weights and its samples, every file read once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import cast

from calib8.boundary import closed, closed_class
from calib8.data import DATA_TYPES, SampleSource, look_at, open_source
from calib8.data.faces import Divisible
from calib8.data.looking import Examinable
from calib8.errors import CaffemodelError, DataError, OnnxError, OptionError
from calib8.graph import Shape
from calib8.graph.phase import Phase, layers_taking_part
from calib8.lowering import Model, build_model
from calib8.lowering.weights import weights_that_are_no_numbers
from calib8.proto.caffe_pb2 import LayerParameter
from calib8.proto.text import Prototxt
from calib8.workflow.arrays import Arrays
from calib8.workflow.definition import read_definition
from calib8.workflow.images import Images
from calib8.workflow.inputs import DATA_LAYER

_log = logging.getLogger(__name__)


@closed_class
@dataclass(frozen=True, eq=False)
class Network:
    """A network in FP32, and where its samples come from.

    Attributes:
        model: the network with the batch of its prototxt, or of its data; files are written for this one.
        source: its samples; None for a network that has none, or whose data were not opened.
        left_out: numbers of samples that were left out of the source, one time after another.
    """

    model: Model
    source: SampleSource | None
    left_out: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def of_one_sample(self) -> Model:
        """The network as it is run sample by sample; with its whole batch where samples are not independent."""
        return self.model.batch_of_one() or self.model

    def without_bad_samples(self, good: int | None = None) -> Network:
        """The same network without the samples that cannot be used, which are named in a warning.

        Every sample is decoded for that, until so many are good: what a look at the heads does not find would end the
        work later. The samples of a Python layer are its own business.

        Raises:
            DataError: none is left.
        """
        look = look_at(self.samples, good, decode=True)
        if not look.bad:
            return self
        if len(look.bad) == look.seen:
            raise DataError(f"{self.model.net.source}: none of {look.seen} samples can be used", look.lines)
        _log.warning(
            "%s: %d of %d samples cannot be used and are skipped: %s",
            self.model.net.source, len(look.bad), look.seen, "; ".join(look.lines),
        )  # fmt: skip
        return self.without_samples(tuple(look.bad))

    def without_samples(self, numbers: tuple[int, ...]) -> Network:
        """The same network without some of its samples, of a source that can do without."""
        source = cast(Examinable, self.samples).without(numbers)
        return replace(self, source=source, left_out=(*self.left_out, numbers))

    def with_batch(self, images: int) -> Network:
        """Return the same network with so many images in each of its inputs.

        Raises:
            OptionError: a number below 1.
            ModelError: layers that do not fit together any more; all of them.
        """
        if images < 1:
            raise OptionError(f"`batch` is {images}; it must be at least 1")
        model = self.model
        shapes = {blob: (images, *model.shapes[v][1:]) for blob, v in model.value_of_input.items() if model.shapes[v]}
        return replace(self, model=model.reshaped(shapes))

    @cached_property
    def samples(self) -> SampleSource:
        """The samples; one by one where the network takes them so, and the source can give them so.

        Raises:
            DataError: the network has none.
        """
        if self.source is None:
            raise DataError(
                f"{self.model.net.source}: the network has no data layer that gives samples; give images "
                "(`images=..`), or name a Data or Python layer 'data' as the guide says"
            )
        if isinstance(self.source, Divisible) and self.model.batch_of_one() is not None:
            return self.source.one_by_one()
        return self.source


@closed
def open_network(
    prototxt: str | os.PathLike[str],
    caffemodel: str | os.PathLike[str] | None = None,
    samples: SampleSource | Images | Arrays | None = None,
    *,
    shapes: Mapping[str, Shape] = MappingProxyType({}),
) -> Network:
    """Read a network, and open its samples.

    Args:
        prototxt: its definition, or an ONNX model (`.onnx`), whose operators become Caffe's layers.
        caffemodel: its weights, in FP32; None for an ONNX model, which holds them.
        samples: where samples come from; None for the network's own data layer: the one named "data", or else the
            first that gives samples.
        shapes: of inputs, by blob, in the place of those in the prototxt, the ONNX model or the data. A data layer
            whose shape is given is not opened, so that its data need not be there.

    Raises:
        ModelError: the network cannot be used; all that is wrong with it.
        DataError, UserLayerError: the samples cannot be used.
        OptionError: a prototxt without a caffemodel, or an ONNX model with one.
    """
    files = read_definition(prototxt, caffemodel, samples, shapes)
    definition = files.prototxt
    source: SampleSource | None
    if isinstance(samples, Images | Arrays):
        definition, source = samples.placed_in(definition)
    else:
        source = samples if samples is not None else _own_source(definition, shapes)
    of_data = {} if source is None else source.shapes
    model = build_model(definition, files.read_weights(), {**of_data, **shapes})
    wrong = weights_that_are_no_numbers(definition.source, model.net.layers)
    if wrong:
        kind, where = (OnnxError, definition.source) if caffemodel is None else (CaffemodelError, os.fspath(caffemodel))
        raise kind(f"{where}: weights that are no numbers", wrong)
    _tell(definition, model, source)
    return Network(model, source)


def data_layer(prototxt: Prototxt) -> LayerParameter | None:
    """Find the network's own data layer in the TEST phase: that named "data", or else the first that gives samples."""
    present = layers_taking_part(prototxt.net, Phase.TEST).values()
    sources = [p for p in present if p.type in DATA_TYPES and not p.bottom]
    named = [p for p in sources if p.name == DATA_LAYER]
    return (named + sources)[0] if sources else None


def _own_source(prototxt: Prototxt, shapes: Mapping[str, Shape]) -> SampleSource | None:
    own = data_layer(prototxt)
    if own is None or any(top in shapes for top in own.top):
        return None
    try:
        return open_source(own, Path(prototxt.source).parent)
    except DataError as why:
        what = f"layer {own.name!r} ({own.type}) gives no samples; images can take its place (`images=..`)"
        raise DataError(f"{prototxt.source}: {what}", why.problems) from None


def _tell(prototxt: Prototxt, model: Model, source: SampleSource | None) -> None:
    """Log what was changed or left out, and what was not read."""
    if prototxt.unknown_fields:
        _log.warning("%s: unknown fields, not read: %s", prototxt.source, ", ".join(prototxt.unknown_fields))
    for note in (*(() if source is None else source.notes), *model.notes):
        _log.info("%s: %s", prototxt.source, note)
