"""Network definitions in text form: `read_prototxt` gives the newest form of whatever age the file has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from calib8.errors import PrototxtError
from calib8.proto import caffe_pb2


@dataclass(frozen=True)
class Prototxt:
    """A network definition, upgraded: only `layer`, and an Input layer in front for every old `input`."""

    source: str
    net: caffe_pb2.NetParameter
    unknown_fields: tuple[str, ...]
    notes: tuple[str, ...]


def read_prototxt(path: str | os.PathLike[str]) -> Prototxt:
    """Read and upgrade a prototxt."""
    try:
        text = Path(path).read_bytes().decode("latin-1")
    except OSError as error:
        raise PrototxtError(f"{path}: {error.strerror or error}") from None
    return parse_prototxt(text, str(path))


def parse_prototxt(text: str, source: str = "<text>") -> Prototxt:
    """Parse and upgrade the text of a prototxt."""
    net = caffe_pb2.NetParameter()
    try:
        text_format.Parse(text, net, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise PrototxtError(f"{source}:{error}") from None
    _upgrade_inputs(net)
    return Prototxt(source, net, (), ())


def _upgrade_inputs(net: caffe_pb2.NetParameter) -> None:
    layers = []
    for index, name in enumerate(net.input):
        layer = caffe_pb2.LayerParameter(name=name, type="Input", top=[name])
        dims = net.input_shape[index].dim if net.input_shape else net.input_dim[4 * index : 4 * index + 4]
        layer.input_param.shape.add().dim.extend(dims)
        layers.append(layer)
    if layers:
        layers.extend(net.layer)
        for field in ("layer", "input", "input_shape", "input_dim"):
            net.ClearField(field)
        net.layer.extend(layers)
