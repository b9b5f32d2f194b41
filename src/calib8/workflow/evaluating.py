"""`evaluate`: what a network in INT8 is worth against the one in FP32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from calib8.analyze.judges import Judge, QualityDrop, compared_values
from calib8.analyze.metrics import OutputComparison, compare_outputs
from calib8.boundary import closed, closed_class
from calib8.choices import USUAL_SAMPLES
from calib8.workflow.calibrating import CalibrationResult
from calib8.workflow.judging import JudgeOptions, by_run, check_int8, given_labels, make_judge
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet
from calib8.workflow.samples import Array, names_of, sample_chunks
from calib8.workflow.side_by_side import SideBySide

_IN_MEMORY = 32
"""About so many images at a time."""


@closed_class
@dataclass(frozen=True)
class EvaluateOptions(JudgeOptions):
    """How a network is evaluated: see `JudgeOptions`; take other samples than those it was calibrated or tuned on."""

    usual_samples: ClassVar[int] = USUAL_SAMPLES["evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """A network in INT8 against the one in FP32.

    Attributes:
        metric: the metric's name.
        loss: what the metric says; less is better.
        fp32, int8: of a metric that measures quality, such as top1: the quality of both, whose difference the loss is;
            None for others.
        outputs: how far the outputs are from each other: cosine, signal to noise, squared error, top-1 agreement.
        samples: how many images.
    """

    metric: str
    loss: float
    fp32: float | None
    int8: float | None
    outputs: OutputComparison
    samples: int


@closed
def evaluate(
    network: Network,
    calibration: CalibrationResult,
    options: EvaluateOptions = EvaluateOptions(),
    progress: ProgressCallback = quiet,
) -> Evaluation:
    """Run samples through the network in FP32 and in INT8, and compare.

    Of the samples only a few are in memory at a time; of the outputs those that a measure of quality looks at are kept.

    Raises:
        QuantizationError: nothing of the network runs in INT8.
        DataError, UserLayerError: the samples or labels cannot be used, or there are fewer samples.
        OptionError: no such metric, or one that cannot judge the network's outputs.
    """
    check_int8(network, calibration.plan)
    model, source, count = network.of_one_sample, network.samples, options.count_for(network)
    given = given_labels(options.metric, names_of(source)[:count], count)
    judge = make_judge(options.metric, model, compared_values(model), None)  # labels come with the samples
    both = SideBySide(model, [calibration.plan], judge.values, threads=options.threads)
    own: list[Array | None] = []
    parts: list[Any] = []
    outputs, done = OutputComparison(), 0
    for samples in sample_chunks(model, source, count, _IN_MEMORY):
        own.append(samples.labels)
        for inputs in samples.inputs:
            reference, result = both.run(inputs)
            parts.append(judge.part(reference, result))
            outputs += compare_outputs(reference, result, both.compared)
            done += len(next(iter(inputs.values())))
            progress(Progress("evaluating", done, count))
    labels = _joined(own) if given is None else given
    judge = make_judge(options.metric, model, compared_values(model), by_run(labels, len(parts)))
    return _evaluation(judge, parts, outputs, count)


def _joined(labels: Sequence[Array | None]) -> Array | None:
    known = [one for one in labels if one is not None]
    return np.concatenate(known) if len(known) == len(labels) else None


def _evaluation(judge: Judge, parts: Sequence[Any], outputs: OutputComparison, images: int) -> Evaluation:
    runs = range(len(parts))
    loss = judge.loss(runs, parts)
    fp32 = judge.reference(runs) if isinstance(judge, QualityDrop) else None
    int8 = None if fp32 is None else fp32 - loss
    return Evaluation(judge.name, loss, fp32, int8, outputs, images)
