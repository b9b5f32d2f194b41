"""Digests of samples: a number for each, whatever the batch it came in, and one for many."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from calib8.data.faces import Batch

Digests = NDArray[np.uint64]
_BYTES = 8


def digests_of(batch: Batch) -> Digests:
    """Compute a number of 64 bits for each sample of a batch: of everything that the network is given of it."""
    images = len(next(iter(batch.values())))
    found = np.empty(images, np.uint64)
    for index in range(images):
        digest = hashlib.blake2b(digest_size=_BYTES)
        for blob, array in sorted(batch.items()):
            own = array[index] if array.ndim and len(array) == images else array
            digest.update(repr((blob, own.shape)).encode())
            digest.update(np.ascontiguousarray(own, "<f4").data)
        found[index] = int.from_bytes(digest.digest(), "little")
    return found


def digest_of_all(digests: Digests) -> str:
    """Return `sha256:..` of samples, by their numbers, as they come: sort them where order does not matter."""
    return f"sha256:{hashlib.sha256(digests.astype('<u8').tobytes()).hexdigest()}"
