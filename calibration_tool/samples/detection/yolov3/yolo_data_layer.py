"""A Python data layer for YOLO: images of a list, prepared exactly as yolov3.py prepares them.

layer {
  name: "data"
  type: "Python"
  top: "data"
  python_param {
    module: "yolo_data_layer"
    layer: "YoloDataLayer"
    param_str: "{'data_list': 'list.txt', 'h': 416, 'w': 416}"
  }
}

This file lies beside deploy.prototxt, in the working directory or on PYTHONPATH. Keys of param_str:

data_list     text file with the path of an image on each line. It is looked for in the working directory, then beside
              deploy.prototxt; the images in the working directory, then beside the list.
h, w          size of the network's input
color_format  order of the channels: 'rgb' (default, as Darknet) or 'bgr'
scale         factor for pixels (default 1 / 255)
padding       True (default): keep the aspect ratio and fill up with grey, a letterbox; False: stretch the image
"""

import ast
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

import caffe

GREY = 127.5
"""What the image does not cover. Darknet fills with 0.5 (src/image.c, letterbox_image)."""


class Place(NamedTuple):
    """Where an image lies in the network's input: scaled by `ratio` (x, y), moved by `offset` (x, y) in pixels."""

    ratio: tuple[float, float]
    offset: tuple[int, int]


def fit(image: np.ndarray, height: int, width: int, padding: bool = True) -> tuple[np.ndarray, Place]:
    """The image (H, W, 3) in the size of the input, and where it lies there.

    Args:
        padding: a letterbox: the aspect ratio is kept, and the image lies in the middle of grey. Otherwise the image is
            stretched to the size. It must be as it was in training.
    """
    new_height, new_width = height, width
    if padding:
        ratio = min(height / image.shape[0], width / image.shape[1])
        new_height, new_width = max(1, round(image.shape[0] * ratio)), max(1, round(image.shape[1] * ratio))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    shrinks = new_height < image.shape[0] or new_width < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    canvas = np.full((height, width, 3), GREY, np.float32)
    rows, columns = slice(top, top + new_height), slice(left, left + new_width)
    canvas[rows, columns] = cv2.resize(image, (new_width, new_height), interpolation=how)
    return canvas, Place((new_width / image.shape[1], new_height / image.shape[0]), (left, top))


def to_input(canvas: np.ndarray, color_format: str, scale: float) -> np.ndarray:
    """(3, H, W): pixels (H, W, 3) in OpenCV's order B, G, R become the network's, times `scale`."""
    pixels = canvas[:, :, ::-1] if color_format == "rgb" else canvas
    return pixels.transpose(2, 0, 1) * np.float32(scale)


def found(path: str, folder: Path) -> Path:
    """The path from the working directory, if there is such a file, or else from `folder`."""
    return Path(path) if Path(path).exists() else folder / path


class YoloDataLayer(caffe.Layer):
    """Top 0: the next image of the list, (1, 3, h, w); after the last one comes the first one again."""

    def setup(self, bottom, top):
        """Read param_str and the list."""
        param = {"color_format": "rgb", "scale": 1 / 255, "padding": True, **ast.literal_eval(self.param_str)}
        model_folder = getattr(self, "model_folder", "")  # calib8's own; "" where another Caffe runs this layer
        data_list = found(param.pop("data_list"), Path(model_folder))
        self.height, self.width = int(param.pop("h")), int(param.pop("w"))
        self.color_format, self.scale = param.pop("color_format"), float(param.pop("scale"))
        self.padding = param.pop("padding")
        if param or self.color_format not in ("rgb", "bgr"):
            raise ValueError(f"param_str has a key or a color_format that is unknown: {self.param_str}")
        lines = data_list.read_text(encoding="utf-8").splitlines()
        self.paths = [found(line.strip(), data_list.parent) for line in lines if line.strip()]
        if not self.paths:
            raise ValueError(f"{data_list} names no image")
        self.next = 0

    def reshape(self, bottom, top):
        """One image at a time."""
        top[0].reshape(1, 3, self.height, self.width)

    def forward(self, bottom, top):
        """Load and prepare an image."""
        path = self.paths[self.next]
        image = cv2.imread(str(path))
        if image is None:
            raise ValueError(f"{path} is no image that OpenCV reads")
        canvas, _ = fit(image, self.height, self.width, self.padding)
        top[0].data[0] = to_input(canvas, self.color_format, self.scale)
        self.next = (self.next + 1) % len(self.paths)
