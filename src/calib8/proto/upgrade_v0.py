"""V0 layers (`layers { layer { type: "conv" kernelsize: 3 } bottom: .. }`) to V1.

Source: BVLC/caffe src/caffe/util/upgrade_proto.cpp, UpgradeV0PaddingLayers and UpgradeV0LayerParameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from calib8.proto import caffe_pb2
from calib8.proto.textformat import Place

_DATA = {"data": "data_param", "images": "image_data_param", "window_data": "window_data_param"}
_READERS = {**_DATA, "hdf5_data": "hdf5_data_param"}
_WEIGHTED = {"conv": "convolution_param", "innerproduct": "inner_product_param"}
_WINDOWED = {"conv": "convolution_param", "pool": "pooling_param"}
_ANY = "*"

V0_TYPES = {
    "accuracy": "ACCURACY", "bnll": "BNLL", "concat": "CONCAT", "conv": "CONVOLUTION", "data": "DATA",
    "dropout": "DROPOUT", "euclidean_loss": "EUCLIDEAN_LOSS", "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA", "hdf5_output": "HDF5_OUTPUT", "im2col": "IM2COL", "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS", "innerproduct": "INNER_PRODUCT", "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS", "pool": "POOLING", "relu": "RELU",
    "sigmoid": "SIGMOID", "softmax": "SOFTMAX", "softmax_loss": "SOFTMAX_LOSS", "split": "SPLIT",
    "tanh": "TANH", "window_data": "WINDOW_DATA",
}  # fmt: skip
"""V0 type to V1 type; "padding" is not here, it becomes part of the layer that reads it."""

# V0 field -> (field in V1's message, {V0 type: the message that takes it}).
_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", _WEIGHTED),
    "biasterm": ("bias_term", _WEIGHTED),
    "weight_filler": ("weight_filler", _WEIGHTED),
    "bias_filler": ("bias_filler", _WEIGHTED),
    "pad": ("pad", _WINDOWED),
    "kernelsize": ("kernel_size", _WINDOWED),
    "stride": ("stride", _WINDOWED),
    "group": ("group", {"conv": "convolution_param"}),
    "pool": ("pool", {"pool": "pooling_param"}),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", {"lrn": "lrn_param"}),
    "alpha": ("alpha", {"lrn": "lrn_param"}),
    "beta": ("beta", {"lrn": "lrn_param"}),
    "k": ("k", {"lrn": "lrn_param"}),
    "source": ("source", {**_READERS, "infogain_loss": "infogain_loss_param"}),
    "batchsize": ("batch_size", _READERS),
    "scale": ("scale", {_ANY: "transform_param"}),
    "meanfile": ("mean_file", {_ANY: "transform_param"}),
    "cropsize": ("crop_size", {_ANY: "transform_param"}),
    "mirror": ("mirror", {_ANY: "transform_param"}),
    "rand_skip": ("rand_skip", {"data": "data_param", "images": "image_data_param"}),
    "shuffle_images": ("shuffle", {"images": "image_data_param"}),
    "new_height": ("new_height", {"images": "image_data_param"}),
    "new_width": ("new_width", {"images": "image_data_param"}),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", {"window_data": "window_data_param"}),
    "det_bg_threshold": ("bg_threshold", {"window_data": "window_data_param"}),
    "det_fg_fraction": ("fg_fraction", {"window_data": "window_data_param"}),
    "det_context_pad": ("context_pad", {"window_data": "window_data_param"}),
    "det_crop_mode": ("crop_mode", {"window_data": "window_data_param"}),
}
_HANDLED = frozenset({"name", "type", "blobs", "blobs_lr", "weight_decay", "hdf5_output_param", *_FIELDS})


class Placed(NamedTuple):
    """A layer and where it stands in the text."""

    place: Place
    layer: caffe_pb2.V1LayerParameter


class Findings(NamedTuple):
    """What an upgrade found: problems are (place, what), notes are whole sentences."""

    problems: list[tuple[Place, str]]
    notes: list[str]


def upgrade_v0_layers(layers: Sequence[Placed], inputs: Sequence[str], findings: Findings) -> list[Placed]:
    """Turn V0 layers into V1 layers: padding becomes the pad of its readers, flat fields find their messages."""
    upgraded = []
    for place, layer in _fuse_padding(layers, inputs, findings):
        if not layer.HasField("layer"):
            findings.problems.append(
                (place, f"layers {layer.name!r} has V1's form in a network of V0's ('layer' inside)")
            )
        elif layer.layer.type not in V0_TYPES:
            known = ", ".join(V0_TYPES)
            what = f"layers {layer.layer.name!r} has the unknown V0 type {layer.layer.type!r}; known are {known}"
            findings.problems.append((place, what))
        else:
            upgraded.append(Placed(place, _upgrade(layer, findings.notes)))
    return upgraded


def _fuse_padding(layers: Sequence[Placed], inputs: Sequence[str], findings: Findings) -> list[Placed]:
    """Drop padding layers; the convolution or pooling that reads one takes its pad and its bottom."""
    maker: dict[str, caffe_pb2.V1LayerParameter | None] = dict.fromkeys(inputs)
    kept = []
    for place, original in layers:
        layer = caffe_pb2.V1LayerParameter()
        layer.CopyFrom(original)
        for index, blob in enumerate(original.bottom):
            source = maker.get(blob)
            if source is None or source.layer.type != "padding":
                continue
            if original.layer.type not in _WINDOWED or len(original.bottom) != 1 or len(source.bottom) != 1:
                what = f"layers {original.layer.name!r} reads the padding layer {source.layer.name!r}"
                findings.problems.append((place, f"{what}; only a conv or pool layer with this bottom alone can"))
                continue
            layer.layer.pad = source.layer.pad
            layer.bottom[index] = source.bottom[0]
            findings.notes.append(f"padding layer {source.layer.name!r} became the pad of {original.layer.name!r}")
        if original.layer.type != "padding":
            kept.append(Placed(place, layer))
        maker.update(dict.fromkeys(original.top, original))
    return kept


def _upgrade(v0: caffe_pb2.V1LayerParameter, notes: list[str]) -> caffe_pb2.V1LayerParameter:
    flat, kind = v0.layer, v0.layer.type
    v1 = caffe_pb2.V1LayerParameter(name=flat.name, bottom=v0.bottom, top=v0.top, type=V0_TYPES[kind])
    v1.blobs.extend(flat.blobs)
    v1.blobs_lr.extend(flat.blobs_lr)
    v1.weight_decay.extend(flat.weight_decay)
    for descriptor, value in flat.ListFields():
        target, takers = _FIELDS.get(descriptor.name, ("", {}))
        message = takers.get(kind, takers.get(_ANY))
        if message:
            _set(getattr(v1, message), target, value)
        elif descriptor.name == "hdf5_output_param" and kind == "hdf5_output":
            v1.hdf5_output_param.CopyFrom(value)
        elif descriptor.name in _FIELDS or descriptor.name not in _HANDLED:
            notes.append(f"layer {flat.name!r}: {descriptor.name} means nothing for the V0 type {kind!r}, ignored")
    return v1


def _set(message: caffe_pb2.ConvolutionParameter, name: str, value: object) -> None:
    """Set a field that may be repeated (kernel_size), a message (weight_filler) or a scalar."""
    current = getattr(message, name)
    if hasattr(current, "CopyFrom"):
        current.CopyFrom(value)
    elif hasattr(current, "append"):
        current.append(value)
    else:
        setattr(message, name, value)
