"""Layer types that only measure: losses, accuracies and evaluations have no part in inference.

Most of them have no class in `layers`, since nothing computes them here; so their names stand in one place.
"""

from __future__ import annotations

_SUFFIXES = ("Loss", "LossLayer", "Accuracy", "Evaluate")
_OTHERS = frozenset(
    {"SoftmaxWithFocalLoss", "LossSoftmax", "HDF5Output", "MatWrite", "EvalDetection", "Yolov3", "YoloSeg"}
)


def only_measures(layer_type: str) -> bool:
    """Tell whether layers of this type only measure."""
    return layer_type.endswith(_SUFFIXES) or layer_type in _OTHERS
