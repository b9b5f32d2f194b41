"""caffe.io.Transformer: images to input blobs and back. Source: BVLC/caffe, python/caffe/io.py, class Transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import OptionError
from calib8.graph import Shape
from calib8.pycaffe.resize import resize_image

Array = NDArray[np.float32]


class Transformer:
    """What is done to an image before it is an input, each step only where it was set.

    Deviation: `preprocess` leaves the image that it is given as it is; pycaffe's may scale it in place.

    Args:
        inputs: shapes of the inputs by name, (N, K, H, W).
    """

    def __init__(self, inputs: Mapping[str, Shape]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, NDArray[Any]] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: NDArray[Any]) -> Array:
        """Prepare an image: ((swapped transposed resized data) * raw_scale - mean) * input_scale.

        Args:
            in_: the input's name.
            data: (H, W, K), of any size; it is resized to the input's.

        Returns:
            (K, H, W), float32.
        """
        image: Array = data.astype(np.float32)
        size = tuple(self._shape(in_)[2:])
        if image.shape[:2] != size:
            image = resize_image(image, size)
        if in_ in self.transpose:
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            image = image[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            image *= self.raw_scale[in_]
        if in_ in self.mean:
            image -= self.mean[in_]
        if in_ in self.input_scale:
            image *= self.input_scale[in_]
        return image

    def deprocess(self, in_: str, data: NDArray[Any]) -> Array:
        """Undo `preprocess`, but for the size.

        Args:
            data: (K, H, W), or (1, K, H, W).

        Returns:
            (H, W, K), float32.
        """
        self._shape(in_)
        image: Array = data.astype(np.float32).squeeze()
        if in_ in self.input_scale:
            image /= self.input_scale[in_]
        if in_ in self.mean:
            image += self.mean[in_]
        if in_ in self.raw_scale:
            image /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of the axes: (2, 0, 1) makes (K, H, W) of (H, W, K).

        Raises:
            OptionError: another number of axes than the input has without N.
        """
        if len(order) != len(self._shape(in_)) - 1:
            raise OptionError(f"the transpose order {tuple(order)} needs {len(self.inputs[in_]) - 1} axes")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of the channels, after `transpose`: (2, 1, 0) makes BGR of RGB.

        Raises:
            OptionError: another number of channels than the input has.
        """
        if len(order) != self._shape(in_)[1]:
            raise OptionError(f"the channel swap {tuple(order)} needs {self.inputs[in_][1]} channels")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Set a factor before the mean: 255 where a network was trained with pixels 0..255."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: NDArray[Any]) -> None:
        """Set what is subtracted.

        Args:
            mean: (K) for each channel; or (K, H, W) or (H, W), resized to the input's size.

        Raises:
            OptionError: another number of channels or axes.
        """
        shape = self._shape(in_)
        if mean.ndim == 1:
            if len(mean) != shape[1]:
                raise OptionError(f"the mean has {len(mean)} channels, input {in_!r} has {shape[1]}")
            self.mean[in_] = mean[:, np.newaxis, np.newaxis]
            return
        if mean.ndim not in (2, 3):
            raise OptionError(f"the mean has the shape {mean.shape}; expected (K), (H, W) or (K, H, W)")
        whole = mean if mean.ndim == 3 else mean[np.newaxis]
        if whole.shape[1:] != tuple(shape[2:]):
            whole = resize_image(whole.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[in_] = whole

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Set a factor after the mean."""
        self._shape(in_)
        self.input_scale[in_] = scale

    def _shape(self, in_: str) -> Shape:
        if in_ not in self.inputs:
            raise OptionError(f"{in_!r} is not one of the net's inputs: {', '.join(self.inputs)}")
        return self.inputs[in_]
