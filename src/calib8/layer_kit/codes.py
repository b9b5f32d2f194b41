"""ONNX nodes that compute the integer contract exactly, over tensors of codes. No layer type is in here.

A tensor of codes is uint8 and holds `code + 128`, so that 128 is zero: the form that ONNX Runtime's fast kernels take.
What each function means in integers is written down in `arithmetic`; here stands how ONNX Runtime's nodes reach it:

- They round ties to even, the contract rounds them up. Between two neighbours that are not ties there is room for a
  nudge: values are multiples of 2^-rs, so half a step more lifts a tie over it and nothing else.
- float32 is exact on integers below 2^24, so on accumulators below 2^23 and half a step more, whatever power of two
  scales them. What could be larger goes through float64.
- Where there are no kernels for integers (`OnnxBuilder.integer_kernels`), float32 adds all: a sum that could be too
  large is cut into sums over some of the inputs each, and float64 adds those.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.graph import Array
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.proto.onnx_messages import TensorProto

ZERO = 128
"""What a tensor of codes holds for code 0."""
MAX_QLINEAR_RSHIFT = 13
"""QLinearConv multiplies with 2^-rs * (1 + 2^-22): up to 255.5 in codes, that lifts by less than 2^-14."""
_NUDGED = 1 + 2.0**-22
_TIE_NUDGE = 2.0**-35
_PIXELS, _PLANES = (0, 2, 3, 1), (0, 3, 1, 2)  # from one order of axes into the other
_DOUBLE, _UINT8, _INT32 = TensorProto.DOUBLE, TensorProto.UINT8, TensorProto.INT32
_FLOAT32_EXACT = 1 << 23  # of an accumulator: with the nudge, one bit more is needed
# The integer kernels take channels by four. A network's first layer has three, or one: its input comes with zeros
# behind them (`entering_codes`). Elsewhere they are added, or, where there are few outputs, floats are faster (1.1 to
# 1.6 times at 16 outputs, with and without VNNI).
PIXEL_CHANNELS = 4
"""Channels that codes have where they come into a graph by pixel."""
_FEW_OUTPUTS = 16
# Kernels that take one channel each do 16 of them at once, 64 with AVX-512, and something for every pixel: they are
# slow on few channels, and several times slower on others than multiples of 16.
_EVEN_CHANNELS = 16
_ENOUGH_CHANNELS, _MANY_CHANNELS = 64, 256
_INT16_MIN, _INT16_MAX = -32768, 32767
_INT32_PRODUCTS = (1 << 31) // (256 * 128) - 1  # products of uint8 and int8 that 32 bits hold


@dataclass(frozen=True)
class ConvGeometry:
    """Attributes of ONNX Conv: one number per spatial axis, `pads` with all beginnings before all ends."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1


def quantize_node(g: OnnxBuilder, x: str, threshold: float) -> str:
    """Turn real values into codes, as `arithmetic.quantize`: `sat8(rnd(x * 128 / threshold))`.

    x and the threshold have 24 bits each, so that a quotient up to 128 which is no tie is 2^-26 away from one or more.
    In float64 a product with 128 / threshold and a sum are off by less than 2^-43. A nudge of 2^-35 lies between.
    x must not hold NaN (`without_nan`).
    """
    factor, offset = quantizing_line(threshold)
    scaled = g.node("Mul", g.node("Cast", x, to=_DOUBLE), g.constant(np.float64(factor)))
    return _floor_to_codes(g, g.node("Add", scaled, g.constant(np.float64(offset))))


def quantizing_line(threshold: float) -> tuple[float, float]:
    """Return factor and offset with which `floor(x * factor + offset)`, clamped to 0 .. 255, is `code + 128`.

    Why it is exact: see `quantize_node`.
    """
    return float(INT8_LEVELS / np.float64(threshold)), ZERO + 0.5 + _TIE_NUDGE


def without_nan(g: OnnxBuilder, x: str) -> str:
    """Put 0 in the place of NaN among real values."""
    return g.node("Where", g.node("IsNaN", x), g.scalar(0.0), x)


def dequantize_node(g: OnnxBuilder, codes: str, threshold: float) -> str:
    """Turn codes into real values, as `arithmetic.dequantize`: `code * threshold / 128`."""
    return _scaled_codes(g, codes, float(np.float32(threshold)) / INT8_LEVELS)


def weighted_sum(
    g: OnnxBuilder,
    codes: str,
    weights: NDArray[np.int8],
    bias: Array | None,
    rshift: int,
    geometry: ConvGeometry,
) -> str:
    """Compute `sat8(rnd((sum code*W + B) / 2^rshift))` over a sliding window, as Convolution and InnerProduct have it.

    Args:
        weights: (O, C/group, kernel...).
        bias: (O), integers; None for none.
    """
    weights = np.ascontiguousarray(weights, dtype=np.int8)
    offsets = np.zeros(len(weights), np.int64) if bias is None else np.asarray(bias, dtype=np.int64).reshape(-1)
    if not g.integer_kernels:
        exact = is_exact_in_float32(accumulator_bound(weights, offsets))
        return (_float_conv if exact else _float_convs)(g, codes, weights, offsets, rshift, geometry)
    if geometry.group == 1 and codes in g.wider:
        codes, channels = g.wider[codes]
        weights = _more(weights, channels, 1)
    elif geometry.group == 1 and weights.shape[1] < PIXEL_CHANNELS and math.prod(weights.shape[2:]) > 1:
        if len(weights) <= _FEW_OUTPUTS and is_exact_in_float32(accumulator_bound(weights, offsets)):
            return _float_conv(g, codes, weights, offsets, rshift, geometry)
        codes, weights = _with_more_channels(g, codes, weights)
    if rshift <= MAX_QLINEAR_RSHIFT and math.prod(weights.shape[1:]) <= _INT32_PRODUCTS:
        if geometry.group == len(weights) > 1 == weights.shape[1]:
            return _channel_by_channel(g, codes, weights, offsets, rshift, geometry)
        y = _qlinear_conv(g, codes, weights, offsets, rshift, geometry)
        if geometry.group == 1:
            g.ways[y] = lambda outputs: _qlinear_conv(
                g, codes, _more(weights, outputs), _more(offsets, outputs), rshift, geometry
            )
        return y
    if is_exact_in_float32(accumulator_bound(weights, offsets)):
        return _float_conv(g, codes, weights, offsets, rshift, geometry)
    return _integer_conv(g, codes, weights, offsets, rshift, geometry)


def _channel_by_channel(
    g: OnnxBuilder,
    codes: str,
    weights: NDArray[np.int8],
    bias: NDArray[np.int64],
    rshift: int,
    geometry: ConvGeometry,
) -> str:
    """A convolution with one input for each output, over more channels where that is faster and they can be had."""
    channels = len(weights)
    even = -(-channels // _EVEN_CHANNELS) * _EVEN_CHANNELS
    wide = g.widened(codes, even) if even > channels else None
    if wide is None:
        return _qlinear_conv(g, codes, weights, bias, rshift, geometry)
    own = replace(geometry, group=even)
    return g.narrowed(_qlinear_conv(g, wide, _more(weights, even), _more(bias, even), rshift, own), even, channels)


def _with_more_channels(g: OnnxBuilder, codes: str, weights: NDArray[np.int8]) -> tuple[str, NDArray[np.int8]]:
    """Codes and weights with zeros up to `PIXEL_CHANNELS` channels."""
    axes = weights.ndim
    missing = PIXEL_CHANNELS - weights.shape[1]
    pads = [missing if i == axes + 1 else 0 for i in range(2 * axes)]  # behind axis 1
    return g.node("Pad", codes, g.ints(*pads), g.constant(np.uint8(ZERO))), _more(weights, PIXEL_CHANNELS, 1)


def _more(values: NDArray[Any], count: int, along: int = 0) -> NDArray[Any]:
    """Values with zeros behind them: for outputs, or inputs, of which nobody knows."""
    return np.pad(values, [(0, count - n if axis == along else 0) for axis, n in enumerate(values.shape)])


def comes_by_pixel(shape: Sequence[int], *, integer_kernels: bool) -> bool:
    """Tell whether an input of this shape is better brought into a graph by pixel: images of up to four channels."""
    return integer_kernels and len(shape) == 4 and 1 <= shape[1] <= PIXEL_CHANNELS and math.prod(shape[2:]) > 1


def entering_codes(g: OnnxBuilder, pixels: str, channels: int) -> str:
    """Give what comes into the graph as (N, H, W, 4) as codes (N, C, H, W), and as wider ones for who can take them."""
    return g.narrowed(g.node("Transpose", pixels, perm=_PLANES), PIXEL_CHANNELS, channels)


def affine_codes(
    g: OnnxBuilder, codes: str, scale: Array, shift: Array | None, rshift: int, shape: Sequence[int]
) -> str:
    """Compute `sat8(rnd((code*scale + shift) / 2^rshift))`.

    Of images with one scale per channel it is a depthwise convolution with a kernel of 1x1, the fastest node for it,
    where there is one for integers.

    Args:
        scale, shift: 8 and 16 bits; of one shape, which broadcasts over the codes.
        shape: of the codes.
    """
    per_channel = len(shape) == 4 and scale.shape == (shape[1], 1, 1)
    if g.integer_kernels and per_channel and rshift <= MAX_QLINEAR_RSHIFT:
        offsets = np.zeros(shape[1], np.int64) if shift is None else np.asarray(shift, np.int64).reshape(-1)
        return _channels_times(g, codes, scale.reshape(-1).astype(np.int8), offsets, rshift, shape)
    values = _times(g, codes, np.ldexp(scale.astype(np.float32), -rshift))
    if shift is not None:
        values = g.node("Add", values, g.constant(np.ldexp(shift.astype(np.float32), -rshift)))
    return nudge_to_codes(g, values, rshift)


def _channels_times(
    g: OnnxBuilder,
    codes: str,
    scale: NDArray[np.int8],
    shift: NDArray[np.int64],
    rshift: int,
    shape: Sequence[int],
) -> str:
    """`affine_codes` with a number for each channel of images.

    Where there are few channels, neighbouring pixels count as further ones, which costs nothing: in memory one pixel
    lies behind the other.
    """

    def over(count: int) -> str | None:
        wide = g.widened(codes, count)
        if wide is None:
            return None
        return _affine_pixels(g, wide, _more(scale, count), _more(shift, count), rshift, (shape[0], count, *shape[2:]))

    if codes in g.wider:
        (_, has), wide = g.wider[codes], over(g.wider[codes][1])
        assert wide is not None
        return g.narrowed(wide, has, shape[1])
    y = _affine_pixels(g, codes, scale, shift, rshift, shape)
    g.ways[y] = over
    return y


def _affine_pixels(
    g: OnnxBuilder,
    codes: str,
    scale: NDArray[np.int8],
    offsets: NDArray[np.int64],
    rshift: int,
    shape: Sequence[int],
) -> str:
    together = _pixels_together(shape[1], math.prod(shape[2:]))
    weights = np.tile(scale, together).reshape(-1, 1, 1, 1)
    point = ConvGeometry((1, 1), (0, 0, 0, 0), (1, 1), len(weights))
    if together == 1:
        return _qlinear_conv(g, codes, weights, offsets, rshift, point)
    images, channels, height, width = shape
    folded = g.ints(images, height * width // together, 1, len(weights))
    x = g.node("Transpose", g.node("Reshape", g.node("Transpose", codes, perm=_PIXELS), folded), perm=_PLANES)
    y = _qlinear_conv(g, x, weights, np.tile(offsets, together), rshift, point)
    unfolded = g.ints(images, height, width, channels)
    return g.node("Transpose", g.node("Reshape", g.node("Transpose", y, perm=_PIXELS), unfolded), perm=_PLANES)


def _pixels_together(channels: int, pixels: int) -> int:
    """How many pixels are taken for one with as many times the channels."""
    if channels >= _ENOUGH_CHANNELS and channels % _EVEN_CHANNELS == 0:
        return 1
    most = min(pixels, _EVEN_CHANNELS * _MANY_CHANNELS // channels)
    fitting = (n for n in range(1, most + 1) if pixels % n == 0 and channels * n % _EVEN_CHANNELS == 0)
    return next((n for n in fitting if channels * n >= _MANY_CHANNELS), 1)


def accumulator_bound(weights: NDArray[np.int8], bias: NDArray[np.int64] | int = 0) -> int:
    """Return the largest |accumulator|, partial sums included, that any codes can give."""
    sums = np.abs(weights.astype(np.int16)).reshape(len(weights), -1).sum(axis=1, dtype=np.int64)
    return int((sums * INT8_LEVELS + np.abs(bias)).max(initial=0))


def exact_ranges(weights: NDArray[np.int8]) -> Iterator[tuple[int, int]]:
    """Cut the inputs into ranges over each of which float32 adds any codes times these weights exactly.

    Args:
        weights: (O, inputs).
    """

    def divided(first: int, last: int) -> Iterator[tuple[int, int]]:
        bound = accumulator_bound(weights[:, first:last])
        if is_exact_in_float32(bound):
            yield first, last
            return
        parts = min(bound // _FLOAT32_EXACT + 1, last - first)
        edges = [first + (last - first) * i // parts for i in range(parts + 1)]
        for some, more in itertools.pairwise(edges):
            yield from divided(some, more)

    return divided(0, weights.shape[1])


def _qlinear_conv(
    g: OnnxBuilder,
    codes: str,
    weights: NDArray[np.int8],
    bias: NDArray[np.int64],
    rshift: int,
    geometry: ConvGeometry,
) -> str:
    """Output zero point 0 and 128 in the bias: all values in range are positive, so the nudge lifts every tie.

    ONNX Runtime turns int8 weights into uint8 where it must, and fails when two nodes share weights or zero point.
    """
    one, zero, code_zero = g.scalar(1.0), g.constant(np.uint8(0)), g.constant(np.uint8(ZERO))
    scale = g.scalar(math.ldexp(_NUDGED, -rshift))
    shifted = (bias + (ZERO << rshift)).astype(np.int32)
    return g.node(
        "QLinearConv",
        *(codes, scale, code_zero),
        *(g.weight(weights.view()), one, g.weight(np.zeros((), np.int8))),
        *(one, zero, g.weight(shifted)),
        **_conv_attributes(weights, geometry),
    )


def _float_conv(
    g: OnnxBuilder,
    codes: str,
    weights: NDArray[np.int8],
    bias: NDArray[np.int64],
    rshift: int,
    geometry: ConvGeometry,
) -> str:
    """Scaling by powers of two is exact, so weights and bias carry the shift, and the bias the nudge."""
    scaled = np.ldexp(weights.astype(np.float32), -rshift)
    offset = np.ldexp(bias + (0.5 if rshift else 0.0), -rshift).astype(np.float32)
    values = g.node(
        "Conv", _scaled_codes(g, codes, 1.0), g.weight(scaled), g.weight(offset), **_conv_attributes(weights, geometry)
    )
    return _round_to_codes(g, values)


def _float_convs(
    g: OnnxBuilder,
    codes: str,
    weights: NDArray[np.int8],
    bias: NDArray[np.int64],
    rshift: int,
    geometry: ConvGeometry,
) -> str:
    """float32 convolutions of integers over some of the inputs each, added in float64.

    An input is a place of the window in a channel. A channel whose places lie in two ranges is read twice.
    """
    values, total = code_values(g, codes), ""
    # A range counts inputs; a convolution takes whole channels. What belongs to a neighbouring range is set to 0.
    depth, attributes = weights.shape[1], _conv_attributes(weights, geometry)
    places = math.prod(weights.shape[2:])
    for first, last in exact_ranges(weights.reshape(len(weights), -1)):
        chosen = range(first // places, -(-last // places))
        part = weights[:, chosen.start : chosen.stop].astype(np.float32)
        flat = part.reshape(len(part), -1)
        flat[:, : first % places] = 0
        flat[:, last - chosen.start * places :] = 0
        # `chosen` counts within a group; the codes hold all groups one behind the other.
        channels = [start + c for start in range(0, depth * geometry.group, depth) for c in chosen]
        some = values if len(chosen) == depth else g.node("Gather", values, g.ints(*channels), axis=1)
        added = g.node("Cast", g.node("Conv", some, g.weight(part), **attributes), to=_DOUBLE)
        total = g.node("Add", total, added) if total else added
    return shift_to_codes(g, total, rshift, bias.reshape(1, -1, *(1,) * (weights.ndim - 2)))


def _integer_conv(
    g: OnnxBuilder,
    codes: str,
    weights: NDArray[np.int8],
    bias: NDArray[np.int64],
    rshift: int,
    geometry: ConvGeometry,
) -> str:
    """32-bit accumulators, then float64."""
    accumulator = g.node(
        "ConvInteger",
        *(codes, g.weight(_as_codes(weights))),
        *(g.constant(np.uint8(ZERO)), g.constant(np.uint8(ZERO))),
        **_conv_attributes(weights, geometry),
    )
    return shift_to_codes(g, accumulator, rshift, bias.reshape(1, -1, *(1,) * (weights.ndim - 2)))


def shift_to_codes(g: OnnxBuilder, accumulator: str, rshift: int, bias: NDArray[np.int64] | None = None) -> str:
    """Compute `sat8(rnd((acc + bias) / 2^rshift))` of an accumulator of any numeric type below 2^52, in float64."""
    wide = g.node("Cast", accumulator, to=_DOUBLE)
    scaled = g.node("Mul", wide, g.constant(np.float64(math.ldexp(1.0, -rshift))))
    offset = np.zeros((), np.int64) if bias is None else bias
    return _floor_to_codes(g, g.node("Add", scaled, g.constant(np.ldexp(offset.astype(np.float64), -rshift) + 128.5)))


def scaled_sum(g: OnnxBuilder, terms: Sequence[tuple[str, int]], rshift: int, *, saturate16: bool = False) -> str:
    """Compute `sat8(rnd(sum_i code_i * factor_i / 2^rshift))` of tensors of one shape.

    Args:
        terms: tensors of codes and their integral factors.
        saturate16: clamp the sum to 16 bits after every term, in the given order.
    """
    wide = not is_exact_in_float32(INT8_LEVELS * sum(abs(factor) for _, factor in terms))
    kind: type[np.floating] = np.float64 if wide else np.float32
    limits = [g.constant(kind(math.ldexp(v, -rshift))) for v in (_INT16_MIN, _INT16_MAX)]
    total, largest = "", 0
    for codes, factor in terms:
        value = _scaled_codes(g, codes, math.ldexp(factor, -rshift), wide=wide)
        total = g.node("Add", total, value) if total else value
        largest += INT8_LEVELS * abs(factor)
        if saturate16 and largest > _INT16_MAX:
            total, largest = g.node("Clip", total, *limits), -_INT16_MIN
    return nudge_to_codes(g, total, rshift, wide=wide)


def two_sided(g: OnnxBuilder, codes: str, positive: tuple[int, int], negative: tuple[Array, int]) -> str:
    """Compute `sat8(rnd(max(x,0)*gt / 2^gt_rs)) + sat8(rnd(min(x,0)*le / 2^le_rs))`, x being the codes.

    Where le / 2^le_rs is the smaller slope, this is `sat8(rnd(v))` of the larger one of x*gt / 2^gt_rs and
    x*le / 2^le_rs, for positive and for negative x, and where it is not, of the smaller one.

    Args:
        positive: gt and its shift.
        negative: le, 8 bits, of a shape that broadcasts over the codes, and its shift.
    """
    (factor, shift), (slopes, rshift) = positive, negative
    # A factor that 2^shift divides gives whole numbers, and those are never ties.
    above = _nudged(g, _scaled_codes(g, codes, math.ldexp(factor, -shift)), shift if factor % (1 << shift) else 0)
    below = _nudged(g, _times(g, codes, np.ldexp(slopes.astype(np.float32), -rshift)), rshift)
    smaller = np.ldexp(slopes.astype(np.float64), -rshift) <= math.ldexp(factor, -shift)
    larger = g.node("Max", above, below) if smaller.any() else ""
    least = g.node("Min", above, below) if not smaller.all() else ""
    return _round_to_codes(
        g, g.node("Where", g.constant(smaller), larger, least) if larger and least else larger or least
    )


def rectified(g: OnnxBuilder, codes: str) -> str:
    """Compute `max(code, 0)`."""

    def over(count: int) -> str | None:
        wide = g.widened(codes, count)
        return None if wide is None else _rectify(g, wide)

    y = _rectify(g, codes)
    if codes in g.wider:
        g.wider[y] = _rectify(g, g.wider[codes][0]), g.wider[codes][1]
    else:
        g.ways[y] = over
    return y


def _rectify(g: OnnxBuilder, codes: str) -> str:
    return g.node("Clip", codes, g.constant(np.uint8(ZERO)))


def unrectified(g: OnnxBuilder, codes: str) -> str | None:
    """Return what `rectified` was given where it made these codes: what comes after it may as well come before."""
    node = g.giver(codes)
    if node is None or node.op_type != "Clip" or node.input[1] != g.constant(np.uint8(ZERO)):
        return None
    return str(node.input[0])


def largest_of(g: OnnxBuilder, terms: Sequence[tuple[str, int]], rshift: int) -> str:
    """Compute `sat8(rnd(max_i(code_i * factor_i) / 2^rshift))` of tensors of one shape; factors of 15 bits."""
    products = [_scaled_codes(g, codes, math.ldexp(factor, -rshift)) for codes, factor in terms]
    return nudge_to_codes(g, g.node("Max", *products), rshift)


def scaled_product(g: OnnxBuilder, terms: Sequence[str], factor: int, rshift: int) -> str:
    """Compute `sat8(rnd(factor * prod_i code_i / 2^rshift))` of tensors of one shape.

    What float64 cannot hold exactly is 2^53 or more, and saturates at every right shift.
    """
    wide = not is_exact_in_float32(abs(factor) * float(INT8_LEVELS) ** len(terms))
    total = _scaled_codes(g, terms[0], math.ldexp(factor, -rshift), wide=wide)
    for codes in terms[1:]:
        total = g.node("Mul", total, code_values(g, codes, wide=wide))
    return nudge_to_codes(g, total, rshift, wide=wide)


def look_up(g: OnnxBuilder, codes: str, table: NDArray[np.int8]) -> str:
    """Replace every code by its entry in a table of 256, that of code -128 first."""
    index = g.node("Cast", codes, to=_INT32)
    return g.node("Gather", g.constant(_as_codes(table)), index)


def nudge_to_codes(g: OnnxBuilder, values: str, rshift: int | NDArray[np.int64], *, wide: bool = False) -> str:
    """Compute `sat8(rnd(v))` of real multiples of 2^-rshift that are exact in their type with one bit to spare.

    Args:
        rshift: one for all, or of a shape that broadcasts over the values.
        wide: whether the values are float64.
    """
    if wide:
        return _floor_to_codes(g, g.node("Add", values, g.constant(np.float64(ZERO + 0.5))))
    return _round_to_codes(g, _nudged(g, values, rshift))


def _nudged(g: OnnxBuilder, values: str, rshift: int | NDArray[np.int64]) -> str:
    """Half a step more, so that nothing is a tie; integers (`rshift` 0) have none."""
    if not np.any(rshift):
        return values
    nudge = np.where(rshift, np.ldexp(1.0, -np.asarray(rshift) - 1), 0.0)
    return g.node("Add", values, g.constant(nudge.astype(np.float32)))


def _times(g: OnnxBuilder, codes: str, factors: NDArray[np.float32]) -> str:
    """Codes times factors that broadcast over them, in float32."""
    if factors.ndim == 0:
        return _scaled_codes(g, codes, float(factors))
    return g.node("Mul", code_values(g, codes), g.constant(factors))


def is_exact_in_float32(largest: float) -> bool:
    """Tell whether accumulators up to `largest` stay exact in float32, with the bit that `nudge_to_codes` needs."""
    return largest < _FLOAT32_EXACT


def code_values(g: OnnxBuilder, codes: str, *, wide: bool = False) -> str:
    """Return the codes themselves, -128 to 127, in float32 (float64 with `wide`)."""
    return _scaled_codes(g, codes, 1.0, wide=wide)


def largest_codes(
    g: OnnxBuilder, codes: str, *, kernel_shape: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> str:
    """Take the largest codes of windows, as MaxPool, by pixel: ONNX Runtime's MaxPool of bytes is slow otherwise."""
    window = {"kernel_shape": kernel_shape, "strides": strides, "pads": pads}
    pixels = g.nodes(
        "NhwcMaxPool", g.node("Transpose", codes, perm=_PIXELS), outputs=1, domain="com.microsoft", **window
    )
    return g.node("Transpose", *pixels, perm=_PLANES)


def sums_of_images(g: OnnxBuilder, codes: str, shape: Sequence[int]) -> str:
    """Sum up the codes (N, C, H, W) of each channel, in 32 bits: (N, C, 1, 1).

    Behind an integer convolution codes lie by pixel: as many rows of a matrix, which ones are multiplied by.
    """
    images, channels, *sides = shape
    rows = math.prod(sides)
    pixels = g.node("Reshape", g.node("Transpose", codes, perm=_PIXELS), g.ints(images, rows, channels))
    ones, none = g.constant(np.ones((images, 1, rows), np.uint8)), g.constant(np.uint8(0))
    sums = g.node("MatMulInteger", ones, pixels, none, g.constant(np.uint8(ZERO)))
    return g.node("Reshape", sums, g.ints(images, channels, 1, 1))


def _scaled_codes(g: OnnxBuilder, codes: str, factor: float, *, wide: bool = False) -> str:
    """`code * factor`; the factor is a float32 number, or the product is taken in float64."""
    if not wide:
        return g.node("DequantizeLinear", codes, g.scalar(factor), g.constant(np.uint8(ZERO)))
    values = g.node("DequantizeLinear", codes, g.scalar(1.0), g.constant(np.uint8(ZERO)))
    return g.node("Mul", g.node("Cast", values, to=_DOUBLE), g.constant(np.float64(factor)))


def _round_to_codes(g: OnnxBuilder, values: str) -> str:
    """float32 values that lie on no tie: to the nearest integer, saturated."""
    return g.node("QuantizeLinear", values, g.scalar(1.0), g.constant(np.uint8(ZERO)))


def _floor_to_codes(g: OnnxBuilder, values: str) -> str:
    """float64 values, already moved by 128.5: the cast cuts off, which is floor in the clamped range."""
    clamped = g.node("Clip", values, g.constant(np.float64(0)), g.constant(np.float64(255)))
    return g.node("Cast", clamped, to=_UINT8)


def _as_codes(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Signed 8 bits as codes are: for int8 weights, ConvInteger takes a slow path."""
    return np.ascontiguousarray(values).view(np.uint8) ^ np.uint8(ZERO)


def _conv_attributes(weights: Array, geometry: ConvGeometry) -> dict[str, Any]:
    return {
        "kernel_shape": weights.shape[2:],
        "strides": geometry.strides,
        "pads": geometry.pads,
        "dilations": geometry.dilations,
        "group": geometry.group,
    }
