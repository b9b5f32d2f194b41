"""From measured thresholds to the integers of a network.

- `folding`: values that share one threshold, which of them is measured, and measured thresholds brought to all values
- `plan`: `QuantPlan` and the ways to one: `make_plan`, every layer's integers, with all problems in one error, and
  integers that a pass or a file gives (`refined`, `with_given`)
- `idle`: layers that only hand values on, which stay in FP32 behind layers in FP32
- `selection`: `integer_setup`, which layers run in INT8
- `warned`: what integers warn of, in one line for many layers
"""

from calib8.quantize.folding import FoldGroup, fold_groups, fold_thresholds, observed_values, set_thresholds
from calib8.quantize.idle import without_idle_layers
from calib8.quantize.plan import QuantPlan, fp32_reasons, make_plan, refined, replan, settled, with_given
from calib8.quantize.selection import fp32_layers, integer_setup, parse_layer_list, setup_of
from calib8.quantize.warned import together

__all__ = [
    "FoldGroup",
    "QuantPlan",
    "fold_groups",
    "fold_thresholds",
    "fp32_layers",
    "fp32_reasons",
    "integer_setup",
    "make_plan",
    "observed_values",
    "parse_layer_list",
    "refined",
    "replan",
    "set_thresholds",
    "settled",
    "setup_of",
    "together",
    "with_given",
    "without_idle_layers",
]
