"""A net as its prototxt defines it: the model without weights, and what feeds its data layers."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calib8.graph.phase import Phase, layers_taking_part
from calib8.layer_kit.measuring import only_measures
from calib8.layers import registry
from calib8.lowering import Model, build_model
from calib8.proto import caffe_pb2
from calib8.proto.text import Prototxt, read_prototxt
from calib8.pycaffe.darknet import pad_as_darknet
from calib8.pycaffe.feeds import DummyFeed, Feed, make_feed
from calib8.pycaffe.state import is_yolo

_RANDOM_IN_TRAIN = ("crop_size", "mirror")  # of transform_param
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Definition:
    """What a prototxt says of a net in one state.

    Attributes:
        model: without weights. DummyData is an input here, since its values lie in its blobs.
        feeds: of the data layers, by the layer's name.
        params: the LayerParameter of every layer as the prototxt has it, by the layer's name.
    """

    model: Model
    feeds: Mapping[str, Feed]
    params: Mapping[str, Any]

    @property
    def inputs(self) -> list[str]:
        """Tops of Input layers."""
        layers = self.model.net.layers
        return [top for layer in layers if self.params[layer.name].type == "Input" for top in layer.top_blobs]

    @property
    def loss_weights(self) -> dict[str, float]:
        """What each blob counts in the loss, where it counts: a layer's `loss_weight`, or 1 for a loss's first top.

        Source: BVLC/caffe, include/caffe/layer.hpp, SetLossWeights; include/caffe/layers/loss_layer.hpp.
        """
        found: dict[str, float] = {}
        for layer in self.model.net.layers:
            given = list(self.params[layer.name].loss_weight)
            weights = given or [1.0] * (layer.type.endswith("Loss"))
            found.update({blob: weight for blob, weight in zip(layer.top_blobs, weights, strict=False) if weight})
        return found

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer reads, in alphabetical order, as Caffe has them (src/caffe/net.cpp, Net::Init)."""
        return sorted(self.model.net.outputs)


def read_definition(
    path: str | os.PathLike[str], phase: Phase, level: int = 0, stages: Collection[str] = ()
) -> Definition:
    """Read a prototxt, open its data and infer all shapes.

    Raises:
        ModelError: see `read_prototxt` and `build_model`.
        DataError, UserLayerError: data layers that cannot be used.
    """
    prototxt = read_prototxt(path)
    if is_yolo():
        for note in pad_as_darknet(prototxt.net):
            _log.info("%s: %s", path, note)
    present = layers_taking_part(prototxt.net, phase, level, stages)
    made = {i: make_feed(p, Path(prototxt.source).parent, phase) for i, p in present.items()}
    feeds = {i: feed for i, feed in made.items() if feed is not None}
    model = build_model(
        _with_dummies_as_inputs(prototxt, feeds),
        None,
        {top: shape for feed in feeds.values() for top, shape in feed.shapes.items()},
        phase=phase,
        level=level,
        stages=stages,
        measures=[kind for kind in registry() if only_measures(kind)],
    )
    if phase == Phase.TRAIN:
        _warn_of_random_samples(path, present.values())
    for note in model.notes:
        _log.info("%s: %s", path, note)
    by_name = {present[i].name: feed for i, feed in feeds.items()}
    return Definition(model, by_name, {p.name: p for p in present.values()})


def _warn_of_random_samples(path: str | os.PathLike[str], params: Iterable[Any]) -> None:
    """Say which data layers would cut and flip at random in TRAIN, and do not here."""
    for param in params:
        named = [name for name in _RANDOM_IN_TRAIN if getattr(param.transform_param, name)]
        if named and not param.bottom:
            _log.warning(
                "%s: layer %r (%s): in TRAIN Caffe draws %s at random; here samples are those of TEST",
                path, param.name, param.type, ", ".join(named),
            )  # fmt: skip


def layer_type_list() -> list[str]:
    """List the names of all layer types that calib8 computes, in all dialects."""
    return sorted(registry())


def _with_dummies_as_inputs(prototxt: Prototxt, feeds: Mapping[int, Feed]) -> Prototxt:
    """Make every DummyData layer an Input layer; `feeds` go by the index of their layer."""
    net = caffe_pb2.NetParameter()
    net.CopyFrom(prototxt.net)
    for index, feed in feeds.items():
        if isinstance(feed, DummyFeed):
            net.layer[index].type = "Input"
            net.layer[index].ClearField("dummy_data_param")
            net.layer[index].input_param.enable_quantize = True  # its numbers are the prototxt's, in real units
    return replace(prototxt, net=net)
