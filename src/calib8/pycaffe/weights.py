"""The weights of a Net: made by fillers, copied from caffemodels, shared, saved."""

from __future__ import annotations

import io
import logging
import os
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.atomic import write_atomically
from calib8.errors import CaffemodelError, OptionError, UnsupportedError
from calib8.graph import Layer
from calib8.layers import Op
from calib8.layers.python import Python
from calib8.lowering.weights import bind_blobs
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import read_caffemodel, write_caffemodel
from calib8.pycaffe.blob import Parameter
from calib8.pycaffe.definition import Definition
from calib8.pycaffe.feeds import PythonFeed
from calib8.pycaffe.fillers import fill
from calib8.python_layers import Blob, BlobVec
from calib8.python_layers import Layer as PythonLayer

_log = logging.getLogger(__name__)

Params = OrderedDict[str, BlobVec]
Stored = Mapping[str, Sequence[NDArray[np.float32]]]


def read_weights(path: str | os.PathLike[str]) -> dict[str, Sequence[NDArray[np.float32]]]:
    """Collect blobs by layer name; of several layers with one name the last counts, as in Caffe.

    Raises:
        CaffemodelError: see `read_caffemodel`.
    """
    return {layer.name: layer.blobs for layer in read_caffemodel(path).layers}


def make_params(definition: Definition, to_come: Collection[str]) -> Params:
    """Make the weights of every layer that has some, filled as the prototxt says.

    Args:
        to_come: layers whose weights are copied afterwards, and need no filling.

    Raises:
        UnsupportedError: fillers, or shared weights, that mean nothing; all of them.
    """
    params: Params = OrderedDict()
    problems: list[str] = []
    model = definition.model
    for layer, op in model.pairs:
        python = python_layer(definition, layer, op)
        if python is not None:
            vec = python.blobs
        else:
            shapes = op.blob_shapes([model.shapes[b] for b in layer.bottoms]) if op.kind != "source" else []
            try:
                vec = BlobVec(_filled(layer, op, shapes, layer.name in to_come))
            except UnsupportedError as why:
                problems.append(f"layer {layer.name!r} ({layer.type}) {why}")
                continue
        if vec:
            params[layer.name] = vec
    problems += _share_by_name(definition, params)
    if problems:
        raise UnsupportedError(f"{model.net.source}: the weights cannot be made", problems)
    return params


def python_layer(definition: Definition, layer: Layer, op: Op) -> PythonLayer | None:
    """Find the user's object of a Python layer."""
    feed = definition.feeds.get(layer.name)
    if isinstance(feed, PythonFeed):
        return feed.layer.instance
    return op.instance if isinstance(op, Python) else None


def _filled(layer: Layer, op: Op, shapes: Sequence[tuple[int, ...]], to_come: bool) -> list[Blob]:
    fillers = (
        {} if to_come else dict(enumerate(_named_fillers(layer.param, op) if op.fillers else _fillers(layer.param)))
    )
    default = caffe_pb2.FillerParameter(value=op.unfilled)
    blobs: list[Blob] = []
    for index, shape in enumerate(shapes):
        filler = fillers.get(index) or (default if index == 0 and not to_come else None)
        blobs.append(Parameter(np.zeros(shape, np.float32) if filler is None else fill(filler, tuple(shape))))
    return blobs


def _named_fillers(param: Any, op: Op) -> list[Any]:
    """Find the fillers of a layer that names a field for each of its blobs."""
    messages = [message for descriptor, message in param.ListFields() if descriptor.name.endswith("_param")]
    set_fields = {f.name: value for message in messages for f, value in message.ListFields() if _is_filler(f)}
    return [set_fields.get(name) or caffe_pb2.FillerParameter(value=unfilled) for name, unfilled in op.fillers]


def _fillers(param: caffe_pb2.LayerParameter) -> list[caffe_pb2.FillerParameter | None]:
    """List the fillers of a layer's blobs in their order; None for one that is not set.

    Caffe's parameter messages name the weights' filler before the bias's.
    """
    for descriptor, message in param.ListFields():
        if descriptor.message_type is None or descriptor.name == "dummy_data_param":
            continue
        fields = sorted((f for f in descriptor.message_type.fields if _is_filler(f)), key=lambda f: f.number)
        if fields:
            return [getattr(message, f.name) if message.HasField(f.name) else None for f in fields]
    return []


def _is_filler(field: Any) -> bool:
    return field.message_type is not None and field.message_type.name == "FillerParameter"


def _share_by_name(definition: Definition, params: Params) -> list[str]:
    """Make blobs with one `param { name }` one blob (BVLC/caffe, src/caffe/net.cpp, Net::AppendParam)."""
    owners: dict[str, tuple[str, Blob]] = {}
    problems: list[str] = []
    for name, vec in params.items():
        for index, spec in enumerate(definition.params[name].param[: len(vec)]):
            if not spec.name:
                continue
            owner, blob = owners.setdefault(spec.name, (name, vec[index]))
            if blob.shape == vec[index].shape:
                vec[index] = blob
            else:
                problems.append(
                    f"layer {name!r} shares {spec.name!r} with layer {owner!r}, but its blob {index} has the shape "
                    f"{vec[index].shape}, there it has {blob.shape}"
                )
    return problems


def copy_weights(params: Params, stored: Stored, source: str | os.PathLike[str]) -> None:
    """Copy weights by layer name; layers that are not on both sides are left alone.

    Raises:
        CaffemodelError: weights of other shapes; all of them, and nothing is copied.
    """
    bound: dict[str, tuple[NDArray[np.float32], ...]] = {}
    problems: list[str] = []
    for name, vec in params.items():
        if name in stored:
            try:
                bound[name] = bind_blobs([blob.shape for blob in vec], stored[name])
            except CaffemodelError as why:
                problems.append(f"layer {name!r} {why}")
    if problems:
        raise CaffemodelError(f"{source}: the weights do not fit the net", problems)
    for name, arrays in bound.items():
        for blob, values in zip(params[name], arrays, strict=True):
            _assign(blob, values)


def _assign(blob: Blob, values: NDArray[np.float32]) -> None:
    if isinstance(blob, Parameter):
        blob.assign(values)
    else:
        blob.data[...] = values


def warn_of_missing(params: Params, stored: Stored, source: str | os.PathLike[str]) -> None:
    """Say which layers a caffemodel does not have: Caffe computes with what the fillers gave, and says nothing."""
    copied = {id(blob) for name, vec in params.items() if name in stored for blob in vec}
    missing = [name for name, vec in params.items() if any(id(blob) not in copied for blob in vec)]
    if missing:
        _log.warning("%s has no weights for the layers %s; they keep what was in them", source, ", ".join(missing))


def share_params(params: Params, others: Params) -> None:
    """Make the weights of layers of one name those of the other net: what one writes, both have.

    Raises:
        CaffemodelError: weights of other shapes; all of them, and nothing is shared.
    """
    common = [name for name in params if name in others]
    problems = [
        f"layer {name!r} has weights of the shapes {_shapes(params[name])}, in the other net {_shapes(others[name])}"
        for name in common
        if _shapes(params[name]) != _shapes(others[name])
    ]
    if problems:
        raise CaffemodelError("the nets cannot share their weights", problems)
    for name in common:
        params[name][:] = others[name]
    Parameter.epoch += 1


def _shapes(vec: BlobVec) -> list[tuple[int, ...]]:
    return [blob.shape for blob in vec]


def save_weights(path: str | os.PathLike[str], definition: Definition, params: Params) -> None:
    """Write a binary caffemodel: all layers, with their weights.

    Raises:
        OptionError: the file cannot be written.
    """
    net = definition.model.net
    write_caffemodel(
        path, net.name, [(definition.params[x.name], _arrays(params.get(x.name, BlobVec()))) for x in net.layers]
    )


def save_weights_as_hdf5(path: str | os.PathLike[str], params: Params) -> None:
    """Write the weights in Caffe's HDF5 form (BVLC/caffe, src/caffe/net.cpp, Net::ToHDF5), without gradients.

    Raises:
        OptionError: h5py is missing, or the file cannot be written.
    """
    try:
        import h5py  # noqa: PLC0415 - an extra
    except ImportError:
        raise OptionError("weights in HDF5 need h5py: pip install calib8[hdf5]") from None
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        data = file.create_group("data")
        for name, vec in params.items():
            group = data.create_group(name)
            for index, values in enumerate(_arrays(vec)):
                group.create_dataset(str(index), data=values)
    with write_atomically(path) as target:
        target.write(content.getbuffer())


def _arrays(vec: BlobVec) -> list[NDArray[np.float32]]:
    return [blob.settled() if isinstance(blob, Parameter) else blob.data for blob in vec]
