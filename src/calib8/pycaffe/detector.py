"""caffe.Detector: a Net that classifies windows of images, as R-CNN does.

Source: BVLC/caffe, python/caffe/detector.py.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError, OptionError
from calib8.graph import Phase
from calib8.pycaffe.classifier import image_transformer
from calib8.pycaffe.io import load_image, resize_image
from calib8.pycaffe.net import Net

Array = NDArray[np.float32]
Window = Sequence[int] | NDArray[Any]
"""ymin, xmin, ymax, xmax."""


class Detector(Net):
    """A Net that classifies windows of images.

    Args:
        model_file, pretrained_file: prototxt and caffemodel.
        mean, input_scale, raw_scale, channel_swap: see Transformer.
        context_pad: width in pixels of the border of the net's input that shows what is around the window; what lies
            outside of the image is the mean. The input must be square for it.

    Raises:
        Calib8Error: see Net and Transformer.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, Phase.TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(self, images_windows: Iterable[tuple[str, Sequence[Window]]]) -> list[dict[str, Any]]:
        """Classify windows.

        Args:
            images_windows: an image's file, and the windows in it.

        Returns:
            For each window a dict of "window", "prediction" (a row of the net's first output) and "filename".

        Raises:
            DataError: images that cannot be read, windows without pixels.
        """
        places = [(file, windows) for file, windows in images_windows if len(windows)]
        if not places:
            return []
        name = self.inputs[0]
        crops = [self.crop(image, w) for file, windows in places for image in [load_image(file)] for w in windows]
        prepared = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = iter(self.forward_all(None, **{name: prepared})[self.outputs[0]])
        return [
            {"window": window, "prediction": next(predictions), "filename": file}
            for file, windows in places
            for window in windows
        ]

    def detect_selective_search(self, image_fnames: Sequence[str]) -> list[dict[str, Any]]:
        """Run `detect_windows` over what Selective Search proposes; needs selective_search_ijcv_with_python and MATLAB.

        Raises:
            OptionError: that module is not installed.
        """
        try:
            search = importlib.import_module("selective_search_ijcv_with_python")
        except ImportError:
            raise OptionError("detect_selective_search needs the module selective_search_ijcv_with_python") from None
        files = [str(Path(file).absolute()) for file in image_fnames]  # MATLAB has another working directory
        windows = search.get_windows(files, cmd="selective_search_rcnn")
        return self.detect_windows(zip(files, windows, strict=True))

    def crop(self, im: Array, window: Window) -> Array:
        """Cut out the pixels of a window, with `context_pad` those around it, too.

        Args:
            im: (H, W, K).

        Raises:
            DataError: no pixels are in the window.
        """
        top, left, bottom, right = (int(n) for n in window)
        inside = im[top:bottom, left:right]
        if inside.size == 0:
            raise DataError(f"window {tuple(window)} has no pixels in an image of {im.shape[0]} x {im.shape[1]}")
        return self._with_context(im, np.array((top, left, bottom, right), float)) if self.context_pad else inside

    def configure_crop(self, context_pad: int | None) -> None:
        """Set `context_pad`, and what stands for pixels outside of an image: the mean before preprocessing."""
        name = self.inputs[0]
        shape = self.blobs[name].shape
        self.crop_dims = np.array(shape)[[2, 3, 1]]
        self.context_pad = context_pad
        mean = self.transformer.mean.get(name)
        self.crop_mean = np.zeros(self.crop_dims, np.float32)
        if context_pad and mean is not None:
            whole = np.broadcast_to(mean, shape[1:]).astype(np.float32)
            # `preprocess` swaps channels, scales and subtracts; the mean is taken back to where the pixels are before.
            order = self.transformer.channel_swap.get(name, range(shape[1]))
            unscaled = whole[np.argsort(order)] / self.transformer.raw_scale.get(name, 1)
            self.crop_mean = unscaled.transpose(1, 2, 0)

    def _with_context(self, im: Array, box: NDArray[np.float64]) -> Array:
        # Of the crop's `size` pixels, `context_pad` on each side are context: the box grows by that share.
        size = int(self.crop_dims[0])
        half = (box[2:] - box[:2] + 1) / 2
        scaled = half * size / (size - 2 * (self.context_pad or 0))
        centre = box[:2] + half
        start, end = np.round(centre - scaled), np.round(centre + scaled)
        scale = size / (end - start + 1)
        # Outside of the image the mean stays: `pad` pixels above and left of what is inside, resized to `sides`.
        pad = np.round(np.maximum(0, -start) * scale).astype(int)
        limits = np.array(im.shape[:2])
        first, last = np.clip(start, 0, limits).astype(int), np.clip(end, 0, limits).astype(int)
        sides = np.minimum(np.round((last - first + 1) * scale).astype(int), size - pad)
        crop = self.crop_mean.copy()
        context = resize_image(im[first[0] : last[0], first[1] : last[1]], sides)
        crop[pad[0] : pad[0] + sides[0], pad[1] : pad[1] + sides[1]] = context
        return crop
