"""Reading a layer's fields, and knowing afterwards which set fields nobody read.

A set field that a layer does not read would silently mean something else than in the fork that the prototxt comes
from. So every read is remembered, and what is left over is reported, fields that no known fork has included. Fields
that only steer training, the choice of an engine or the memory layout have no effect on the result; they are listed
here, once, for all layer types. An unknown number or word beside a layer's parameter messages (`forward_type: FLOAT16`)
is such a choice in every fork that has one; the network's notes name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from calib8.errors import Calib8Error
from calib8.graph import Phase
from calib8.proto.scalars import fields_of
from calib8.proto.textformat import NOWHERE, Place

# Without effect on inference, whatever message they stand in.
_WITHOUT_EFFECT = frozenset(
    [
        "weight_filler",
        "bias_filler",
        "filler",
        "slope_filler",
        "scale_filler",
        "engine",
        "conv_algorithm",
        "use_winograd",
        "force_nd_im2col",
        "moving_average_fraction",
        "stable_prod_grad",
        "stats_batch_size",
        "coeff_fusion",
        "fuse",
        "per_fla_fuse",
        "debug_info",
        "class_weight_filler",
    ]
)
# Of LayerParameter itself: read by the graph, or only for training.
_OF_EVERY_LAYER = frozenset(
    [
        "name",
        "type",
        "bottom",
        "top",
        "phase",
        "loss_weight",
        "param",
        "blobs",
        "propagate_down",
        "include",
        "exclude",
        "loss_param",
        "engine",
        "blobs_lr",
        "weight_decay",
        "quantization_param",
        "mn_grad_compress_param",
        "mn_activation_param",
        "multinode",
    ]
)
# Messages of LayerParameter that only training reads.
_TRAINING_MESSAGES = frozenset(["param", "loss_param", "quantization_param"])


class RefusedError(Calib8Error):
    """A layer cannot be built: one sentence, to which the walk over the net adds the layer's name and type."""


class Group:
    """One parameter message (`convolution_param`) of a layer. Attribute access reads a field and remembers it."""

    def __init__(self, message: Message, name: str) -> None:
        self._message = message
        self._name = name
        self._read: set[str] = set()

    def __getattr__(self, field: str) -> Any:
        if field.startswith("_"):
            raise AttributeError(field)
        self._read.add(field)
        value = getattr(self._message, field)
        descriptor = self._message.DESCRIPTOR.fields_by_name[field]
        return _plain(value, descriptor)

    def has(self, field: str) -> bool:
        """Tell whether an optional field is set (the field counts as read)."""
        self._read.add(field)
        return any(descriptor.name == field for descriptor, _ in self._message.ListFields())

    def ignore(self, *fields: str) -> None:
        """Declare fields that have no effect on this layer's result."""
        self._read.update(fields)

    def unread(self) -> list[str]:
        names = (descriptor.name for descriptor, _ in self._message.ListFields())
        return [f"{self._name}.{n}" for n in names if n not in self._read and n not in _WITHOUT_EFFECT]


class Fields:
    """The fields of one LayerParameter, and where the layer stands: the prototxt's folder, the phase.

    `place` has the fields that the schema does not know.
    """

    def __init__(
        self, param: Message, model_folder: Path = Path(), phase: Phase = Phase.TEST, place: Place = NOWHERE
    ) -> None:
        self.param = param
        self._place = place
        self.model_folder = model_folder
        self.phase = phase
        self._groups: dict[str, Group] = {}

    def group(self, name: str) -> Group:
        """Return the parameter message `name` with its defaults, whether the prototxt has it or not."""
        if name not in self._groups:
            self._groups[name] = Group(getattr(self.param, name), name)
        return self._groups[name]

    def has(self, name: str) -> bool:
        """Tell whether the prototxt has the parameter message `name`."""
        return bool(self.param.HasField(name))

    def unread(self, *, is_source: bool = False) -> list[str]:
        """Set fields of the messages that this layer type reads, which it did not read; unknown ones anywhere.

        Args:
            is_source: whether the layer's tops come from outside: then a message that nobody knows says where from.
        """
        known = [field for group in self._groups.values() for field in group.unread()]
        return known + [f"{'.'.join(p)} (unknown)" for p in self._place.unknown if self._matters(p, is_source)]

    def _matters(self, path: Sequence[str], is_source: bool) -> bool:
        """Whether an unknown field may change the layer's result."""
        if len(path) == 1 and (is_source or tuple(path) not in self._place.unknown_messages):
            return False
        return not any(n in _WITHOUT_EFFECT or n in _TRAINING_MESSAGES or n.endswith("_filler") for n in path)

    def notes(self) -> list[str]:
        """Say what the layer sets and nobody reads, one clause each.

        Messages of other types, which Caffe ignores, too; bit widths that Ristretto or Intel's tool computed.
        """
        names = (descriptor.name for descriptor, _ in self.param.ListFields())
        foreign = [n for n in names if n not in self._groups and n not in _OF_EVERY_LAYER]
        widths = ["quantization_param has bit widths of another tool, which are not used"]
        return [f"{n} is not this type's, ignored" for n in foreign] + widths * self.has("quantization_param")


def _plain(value: Any, descriptor: FieldDescriptor) -> Any:
    """Repeated scalars as tuples and enums as their names; messages stay as they are."""
    enum = descriptor.enum_type
    if fields_of(descriptor.containing_type)[descriptor.name].repeated:
        if enum is not None:
            return tuple(enum.values_by_number[v].name for v in value)
        return tuple(value)
    return enum.values_by_number[value].name if enum is not None else value
