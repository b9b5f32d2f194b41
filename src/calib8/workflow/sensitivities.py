"""`sensitivity`: which layer costs the accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from calib8.analyze.answers import values_of_classes
from calib8.analyze.bench import Setting
from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.analyze.judges import compared_values
from calib8.analyze.sensitivity import Sensitivity, measure_sensitivity
from calib8.boundary import closed, closed_class
from calib8.workflow.calibrating import CalibrationResult
from calib8.workflow.cluster import Workers
from calib8.workflow.cluster_trials import experiment_options, runner_of
from calib8.workflow.judging import JudgeOptions, check_int8, judge_of, samples_to_judge
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet


@closed_class
@dataclass(frozen=True)
class SensitivityOptions(JudgeOptions):
    """How layers are judged: see `JudgeOptions`."""

    @property
    def experiment(self) -> ExperimentOptions:
        """The part that an experiment takes. Two networks out of three are in FP32 for the most part."""
        return replace(super().experiment, joined_affines=True)


@closed
def sensitivity(
    network: Network,
    calibration: CalibrationResult,
    options: SensitivityOptions = SensitivityOptions(),
    progress: ProgressCallback = quiet,
    workers: Workers | None = None,
) -> Sensitivity:
    """Judge every layer that can run in INT8: alone, together with all before it, and as the only one left in FP32.

    Args:
        workers: that run the samples, of `connected` for this network; None for this process.

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
    experiment = Experiment(model, samples.inputs, outputs, experiment_options(options, workers))
    setting = Setting(calibration.plan, judge, outputs, compared)
    runs = range(len(samples.inputs))
    with runner_of(workers, experiment, setting, samples.images, runs, options) as runner:
        found = measure_sensitivity(
            experiment, calibration.plan, judge, compared,
            lambda done, units, name: progress(Progress("sensitivity", done, units, name)), runner,
        )  # fmt: skip
    # Who judges by top-1 says that the outputs are classes, whatever they look like.
    return found if options.metric.name == "top1" else found.of_classes(values_of_classes(model))
