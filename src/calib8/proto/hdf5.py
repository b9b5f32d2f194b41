"""Weights in HDF5 (`.caffemodel.h5`), read through h5py, which `pip install calib8[hdf5]` brings.

Layout (BVLC/caffe src/caffe/net.cpp, Net::ToHDF5 and Net::CopyTrainedLayersFromHDF5): group /data, in it a group per
layer, in it the datasets "0", "1", ... A layer's name with slashes in it is a path of groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import CaffemodelError
from calib8.proto.blobs import BlobError, shaped

MAX_DEPTH = 16
"""Groups within groups, links followed; also what ends a circle of links."""
MAX_GROUPS = 100_000
MOST_COMPRESSED = 1100
"""zlib's best is 1032 to 1: a dataset that claims more than that of its stored bytes is not read."""
_MOST_IN_ALL = 32
_FREE_BYTES = 2**24
"""Weights of a whole file: so many times its size, and some. Trained numbers hardly become smaller; those that were
pruned do, and so do biases that are all 0."""

HDF5_DAMAGES = (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError, AttributeError, MemoryError)
"""What h5py raises for damaged files: whatever its C library's numbers lead to."""


def read_hdf5_layers(path: str | os.PathLike[str]) -> list[tuple[str, tuple[NDArray[np.float32], ...]]]:
    """Read the name and the blobs of every layer, in the file's order of creation or else by name.

    Raises:
        CaffemodelError: h5py is missing, no HDF5 file, no /data in it, a link to nowhere or to another file, blobs that
            are no numbers or not numbered from 0.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            data = _child(h5py, file, "data")
            if not isinstance(data, h5py.Group):
                raise CaffemodelError(f"{path}: there is no group /data in the file: not a Caffe weight file")
            limits = _Limits(_MOST_IN_ALL * os.stat(path).st_size + _FREE_BYTES)  # noqa: PTH116 - a path may be a text
            return list(_layers(h5py, data, "", limits, 0))
    except CaffemodelError:
        raise
    except HDF5_DAMAGES as why:
        raise CaffemodelError(f"{path}: {why}") from None


def _h5py() -> Any:
    try:
        import h5py  # noqa: PLC0415 - an extra
    except ImportError:
        raise CaffemodelError("weights in HDF5 need h5py: pip install calib8[hdf5]") from None
    return h5py


def _child(h5py: Any, group: Any, name: str) -> Any:
    """Open a member of a group, through soft links, never into another file."""
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise ValueError(f"{group.name}/{name} is a link to another file, which is not followed")
    if link is not None and group.get(name) is None:
        raise ValueError(f"{group.name}/{name} is a link to {getattr(link, 'path', 'something')!r}, which is not there")
    return group.get(name)


class _Limits:
    """What the groups and datasets of one file have taken together: links can make a few look like endlessly many."""

    def __init__(self, most_bytes: int) -> None:
        self._groups, self._bytes, self._most_bytes = 0, 0, most_bytes

    def take_group(self, depth: int) -> None:
        """Raises ValueError: too many, or too deep."""
        self._groups += 1
        if depth > MAX_DEPTH or self._groups > MAX_GROUPS:
            raise ValueError(f"groups are nested deeper than {MAX_DEPTH} or more than {MAX_GROUPS}: a circle of links?")

    def take_bytes(self, dataset: Any) -> None:
        """Raises ValueError: more than the file can sensibly hold."""
        stored = dataset.id.get_storage_size()
        if dataset.nbytes > stored * MOST_COMPRESSED:
            raise ValueError(f"{dataset.name} claims {dataset.nbytes} bytes of values, {stored} are stored")
        self._bytes += dataset.nbytes
        if self._bytes > self._most_bytes:
            raise ValueError(f"its values take more than {self._most_bytes} bytes, which no weights of its size do")


def _layers(
    h5py: Any, group: Any, prefix: str, limits: _Limits, depth: int
) -> Iterator[tuple[str, tuple[NDArray[np.float32], ...]]]:
    """Yield every group below that has blobs, or that is empty: a layer without weights."""
    limits.take_group(depth)
    members = {name: _child(h5py, group, name) for name in group}
    blobs = {name: member for name, member in members.items() if isinstance(member, h5py.Dataset)}
    if prefix and (blobs or not members):
        yield prefix, tuple(_blob(blobs, index, limits) for index in range(len(blobs)))
    for name, member in members.items():
        if isinstance(member, h5py.Group):
            yield from _layers(h5py, member, f"{prefix}/{name}" if prefix else name, limits, depth + 1)


def _blob(blobs: dict[str, Any], index: int, limits: _Limits) -> NDArray[np.float32]:
    if str(index) not in blobs:
        raise ValueError(
            f"{next(iter(blobs.values())).parent.name} has the blobs {', '.join(blobs)}; {index} is missing"
        )
    dataset = blobs[str(index)]
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name} has the type {dataset.dtype}, not numbers")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} keeps its values in another file, which is not followed")
    limits.take_bytes(dataset)
    values: NDArray[Any] = np.asarray(dataset[()])
    try:
        return shaped(values.ravel(), list(values.shape))
    except BlobError as why:
        raise ValueError(f"{dataset.name} {why}") from None
