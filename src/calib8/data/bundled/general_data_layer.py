"""The data layer that the BM1880 tools' samples use: images of a list, prepared as `param_str` says.

`param_str` is YAML, as in `{'data_list': ./input.txt, 'color_format': rgb, 'h': 224, 'w': 224, 'r_mean': 123.68}`.

==============  ========  ====================================================================================
data_list       required  a text file, one image path per line; relative to the working directory, then to the
                          prototxt's folder (paths in the list: also to the list's folder)
h, w            required  height and width of the sample
color_format    rgb       order of the channels: rgb or bgr
r_mean, g_mean, 0         subtracted from the channels
b_mean
scale           1         factor after the mean is subtracted
mirror          none      OpenCV's flip code plus 2: 3 flips left to right, 1 both ways. 2 flips nothing, as in the
                          original, which takes the code 0 for "no"
transpose       [2,0,1]   order of the axes (height, width, channel) in the sample
padding         false     keep the aspect ratio and fill up with zeros
batch_size      1         images per batch (not in the original)
==============  ========  ====================================================================================

After the last image it begins with the first again. Two models find their own `general_data_layer.py` before this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calib8.data.files import find_path
from calib8.data.general_data_param import read_param
from calib8.data.image_list import read_image_list
from calib8.data.images import prepare
from calib8.data.preprocess import Preparer
from calib8.errors import DataError
from calib8.python_layers import Blob, Layer


class DataLayer(Layer):
    """One top of shape (batch_size, 3, h, w), or with its axes in the order of `transpose`."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read `param_str` and the list.

        Raises:
            DataError: everything that is wrong with `param_str`; missing images (the first 20).
        """
        what = f"layer {self.layer_name!r} (general_data_layer)"
        if len(top) != 1:
            raise DataError(f"{what}: has {len(top)} tops, expected 1")
        param = read_param(self.param_str, what)
        self._preparer = Preparer(param.preprocess, param.size, 3)
        model_folder = Path(self.model_folder)
        listing = find_path(param.data_list, [model_folder])
        self._images = read_image_list(listing, f"{what}: data_list", [model_folder, listing.parent])
        self._next = 0
        top[0].reshape(param.batch_size, *self._preparer.shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Prepare the next images. Raises DataError with the path and the line of one that cannot be read."""
        for sample in top[0].data:
            prepare(self._images[self._next], self._preparer, sample)
            self._next = (self._next + 1) % len(self._images)
