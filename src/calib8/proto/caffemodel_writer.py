"""Caffemodels written layer by layer, the same bytes that protobuf would write."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.atomic import write_atomically
from calib8.proto import caffe_pb2
from calib8.proto.wire import encode_header, encode_varint

_BLOCK = 1 << 20
_NET_NAME, _NET_LAYER, _LAYER_BLOBS, _BLOB_DATA, _BLOB_SHAPE, _SHAPE_DIM = 1, 100, 7, 5, 7, 1


def write_caffemodel(
    path: str | os.PathLike[str],
    net_name: str,
    layers: Iterable[tuple[caffe_pb2.LayerParameter, Sequence[NDArray[Any]]]],
) -> None:
    """Write a NetParameter with these layers, each with these blobs instead of its own.

    Blobs are written as Caffe writes them: `shape`, and float32 values packed in `data`. Integers are brought to
    float32 block by block. The file appears whole or not at all.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    with write_atomically(path) as file:
        if net_name:
            name = net_name.encode("utf-8", "surrogateescape")
            file.write(encode_header(_NET_NAME, len(name)) + name)
        for layer, blobs in layers:
            for part in _layer_parts(layer, blobs):
                file.write(part)


def _layer_parts(layer: caffe_pb2.LayerParameter, blobs: Sequence[NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a layer in protobuf's order of numbers: what comes before `blobs`, the blobs, the others."""
    # Lengths come before what they measure, so all sizes are known before the first byte of a blob is made.
    before, after = _split(layer)
    frames = [_blob_frame(blob) for blob in blobs]
    sizes = [len(head) + 4 * blob.size + len(tail) for blob, (head, tail) in zip(blobs, frames, strict=True)]
    headers = [encode_header(_LAYER_BLOBS, size) for size in sizes]
    yield encode_header(_NET_LAYER, len(before) + sum(map(len, headers)) + sum(sizes) + len(after))
    yield before
    for header, blob, (head, tail) in zip(headers, blobs, frames, strict=True):
        yield header + head
        flat = blob.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            yield np.ascontiguousarray(flat[start : start + _BLOCK], dtype="<f4").data.cast("B")
        yield tail
    yield after


def _split(layer: caffe_pb2.LayerParameter) -> tuple[bytes, bytes]:
    before, after = caffe_pb2.LayerParameter(), caffe_pb2.LayerParameter()
    before.CopyFrom(layer)
    before.DiscardUnknownFields()
    after.CopyFrom(layer)
    for descriptor, _ in layer.ListFields():
        if descriptor.number >= _LAYER_BLOBS:
            before.ClearField(descriptor.name)
        if descriptor.number <= _LAYER_BLOBS:
            after.ClearField(descriptor.name)
    return before.SerializeToString(deterministic=True), after.SerializeToString(deterministic=True)


def _blob_frame(blob: NDArray[Any]) -> tuple[bytes, bytes]:
    """Give what stands before and after a blob's values."""
    dims = b"".join(encode_varint(d) for d in blob.shape)
    shape = encode_header(_SHAPE_DIM, len(dims)) + dims if dims else b""
    head = encode_header(_BLOB_DATA, 4 * blob.size) if blob.size else b""
    return head, encode_header(_BLOB_SHAPE, len(shape)) + shape
