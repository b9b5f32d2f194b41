"""Passes: what changes a network or its integers after thresholds are found, so that INT8 costs less.

- `passes`: what a pass is, and how one is run: it says what it wants to observe, the engine observes, it is applied
- `bias_correction`: takes the mean error that rounded weights make out of the biases
"""

from calib8.repair.bias_correction import BiasCorrection
from calib8.repair.passes import PlanPass, run_pass

__all__ = ["BiasCorrection", "PlanPass", "run_pass"]
