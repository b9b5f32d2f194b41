"""What a plan is worth on a network's evaluation samples.

    evaluation = Evaluation(find("squeezenet_v1.1", models, images))   # runs FP32 once
    result = evaluation.of(plan)            # or .of(plan, model) where a repair has changed the weights
    result.quality, result.agreement, result.snr    # figures: estimate(figure, evaluation.samples) gives the interval
    evaluation.floor(plan).snr              # activations in INT8 with the plan's thresholds, weights in float

SNR is 10 * log10 of signal over noise, both summed over all samples and over the outputs, before a Softmax; a
classifier's outputs are centred, each sample's mean taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
from figures import Figure, decibels
from real_models import Classes, Network

from calib8.arithmetic import dequantize, quantize
from calib8.engine import EngineOptions, Executor
from calib8.engine.options import available_cores
from calib8.layers.softmax import Softmax
from calib8.lowering import Model, lower_float
from calib8.lowering.integer import lower_int8
from calib8.lowering.steps import Step
from calib8.quantize import QuantPlan, setup_of
from calib8.repair.rounded_values import rounded_inputs, with_rounded_values

Array = np.ndarray
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Result:
    """Figures of one network over the evaluation samples.

    Attributes:
        ties: classifiers: samples whose largest probability more than one class has; the first of them was taken.
    """

    quality: Figure
    agreement: Figure
    snr: Figure
    ties: int = 0


class Evaluation:
    """A network in FP32 over its evaluation samples, and everything else against it.

    Attributes:
        samples: their number.
        fp32: the figures of FP32 itself.
    """

    def __init__(self, network: Network, threads: int | None = None) -> None:
        self.network, self.samples = network, len(network.evaluation)
        self._threads = threads or available_cores()
        self._raw = before_softmax(network.model, network.task.outputs)
        self._names = tuple(dict.fromkeys((*network.task.outputs, *self._raw)))
        kept = self._each(lower_float(network.model, self._names), lambda _, out: (self._seen(out), self._vectors(out)))
        self._reference = [seen for seen, _ in kept]
        self._signals = [vectors for _, vectors in kept]
        self.fp32 = self._result(self._reference, [0.0] * self.samples)

    def of(self, plan: QuantPlan, model: Model | None = None) -> Result:
        """All layers that can run in INT8, over real-valued input."""
        return self._measured(lower_int8(model or self.network.model, setup_of(plan), self._names))

    def floor(self, plan: QuantPlan, model: Model | None = None) -> Result:
        """Weights and arithmetic in float; every value that is codes in the plan quantised, and nothing else."""
        model = model or self.network.model
        inputs = rounded_inputs(model, plan)

        def prepared(name: str, x: Array) -> Array:
            return dequantize(quantize(x, inputs[name]), inputs[name]) if name in inputs else x

        return self._measured(lower_float(with_rounded_values(model, plan), self._names), prepared)

    @property
    def measured_on(self) -> tuple[str, ...]:
        """The values that signal and noise are measured on."""
        return self._raw

    @property
    def names(self) -> tuple[str, ...]:
        """The values that a runtime has to give."""
        return self._names

    def by(self, run: Callable[[Array], Outputs]) -> Result:
        """Another runtime: `run` makes `names` of a sample."""
        seen, noises = [], []
        for index, sample in enumerate(self.network.evaluation):
            outputs = run(sample)
            pairs = zip(self._signals[index], self._vectors(outputs), strict=True)
            seen.append(self._seen(outputs))
            noises.append(sum(float(((a - b) ** 2).sum()) for a, b in pairs))
        return self._result(seen, noises)

    def _measured(self, steps: Sequence[Step], prepared: Callable[[str, Array], Array] = lambda _, x: x) -> Result:
        def measure(index: int, outputs: Outputs) -> tuple[Any, float]:
            pairs = zip(self._signals[index], self._vectors(outputs), strict=True)
            return self._seen(outputs), sum(float(((a - b) ** 2).sum()) for a, b in pairs)

        found = self._each(steps, measure, prepared)
        return self._result([seen for seen, _ in found], [noise for _, noise in found])

    def _result(self, seen: Sequence[Any], noises: Sequence[float]) -> Result:
        task = self.network.task
        signals = [sum(float((a**2).sum()) for a in vectors) for vectors in self._signals]
        ties = task.ties(seen) if isinstance(task, Classes) else 0
        return Result(
            task.quality(seen, self._reference), task.agrees(seen, self._reference), decibels(signals, noises), ties
        )

    def _seen(self, outputs: Outputs) -> Any:
        return self.network.task.seen(outputs)

    def _vectors(self, outputs: Outputs) -> list[Array]:
        vectors = [outputs[name].astype(np.float64).reshape(-1) for name in self._raw]
        return [v - v.mean() for v in vectors] if self.network.task.centred else vectors

    def _each(
        self,
        steps: Sequence[Step],
        measure: Callable[[int, Outputs], Any],
        prepared: Callable[[str, Array], Array] = lambda _, x: x,
    ) -> list[Any]:
        """What `measure` makes of every sample, in order; several samples at a time."""
        executor = Executor(steps, self._names, EngineOptions(threads=1))
        free: SimpleQueue[Executor] = SimpleQueue()
        for own in (executor, *(executor.sibling() for _ in range(self._threads - 1))):
            free.put(own)
        blob = self.network.blob

        def run(index: int) -> Any:
            own, outputs = free.get(), {}
            try:
                sample = prepared(blob, self.network.evaluation[index])
                own.run({blob: sample}, outputs.__setitem__)
                return measure(index, outputs)
            finally:
                free.put(own)

        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(run, range(self.samples)))


def before_softmax(model: Model, outputs: Sequence[str] = ()) -> tuple[str, ...]:
    """The values that signal and noise are measured on: the network's outputs, or what a layer in Python makes them of;
    what goes into a Softmax instead of what comes out, also where its result is only moved afterwards.

    Constants, such as the boxes of a PriorBox, are left out: they have no noise.
    """
    found: dict[str, None] = {}
    waiting = list(model.net.outputs or outputs)
    while waiting:
        value = waiting.pop(0)
        layer, op = model.net.producer[value], model.op_of[model.net.producer[value].name]
        raw = _logits(model, value)
        if op.kind == "host":
            waiting[:0] = layer.bottoms
        elif raw is not None:
            found[raw] = None
        elif value not in model.inputs and layer.type != "PriorBox" and not _constant(model, value):
            found[value] = None
    return tuple(found)


def _logits(model: Model, value: str) -> str | None:
    """What goes into the Softmax that a value is made of by moving alone; None without one."""
    while True:
        layer = model.net.producer[value]
        op = model.op_of[layer.name]
        if isinstance(op, Softmax):
            return layer.bottoms[0]
        if not (op.passive or op.moves_data) or len(layer.bottoms) != 1 or value in model.inputs:
            return None
        value = layer.bottoms[0]


def _constant(model: Model, value: str) -> bool:
    layer = model.net.producer[value]
    if layer.type == "PriorBox":
        return True
    return bool(layer.bottoms) and all(_constant(model, bottom) for bottom in layer.bottoms)
