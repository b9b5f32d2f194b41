"""Repair: what makes INT8 cost less, once thresholds are found.

- `pipeline`: from several sets of thresholds to the plan that loses least: the order of things
- `work`: what is done in that order; `stages`: what it begins with and finds; `expected_runs`: for the progress
- `options`: how much is done, and what is left out
- `guard`: which samples are held out, and how they measure a plan
- `box_agreement`: how far a detector's decoded boxes are from FP32's; `yolo_maps`: what maps say that nothing decodes
- `passes`: what a pass is, and how one is run: it says what it wants to observe, the engine observes, it is applied

The passes, a file each:

- `whole_multipliers`: poolings and sums without an error of their multipliers
- `equalised_channels`: a unit for each channel between layers with weights; `least_noise` chooses them, and
  `whole_factors` moves some a little, so that BatchNorms and Scales multiply by whole numbers
- `channel_units`: a unit for each channel between a convolution and its BatchNorm, by what `affine_noise` finds lost
- `compensated_rounding`: weights rounded so that their errors cancel; the algorithm is in `rounding`
- `aligned_offsets`: of the two roundings of a convolution with a bias and its BatchNorm one is left
- `bias_correction`: takes the mean error that rounded weights make out of the biases

What runs the network by itself:

- `refitted_weights`: weights that make up for what the layers before are off by; `paired_runs` runs FP32 and INT8 side
  by side, and `paired_windows` are what it sees
- `output_noise`, thorough: thresholds searched by the noise at the outputs, in networks that `layer_runs` runs layer by
  layer

and what they look at: `channel_values`, what channels reach; `input_windows`, windows of codes and their moments;
`rounded_values`, a network with rounded values and float weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib8.choices import REPAIR_LEVELS as LEVELS
from calib8.choices import REPAIR_PASSES as PASSES
from calib8.lazy import lazily

if TYPE_CHECKING:
    from calib8.repair.bias_correction import BiasCorrection
    from calib8.repair.channel_units import ChannelUnits
    from calib8.repair.compensated_rounding import CompensatedRounding
    from calib8.repair.guard import Guard, Split, split
    from calib8.repair.options import RepairOptions
    from calib8.repair.passes import PlanPass, run_pass
    from calib8.repair.pipeline import repair
    from calib8.repair.stages import Repaired, Stage, ThresholdSets
    from calib8.repair.whole_multipliers import WholeMultipliers

__all__ = [
    "LEVELS",
    "PASSES",
    "BiasCorrection",
    "ChannelUnits",
    "CompensatedRounding",
    "Guard",
    "PlanPass",
    "RepairOptions",
    "Repaired",
    "Split",
    "Stage",
    "ThresholdSets",
    "WholeMultipliers",
    "repair",
    "run_pass",
    "split",
]

__getattr__ = lazily(
    __name__,
    {
        "bias_correction": "BiasCorrection",
        "channel_units": "ChannelUnits",
        "compensated_rounding": "CompensatedRounding",
        "guard": "Guard Split split",
        "passes": "PlanPass run_pass",
        "options": "RepairOptions",
        "pipeline": "repair",
        "stages": "Repaired Stage ThresholdSets",
        "whole_multipliers": "WholeMultipliers",
    },
)
