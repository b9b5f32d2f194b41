"""The two walks over a network that call its layers: shapes and weights first, then ONNX.

- `model`: `Model`, a Net whose layers are read, whose values have shapes and whose weights fit; other shapes of it
- `examine`: `build_model`, a Model from a prototxt and a caffemodel; `examine_model`, all that is wrong with them
- `shapes`, `weights`: the inference of shapes, and the blobs of a caffemodel bound to the layers of a prototxt
- `readings`: what is read of a value, its real numbers or its codes
- `pairs`: a BatchNorm and the Scale behind it
- `affine_folding`: BatchNorm, Scale and the like in the weights of the layer in front of them
- `floating`: `lower_float`, the network in FP32 as steps: ONNX graphs, and layers that run in Python between them
"""

from calib8.lowering.affine_folding import fold_channel_affines
from calib8.lowering.examine import build_model
from calib8.lowering.floating import lower_float
from calib8.lowering.model import Model
from calib8.lowering.readings import Codes, Reading, value_of
from calib8.lowering.steps import HostStep, OnnxStep, Step

__all__ = [
    "Codes",
    "HostStep",
    "Model",
    "OnnxStep",
    "Reading",
    "Step",
    "build_model",
    "fold_channel_affines",
    "lower_float",
    "value_of",
]
