"""Weights of a Caffe network: names, types and blobs of a binary NetParameter."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from calib8.atomic import write_atomically
from calib8.errors import CaffemodelError
from calib8.proto import caffe_pb2


@dataclass(frozen=True)
class LayerWeights:
    """The blobs of one layer, read-only."""

    name: str
    type: str
    blobs: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class Caffemodel:
    """The layers of a weight file in file order."""

    source: str
    name: str
    layers: tuple[LayerWeights, ...]


def blob_from_proto(blob: caffe_pb2.BlobProto) -> NDArray[np.float32]:
    """The blob's values in its shape."""
    shape = list(blob.shape.dim) if blob.HasField("shape") else [blob.num, blob.channels, blob.height, blob.width]
    return np.array(blob.data or blob.double_data, dtype=np.float32).reshape(shape)


def blob_to_proto(values: NDArray[np.float32]) -> caffe_pb2.BlobProto:
    """The message of an array."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(values.shape)
    blob.data.extend(values.ravel().tolist())
    return blob


def read_caffemodel(path: str | os.PathLike[str]) -> Caffemodel:
    """Read the names, types and blobs of a caffemodel."""
    net = caffe_pb2.NetParameter()
    try:
        net.ParseFromString(Path(path).read_bytes())
    except (OSError, DecodeError) as error:
        raise CaffemodelError(f"{path}: {error}") from None
    layers = [(x.name, x.type, x.blobs) for x in net.layer] + [(x.name, str(x.type), x.blobs) for x in net.layers]
    return Caffemodel(
        str(path), net.name, tuple(LayerWeights(n, t, tuple(blob_from_proto(b) for b in bs)) for n, t, bs in layers)
    )


def write_caffemodel(
    path: str | os.PathLike[str],
    net_name: str,
    layers: Iterable[tuple[caffe_pb2.LayerParameter, Sequence[NDArray[np.float32]]]],
) -> None:
    """Write a caffemodel."""
    net = caffe_pb2.NetParameter(name=net_name)
    for layer, blobs in layers:
        copy = net.layer.add()
        copy.CopyFrom(layer)
        del copy.blobs[:]
        copy.blobs.extend(blob_to_proto(b) for b in blobs)
    with write_atomically(path) as file:
        file.write(net.SerializeToString(deterministic=True))
