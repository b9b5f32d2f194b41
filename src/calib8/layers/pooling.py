"""Pooling: the largest value or the average of a sliding window.

Shapes: bottom (N, C, H, W); top (N, C, H', W') with H' = ceil((H + 2*pad - kernel) / stride) + 1 (`round_mode: FLOOR`
or `ceil_mode: false`: floor). With a pad, a last window that starts beyond H + pad is dropped. MAX ignores the pad, and
gives -FLT_MAX for a window without any element; AVE divides every window's sum by kernel_h * kernel_w.
A second top of MAX is its mask, of the same shape: where in the channel each maximum was found first, h * W + w, as
float32. Dialects: `pad_l`, `pad_r`, `pad_t`, `pad_b` are the pads of each side, AVE_EXC_PAD (or AVE_TF) divides by the
part of the window that lies in the image (Synopsys), as AVE does with `avg_include_pad: false` (Intel); `yolo: true`
adds 1 to H' and W' before the last windows are dropped, so that a kernel of 2 with stride 1 keeps the size (Sophgo).
Source: BVLC/caffe, src/caffe/layers/pooling_layer.cpp, LayerSetUp, Reshape, Forward_cpu; sophgo/caffe and
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file; `yolo` as in a run of Sophgo's Caffe.
Deviation: BVLC's AVE divides by the part of the window that lies in the padded image, which is less for the windows
that hang over its far border. The chip's vendor divides by the whole window, in its Caffe as on the chip, and so do we.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS, average_pooling_constants, pooling_multiplier
from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, QuantizeCall, count, register
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.codes import (
    code_values,
    is_exact_in_float32,
    largest_codes,
    nudge_to_codes,
    rectified,
    scaled_sum,
    sums_of_images,
    unrectified,
)
from calib8.layer_kit.constants import check_constant
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.form import IntegerForm, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales, multiplied
from calib8.layer_kit.spatial import read_pads, read_pair
from calib8.layer_kit.table_row import TableRow, multipliers, right_shift
from calib8.proto.onnx_messages import TensorProto

_LOWEST = float(np.finfo(np.float32).min)
_EXCLUDES_PAD = ("AVE_EXC_PAD", "AVE_TF")
Axis = tuple[int, int, int, int]  # kernel, stride, pad before, pad after of the windows' full extent


@dataclass(frozen=True)
class PoolingForm(IntegerForm):
    """The ratio of the thresholds, `multiplier / 2^rshift`.

    Attributes:
        window: elements of AVE's window, which the chip folds in; 0 for MAX. Not in the files: the layer knows it.
    """

    multiplier: int
    rshift: int
    window: int = 0

    @property
    def accumulator_shift(self) -> int:
        """The shift."""
        return self.rshift

    @property
    def table_shift(self) -> int:
        """0, as the original writes it."""
        return 0

    def fill_row(self, row: TableRow) -> None:
        """Write the shift and the one multiplier."""
        row.right_shift_width = self.rshift
        row.threshold_x_quantized.append(self.multiplier)

    def from_row(self, row: TableRow, bottoms: int) -> PoolingForm:
        """Take shift and multiplier of a row."""
        rshift = right_shift(row)
        return replace(self, rshift=rshift, multiplier=multipliers(row, 1)[0])

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give the step of the bottom; for AVE that of an average, with the window's constant in it."""
        if not self.window:
            return multiplied([self.multiplier], [self.rshift], top)
        factor, shift = average_pooling_constants(self.window, self.multiplier, self.rshift)
        sums = multiplied([factor], [shift], top)
        return replace(sums, bottoms=(self.window * sums.bottoms[0],))


class Pooling(Op):
    """MAX and AVE pooling; ONNX MaxPool and AveragePool."""

    types = ("Pooling",)
    tops = (1, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("pooling_param")
        self.is_global: bool = group.global_pooling
        self.kernel, self.stride, self.pad, self.pad_end = _read_sizes(group, self.is_global)
        self.rounds_up = group.round_mode == "CEIL" and group.ceil_mode
        self.extra = 1 if group.yolo else 0
        method: str = group.pool
        self.method = "AVE" if method in _EXCLUDES_PAD else method
        self.counts_pad = method not in _EXCLUDES_PAD and group.avg_include_pad
        self.has_mask = len(fields.param.top) > 1
        if self.method not in ("MAX", "AVE"):
            raise RefusedError(f"pooling_param.pool is {method}, which only training uses; expected MAX or AVE")
        if self.has_mask and self.method != "MAX":
            raise RefusedError(f"has 2 tops; only MAX has a mask, and pooling_param.pool is {method}")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected N, C, H, W")
        top = (*bottoms[0][:2], *(self._length(bottoms[0], i) for i in (0, 1)))
        if self.method == "AVE":
            check_constant(count(top[2:]), "the list of the windows' sizes")
        if not self.has_mask:
            return [top]
        if any(_exceed_kernel(axis) for axis in self.axes(bottoms[0], top)):
            raise RefusedError("has a mask, and a window that lies wholly in the pad, where there is nothing to find")
        return [top, top]

    def _length(self, bottom: Shape, i: int) -> int:
        size, kernel, stride = bottom[2 + i], self.window_size(bottom)[i], self.stride[i]
        pad, pad_end = self.pad[i], self.pad_end[i]
        room = size + pad + pad_end - kernel
        length = (-(-room // stride) if self.rounds_up else room // stride) + 1 + self.extra
        if any(self.pad + self.pad_end) and (length - 1) * stride >= size + pad:
            length -= 1
        if length < 1:
            raise RefusedError(f"a window of {kernel} does not fit into {size} plus pads of {pad} and {pad_end}")
        return length

    def axes(self, bottom: Shape, top: Shape) -> tuple[Axis, Axis]:
        """Return kernel and stride of each spatial axis, and the pads with which the windows fill their extent."""
        both = []
        for i, kernel in enumerate(self.window_size(bottom)):
            extent = (top[2 + i] - 1) * self.stride[i] + kernel
            after = max(extent - self.pad[i] - bottom[2 + i], 0)
            both.append((kernel, self.stride[i], self.pad[i], after))
        return both[0], both[1]

    def channel_flow(self, call: Call) -> ChannelFlow:
        return ChannelFlow.MIXED if self.has_mask else ChannelFlow.CARRIED

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        height, width = self.axes(call.bottom_shapes[0], call.top_shapes[0])
        if self.has_mask:
            return _lower_max_and_mask(g, call, height, width)
        if self.method == "MAX":
            return [_lower_max(g, call.bottoms[0], height, width, g.scalar(_LOWEST))]
        return [self._lower_average(g, call, height, width)]

    def _lower_average(self, g: OnnxBuilder, call: Call, height: Axis, width: Axis) -> str:
        """An average over the full kernel, zeros in the pads, then scaled where the divisor is less."""
        x, pads = call.bottoms[0], (height[2], width[2], height[3], width[3])
        kernel, strides = (height[0], width[0]), (height[1], width[1])
        if _exceed_kernel(height) or _exceed_kernel(width):
            x, pads = g.node("Pad", x, g.ints(0, 0, *pads[:2], 0, 0, *pads[2:])), (0, 0, 0, 0)
        y = g.node("AveragePool", x, kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=1)
        divisors = self.divisors(call.bottom_shapes[0], call.top_shapes[0])
        full = count(kernel)
        if np.all(divisors == full):
            return y
        return g.node("Mul", y, g.constant((full / divisors).astype(np.float32)[None, None]))

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        return all(bottoms)

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return "a mask is an index, which no code can hold" if self.has_mask else None

    def quantize(self, q: QuantizeCall) -> PoolingForm:
        """Quantise the ratio of the thresholds alone; AVE folds its window in later."""
        mult, rshift = pooling_multiplier(q.bottom_thresholds[0], q.top_thresholds[0])
        window = count(self.window_size(q.call.bottom_shapes[0])) if self.method == "AVE" else 0
        return PoolingForm(mult, rshift, window)

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        height, width = self.axes(call.bottom_shapes[0], call.top_shapes[0])
        own = expect(form, PoolingForm)
        mult, rshift = own.multiplier, own.rshift
        if self.method == "MAX" and g.has("QLinearConv"):
            # A window without an element gives -128, whatever is rectified.
            before = None if _exceed_kernel(height) or _exceed_kernel(width) else unrectified(g, call.bottoms[0])
            largest = _lower_max(g, before or call.bottoms[0], height, width, g.constant(np.uint8(0)), largest_codes)
            if before:  # there are fewer to rectify behind the pooling
                largest = rectified(g, largest)
            return [largest if mult == 1 << rshift else scaled_sum(g, [(largest, mult)], rshift)]
        if self.method == "MAX":
            # The maximum of codes is fast only by pixel, as an integer convolution in front of it arranges them.
            values = _lower_max(g, code_values(g, call.bottoms[0]), height, width, g.scalar(-INT8_LEVELS))
            scaled = g.node("Mul", values, g.scalar(math.ldexp(mult, -rshift)))
            return [nudge_to_codes(g, scaled, rshift)]
        return [self._average_codes(g, call, mult, rshift)]

    def _average_codes(self, g: OnnxBuilder, call: Call, mult: int, rshift: int) -> str:
        """Sums of codes times the constants of each window's divisor."""
        divisors = self.divisors(call.bottom_shapes[0], call.top_shapes[0]).astype(np.int64)
        constants = {k: average_pooling_constants(k, mult, rshift) for k in sorted(set(divisors.ravel().tolist()))}
        factors, shifts = (np.vectorize(lambda k, i=i: constants[k][i])(divisors)[None, None] for i in (0, 1))
        wide = not is_exact_in_float32(128 * 255 * count(self.window_size(call.bottom_shapes[0])))
        if self.is_global and not self.extra and g.has("QLinearConv"):
            sums = sums_of_images(g, call.bottoms[0], call.bottom_shapes[0])
            sums = sums if wide else g.node("Cast", sums, to=TensorProto.FLOAT)
        else:
            sums = self._window_sums(g, call, code_values(g, call.bottoms[0]))
        if wide:
            sums = g.node("Cast", sums, to=TensorProto.DOUBLE)
        kind = np.float64 if wide else np.float32
        scaled = g.node("Mul", sums, g.constant(np.ldexp(factors.astype(kind), -shifts)))
        return nudge_to_codes(g, scaled, shifts, wide=wide)

    def window_size(self, bottom: Shape) -> Shape:
        """Return height and width of a window."""
        return tuple(bottom[2:]) if self.is_global else self.kernel

    def _window_sums(self, g: OnnxBuilder, call: Call, x: str) -> str:
        if self.is_global and not self.extra:
            return g.node("ReduceSum", x, g.ints(2, 3))
        height, width = self.axes(call.bottom_shapes[0], call.top_shapes[0])
        channels = call.bottom_shapes[0][1]
        ones = np.ones((channels, 1, height[0], width[0]), np.float32)
        pads = (height[2], width[2], height[3], width[3])
        return g.node("Conv", x, g.weight(ones), group=channels, strides=(height[1], width[1]), pads=pads)

    def divisors(self, bottom: Shape, top: Shape) -> NDArray[np.float64]:
        """Count what AVE divides each window's sum by, (H', W'): its elements, or those in the image (1 for none)."""
        if self.counts_pad:
            return np.full(top[2:], float(count(self.window_size(bottom))))
        sides = []
        for i, kernel in enumerate(self.window_size(bottom)):
            start = np.arange(top[2 + i]) * self.stride[i] - self.pad[i]
            sides.append(np.minimum(start + kernel, bottom[2 + i]) - np.maximum(start, 0))
        return np.maximum(np.outer(sides[0], sides[1]), 1).astype(np.float64)


def _max_pool(g: OnnxBuilder, x: str, *, kernel_shape: Shape, strides: Shape, pads: Shape) -> str:
    return g.node("MaxPool", x, kernel_shape=kernel_shape, strides=strides, pads=pads)


def _lower_max(
    g: OnnxBuilder, x: str, height: Axis, width: Axis, lowest: str, node: Callable[..., str] = _max_pool
) -> str:
    pads = (height[2], width[2], height[3], width[3])
    if _exceed_kernel(height) or _exceed_kernel(width):
        # A stride beyond the kernel lets a window lie wholly in the pad: Caffe leaves -FLT_MAX there.
        x = g.node("Pad", x, g.ints(0, 0, *pads[:2], 0, 0, *pads[2:]), lowest)
        pads = (0, 0, 0, 0)
    return node(g, x, kernel_shape=(height[0], width[0]), strides=(height[1], width[1]), pads=pads)


def _lower_max_and_mask(g: OnnxBuilder, call: Call, height: Axis, width: Axis) -> list[str]:
    pads = (height[2], width[2], height[3], width[3])
    values, places = g.nodes(
        "MaxPool", call.bottoms[0], outputs=2,
        kernel_shape=(height[0], width[0]), strides=(height[1], width[1]), pads=pads,
    )  # fmt: skip
    # ONNX counts through the whole tensor, Caffe through the channel.
    in_channel = g.node("Mod", places, g.constant(np.int64(count(call.bottom_shapes[0][2:]))))
    return [values, g.node("Cast", in_channel, to=TensorProto.FLOAT)]


def _exceed_kernel(axis: Axis) -> bool:
    """Whether a pad is as long as the kernel, which ONNX poolings do not allow."""
    kernel, _, before, after = axis
    return max(before, after) >= kernel


def _read_sizes(group: Group, is_global: bool) -> tuple[Shape, Shape, Shape, Shape]:
    """Kernel, stride, and the pads before and behind, of H and W each."""
    kernel = read_pair(group, "kernel_size", "kernel", 0)
    stride = read_pair(group, "stride", "stride", 1)
    equal_pad = read_pair(group, "pad", "pad", 0)
    pad, pad_end = read_pads(group, equal_pad)
    if is_global:
        if any(kernel):
            raise RefusedError("sets both global_pooling and a kernel size; keep one of them")
        if any(pad + pad_end) or stride != (1, 1):
            raise RefusedError(
                f"global_pooling with pad {pad} and stride {stride}; Caffe allows only pad 0 and stride 1"
            )
    elif min(kernel) < 1 or min(stride) < 1:
        raise RefusedError(f"kernel is {kernel} and stride {stride}; expected at least 1")
    elif any(p >= k for p, k in zip(equal_pad, kernel, strict=True)):
        raise RefusedError(f"pad {equal_pad} is not smaller than the kernel {kernel}")
    return kernel, stride, pad, pad_end


register(Pooling)
