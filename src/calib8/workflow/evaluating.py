"""`evaluate`: what a network in INT8 is worth against the one in FP32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from calib8.analyze.judges import Judge, QualityDrop, compared_values
from calib8.analyze.metrics import OutputComparison, compare_outputs
from calib8.analyze.units import setup_of
from calib8.engine import EngineOptions, Executor
from calib8.lowering import Model, lower_float
from calib8.lowering.integer import lower_int8
from calib8.quantize import QuantPlan
from calib8.workflow.calibrating import CalibrationResult
from calib8.workflow.judging import JudgeOptions, by_run, check_int8, given_labels, make_judge
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet
from calib8.workflow.samples import Array, names_of, sample_chunks

_IN_MEMORY = 32
"""About so many images at a time."""


@dataclass(frozen=True)
class EvaluateOptions(JudgeOptions):
    """How a network is evaluated: see `JudgeOptions`; take other samples than those it was calibrated or tuned on."""

    usual_samples: ClassVar[int] = 100


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
    both = _Both(model, calibration.plan, make_judge(options.metric, model, compared_values(model), None), options)
    own: list[Array | None] = []
    done = 0
    for samples in sample_chunks(model, source, count, _IN_MEMORY):
        own.append(samples.labels)
        for inputs in samples.inputs:
            both.add(inputs)
            done += len(next(iter(inputs.values())))
            progress(Progress("evaluating", done, count))
    labels = _joined(own) if given is None else given
    judge = make_judge(options.metric, model, compared_values(model), by_run(labels, len(both.parts)))
    return _evaluation(judge, both, count)


class _Both:
    """The network in FP32 and in INT8, run side by side.

    Attributes:
        parts: what the judge has to say of each run.
        outputs: the comparison of all runs so far.
    """

    def __init__(self, model: Model, plan: QuantPlan, judge: Judge, options: EvaluateOptions) -> None:
        self._judge, self._compared = judge, compared_values(model)
        self._wanted = tuple(dict.fromkeys((*self._compared, *judge.values)))
        engine = EngineOptions(threads=options.threads, repack_weights=True)  # the same last bits in both
        setup = replace(setup_of(plan), integer_kernels=engine.integer_kernels)
        self._fp32 = Executor(lower_float(model, self._wanted), self._wanted, engine)
        self._int8 = Executor(lower_int8(model, setup, self._wanted), self._wanted, engine)
        self.parts: list[Any] = []
        self.outputs = OutputComparison()

    def add(self, inputs: Mapping[str, Array]) -> None:
        """Run one sample."""
        reference, result = (_outputs(executor, inputs) for executor in (self._fp32, self._int8))
        self.parts.append(self._judge.part(reference, result))
        self.outputs += compare_outputs(reference, result, self._compared)


def _outputs(executor: Executor, inputs: Mapping[str, Array]) -> dict[str, Array]:
    outputs: dict[str, Array] = {}
    executor.run(inputs, lambda reading, array: outputs.__setitem__(str(reading), array.copy()))
    return outputs


def _joined(labels: Sequence[Array | None]) -> Array | None:
    known = [one for one in labels if one is not None]
    return np.concatenate(known) if len(known) == len(labels) else None


def _evaluation(judge: Judge, both: _Both, images: int) -> Evaluation:
    runs = range(len(both.parts))
    loss = judge.loss(runs, both.parts)
    fp32 = judge.reference(runs) if isinstance(judge, QualityDrop) else None
    int8 = None if fp32 is None else fp32 - loss
    return Evaluation(judge.name, loss, fp32, int8, both.outputs, images)
