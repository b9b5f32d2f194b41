"""The geometry that convolutions and poolings share: kernel, stride, pad and dilation over the spatial axes."""

from __future__ import annotations

from dataclasses import dataclass

from calib8.graph import Shape
from calib8.layer_kit.fields import Group, RefusedError


@dataclass(frozen=True)
class Window:
    """A sliding window: one number per spatial axis, or a single one for all of them.

    Attributes:
        pad, pad_end: zeros before the first and behind the last element of an axis.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    pad_end: tuple[int, ...]
    dilation: tuple[int, ...]

    def over(self, axes: int) -> Window:
        """Return the window with exactly `axes` numbers each."""
        return Window(*(_spread(v, axes, n) for n, v in self.__dict__.items()))

    @property
    def pads(self) -> tuple[int, ...]:
        """All pads in the order of ONNX: before each axis, then behind each."""
        return self.pad + self.pad_end


def read_window(group: Group) -> Window:
    """Read the window of a ConvolutionParameter (BVLC/caffe, src/caffe/layers/base_conv_layer.cpp, LayerSetUp)."""
    pad, pad_end = read_pads(group, _pair_or_list(group, "pad", "pad") or (0,))
    window = Window(
        kernel=_pair_or_list(group, "kernel_size", "kernel"),
        stride=_pair_or_list(group, "stride", "stride") or (1,),
        pad=pad,
        pad_end=pad_end,
        dilation=_dilation(group),
    )
    if not window.kernel:
        raise RefusedError("has no kernel size; set kernel_size, or kernel_h and kernel_w")
    _check_positive(kernel_size=window.kernel, stride=window.stride, dilation=window.dilation)
    return window


def _dilation(group: Group) -> tuple[int, ...]:
    """`dilation`, or `hole`, `hole_h` and `hole_w`, as DeepLab's fork called it before BVLC had it."""
    holes = {name: group.has(name) for name in ("hole", "hole_h", "hole_w")}
    if not any(holes.values()):
        return tuple(group.dilation) or (1,)
    if group.dilation or (holes["hole"] and (holes["hole_h"] or holes["hole_w"])):
        raise RefusedError("sets two of dilation, hole and hole_h/hole_w; keep one form")
    return (group.hole,) if holes["hole"] else (group.hole_h, group.hole_w)


def read_pads(group: Group, pad: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read the pads before and behind each axis: `pad` on both sides, or pad_t, pad_l and pad_b, pad_r of some forks.

    Source: foss-for-synopsys-dwc-arc-processors/synopsys-caffe, src/caffe/layers/base_conv_layer.cpp, LayerSetUp: the
    four count when one of them is not 0, and then `pad` must not be there.
    """
    before, behind = (group.pad_t, group.pad_l), (group.pad_b, group.pad_r)
    if not any(before + behind):
        return pad, pad
    if any(pad):
        raise RefusedError("sets both pad and pad_l, pad_r, pad_t, pad_b; keep one form")
    return before, behind


def read_pair(group: Group, name: str, prefix: str, default: int) -> tuple[int, int]:
    """Read a size that is one number (`pad`) or two (`pad_h`, `pad_w`), as PoolingParameter has it."""
    high, wide = group.has(f"{prefix}_h"), group.has(f"{prefix}_w")
    if high or wide:
        if group.has(name) and getattr(group, name):
            raise RefusedError(f"sets both {name} and {prefix}_h/{prefix}_w; keep one form")
        return getattr(group, f"{prefix}_h"), getattr(group, f"{prefix}_w")
    value = getattr(group, name) if group.has(name) else default
    return value, value


def conv_output(size: int, kernel: int, stride: int, pad: int, pad_end: int, dilation: int) -> int:
    """Compute the output length along one axis; raise RefusedError when the window does not fit.

    Caffe's division rounds towards zero, so it lets a window through that is less than `stride` too large.
    """
    extent = dilation * (kernel - 1) + 1
    if size + pad + pad_end < extent:
        raise RefusedError(f"a window of {extent} does not fit into {size} plus pads of {pad} and {pad_end}")
    return (size + pad + pad_end - extent) // stride + 1


def conv_output_shape(spatial: Shape, window: Window) -> Shape:
    """Compute the spatial output shape of a convolution; `window` has one number per axis."""
    sizes = (window.kernel, window.stride, window.pad, window.pad_end, window.dilation)
    return tuple(conv_output(*n) for n in zip(spatial, *sizes, strict=True))


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
