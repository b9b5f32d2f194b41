"""Caffe's layers as ncnn's: one function for each type, found by the class of the layer.

ncnn's blobs have no axis of images, so axis 1 of Caffe is axis 0 here, and blobs have one to three axes: (w), (h, w) or
(c, h, w). What works across images is refused. So is what ncnn computes otherwise; which numbers stand for what is in
Tencent/ncnn, docs/developer-guide/operators.md and src/layer/*.cpp, the functions `load_param` and `forward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from calib8.export.ncnn.graph import NcnnLayer, Param, marked, plain
from calib8.export.ncnn.int8 import MOST_OF_3X3, Int8Weights, quantize
from calib8.graph import Layer, Shape
from calib8.layer_kit.base import canonical_axis, count
from calib8.layer_kit.broadcast import Span
from calib8.layer_kit.spatial import Window
from calib8.layer_kit.weighted_window import WeightedWindow
from calib8.layers import Call, Op, RefusedError
from calib8.layers.abs_val import AbsVal
from calib8.layers.axpy import Axpy
from calib8.layers.batch_norm import BatchNorm
from calib8.layers.bias import Bias
from calib8.layers.bn import BN
from calib8.layers.bnll import BNLL
from calib8.layers.clip import Clip
from calib8.layers.concat import Concat
from calib8.layers.convolution import Convolution
from calib8.layers.crop import Crop
from calib8.layers.deconvolution import Deconvolution
from calib8.layers.detection_output import DetectionOutput
from calib8.layers.dropout import Dropout
from calib8.layers.eltwise import Eltwise
from calib8.layers.elu import ELU
from calib8.layers.exp import Exp
from calib8.layers.flatten import Flatten
from calib8.layers.hard_sigmoid import HardSigmoid
from calib8.layers.hard_swish import HardSwish
from calib8.layers.inner_product import InnerProduct
from calib8.layers.interp import Interp
from calib8.layers.log import Log
from calib8.layers.lrn import LRN
from calib8.layers.mish import Mish
from calib8.layers.mvn import MVN
from calib8.layers.normalize import Normalize
from calib8.layers.padding import Padding
from calib8.layers.permute import Permute
from calib8.layers.pooling import Pooling
from calib8.layers.power import Power
from calib8.layers.prelu import PReLU
from calib8.layers.prior_box import PriorBox
from calib8.layers.prior_box_clustered import PriorBoxClustered
from calib8.layers.relu import ReLU
from calib8.layers.relu6 import ReLU6
from calib8.layers.reshape import Reshape
from calib8.layers.scale import Scale
from calib8.layers.shuffle_channel import ShuffleChannel
from calib8.layers.sigmoid import Sigmoid
from calib8.layers.silence import Silence
from calib8.layers.slice import Slice
from calib8.layers.softmax import Softmax
from calib8.layers.split import Split
from calib8.layers.squeeze import Squeeze
from calib8.layers.swish import Swish
from calib8.layers.tanh import TanH
from calib8.layers.threshold import Threshold
from calib8.layers.tile import Tile
from calib8.layers.upsample import Upsample

MAX_AXES = 3
"""Axes of a blob without that of images: ncnn knows a fourth one in few layers."""
_BINARY_MIN, _BINARY_DIV = 5, 3
_SIX = 6.0
_ALL = 2**31 - 1
OpT = TypeVar("OpT", bound=Op)


@dataclass
class Activation:
    """A rectifier that the layer in front of it computes along: ncnn's number for it, and its own numbers."""

    type: int
    numbers: tuple[float, ...] = ()


@dataclass
class Step:
    """One layer on its way into ncnn.

    Attributes:
        call: with Caffe's shapes, which begin with the axis of images, and the float weights.
        bottoms, tops: the names of their blobs in ncnn.
        threshold: of the first bottom, in real units, where the layer is to run in INT8; None for FP32.
        non_negative: whether the first bottom never holds a negative number.
        activation: what the layer computes along behind its own work.
        made: ncnn's layers, in order.
        same: tops that are a bottom under another name.
        int8: the integers, where there are any.
    """

    layer: Layer
    call: Call
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    threshold: float | None = None
    activation: Activation | None = None
    non_negative: bool = False
    made: list[NcnnLayer] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)
    int8: Int8Weights | None = None

    @property
    def bottom(self) -> Shape:
        """The first bottom's shape without the axis of images."""
        return self.call.bottom_shapes[0][1:]

    @property
    def top(self) -> Shape:
        """The first top's shape without the axis of images."""
        return self.call.top_shapes[0][1:]

    def add(
        self,
        type: str,
        params: Mapping[int, Param] = {},
        *data: bytes,
        bottoms: Sequence[str] | None = None,
        tops: Sequence[str] | None = None,
        name: str | None = None,
    ) -> str:
        """Add a layer, from the step's bottoms to its tops where nothing else is said; returns its first top.

        The first layer of a step has Caffe's name, and those behind it a number.
        """
        name = name or (f"{self.layer.name}/{len(self.made)}" if self.made else self.layer.name)
        bottoms = self.bottoms if bottoms is None else tuple(bottoms)
        tops = self.tops if tops is None else tuple(tops)
        self.made.append(NcnnLayer(type, name, bottoms, tops, params, data))
        return tops[0]

    def inner(self) -> str:
        """Name a blob between the layers of this step."""
        return f"{self.layer.name}//{len(self.made)}"

    def through(self, type: str, params: Mapping[int, Param] = {}, *data: bytes, bottom: str | None = None) -> str:
        """Add a layer from a bottom (the first one) to a blob within the step; returns its name."""
        bottoms = (self.bottoms[0] if bottom is None else bottom,)
        return self.add(type, params, *data, bottoms=bottoms, tops=(self.inner(),))

    def axis(self, axis: int, name: str) -> int:
        """Count an axis of Caffe as ncnn does. Raises RefusedError for that of images."""
        found = canonical_axis(axis, len(self.call.bottom_shapes[0]), name) - 1
        if found < 0:
            raise RefusedError(f"{name} is that of the images, which ncnn has not")
        return found


Converter = Callable[[Step, Op], None]
_CONVERTERS: dict[type[Op], Converter] = {}


def _converts(*types: type[OpT]) -> Callable[[Callable[[Step, OpT], None]], Callable[[Step, OpT], None]]:
    def register(function: Callable[[Step, OpT], None]) -> Callable[[Step, OpT], None]:
        _CONVERTERS.update(dict.fromkeys(types, function))  # type: ignore[arg-type] # called with these types only
        return function

    return register


def convert(step: Step, op: Op) -> None:
    """Write one layer into its step.

    Raises:
        RefusedError: ncnn has no such layer, or one that computes something else.
    """
    found = _converter(type(op))
    if found is None:
        raise RefusedError("ncnn has no such layer, or one that computes something else")
    for shape in (*step.call.bottom_shapes, *step.call.top_shapes):
        if len(shape) > MAX_AXES + 1 or (shape and shape[0] != 1):
            raise RefusedError(f"a blob of {list(shape)}; expected one image, with {MAX_AXES} axes at most")
    found(step, op)


def is_written(cls: type[Op]) -> bool:
    """Whether there is something that writes layers of a class for ncnn."""
    return _converter(cls) is not None


def _converter(cls: type[Op]) -> Converter | None:
    return next((_CONVERTERS[base] for base in cls.__mro__ if base in _CONVERTERS), None)


def activation_of(op: Op) -> Activation | None:
    """Give the rectifier that ncnn's convolutions compute along; None for anything else."""
    if isinstance(op, ReLU) and op.passive:
        return Activation(1)
    if isinstance(op, ReLU) and not op.is_bounded:
        return Activation(2, (op.negative_slope,))
    if isinstance(op, ReLU6) and op.negative_slope == 0:
        return Activation(3, (0.0, _SIX))
    if isinstance(op, Clip):
        return Activation(3, (op.low, op.high))
    return None


def takes_activation(op: Op) -> bool:
    """Whether the layer can compute a rectifier along."""
    return isinstance(op, WeightedWindow | InnerProduct)


def runs_in_int8(op: Op) -> bool:
    """Whether ncnn has the layer in INT8."""
    return isinstance(op, Convolution | InnerProduct)


def dims(shape: Shape) -> dict[int, Param]:
    """Give a shape without the axis of images as the parameters w, h and c."""
    return dict(enumerate(reversed(shape or (1,))))


@_converts(Convolution)
def _convolution(step: Step, op: Convolution) -> None:
    window, groups = _window(step, op)
    params = {**_sliding(window), **_activation(step)}
    weights, *bias = step.call.blobs
    outputs = weights.shape[0]
    params |= {0: outputs, 5: len(bias), 6: weights.size}
    # One scale for each group of a grouped convolution, for each output of the others.
    rows = weights.reshape(outputs if groups == 1 else groups, -1)
    if groups > 1:
        params[7] = groups
    kind = "Convolution" if groups == 1 else "ConvolutionDepthWise"
    in_3x3 = groups == 1 and (window.kernel, window.stride, window.dilation) == ((3, 3), (1, 1), (1, 1))
    most = MOST_OF_3X3 if in_3x3 else None
    _weighted(step, kind, params, rows, bias, int8_term=2 if groups == 1 else 1, most=most)


@_converts(Deconvolution)
def _deconvolution(step: Step, op: Deconvolution) -> None:
    window, groups = _window(step, op)
    weights, *bias = step.call.blobs
    inputs, outputs = weights.shape[0], weights.shape[1] * groups
    # ncnn has the outputs of a group first, then its inputs; Caffe the other way round.
    by_group = weights.reshape(groups, inputs // groups, outputs // groups, -1).transpose(0, 2, 1, 3)
    params = {**_sliding(window), **_activation(step), 0: outputs, 5: len(bias), 6: weights.size}
    if groups > 1:
        params[7] = groups
    kind = "Deconvolution" if groups == 1 else "DeconvolutionDepthWise"
    step.add(kind, params, marked(by_group), *map(plain, bias))


def _window(step: Step, op: WeightedWindow) -> tuple[Window, int]:
    bottom = step.call.bottom_shapes[0]
    if len(bottom) != 4 or op.channel_axis(bottom) != 1:
        raise RefusedError(f"bottom is {list(bottom)}; ncnn's layer takes N, C, H, W")
    if len(step.bottoms) > 1:
        raise RefusedError("several bottoms share its weights; ncnn's layer has one")
    return op.geometry(bottom)


def _sliding(window: Window) -> dict[int, Param]:
    (kh, kw), (dh, dw), (sh, sw) = window.kernel, window.dilation, window.stride
    (top, left), (below, right) = window.pad, window.pad_end
    return {1: kw, 11: kh, 2: dw, 12: dh, 3: sw, 13: sh, 4: left, 14: top, 15: right, 16: below}


def _activation(step: Step) -> dict[int, Param]:
    if step.activation is None:
        return {}
    found: dict[int, Param] = {9: step.activation.type}
    if step.activation.numbers:
        found[10] = step.activation.numbers
    return found


def _weighted(
    step: Step,
    kind: str,
    params: dict[int, Param],
    rows: NDArray[np.float32],
    bias: Sequence[NDArray[np.float32]],
    int8_term: int,
    bottom: str | None = None,
    top: str | None = None,
    most: int | None = None,
) -> None:
    """Add a layer with weights (S, n), in INT8 where the step has a threshold: one scale for each row."""
    data = [marked(rows), *map(plain, bias)]
    if step.threshold is not None:
        step.int8 = own = quantize(step.layer.name, rows, step.threshold, most, non_negative=step.non_negative)
        params = {**params, 8: int8_term}
        data = [marked(own.values), *map(plain, bias), plain(own.scales), plain(np.array(own.bottom))]
    bottoms = step.bottoms if bottom is None else (bottom,)
    tops = step.tops if top is None else (top,)
    step.add(kind, params, *data, bottoms=bottoms, tops=tops, name=step.layer.name)  # ncnn2int8 looks for this name


@_converts(InnerProduct)
def _inner_product(step: Step, op: InnerProduct) -> None:
    """One row of inputs gives a blob with one axis, several give (rows, outputs)."""
    rows, columns = op.matrix(step.call.bottom_shapes[0])
    weights, *bias = step.call.blobs
    matrix = np.ascontiguousarray(weights.T) if op.transpose else weights
    seen, made = ((columns,), (op.num_output,)) if rows == 1 else ((rows, columns), (rows, op.num_output))
    flat_already = rows == 1 and len(step.bottom) == MAX_AXES  # ncnn flattens (c, h, w) by itself
    bottom = step.bottoms[0]
    if step.bottom != seen and not flat_already:
        bottom = step.add("Reshape", dims(seen), tops=(step.inner(),), name=f"{step.layer.name}/in")
    params = {0: op.num_output, 1: len(bias), 2: weights.size, **_activation(step)}
    inner = step.inner() if step.top != made else step.tops[0]
    _weighted(step, "InnerProduct", params, matrix, bias, int8_term=2, bottom=bottom, top=inner)
    if step.top != made:
        step.add("Reshape", dims(step.top), bottoms=(inner,))


@_converts(Pooling)
def _pooling(step: Step, op: Pooling) -> None:
    if op.has_mask:
        raise RefusedError("has a mask as its second top; ncnn's Pooling has one top")
    bottom, top = step.call.bottom_shapes[0], step.call.top_shapes[0]
    is_average = int(op.method == "AVE")
    if op.is_global and not op.extra:
        y = step.through("Pooling", {0: is_average, 4: 1})  # of one axis
        step.add("Reshape", {0: 1, 1: 1, 2: -1}, bottoms=(y,))
        return
    (kh, sh, above, below), (kw, sw, left, right) = op.axes(bottom, top)
    divisors = op.divisors(bottom, top)
    full = bool(np.all(divisors == kh * kw))
    params: dict[int, Param] = {0: is_average, 1: kw, 11: kh, 2: sw, 12: sh, 5: 1}
    x = step.bottoms[0]
    if any((left, above, right, below)):
        # ncnn would count an average's pads otherwise, and pads of its own may be cut to the kernel's size.
        value = 0.0 if is_average else float(np.finfo(np.float32).min)
        x = step.through("Padding", {0: above, 1: below, 2: left, 3: right, 4: 0, 5: value})
    if not is_average or full:
        step.add("Pooling", params, bottoms=(x,))
        return
    y = step.through("Pooling", params, bottom=x)
    factors = np.ascontiguousarray(np.broadcast_to((kh * kw / divisors).astype(np.float32), step.top))
    constant = step.add("MemoryData", dims(step.top), plain(factors), bottoms=(), tops=(step.inner(),))
    step.add("Eltwise", {0: 0}, bottoms=(y, constant))


@_converts(ReLU)
def _relu(step: Step, op: ReLU) -> None:
    params: dict[int, Param] = {0: op.negative_slope} if op.negative_slope else {}
    if not op.is_bounded:
        step.add("ReLU", params)
        return
    limits = {key: limit for key, limit in ((0, op.minimum), (1, op.maximum)) if limit is not None}
    step.add("Clip", limits, bottoms=(step.through("ReLU", params),))


@_converts(ReLU6)
def _relu6(step: Step, op: ReLU6) -> None:
    if op.negative_slope == 0:
        step.add("Clip", {0: 0.0, 1: _SIX})
    else:
        step.add("Clip", {1: _SIX}, bottoms=(step.through("ReLU", {0: op.negative_slope}),))


@_converts(PReLU)
def _prelu(step: Step, op: PReLU) -> None:
    slopes = step.call.blobs[0]
    step.add("PReLU", {0: slopes.size}, plain(slopes))


@_converts(Clip)
def _clip(step: Step, op: Clip) -> None:
    step.add("Clip", {0: op.low, 1: op.high})


@_converts(AbsVal, BNLL, Sigmoid, TanH, Mish)
def _plain_neuron(step: Step, op: Op) -> None:
    names: dict[type[Op], str] = {AbsVal: "AbsVal", BNLL: "BNLL", Sigmoid: "Sigmoid", TanH: "TanH", Mish: "Mish"}
    step.add(names[type(op)])


@_converts(ELU)
def _elu(step: Step, op: ELU) -> None:
    step.add("ELU", {0: op.alpha})


@_converts(Swish)
def _swish(step: Step, op: Swish) -> None:
    if op.beta != 1:
        raise RefusedError(f"swish_param.beta is {op.beta:g}; ncnn's Swish has 1")
    step.add("Swish")


@_converts(HardSigmoid)
def _hard_sigmoid(step: Step, op: HardSigmoid) -> None:
    step.add("HardSigmoid", {0: op.alpha, 1: op.beta})


@_converts(HardSwish)
def _hard_swish(step: Step, op: HardSwish) -> None:
    step.add("HardSwish", {0: 1 / 6, 1: 0.5})


@_converts(Power)
def _power(step: Step, op: Power) -> None:
    step.add("Power", {0: op.power, 1: op.scale, 2: op.shift})


@_converts(Exp)
def _exp(step: Step, op: Exp) -> None:
    if not 0 < op.outer_scale < math.inf:
        raise RefusedError(f"exp_param.base ^ exp_param.shift is {op.outer_scale:g}, which ncnn's layer cannot hold")
    step.add("Exp", {0: -1.0, 1: op.inner_scale, 2: math.log(op.outer_scale)})


@_converts(Log)
def _log(step: Step, op: Log) -> None:
    y = step.through("Log", {0: -1.0, 1: op.scale, 2: op.shift})
    step.add("Power", {1: op.base_scale}, bottoms=(y,))


@_converts(Threshold)
def _threshold(step: Step, op: Threshold) -> None:
    step.add("Threshold", {0: op.threshold})


@_converts(LRN)
def _lrn(step: Step, op: LRN) -> None:
    region, bias = (0, op.k) if op.across_channels else (1, 1.0)
    step.add("LRN", {0: region, 1: op.size, 2: op.alpha, 3: op.beta, 4: bias})


@_converts(MVN)
def _mvn(step: Step, op: MVN) -> None:
    if op.eps_before_sqrt and op.normalize_variance:
        raise RefusedError("mvn_param.add_eps_before_sqrt is set; ncnn adds it behind the root")
    if len(step.bottom) != MAX_AXES:
        raise RefusedError(f"bottom has {len(step.bottom) + 1} axes; expected N, C, H, W")
    step.add("MVN", {0: int(op.normalize_variance), 1: int(op.across_channels), 2: op.eps})


@_converts(Normalize)
def _normalize(step: Step, op: Normalize) -> None:
    if op.eps_behind_sqrt:
        raise RefusedError("norm_param.add_eps_before_sqrt is false; ncnn adds it before the root")
    if len(step.bottom) != MAX_AXES:
        raise RefusedError(f"bottom has {len(step.bottom) + 1} axes; expected N, C, H, W")
    scale = step.call.blobs[0]
    params: dict[int, Param] = {0: int(op.across_spatial), 1: int(op.channel_shared), 2: op.eps, 3: scale.size, 4: 1}
    step.add("Normalize", params, plain(scale))


@_converts(BatchNorm)
def _batch_norm(step: Step, op: BatchNorm) -> None:
    mean, variance = op.statistics(step.call.blobs)
    gamma, beta = op.gamma_and_beta(step.call.blobs)
    numbers = (gamma, mean, variance + op.eps, beta)  # ncnn reads eps in one sum, in float32
    step.add("BatchNorm", {0: mean.size, 1: 0.0}, *map(plain, numbers))


@_converts(BN)
def _bn(step: Step, op: BN) -> None:
    slope, bias, *statistics = (blob.reshape(-1) for blob in step.call.blobs)
    if op.is_merged:
        step.add("Scale", {0: slope.size, 1: 1}, plain(slope), plain(bias))
        return
    mean, variance = statistics
    step.add("BatchNorm", {0: slope.size, 1: 0.0}, *map(plain, (slope, mean, variance + op.eps, bias)))


@_converts(Scale)
def _scale(step: Step, op: Scale) -> None:
    blobs = step.call.blobs
    if len(step.bottoms) == 2:
        _scale_by_blob(step, op)
        return
    factors = _by_channel(step, op.span.aligned(step.call.bottom_shapes[0], blobs[0].shape), blobs)
    step.add("Scale", {0: factors[0].size, 1: int(op.bias_term)}, *map(plain, factors))


def _scale_by_blob(step: Step, op: Scale) -> None:
    if op.bias_term:
        raise RefusedError("has two bottoms and a bias; ncnn's layer has no bias then")
    _product(step, op.span)


def _product(step: Step, span: Span) -> None:
    """Multiply a bottom by a second one, which is as large or has a factor for each channel."""
    bottom, factor = step.call.bottom_shapes
    aligned = span.aligned(bottom, factor)
    if aligned == bottom:
        step.add("Eltwise", {0: 0})
        return
    if aligned[: 2 - len(bottom)] != bottom[: 2 - len(bottom)] or count(aligned[2:]) != 1:
        raise RefusedError(f"bottoms are {list(bottom)} and {list(factor)}; ncnn's layer takes a factor per channel")
    _times_channels(step, step.bottoms[0], step.bottoms[1], factor[1:])


def _times_channels(step: Step, x: str, factor: str, shape: Shape, top: str | None = None) -> None:
    """Multiply (c, h, w) by a factor for each channel, whose blob has one axis in ncnn's layer."""
    if len(shape) != 1:
        factor = step.through("Reshape", {0: -1}, bottom=factor)
    step.add("Scale", {0: -233}, bottoms=(x, factor), tops=step.tops if top is None else (top,))


@_converts(Bias)
def _bias(step: Step, op: Bias) -> None:
    if len(step.bottoms) == 2:
        raise RefusedError("has two bottoms; ncnn's layer has one")
    blobs = step.call.blobs
    (offsets,) = _by_channel(step, op.span.aligned(step.call.bottom_shapes[0], blobs[0].shape), blobs)
    step.add("Bias", {0: offsets.size}, plain(offsets))


def _by_channel(step: Step, aligned: Shape, blobs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Give weights with one number for each channel, which repeats where there is one for all."""
    bottom = step.call.bottom_shapes[0]
    if len(bottom) < 2 or count(aligned) not in (1, bottom[1]) or count(aligned[2:]) != 1:
        raise RefusedError(f"weights cover {list(aligned)} of {list(bottom)}; ncnn's layer has a number per channel")
    return [np.broadcast_to(blob.reshape(-1), bottom[1:2]) for blob in blobs]


@_converts(Axpy)
def _axpy(step: Step, op: Axpy) -> None:
    factor, x, z = step.bottoms
    y = step.inner() + "/y"
    _times_channels(step, x, factor, step.bottom, top=y)
    step.add("Eltwise", {0: 1}, bottoms=(y, z))


@_converts(Eltwise)
def _eltwise(step: Step, op: Eltwise) -> None:
    if len(set(step.call.bottom_shapes)) > 1:
        if op.operation != "PROD" or len(step.bottoms) != 2:
            raise RefusedError("bottoms have different shapes; ncnn's Eltwise takes equal ones, except for products")
        _product(step, op.span)
        return
    if op.operation in ("MIN", "DIV"):
        _min_or_div(step, op)
        return
    params: dict[int, Param] = {0: ("PROD", "SUM", "MAX").index(op.operation)}
    if op.operation == "SUM" and any(c != 1 for c in op.coeff):
        params[1] = op.coeff
    step.add("Eltwise", params)


def _min_or_div(step: Step, op: Eltwise) -> None:
    params: dict[int, Param] = {0: _BINARY_MIN if op.operation == "MIN" else _BINARY_DIV}
    y = step.bottoms[0]
    for x in step.bottoms[1:-1]:
        y = step.add("BinaryOp", params, bottoms=(y, x), tops=(step.inner(),))
    step.add("BinaryOp", params, bottoms=(y, step.bottoms[-1]))


@_converts(Concat)
def _concat(step: Step, op: Concat) -> None:
    step.add("Concat", {0: step.axis(op.axis, "concat_param.axis")})


@_converts(Slice)
def _slice(step: Step, op: Slice) -> None:
    axis = step.axis(op.axis, "slice_param.axis")
    step.add("Slice", {0: [top[axis + 1] for top in step.call.top_shapes], 1: axis})


@_converts(Softmax)
def _softmax(step: Step, op: Softmax) -> None:
    step.add("Softmax", {0: step.axis(op.axis, "softmax_param.axis"), 1: 1})


@_converts(Tile)
def _tile(step: Step, op: Tile) -> None:
    step.add("Tile", {0: step.axis(op.axis, "tile_param.axis"), 1: op.tiles})


@_converts(Split)
def _split(step: Step, op: Split) -> None:
    step.same.update(dict.fromkeys(step.tops, step.bottoms[0]))


@_converts(Silence)
def _silence(step: Step, op: Silence) -> None:
    """Nothing is read."""


@_converts(Dropout)
def _dropout(step: Step, op: Dropout) -> None:
    if op.factor == 1:
        step.same[step.tops[0]] = step.bottoms[0]
    else:
        step.add("Power", {1: op.factor})


@_converts(Flatten, Squeeze)
def _same_elements(step: Step, op: Op) -> None:
    step.add("Reshape", dims(step.top))


@_converts(Reshape)
def _reshape(step: Step, op: Reshape) -> None:
    if op.shuffle > 1:
        step.add("PixelShuffle", {0: op.shuffle})
    else:
        step.add("Reshape", dims(step.top))


@_converts(Permute)
def _permute(step: Step, op: Permute) -> None:
    order = op.full_order(len(step.call.bottom_shapes[0]))
    # ncnn numbers the orders of the axes behind the first one.
    orders = [(0, *rest) for rest in permutations(range(1, len(order)))]
    if order not in orders:
        raise RefusedError(f"its order is {list(order)}; in ncnn the first axis, that of images, cannot move")
    step.add("Permute", {0: orders.index(order)})


@_converts(ShuffleChannel)
def _shuffle_channel(step: Step, op: ShuffleChannel) -> None:
    if len(step.bottom) != MAX_AXES:
        raise RefusedError(f"bottom has {len(step.bottom) + 1} axes; expected N, C, H, W")
    step.add("ShuffleChannel", {0: op.group})


@_converts(Crop)
def _crop(step: Step, op: Crop) -> None:
    """The second bottom's shape is known, so that it need not be read."""
    starts = op.starts(len(step.call.bottom_shapes[0]))
    if starts.get(0):
        raise RefusedError("cuts the axis of images")
    axes = [axis for axis in starts if axis]
    ends = [starts[axis] + step.call.top_shapes[0][axis] for axis in axes]
    params: dict[int, Param] = {9: [starts[axis] for axis in axes], 10: ends, 11: [axis - 1 for axis in axes]}
    step.add("Crop", params, bottoms=step.bottoms[:1])


@_converts(Padding)
def _padding(step: Step, op: Padding) -> None:
    (above, left), (below, right) = op.before, op.after
    step.add("Padding", {0: above, 1: below, 2: left, 3: right, 4: 0, 5: float(op.value)})


@_converts(Interp)
def _interp(step: Step, op: Interp) -> None:
    if op.coordinates != "align_corners":
        raise RefusedError(f"places pixels by {op.coordinates!r}, which was not compared with ncnn's rule")
    x, (before, after) = step.bottoms[0], op.cut
    if before or after:
        ends = [size - after for size in step.bottom[1:]]
        x = step.through("Crop", {9: [before, before], 10: ends, 11: [1, 2]})
    _, height, width = step.top
    step.add("Interp", {0: 2, 3: height, 4: width, 6: 1}, bottoms=(x,))


@_converts(Upsample)
def _upsample(step: Step, op: Upsample) -> None:
    if op.has_mask or op.gain != 1:
        raise RefusedError("has a mask of a Pooling, or a gain; ncnn's Interp has none")
    (channels, *size), (_, height, width) = step.bottom, step.top
    if op.bilinear:
        step.add("Interp", {0: 2, 3: height, 4: width, 6: 1}, bottoms=step.bottoms[:1])
        return
    if height % size[0] or width % size[1]:
        raise RefusedError(f"enlarges {size[0]} x {size[1]} to {height} x {width}; ncnn's layer takes whole factors")
    # A transposed convolution with ones repeats each pixel; ncnn's Interp would divide in float32.
    down, across = height // size[0], width // size[1]
    ones = np.ones((channels, 1, down, across), np.float32)
    params: dict[int, Param] = {0: channels, 1: across, 11: down, 3: across, 13: down, 6: ones.size, 7: channels}
    step.add("DeconvolutionDepthWise", params, marked(ones), bottoms=step.bottoms[:1])


@_converts(PriorBox)
def _prior_box(step: Step, op: PriorBox) -> None:
    """The boxes are a constant, which the file holds: ncnn's PriorBox knows fewer fields."""
    step.add("MemoryData", dims(step.top), plain(op.priors(step.call)), bottoms=())


@_converts(PriorBoxClustered)
def _prior_box_clustered(step: Step, op: PriorBoxClustered) -> None:
    step.add("MemoryData", dims(step.top), plain(op.priors(step.call)), bottoms=())


@_converts(DetectionOutput)
def _detection_output(step: Step, op: DetectionOutput) -> None:
    """ncnn gives rows of (label, score, box) without the image's number, the best of all classes first."""
    different = {
        "has five bottoms": len(step.bottoms) > 3,
        "share_location is false": not op.shares_location,
        f"background_label_id is {op.background}": op.background != 0,
        f"code_type is {op.code_type}": op.code_type != "CENTER_SIZE",
        "variance_encoded_in_target is true": op.has_plain_codes,
        f"nms_param.eta is {op.eta:g}": op.eta != 1,
    }
    found = [text for text, holds in different.items() if holds]
    if found:
        raise RefusedError(f"{', '.join(found)}; ncnn's layer has three bottoms, shared CENTER_SIZE codes, no eta")
    flat = [
        blob if len(shape) == 2 else step.through("Reshape", {0: -1}, bottom=blob)
        for blob, shape in zip(step.bottoms[:2], step.call.bottom_shapes, strict=False)
    ]
    priors, shape = step.bottoms[2], step.call.bottom_shapes[2][1:]
    if len(shape) != 2:
        priors = step.through("Reshape", {0: -1, 1: 2}, bottom=priors)
    params: dict[int, Param] = {
        0: op.classes, 1: op.threshold, 2: _all_if_negative(op.top_k), 3: _all_if_negative(op.keep_top_k),
        4: max(op.min_score, float(np.finfo(np.float32).min)),
    }  # fmt: skip
    step.add("DetectionOutput", params, bottoms=(*flat, priors))


def _all_if_negative(most: int) -> int:
    return most if most >= 0 else _ALL
