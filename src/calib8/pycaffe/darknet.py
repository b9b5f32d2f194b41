"""`caffe.yolo()`: max pooling with stride 1 as Darknet has it.

Darknet pads such a pooling with kernel - 1 elements in all, (kernel - 1) // 2 of them in front, so that its top has the
size of its bottom; Caffe's with the same numbers is smaller (kernel 2: by one row and one column). After `yolo()`,
every Net that is made from then on takes Darknet's pads for each Pooling layer that is MAX, has stride 1, is not
global, and would not keep the size by itself. Nothing else changes: other strides, AVE, nets that exist already.
Source: AlexeyAB/darknet, src/maxpool_layer.c, make_maxpool_layer and forward_maxpool_layer.
"""

from __future__ import annotations

from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.spatial import read_pair
from calib8.proto import caffe_pb2

_PADS = ("pad", "pad_h", "pad_w", "pad_l", "pad_r", "pad_t", "pad_b")


def pad_as_darknet(net: caffe_pb2.NetParameter) -> list[str]:
    """Change the poolings that `yolo` is about; returns a note for each."""
    return [note for layer in net.layer if layer.type == "Pooling" and (note := _pad(layer))]


def _pad(layer: caffe_pb2.LayerParameter) -> str:
    group = Fields(layer).group("pooling_param")
    try:
        kernel, stride = read_pair(group, "kernel_size", "kernel", 0), read_pair(group, "stride", "stride", 1)
    except RefusedError:
        return ""  # said when the net is built
    param = layer.pooling_param
    if group.pool != "MAX" or group.global_pooling or stride != (1, 1) or min(kernel) < 1 or _keeps_size(param, kernel):
        return ""
    for field in _PADS:
        param.ClearField(field)
    param.yolo = False
    before = [(k - 1) // 2 for k in kernel]
    param.pad_t, param.pad_l = before
    param.pad_b, param.pad_r = (k - 1 - b for k, b in zip(kernel, before, strict=True))
    return f"layer {layer.name!r} (Pooling) is padded so that it keeps its size, as in Darknet"


def _keeps_size(param: caffe_pb2.PoolingParameter, kernel: tuple[int, int]) -> bool:
    height = param.pad_t + param.pad_b or 2 * (param.pad_h or param.pad)
    width = param.pad_l + param.pad_r or 2 * (param.pad_w or param.pad)
    return (height, width) == (kernel[0] - 1, kernel[1] - 1)
