"""`sensitivity`: which layer costs the accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from calib8.analyze.experiment import Experiment
from calib8.analyze.judges import compared_values
from calib8.analyze.sensitivity import Sensitivity, measure_sensitivity
from calib8.workflow.calibrating import CalibrationResult
from calib8.workflow.judging import JudgeOptions, check_int8, judge_of, samples_to_judge
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet


@dataclass(frozen=True)
class SensitivityOptions(JudgeOptions):
    """How layers are judged: see `JudgeOptions`."""


def sensitivity(
    network: Network,
    calibration: CalibrationResult,
    options: SensitivityOptions = SensitivityOptions(),
    progress: ProgressCallback = quiet,
) -> Sensitivity:
    """Judge every layer that can run in INT8: alone, together with all before it, and as the only one left in FP32.

    Raises:
        QuantizationError: nothing of the network runs in INT8.
        DataError, UserLayerError: the samples or labels cannot be used, or there are fewer samples.
        OptionError: no such metric, or one that cannot judge the network's outputs.
    """
    model = network.of_one_sample
    check_int8(network, calibration.plan)
    samples = samples_to_judge(network, calibration.plan, options.count_for(network))
    compared = compared_values(model)
    judge = judge_of(options.metric, model, samples, compared)
    outputs = tuple(dict.fromkeys((*compared, *judge.values)))
    return measure_sensitivity(
        Experiment(model, samples.inputs, outputs, options.experiment), calibration.plan, judge, compared,
        lambda done, units, name: progress(Progress("sensitivity", done, units, name)),
    )  # fmt: skip
