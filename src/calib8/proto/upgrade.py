"""Old network definitions in the newest form, by the rules of Caffe.

Source: BVLC/caffe src/caffe/util/upgrade_proto.cpp. V0 (2013) puts a `layer` into every `layers` and has one flat
message for all types; V1 (2014) has `layers` with an enum of types; the current form has `layer` with a string. `input`
fields became Input layers in 2016. What Caffe only logs becomes a note; what it dies of, or ignores without a word, is
an error here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calib8.errors import PrototxtError
from calib8.proto import caffe_pb2
from calib8.proto.textformat import NOWHERE, Place, error_of
from calib8.proto.upgrade_v0 import Findings, Placed, upgrade_v0_layers

V1_TYPES = {
    "NONE": "", "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BNLL": "BNLL",
    "CONCAT": "Concat", "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution", "CROP": "Crop",
    "DATA": "Data", "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout", "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise", "EUCLIDEAN_LOSS": "EuclideanLoss", "EXP": "Exp", "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "HINGE_LOSS": "HingeLoss", "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData", "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN", "MEMORY_DATA": "MemoryData", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN", "POOLING": "Pooling", "POWER": "Power", "RELU": "ReLU", "RELU6": "ReLU6",
    "SIGMOID": "Sigmoid", "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence",
    "SLICE": "Slice", "SOFTMAX": "Softmax", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split",
    "TANH": "TanH", "THRESHOLD": "Threshold", "WINDOW_DATA": "WindowData",
}  # fmt: skip
"""The name of every V1 layer type in the current form (upgrade_proto.cpp, UpgradeV1LayerType)."""

_ABBREVIATIONS = {
    "BN": "BN", "BNLL": "BNLL", "CRELU": "CReLU", "ELU": "ELU", "GRN": "GRN", "HDF5": "HDF5", "LRN": "LRN",
    "LSTM": "LSTM", "MVN": "MVN", "PRELU": "PReLU", "PSROI": "PSROI", "RELU": "ReLU", "RELU6": "ReLU6", "RNN": "RNN",
    "ROI": "ROI", "SELU": "SELU", "SPP": "SPP",
}  # fmt: skip
"""Words of types whose spelling in the current form is more than a capital in front."""

_TRANSFORMED = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}
_MOVED = ("scale", "mean_file", "crop_size", "mirror")
_DIMS = 4
_STATISTICS = 3


@dataclass(frozen=True)
class Upgraded:
    """A network in its newest form, the place of each of its layers (line 0: made here), and what changed."""

    net: caffe_pb2.NetParameter
    places: tuple[Place, ...]
    notes: tuple[str, ...]


def upgrade_net(net: caffe_pb2.NetParameter, places: Mapping[str, Sequence[Place]], source: str) -> Upgraded:
    """Bring a network of any age into its newest form. `places` says where every `layer` and `layers` stands.

    Raises:
        PrototxtError: `layer` mixed with `layers`, unknown V0 types, inputs without or with wrong dimensions.
    """
    findings = Findings([], [])
    old = [Placed(place, x) for place, x in zip(_places(places, "layers", net.layers), net.layers, strict=True)]
    current = list(zip(_places(places, "layer", net.layer), net.layer, strict=True))
    if old and current:
        where = f"'layer' stands beside 'layers' (line {old[0].place.line}); a network has one form or the other"
        findings.problems.append((current[0][0], where))
    elif old:
        current = _upgrade_old(old, list(net.input), findings)
    inputs = [(NOWHERE, x) for x in _input_layers(net, {x.name for _, x in current}, findings)]
    if findings.problems:
        raise error_of(
            PrototxtError, source, [f"{source}:{place.line or 1}: {what}" for place, what in findings.problems]
        )
    return _assemble(net, inputs + current, findings.notes)


def _places(places: Mapping[str, Sequence[Place]], name: str, layers: Sequence[object]) -> Sequence[Place]:
    """Give the place of each layer; line 0 throughout for a network that does not come from text."""
    known = places.get(name, ())
    return known if len(known) == len(layers) else [NOWHERE] * len(layers)


def _assemble(
    net: caffe_pb2.NetParameter, layers: Sequence[tuple[Place, caffe_pb2.LayerParameter]], notes: Sequence[str]
) -> Upgraded:
    upgraded = caffe_pb2.NetParameter()
    for descriptor, value in net.ListFields():
        if descriptor.name in ("name", "force_backward", "state", "debug_info", "engine"):
            _copy_field(upgraded, descriptor.name, value)
    upgraded.layer.extend(layer for _, layer in layers)
    for layer in upgraded.layer:
        _upgrade_batch_norm(layer)
    return Upgraded(upgraded, tuple(place for place, _ in layers), tuple(notes))


def _upgrade_batch_norm(layer: caffe_pb2.LayerParameter) -> None:
    """Fix the rates of BatchNorm's three statistics at 0, which the first version left to the user."""
    if layer.type == "BatchNorm" and len(layer.param) == _STATISTICS:
        for param in layer.param:
            param.lr_mult = 0
            param.decay_mult = 0


def _upgrade_old(
    layers: Sequence[Placed], inputs: Sequence[str], findings: Findings
) -> list[tuple[Place, caffe_pb2.LayerParameter]]:
    if any(x.layer.HasField("layer") for x in layers):
        layers = upgrade_v0_layers(layers, inputs, findings)
        findings.notes.append("upgraded from V0 (`layers { layer { ... } }`)")
    else:
        findings.notes.append("upgraded from V1 (`layers`)")
    for place, layer in layers:
        if layer.type_word.startswith(("'", '"')):
            what = f"layers {layer.name!r} has its type in quotes, {layer.type_word}: that is the current form, 'layer'"
            findings.problems.append((place, f"{what}; in 'layers' types are words in capitals, such as INNER_PRODUCT"))
        elif not (layer.HasField("type") or layer.type_word):
            findings.problems.append((place, f"layers {layer.name!r} has no type"))
    return [(place, upgrade_v1_layer(layer)) for place, layer in layers]


def upgrade_v1_layer(v1: caffe_pb2.V1LayerParameter) -> caffe_pb2.LayerParameter:
    """Bring a V1 layer into the current form; a parameter message keeps its name and its type."""
    known = V1_TYPES[caffe_pb2.V1LayerParameter.LayerType.Name(v1.type)]
    kind = type_of_v1_word(v1.type_word) if v1.type_word else known
    layer = caffe_pb2.LayerParameter(name=v1.name, type=kind, bottom=v1.bottom, top=v1.top)
    for descriptor, value in v1.ListFields():
        if descriptor.name.endswith("_param") or descriptor.name in ("include", "exclude", "blobs", "loss_weight"):
            _copy_field(layer, descriptor.name, value)
    # V1 has a list for each property of the blobs, the current form a ParamSpec for each blob.
    specs: dict[str, Sequence[Any]] = {
        "name": v1.param,
        "share_mode": v1.blob_share_mode,
        "lr_mult": v1.blobs_lr,
        "decay_mult": v1.weight_decay,
    }
    for name, values in specs.items():
        for index, value in enumerate(values):
            while len(layer.param) <= index:
                layer.param.add()
            setattr(layer.param[index], name, value)
    _move_transformation(layer)
    return layer


def type_of_v1_word(word: str) -> str:
    """Name a type that a fork added to V1's: ROI_POOLING is ROIPooling, DENSE_IMAGE_DATA DenseImageData.

    Names of both forms consist of the same words, written in capitals or with capitals.
    """
    return "".join(_ABBREVIATIONS.get(part) or part.capitalize() for part in word.split("_"))


def _copy_field(message: caffe_pb2.LayerParameter | caffe_pb2.NetParameter, name: str, value: Any) -> None:
    current = getattr(message, name)
    if hasattr(current, "CopyFrom"):
        current.CopyFrom(value)
    elif hasattr(current, "extend"):
        current.extend(value)
    else:
        setattr(message, name, value)


def _move_transformation(layer: caffe_pb2.LayerParameter) -> None:
    """Move scale, mean_file, crop_size and mirror, which old data layers carry themselves, to transform_param
    (UpgradeNetDataTransformation).
    """
    if layer.type not in _TRANSFORMED or not layer.HasField(_TRANSFORMED[layer.type]):
        return
    data = getattr(layer, _TRANSFORMED[layer.type])
    for name in _MOVED:
        if data.HasField(name):
            setattr(layer.transform_param, name, getattr(data, name))
            data.ClearField(name)


def _input_layers(net: caffe_pb2.NetParameter, taken: set[str], findings: Findings) -> list[caffe_pb2.LayerParameter]:
    """Make an Input layer for every `input`, named after its blob."""
    if not net.input:
        if net.input_dim or net.input_shape:
            findings.notes.append("input_dim and input_shape without `input` mean nothing, ignored")
        return []
    problem = _input_problem(net)
    if problem:
        findings.problems.append((NOWHERE, problem))
        return []
    layers = []
    for index, blob in enumerate(net.input):
        layer = caffe_pb2.LayerParameter(name=_free_name(blob, taken), type="Input", top=[blob])
        dims = net.input_shape[index].dim if net.input_shape else net.input_dim[_DIMS * index : _DIMS * (index + 1)]
        layer.input_param.shape.add().dim.extend(dims)
        taken.add(layer.name)
        layers.append(layer)
    findings.notes.append(f"`input` fields became Input layers: {_names(net.input)}")
    return layers


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_input"
    return name


def _input_problem(net: caffe_pb2.NetParameter) -> str | None:
    count, dims, shapes = len(net.input), len(net.input_dim), len(net.input_shape)
    twice = sorted(name for name, times in Counter(net.input).items() if times > 1)
    if twice:
        return f"input {', '.join(map(repr, twice))} is given twice"
    if dims and shapes:
        return "both input_dim and input_shape are given; a network has one or the other"
    if shapes and shapes != count:
        return f"{shapes} input_shape for {count} input ({_names(net.input)}): every input needs one"
    if not shapes and dims != _DIMS * count:
        return (
            f"{dims} input_dim for {count} input ({_names(net.input)}): every input needs four of them "
            "(number, channels, height, width), or an input_shape for another number of dimensions"
        )
    return None


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
