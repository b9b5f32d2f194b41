"""The axis of Concat and Slice: a signed `axis`, or its unsigned name of old, which counts from the front only."""

from __future__ import annotations

from calib8.layer_kit.fields import Group, RefusedError


def read_axis(group: Group, old_name: str) -> int:
    """Read the field `axis` or `old_name` (`concat_dim`, `slice_dim`), by default 1. RefusedError if both are set.

    Source: BVLC/caffe, src/caffe/layers/concat_layer.cpp and slice_layer.cpp, LayerSetUp.
    """
    if group.has("axis") and group.has(old_name):
        raise RefusedError(f"sets both axis and {old_name}; keep one of them")
    axis: int = getattr(group, old_name) if group.has(old_name) else group.axis
    return axis
