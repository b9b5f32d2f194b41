"""caffe.Classifier: a Net with the preprocessing of image classification.

Source: BVLC/caffe, python/caffe/classifier.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Phase
from calib8.pycaffe.io import oversample as oversample_images
from calib8.pycaffe.io import resize_image
from calib8.pycaffe.net import Net
from calib8.pycaffe.transformer import Transformer


def image_transformer(
    net: Net,
    mean: NDArray[Any] | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> Transformer:
    """Make the transformer of the net's first input for images (H, W, K); None leaves a step out."""
    name = net.inputs[0]
    transformer = Transformer({name: net.blobs[name].shape})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer


class Classifier(Net):
    """A Net that classifies images.

    Args:
        model_file, pretrained_file: prototxt and caffemodel.
        image_dims: height and width to which images are resized before they are cropped; None is the input's size.
        mean, input_scale, raw_scale, channel_swap: see Transformer.

    Raises:
        Calib8Error: see Net and Transformer.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        image_dims: Sequence[int] | None = None,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, Phase.TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = self.crop_dims if image_dims is None else np.array(image_dims)

    def predict(self, inputs: Sequence[NDArray[Any]], oversample: bool = True) -> NDArray[np.float32]:
        """Classify images.

        Args:
            inputs: images (H, W, K) as `caffe.io.load_image` gives them.
            oversample: the mean over ten crops (corners, centre, mirrored) instead of the centre alone.

        Returns:
            (N, classes): the net's first output.
        """
        images = np.stack([resize_image(image, self.image_dims) for image in inputs])
        crops = oversample_images(images, self.crop_dims) if oversample else self._centre(images)
        name = self.inputs[0]
        prepared = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = self.forward_all(None, **{name: prepared})[self.outputs[0]]
        # `oversample` gives the ten crops of an image one after the other.
        return predictions.reshape((len(images), 10, -1)).mean(1) if oversample else predictions

    def _centre(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        top, left = ((self.image_dims - self.crop_dims) / 2).astype(int)
        height, width = self.crop_dims
        return images[:, top : top + height, left : left + width]
