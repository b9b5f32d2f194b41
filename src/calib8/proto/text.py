"""Network definitions in text form: `read_prototxt` gives the newest form of a file of any age."""

from __future__ import annotations

import os
from dataclasses import dataclass

from calib8.errors import ModelError, PrototxtError
from calib8.proto import caffe_pb2
from calib8.proto.textformat import Place, read_text
from calib8.proto.upgrade import upgrade_net
from calib8.reading import read_file

_ONNX_SUFFIX = ".onnx"
"""Ending of the files that are networks and weights in one; not Caffe's."""
MAX_PROTOTXT_BYTES = 16 * 2**20
"""Largest prototxt that is read: ten times the largest that is known (1.5 MB, with 1001 layers)."""


@dataclass(frozen=True)
class Prototxt:
    """A network definition in its newest form: only `layer`, and an Input layer in front for every old `input`.

    Attributes:
        source: the path, or "<text>", for messages.
        net: the upgraded NetParameter; phases, losses and other things of training are still in it.
        unknown_fields: what was skipped, every field once: "line 12: convolution_param.foo".
        notes: what the upgrade changed, a sentence each.
        places: where each of net.layer stands, and the fields in it that were skipped.
    """

    source: str
    net: caffe_pb2.NetParameter
    unknown_fields: tuple[str, ...]
    notes: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def is_old(self) -> bool:
        """Whether the file has the layers of V1 or V0."""
        return any(note.startswith("upgraded from V") for note in self.notes)


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Tell from a file's name whether it is an ONNX model."""
    return os.fspath(path).lower().endswith(_ONNX_SUFFIX)


def read_prototxt(path: str | os.PathLike[str]) -> Prototxt:
    """Read a network definition: current, V1 (`layers`, types like CONVOLUTION) or V0 (`layers { layer {`).

    Raises:
        PrototxtError: every problem as "path:line: what", all wrong values of the file together.
    """
    if is_onnx(path):
        raise PrototxtError(
            f"{path}: an ONNX model, where a prototxt is expected; it has no prototxt and no caffemodel, and stands "
            "for both in calib8's commands and in open_network"
        )
    return parse_prototxt(read_text_file(path, MAX_PROTOTXT_BYTES, PrototxtError), str(path))


def parse_prototxt(text: str, source: str = "<text>") -> Prototxt:
    """Parse the text of a network definition; see `read_prototxt`."""
    net = caffe_pb2.NetParameter()
    report = read_text(text.replace("\r\n", "\n").replace("\r", "\n"), net, source)
    if not (net.layer or net.layers or net.input):
        raise PrototxtError(f"{source}:1: not a network definition: it has no 'layer' and no 'input'")
    if net.layer and not any(x.type for x in net.layer) and any("layer.blob_param" in x for x in report.unknown_fields):
        raise PrototxtError(f"{source}:1: a calibration table, where a network definition is expected")
    upgraded = upgrade_net(net, report.places, source)
    return Prototxt(source, upgraded.net, report.unknown_fields, upgraded.notes, upgraded.places)


def read_text_file(path: str | os.PathLike[str], max_bytes: int, error: type[ModelError]) -> str:
    """Read a text file, its size checked before.

    UTF-8 with or without a byte order mark, or any 8-bit code: names in Caffe are ASCII, and comments may be anything.
    """
    return decode_text(read_file(path, max_bytes, error), str(path), error)


def decode_text(data: bytes, source: str, error: type[ModelError]) -> str:
    """Decode the bytes of a text file; see `read_text_file`."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise error(f"{source}:1: the text is in UTF-16; save it as UTF-8")
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise error(f"{source}:{line}: a binary file (a caffemodel?) where a text file (a prototxt) is expected")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
