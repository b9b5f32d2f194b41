"""Weights of a Caffe network: `read_caffemodel` for binary files of every age, text and HDF5.

Only names, types and blobs are read: their field numbers are the same in all forks, the parameters' are not. The
structure of a network comes from its prototxt.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from calib8.errors import CaffemodelError
from calib8.proto import caffe_pb2
from calib8.proto.blobs import BlobError, blob_from_proto, blob_to_proto, read_blob
from calib8.proto.caffemodel_writer import write_caffemodel
from calib8.proto.text import is_onnx, read_text_file
from calib8.proto.textformat import read_text
from calib8.proto.upgrade import V1_TYPES, type_of_v1_word
from calib8.proto.upgrade_v0 import V0_TYPES
from calib8.proto.wire import LENGTH, VARINT, Field, Reader, WireError, expect
from calib8.reading import open_file

__all__ = [
    "Caffemodel", "LayerWeights", "blob_from_proto", "blob_to_proto", "read_caffemodel", "write_caffemodel",
]  # fmt: skip

MAX_LAYERS = 100_000
MAX_BLOBS = 200_000
MAX_TEXT_BYTES = 64 * 2**20
"""Largest weight file in text form that is read."""

_NET_NAME, _NET_LAYERS, _NET_LAYER = 1, 2, 100
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_PROBLEMS = 20
# What people save under the name of a caffemodel, by its first bytes.
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer, not the model itself: fetch it with `git lfs pull`",
    b"PK\x03\x04": "a zip archive: unpack it first (or a PyTorch file, which is no Caffe model)",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
}
_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<head")
_TEXT_STARTS = (b"name", b"layer", b"input", b"#", b"state", b"force_backward", b"debug_info")


@dataclass(frozen=True)
class LayerWeights:
    """One layer of a weight file.

    Attributes:
        name, type: as in the current form ("Convolution"), whatever the age of the file; "" where there is none.
        blobs: read-only float32 in the stored shape; four axes where the file has Caffe's old four numbers. Views of
            the file where it stores packed floats, and then at any address (`flags.aligned`).
    """

    name: str
    type: str
    blobs: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class Caffemodel:
    """A weight file: the network's name and its layers in file order, those without blobs included."""

    source: str
    name: str
    layers: tuple[LayerWeights, ...]


@dataclass(frozen=True)
class _LayerForm:
    """Field numbers of one age's layer message."""

    name: int
    type: int
    blobs: int
    inner: int = 0  # where a V1 layer holds a V0 one


_CURRENT = _LayerForm(name=1, type=2, blobs=7)
_V1 = _LayerForm(name=4, type=5, blobs=6, inner=1)
_V0 = _LayerForm(name=1, type=2, blobs=50)


def read_caffemodel(path: str | os.PathLike[str]) -> Caffemodel:
    """Read the weights in a `.caffemodel` (binary or text, current, V1 or V0) or a `.caffemodel.h5`.

    The file is mapped, not read: weights stored as packed floats are views of it, and cost memory only while they are
    used. It must stay unchanged as long as they are.

    Raises:
        CaffemodelError: no such file, another kind of file, a truncated one (with the place in bytes), or blobs whose
            values do not fit their shapes (all of them).
    """
    source = str(path)
    if is_onnx(source):
        raise CaffemodelError(f"{source}: an ONNX model, where a caffemodel is expected; it goes without a prototxt")
    data = _map(path)
    start = bytes(data[:64])
    if start.startswith(_HDF5_MAGIC):
        from calib8.proto.hdf5 import read_hdf5_layers  # noqa: PLC0415 - h5py is an extra

        return Caffemodel(source, "", tuple(LayerWeights(n, "", blobs) for n, blobs in read_hdf5_layers(path)))
    _refuse_foreign(source, start)
    if _is_text(start):
        return _read_text_weights(path)
    return _Decoder(source, data).read()


def _map(path: str | os.PathLike[str]) -> memoryview:
    try:
        with open_file(path, CaffemodelError) as file:
            if file.seek(0, os.SEEK_END) == 0:
                raise CaffemodelError(f"{path}: the file is empty (0 bytes), a caffemodel is expected")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as why:
        raise CaffemodelError(f"{path}: cannot be read: {getattr(why, 'strerror', None) or why}") from None


def _refuse_foreign(source: str, start: bytes) -> None:
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise CaffemodelError(f"{source}: at byte 0: the file is {what}")
    if start.lstrip().lower().startswith(_PAGE_STARTS):
        raise CaffemodelError(f"{source}: at byte 0: the file is a web page (a failed download?), not a caffemodel")


def _is_text(start: bytes) -> bool:
    """Tell text from binary: a text begins with a field's name, a message with a newline, 0x12 or 0xa2."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(_TEXT_STARTS) and all(byte >= 0x20 or byte in b"\t\r\n" for byte in start)


class _Decoder:
    """One pass over a mapped NetParameter."""

    def __init__(self, source: str, data: memoryview) -> None:
        self._source = source
        self._reader = Reader(data)
        self._problems: list[str] = []
        self._blobs = 0
        self._inside = ""

    def read(self) -> Caffemodel:
        try:
            name, layers = self._net()
        except WireError as why:
            self._fail(why)
        if self._problems:
            raise CaffemodelError(f"{self._source}: blobs do not fit their shapes", self._problems)
        if not layers:
            raise CaffemodelError(f"{self._source}: at byte 0: not a caffemodel, it has no layers")
        return Caffemodel(self._source, name, tuple(layers))

    def _fail(self, why: WireError) -> NoReturn:
        size = len(self._reader.data)
        inside = f", inside layer {self._inside!r}" if self._inside else ""
        raise CaffemodelError(
            f"{self._source}: at byte {why.offset} of {size}{inside}: {why}; "
            "the file is truncated, damaged or no caffemodel"
        ) from None

    def _net(self) -> tuple[str, list[LayerWeights]]:
        name, layers = "", []
        for field in self._reader.fields(0, len(self._reader.data)):
            if field.number == _NET_NAME:
                expect(field, LENGTH, what="the network's name")
                name = self._reader.text(field)
            elif field.number in (_NET_LAYERS, _NET_LAYER):
                expect(field, LENGTH, what="a layer")
                layers.append(self._layer(field, _V1 if field.number == _NET_LAYERS else _CURRENT))
                self._inside = ""
                if len(layers) > MAX_LAYERS:
                    raise WireError(field.tag, f"more than {MAX_LAYERS} layers")
        return name, layers

    def _layer(self, message: Field, form: _LayerForm) -> LayerWeights:
        """Read a layer; its name comes first or after its blobs, so these are read last."""
        name = kind = ""
        blobs = []
        for field in self._reader.fields(message.start, message.end):
            if field.number == form.name:
                expect(field, LENGTH, what="a layer's name")
                name = self._inside = self._reader.text(field)
            elif field.number == form.type:
                kind = self._type(field, form)
            elif field.number == form.blobs:
                expect(field, LENGTH, what="a blob")
                blobs.append(field)
                self._count_blob(field)
            elif form.inner and field.number == form.inner:
                expect(field, LENGTH, what="a V0 layer")
                return self._layer(field, _V0)
        return LayerWeights(name, kind, tuple(self._read_blobs(name, blobs)))

    def _count_blob(self, field: Field) -> None:
        self._blobs += 1
        if self._blobs > MAX_BLOBS:
            raise WireError(field.tag, f"more than {MAX_BLOBS} blobs")

    def _type(self, field: Field, form: _LayerForm) -> str:
        if form is _V1:
            expect(field, VARINT, what="a V1 layer's type")
            return v1_type(field.value)
        expect(field, LENGTH, what="a layer's type")
        kind = self._reader.text(field)
        return v0_type(kind) if form is _V0 else kind

    def _read_blobs(self, layer: str, blobs: list[Field]) -> Iterator[NDArray[np.float32]]:
        for index, field in enumerate(blobs):
            try:
                yield read_blob(self._reader, field.start, field.end)
            except BlobError as why:
                if len(self._problems) < _MAX_PROBLEMS:
                    self._problems.append(f"layer {layer!r} blob {index} (at byte {field.tag}) {why}")


def v1_type(number: int) -> str:
    """Name the V1 type of this number as it is called today; forks use numbers of their own, those have no name."""
    names = caffe_pb2.V1LayerParameter.LayerType
    return V1_TYPES[names.Name(number)] if number in names.values() else ""


def v0_type(name: str) -> str:
    """Name a V0 type as it is called today."""
    return V1_TYPES[V0_TYPES[name]] if name in V0_TYPES else name


def _read_text_weights(path: str | os.PathLike[str]) -> Caffemodel:
    source = str(path)
    net = caffe_pb2.NetParameter()
    text = read_text_file(path, MAX_TEXT_BYTES, CaffemodelError)
    read_text(text, net, source, CaffemodelError, MAX_TEXT_BYTES)
    problems: list[str] = []
    layers = [_from_message(x, x.type, problems) for x in net.layer]
    for old in net.layers:
        if old.HasField("layer"):
            layers.append(_from_message(old.layer, v0_type(old.layer.type), problems))
        else:
            kind = type_of_v1_word(old.type_word) if old.type_word else v1_type(old.type)
            layers.append(_from_message(old, kind, problems))
    if problems:
        raise CaffemodelError(f"{source}: blobs do not fit their shapes", problems)
    if not any(layer.blobs for layer in layers):
        raise CaffemodelError(f"{source}:1: a text without blobs (a prototxt?), not a caffemodel")
    return Caffemodel(source, net.name, tuple(layers))


def _from_message(
    layer: caffe_pb2.LayerParameter | caffe_pb2.V1LayerParameter | caffe_pb2.V0LayerParameter,
    kind: str,
    problems: list[str],
) -> LayerWeights:
    blobs = []
    for index, blob in enumerate(layer.blobs):
        try:
            blobs.append(blob_from_proto(blob))
        except BlobError as why:
            problems.append(f"layer {layer.name!r} blob {index} {why}")
    return LayerWeights(layer.name, kind, tuple(blobs))
