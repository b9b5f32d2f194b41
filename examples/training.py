"""Convolutions with gradients, and Adam, in numpy: what the make scripts of this folder train their networks with.

Images are (N, H, W, C), weights (kernel, kernel, inputs, outputs), all in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Convolution:
    """y = x * w + b, perhaps with a ReLU behind it; an odd kernel, padded so that stride 1 keeps the size."""

    def __init__(
        self, rng: np.random.Generator, kernel: int, inputs: int, outputs: int, stride: int = 1, relu: bool = True
    ) -> None:
        deviation = np.sqrt(2 / (kernel * kernel * inputs))  # K. He et al., arXiv:1502.01852, equation 10
        self.weights = (rng.standard_normal((kernel, kernel, inputs, outputs)) * deviation).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)
        self.stride, self.relu = stride, relu

    def forward(self, x: Array) -> Array:
        """(N, H, W, inputs) to (N, ceil(H / stride), ceil(W / stride), outputs)."""
        self._shape = x.shape
        self._columns = np.concatenate([self._padded(x)[window] for window in self._windows()], axis=-1)
        y = self._columns @ self.weights.reshape(-1, self.bias.size) + self.bias
        self._alive = y > 0
        return np.where(self._alive, y, 0) if self.relu else y

    def backward(self, gradient: Array) -> Array:
        """From the loss by y to the loss by x; keeps the loss by weights and bias for `Adam`."""
        gradient = self.learn(gradient)
        parts = np.split(gradient @ self.weights.reshape(-1, self.bias.size).T, len(self.weights) ** 2, axis=-1)
        back = self._padded(np.zeros(self._shape, np.float32))
        for window, part in zip(self._windows(), parts, strict=True):
            back[window] += part
        pad, (_, height, width, _) = len(self.weights) // 2, self._shape
        return back[:, pad : pad + height, pad : pad + width]

    def learn(self, gradient: Array) -> Array:
        """The part of `backward` that a network's first layer needs; returns the loss by y before the ReLU."""
        if self.relu:
            gradient = gradient * self._alive
        rows = gradient.reshape(-1, self.bias.size)
        columns = self._columns.reshape(len(rows), -1)
        self.gradients = [(columns.T @ rows).reshape(self.weights.shape), rows.sum(0)]
        return gradient

    def blobs(self) -> list[Array]:
        """As Caffe has them: (outputs, inputs, kernel, kernel) and (outputs)."""
        return [np.ascontiguousarray(self.weights.transpose(3, 2, 0, 1)), self.bias]

    def _padded(self, x: Array) -> Array:
        pad = len(self.weights) // 2
        return np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def _windows(self) -> list[tuple[slice, ...]]:
        """For each element of the kernel, what it is multiplied with."""
        kernel, (_, height, width, _) = len(self.weights), self._shape
        return [
            (slice(None), slice(i, i + height, self.stride), slice(j, j + width, self.stride))
            for i in range(kernel)
            for j in range(kernel)
        ]


class Adam:
    """D. P. Kingma, J. Ba, arXiv:1412.6980, algorithm 1; the step falls to nothing along a cosine."""

    def __init__(self, layers: Sequence[Convolution], step: float, steps: int) -> None:
        self._parameters = [p for layer in layers for p in (layer.weights, layer.bias)]
        self._layers, self._step, self._steps, self._done = layers, step, steps, 0
        self._first = [np.zeros_like(p) for p in self._parameters]
        self._second = [np.zeros_like(p) for p in self._parameters]

    def update(self) -> None:
        """One step with the gradients of the last `backward`."""
        rate = self._step * 0.5 * (1 + np.cos(np.pi * self._done / self._steps))
        self._done += 1
        gradients = [g for layer in self._layers for g in layer.gradients]
        for p, g, first, second in zip(self._parameters, gradients, self._first, self._second, strict=True):
            np.add(first, 0.1 * (g - first), out=first)
            np.add(second, 0.001 * (g * g - second), out=second)
            deviation = np.sqrt(second / (1 - 0.999**self._done)) + 1e-8
            np.subtract(p, rate / (1 - 0.9**self._done) * first / deviation, out=p, casting="same_kind")
