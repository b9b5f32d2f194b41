"""The geometry that convolutions and poolings share: kernel, stride, pad and dilation over the spatial axes."""

from __future__ import annotations

from dataclasses import dataclass

from calib8.graph import Shape
from calib8.layers.fields import Group, RefusedError


@dataclass(frozen=True)
class Window:
    """A sliding window: one number per spatial axis, or a single one for all of them."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    def over(self, axes: int) -> Window:
        """The window with exactly `axes` numbers each."""
        return Window(*(_spread(v, axes, n) for n, v in self.__dict__.items()))


def read_window(group: Group) -> Window:
    """The window of a ConvolutionParameter (BVLC/caffe, src/caffe/layers/base_conv_layer.cpp, LayerSetUp)."""
    window = Window(
        kernel=_pair_or_list(group, "kernel_size", "kernel"),
        stride=_pair_or_list(group, "stride", "stride") or (1,),
        pad=_pair_or_list(group, "pad", "pad") or (0,),
        dilation=tuple(group.dilation) or (1,),
    )
    if not window.kernel:
        raise RefusedError("has no kernel size; set kernel_size, or kernel_h and kernel_w")
    _check_positive(kernel_size=window.kernel, stride=window.stride, dilation=window.dilation)
    return window


def read_pair(group: Group, name: str, prefix: str, default: int) -> tuple[int, int]:
    """A size that is one number (`pad`) or two (`pad_h`, `pad_w`), as PoolingParameter has it."""
    high, wide = group.has(f"{prefix}_h"), group.has(f"{prefix}_w")
    if high or wide:
        if group.has(name) and getattr(group, name):
            raise RefusedError(f"sets both {name} and {prefix}_h/{prefix}_w; keep one form")
        return getattr(group, f"{prefix}_h"), getattr(group, f"{prefix}_w")
    value = getattr(group, name) if group.has(name) else default
    return value, value


def conv_output(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Output length along one axis; RefusedError when the window does not fit."""
    extent = dilation * (kernel - 1) + 1
    if size + 2 * pad < extent:
        raise RefusedError(f"a window of {extent} does not fit into {size} plus two pads of {pad}")
    return (size + 2 * pad - extent) // stride + 1


def conv_output_shape(spatial: Shape, window: Window) -> Shape:
    """Spatial output shape of a convolution; `window` has one number per axis."""
    numbers = zip(spatial, window.kernel, window.stride, window.pad, window.dilation, strict=True)
    return tuple(conv_output(*n) for n in numbers)


def _pair_or_list(group: Group, name: str, prefix: str) -> tuple[int, ...]:
    values = tuple(getattr(group, name))
    if group.has(f"{prefix}_h") or group.has(f"{prefix}_w"):
        if values:
            raise RefusedError(f"sets both {name} and {prefix}_h/{prefix}_w; keep one form")
        return getattr(group, f"{prefix}_h"), getattr(group, f"{prefix}_w")
    return values


def _spread(values: tuple[int, ...], axes: int, name: str) -> tuple[int, ...]:
    if len(values) not in (1, axes):
        raise RefusedError(f"has {len(values)} numbers for {name}, and the bottom has {axes} spatial axes")
    return values * axes if len(values) == 1 else values


def _check_positive(**sizes: tuple[int, ...]) -> None:
    for name, values in sizes.items():
        if any(v < 1 for v in values):
            raise RefusedError(f"{name} is {'x'.join(map(str, values))}, expected at least 1")
