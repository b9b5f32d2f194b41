"""Arrays for a network's inputs: they take the place of whatever fills them in the prototxt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calib8.boundary import closed_class
from calib8.data import ArraysSource
from calib8.proto.text import Prototxt
from calib8.workflow.inputs import constant_of, inputs_of, with_input


@closed_class
@dataclass(frozen=True)
class Arrays:
    """Arrays in files, for inputs that are no pictures; nothing is done with them but to make them float32.

    Attributes:
        path: an `.npz` with an array for each input blob, a folder with `BLOB.npy` or a folder `BLOB` of `.npy` files
            for each, or, for a network with one input, one `.npy`. The samples lie along axis 0.
        values: the numbers of inputs that have no array, by blob, the same for every sample; see `Images`.
    """

    path: str | os.PathLike[str]
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def placed_in(self, prototxt: Prototxt) -> tuple[Prototxt, ArraysSource]:
        """Find the arrays and their inputs.

        Returns:
            The network, and the samples. A layer whose tops are no inputs is an Input layer, if arrays take its place.

        Raises:
            DataError: arrays that cannot be read, or do not fit the network.
        """
        inputs = inputs_of(prototxt)
        known = {blob: x.shape for blob, x in inputs.items() if x.shape is not None}
        constants = {blob: constant_of(prototxt, known, blob, numbers) for blob, numbers in self.values.items()}
        needed = [blob for blob, x in inputs.items() if x.is_read and x.layer.type != "DummyData"]
        source = ArraysSource(self.path, {blob: x.shape for blob, x in inputs.items()}, needed, constants)
        for layer in {x.layer.name: x.layer for blob, x in inputs.items() if blob in source.shapes}.values():
            shapes = {**known, **source.shapes}
            prototxt = with_input(prototxt, layer, shapes, shapes[layer.top_blobs[0]][:1])
        return prototxt, source
