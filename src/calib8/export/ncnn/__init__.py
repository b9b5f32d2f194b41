"""A network as ncnn's runtime reads it: the text of its layers, the bytes of its weights, the table of its scales.

- `graph`: layers with their parameters and weights, and the two files of a network
- `int8`: weights per channel and the scales of activations, and the table of both for ncnn2int8
- `layers`: Caffe's layers as ncnn's, one function each
- `network`: the walk over a network that calls them
"""

from calib8.export.ncnn.network import NcnnFiles, ncnn_export

__all__ = ["NcnnFiles", "ncnn_export"]
