"""transform_param: what Caffe does to the pixels of a sample in the TEST phase.

    top[c, h, w] = (pixel[c, y + h, x + w] - mean[c, y + h, x + w]) * scale

with (y, x) = ((H - crop_h) // 2, (W - crop_w) // 2), the mean from `mean_file` (of the whole image's size, so it is cut
in the same place) or from `mean_value` (one, or one per channel). Encoded images may be resized before (SSD's
`resize_param`, WARP only). Source: BVLC/caffe, src/caffe/data_transformer.cpp, Transform(Datum), Transform(cv::Mat);
weiliu89/caffe, branch ssd, src/caffe/util/im_transforms.cpp, ApplyResize.

Deviation: with `mirror: true` Caffe flips samples at random, in the TEST phase too. Here never: the same input gives
the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calib8.data.faces import Linear
from calib8.data.files import find_path
from calib8.data.mean import read_mean
from calib8.errors import DataError
from calib8.proto import caffe_pb2

_READ = frozenset(
    [
        "scale",
        "mirror",
        "crop_size",
        "crop_h",
        "crop_w",
        "mean_file",
        "mean_value",
        "force_color",
        "force_gray",
        "resize_param",
    ]
)
# Only for the boxes of an annotation, or for the amount of logging.
_WITHOUT_EFFECT = frozenset(["emit_constraint", "debug_params"])
_INTERPOLATION = {
    "LINEAR": cv2.INTER_LINEAR,
    "AREA": cv2.INTER_AREA,
    "NEAREST": cv2.INTER_NEAREST,
    "CUBIC": cv2.INTER_CUBIC,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True)
class Transform:
    """The transform_param of one data layer.

    Attributes:
        scale: factor after the mean is subtracted.
        crop: (height, width) of the centre that is kept; None keeps all.
        mean: (C, H, W) as large as the whole image, or (1 or C, 1, 1), or None.
        resize: (height, width, OpenCV's interpolation) for decoded images, or None.
        color: True forces colour, False forces gray, None takes encoded images as they are.
        notes: what is done differently from Caffe, a sentence each.
    """

    scale: float = 1.0
    crop: tuple[int, int] | None = None
    mean: NDArray[np.float32] | None = None
    resize: tuple[int, int, int] | None = None
    color: bool | None = None
    notes: tuple[str, ...] = ()

    def top_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Find the (C, H, W) of a top for pixels (C, H, W) that are already resized. Raises DataError if they do not
        fit.
        """
        channels, height, width = shape
        crop_h, crop_w = self.crop or (height, width)
        if crop_h > height or crop_w > width:
            raise DataError(f"is {height} x {width} pixels, smaller than the crop of {crop_h} x {crop_w}")
        self._check_mean(channels, height, width)
        return channels, crop_h, crop_w

    def linear(self, channels: int) -> Linear:
        """What happens to pixels, channel by channel."""
        mean = np.zeros(channels) if self.mean is None else np.broadcast_to(self.mean.mean(axis=(1, 2)), channels)
        return Linear(tuple(map(float, mean)), (float(self.scale),) * channels, "gray" if channels == 1 else "bgr")

    def apply(self, pixels: NDArray[Any], top: NDArray[np.float32]) -> None:
        """Fill `top` (C, h, w) from `pixels` (C, H, W), uint8 or float32, whose `top_shape` it has."""
        _, height, width = pixels.shape
        _, crop_h, crop_w = top.shape
        y, x = (height - crop_h) // 2, (width - crop_w) // 2
        window = (slice(None), slice(y, y + crop_h), slice(x, x + crop_w))
        if self.mean is None:
            top[...] = pixels[window]
        else:
            mean = self.mean if self.mean.shape[1:] == (1, 1) else self.mean[window]
            np.subtract(pixels[window], mean, out=top)
        if self.scale != 1:
            np.multiply(top, np.float32(self.scale), out=top)

    def resized(self, image: NDArray[Any]) -> NDArray[Any]:
        """Resize a decoded image (H, W[, C]) where `resize_param` says so."""
        if self.resize is None:
            return image
        height, width, interpolation = self.resize
        return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))

    def _check_mean(self, channels: int, height: int, width: int) -> None:
        if self.mean is None:
            return
        mean_shape = self.mean.shape
        if mean_shape[1:] == (1, 1):
            if mean_shape[0] not in (1, channels):
                raise DataError(f"has {channels} channels for {mean_shape[0]} mean_value; give one, or one per channel")
        elif mean_shape != (channels, height, width):
            raise DataError(
                f"has the shape {(channels, height, width)} before the crop, but mean_file has {mean_shape}; Caffe "
                "wants them equal"
            )


def read_transform(param: caffe_pb2.TransformationParameter, model_folder: Path, layer: str) -> Transform:
    """Read a TransformationParameter of the layer named `layer`, and its mean file.

    Raises:
        DataError: all fields that have no meaning together or are not implemented, or the mean file.
    """
    problems = [f"transform_param.{name} is not implemented" for name in _unread(param)]
    problems += _contradictions(param)
    resize = None
    if param.resize_param:
        resize = _read_resize(param.resize_param, problems)
    if problems:
        raise DataError(f"layer {layer!r}: the samples cannot be prepared as the prototxt says", problems)
    return Transform(
        scale=param.scale,
        crop=_crop(param),
        mean=_mean(param, model_folder, layer),
        resize=resize,
        color=True if param.force_color else False if param.force_gray else None,
        notes=_notes(param, layer),
    )


def _unread(param: caffe_pb2.TransformationParameter) -> list[str]:
    return [d.name for d, value in param.ListFields() if value and d.name not in _READ | _WITHOUT_EFFECT]


def _contradictions(param: caffe_pb2.TransformationParameter) -> list[str]:
    problems = []
    if param.mean_file and param.mean_value:
        problems.append("transform_param has both mean_file and mean_value; Caffe allows one of them")
    if param.force_color and param.force_gray:
        problems.append("transform_param has both force_color and force_gray")
    if param.crop_size and (param.crop_h or param.crop_w):
        problems.append("transform_param has both crop_size and crop_h, crop_w")
    if bool(param.crop_h) != bool(param.crop_w):
        problems.append("transform_param has one of crop_h and crop_w; both are needed")
    return problems


def _read_resize(params: Sequence[caffe_pb2.ResizeParameter], problems: list[str]) -> tuple[int, int, int] | None:
    param = params[0]
    mode = param.Resize_mode.Name(param.resize_mode)
    wrong = []
    if len(params) > 1:
        wrong.append(f"is given {len(params)} times; one of them would be drawn by chance")
    if mode != "WARP":
        wrong.append(f"has resize_mode {mode}; only WARP is implemented")
    if param.prob != 1:
        wrong.append(f"has prob {param.prob:g}; a resize by chance has no place in calibration")
    if len(param.interp_mode) > 1:
        wrong.append(f"has {len(param.interp_mode)} interp_mode, of which one would be drawn by chance; keep one")
    if not (param.height and param.width) or param.height_scale or param.width_scale:
        wrong.append("needs height and width, and neither height_scale nor width_scale")
    problems += [f"transform_param.resize_param {w}" for w in wrong]
    if wrong:
        return None
    name = param.Interp_mode.Name(param.interp_mode[0]) if param.interp_mode else "LINEAR"
    return param.height, param.width, _INTERPOLATION[name]


def _crop(param: caffe_pb2.TransformationParameter) -> tuple[int, int] | None:
    if param.crop_size:
        return param.crop_size, param.crop_size
    return (param.crop_h, param.crop_w) if param.crop_h else None


def _mean(param: caffe_pb2.TransformationParameter, model_folder: Path, layer: str) -> NDArray[np.float32] | None:
    if param.mean_file:
        path = find_path(param.mean_file, [model_folder])
        return read_mean(path, f"layer {layer!r}, transform_param.mean_file")
    if param.mean_value:
        return np.array(param.mean_value, np.float32).reshape(-1, 1, 1)
    return None


def _notes(param: caffe_pb2.TransformationParameter, layer: str) -> tuple[str, ...]:
    if not param.mirror:
        return ()
    return (f"layer {layer!r}: mirror is on, which flips samples at random in Caffe; calibration never flips",)
