"""What pycaffe's own layer below Python gives a Net: blobs and layers by their numbers, and calls between layers.

Scripts that fold or split networks use these names, though an underscore begins most of them. Numbers count the layers
of `net.layers` and the blobs of `net.blobs`; Caffe also counts the Split layers that it inserts, which are not here.
Source: BVLC/caffe, python/caffe/_caffe.cpp, class_<Net>; src/caffe/net.cpp, Net::Init, Net::ForwardFromTo.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.pycaffe.blob import NetBlob

LayerCall = Callable[[int], object]
"""What `before_forward` and `after_forward` take: it is called with the number of a layer."""


class NumberedParts(ABC):
    """The numbered face of a Net."""

    blobs: OrderedDict[str, NetBlob]
    _before: list[LayerCall]
    _after: list[LayerCall]

    @property
    @abstractmethod
    def inputs(self) -> list[str]:
        """The tops of Input layers."""

    @property
    @abstractmethod
    def outputs(self) -> list[str]:
        """The blobs that no layer reads."""

    @property
    @abstractmethod
    def top_names(self) -> OrderedDict[str, list[str]]:
        """The tops of every layer by its name."""

    @property
    @abstractmethod
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """The bottoms of every layer by its name."""

    @property
    @abstractmethod
    def _layer_names(self) -> list[str]:
        """The names of all layers."""

    @abstractmethod
    def _run_layers(self, first: int, last: int, asked: Sequence[str]) -> None:
        """Run the layers with these numbers; see ForwardPasses.run."""

    @property
    @abstractmethod
    def _loss_weights(self) -> dict[str, float]:
        """The weight of every blob in the loss, by the blob's name; blobs without one are not named."""

    @abstractmethod
    def set_input_arrays(self, data: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        """Set the arrays of a MemoryData layer, see Net."""

    def before_forward(self, function: LayerCall) -> None:
        """Call a function with the number of every layer before it runs. Layers then run one by one, more slowly."""
        self._before.append(function)

    def after_forward(self, function: LayerCall) -> None:
        """Call a function with the number of every layer after it has run; see `before_forward`."""
        self._after.append(function)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """The weight of every blob in the loss, 0 for most."""
        return OrderedDict(zip(self.blobs, self._blob_loss_weights, strict=True))

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    @property
    def _blobs(self) -> list[NetBlob]:
        return list(self.blobs.values())

    @property
    def _blob_loss_weights(self) -> list[float]:
        return [self._loss_weights.get(name, 0.0) for name in self.blobs]

    @property
    def _inputs(self) -> list[int]:
        return self._numbers(self.inputs)

    @property
    def _outputs(self) -> list[int]:
        return self._numbers(self.outputs)

    def _top_ids(self, layer: int) -> list[int]:
        return self._numbers(self.top_names[self._layer_names[layer]])

    def _bottom_ids(self, layer: int) -> list[int]:
        return self._numbers(self.bottom_names[self._layer_names[layer]])

    def _numbers(self, names: Sequence[str]) -> list[int]:
        number = {name: index for index, name in enumerate(self.blobs)}
        return [number[name] for name in names]

    def _forward(self, start: int, end: int) -> float:
        """Run the layers with these numbers, both included, and return their part of the loss."""
        tops = {top for name in self._layer_names[start : end + 1] for top in self.top_names[name]}
        losses = {name: weight for name, weight in self._loss_weights.items() if name in tops}
        self._forward_layers(start, end, list(losses))
        return float(sum(weight * float(self.blobs[name].data.sum()) for name, weight in losses.items()))

    def _forward_layers(self, first: int, last: int, asked: Sequence[str]) -> None:
        """Run layers, with the calls between them if there are any."""
        if not (self._before or self._after):
            self._run_layers(first, last, asked)
            return
        for number in range(first, last + 1):
            for function in self._before:
                function(number)
            self._run_layers(number, number, self.top_names[self._layer_names[number]])
            for function in self._after:
                function(number)

    def _set_input_arrays(self, data: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        self.set_input_arrays(data, labels)
