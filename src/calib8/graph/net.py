"""Net and Layer: frozen, in Caffe's order, every value written once.

Caffe lets a layer overwrite its bottom (in place). Here every write makes a value of its own: the last write of a
blob owns the blob's bare name, each earlier one is called `blob@layer` after the layer that wrote it. Whoever asks for
a blob by its Caffe name therefore gets what Caffe would show after a forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.proto import caffe_pb2
from calib8.proto.textformat import NOWHERE, Place

Array = NDArray[Any]
"""Numbers of a blob, of whatever type: float32, codes, labels."""
Shape = tuple[int, ...]
INPUT_FIELDS = "input"
"""What Caffe calls the one layer that it makes of all `input` fields (UpgradeNetInput in upgrade_proto.cpp)."""


@dataclass(frozen=True)
class Layer:
    """One layer of the network after phases are resolved.

    Attributes:
        bottoms, tops: names of values (see the module's text), in the prototxt's order.
        bottom_blobs, top_blobs: the same as the prototxt spells them.
        param: the LayerParameter, without blobs. Do not change it.
        blobs: the weights, float32, as the caffemodel has them; empty when the net was built without weights.
        place: where the prototxt has it.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    bottom_blobs: tuple[str, ...]
    top_blobs: tuple[str, ...]
    param: caffe_pb2.LayerParameter
    blobs: Sequence[NDArray[np.float32]] = ()
    place: Place = NOWHERE


@dataclass(frozen=True)
class Net:
    """A network: layers in execution order.

    Attributes:
        source: the prototxt's path, for messages and for finding the user's Python layers.
        notes: what was changed or left out while building, one sentence each.
        has_weights: whether a caffemodel was bound.
        left_out: names of layers that only measure, which are not in `layers`.
        absent: names of layers of the file that take no part in this state.
        writers_in_file: by blob, the types of all layers of the file that write it, in whatever state.
        is_old: whether the file has the layers of V1 or V0.
    """

    name: str
    source: str
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    has_weights: bool = False
    values_of_blob: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    writers_in_file: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_old: bool = False

    @cached_property
    def layer_by_name(self) -> dict[str, Layer]:
        """Every layer under its name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def layers_by_caffe_name(self) -> dict[str, tuple[Layer, ...]]:
        """The layers under the names that they have in Caffe, in order: those of `input` fields are one layer there.

        A blob's own Input layer is what calibration tables have a row for, so it is a layer here.
        """
        own: dict[str, tuple[Layer, ...]] = {x.name: (x,) for x in self.layers}
        of_fields = {x.name: x for x in self.layers if x.type == "Input" and x.place == NOWHERE}
        others = {name: layers for name, layers in own.items() if name not in of_fields}
        if not of_fields or INPUT_FIELDS in others:
            return own
        return {INPUT_FIELDS: tuple(of_fields.values()), **others}

    @cached_property
    def index_of(self) -> dict[str, int]:
        """The place of every layer in `layers`, by its name."""
        return {layer.name: index for index, layer in enumerate(self.layers)}

    @cached_property
    def indices_by_caffe_name(self) -> dict[str, tuple[int, ...]]:
        """The places in `layers` of what `layers_by_caffe_name` names, in order."""
        return {name: tuple(self.index_of[x.name] for x in own) for name, own in self.layers_by_caffe_name.items()}

    @cached_property
    def producer(self) -> dict[str, Layer]:
        """The layer that writes each value."""
        return {top: layer for layer in self.layers for top in layer.tops}

    @cached_property
    def consumers(self) -> dict[str, tuple[Layer, ...]]:
        """The layers that read each value, in order; every value has an entry."""
        readers_of: dict[str, list[Layer]] = {top: [] for layer in self.layers for top in layer.tops}
        for layer in self.layers:
            for bottom in dict.fromkeys(layer.bottoms):
                readers_of[bottom].append(layer)
        return {value: tuple(readers) for value, readers in readers_of.items()}

    def is_read(self, value: str) -> bool:
        """Tell whether a layer makes something of a value; Silence does not."""
        return any(reader.tops for reader in self.consumers[value])

    @cached_property
    def blob_of(self) -> dict[str, str]:
        """The Caffe blob that each value is a version of."""
        return {v: blob for blob, values in self.values_of_blob.items() for v in values}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Blobs that no layer reads, in the order of their layers: Caffe's net outputs."""
        return tuple(
            top
            for layer in self.layers
            for top, blob in zip(layer.tops, layer.top_blobs, strict=True)
            if top == blob and not self.consumers[top]
        )
