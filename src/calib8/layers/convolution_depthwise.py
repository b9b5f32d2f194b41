"""ConvolutionDepthwise: a convolution of every channel with a kernel of its own.

Shapes: bottom (N, C, H, W); weights (C, 1, kernel...), bias (C); top (N, C, H', W') as in Convolution. Groups and
outputs follow from the bottom: `num_output` may be left out and must be C otherwise (Caffe does not read it), and
`group` has no meaning.
Source: BVLC/caffe, pull request 5665, src/caffe/layers/conv_dw_layer.cpp.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from calib8.layer_kit.base import register
from calib8.layer_kit.fields import RefusedError
from calib8.layers.convolution import Convolution


class ConvolutionDepthwise(Convolution):
    """One kernel per channel; ONNX Conv."""

    types = ("ConvolutionDepthwise",)

    def outputs_and_groups(self, channels: int) -> tuple[int, int]:
        if self.num_output not in (0, channels):
            raise RefusedError(
                f"num_output is {self.num_output} and the bottom has {channels} channels; this layer has as many "
                "outputs as channels"
            )
        return channels, channels

    def groups_of(self, weights: NDArray[Any]) -> int:
        return len(weights)


register(ConvolutionDepthwise)
