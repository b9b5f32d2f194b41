"""What can be chosen by name, and what is taken where nothing is said.

Names and defaults alone, so that a command line can be read, completed and refused before anything that computes is
imported. What is behind a name is in the room that computes it; a test holds both lists against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ORIGINAL_METHOD = "kl"
DEFAULT_METHOD = ORIGINAL_METHOD
METHOD_SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        "kl": "KL divergence, a candidate every 128 bins, as the original",
        "kl-fine": "KL divergence, every bin a candidate",
        "mse": "smallest mean squared error",
        "percentile": "so many percent of the values",
        "max": "the largest absolute value",
    }
)
"""How thresholds are found, the default first: `calib8.measure.thresholds`."""
DEFAULT_PERCENT = 99.99
"""Of the values, for `percentile`."""
DEFAULT_BINS = 2048
"""Of a histogram."""
DEFAULT_IMAGES = 100
"""That a calibration takes, or all where there are fewer."""

REPAIR_LEVELS = ("none", "standard", "thorough")
"""How much is done to repair a plan: nothing, what takes seconds, or what takes minutes. See `calib8.repair`."""
REPAIR_PASSES: Mapping[str, str] = MappingProxyType(
    {
        "thresholds": "the set of thresholds that costs least, instead of that of one method",
        "tail-room": "room above the largest values that were seen, where few samples were",
        "exact-pools": "poolings whose multipliers have no error",
        "whole-sums": "thresholds that make the multipliers of Eltwise layers whole",
        "equalised-channels": "a unit for each channel between layers with weights",
        "channel-units": "a unit for each channel between a convolution and its BatchNorm",
        "compensated-rounding": "weights rounded so that their errors cancel",
        "bias-correction": "biases that take back the mean error of rounded weights, where nothing else does",
        "aligned-offsets": "one rounding instead of two, where a convolution with a bias has a BatchNorm",
        "output-noise": "thorough: thresholds searched by the noise at the outputs",
        "refitted-weights": "weights that make up for what the layers before are off by",
    }
)
"""What `RepairOptions.without` can name, and what it is."""

THOROUGH_PASSES = ("output-noise",)
"""Parts that `thorough` alone has."""
MOVING_PASSES = (
    "thresholds",
    "tail-room",
    "exact-pools",
    "whole-sums",
    "equalised-channels",
    "channel-units",
    "output-noise",
)
"""Parts of the repair that move thresholds, and are left out where these are given."""

REPAIR_METHODS = ("mse", "kl", "kl-fine", "percentile")
"""Methods whose thresholds a repair tries, all over the same histograms: of what is quantised, behind a ReLU."""

RESIZE_MODES = ("warp", "letterbox", "crop")
COLOR_FORMATS = ("bgr", "rgb", "gray")
"""How images become samples: `calib8.data.Preprocess`."""

PHASES = ("train", "test")
"""What a network is for: `calib8.graph.Phase`."""

SEARCHES = ("candidates", "original", "none")
"""How thresholds are tuned: `calib8.workflow.tuning`."""

EXPORT_FORMATS = ("tpu-mlir", "onnx", "onnx-int8", "onnx-uint8", "ncnn", "tensorrt")
"""Formats of other tools: `calib8.export.formats`."""

USUAL_SAMPLES: Mapping[str, int] = MappingProxyType({"evaluate": 100, "report": 8, "sensitivity": 20, "tune": 10})
"""How many images a command runs a network on, or all where there are fewer."""
DEFAULT_BUDGET = 1024
"""MB of 2^20 bytes for values that are kept between runs."""
