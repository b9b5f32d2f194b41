"""From measured thresholds to the integers of a network.

- `folding`: values that share one threshold, which of them is measured, and measured thresholds brought to all values
- `pairs`: a BatchNorm and the Scale that is quantised with it
- `plan`: `make_plan`, every layer's integers, with all problems in one error
"""

from calib8.quantize.folding import FoldGroup, fold_groups, fold_thresholds, observed_values, set_thresholds
from calib8.quantize.pairs import batch_norm_pairs
from calib8.quantize.plan import QuantPlan, make_plan

__all__ = [
    "FoldGroup",
    "QuantPlan",
    "batch_norm_pairs",
    "fold_groups",
    "fold_thresholds",
    "make_plan",
    "observed_values",
    "set_thresholds",
]
