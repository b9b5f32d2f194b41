"""Refitted weights: what the codes of a layer's bottom are off by is made up for by its weights.

Behind layers in INT8 a layer gets x' where FP32 has x. Its weights W are replaced by V, so that what a layer gives
follows from x as in FP32, up to noise that x has nothing to do with. V is held near W by a ridge, since few windows are
seen:

    E[(V x' - W x) x^T] = 0:    V = W (E[x x^T] + ridge) (E[x' x^T] + ridge)^-1

about the means where an offset takes them, which then also takes the whole mean error, that of the bottom too:
b' = b + W E[x] - Q E[x']. V is rounded over the moments of x' as in `compensated_rounding`.

Least squares, E[(V x' - W x) x'^T] = 0, have less noise by a tenth of a decibel, and make every direction smaller in
which x' is mostly noise. Those are the rare ones: behind them detectors lost boxes, and classifiers answers, although
the noise at the outputs was the least (decision 0024).

Layers are solved in the order of the network: x' is what the INT8 network, with all layers before it solved, gives
(`paired_runs`). That means in full: where offsets are aligned (`aligned_offsets`), a layer's are before the next one is
solved. Afterwards it would change the mean errors that later layers have made up for, and was measured to cost 1 dB.

A small ridge was measured to fit the samples and nothing else. So each layer has its own, a multiple of the mean of the
diagonal: the one with the least error on every fifth sample, for which V is solved on the others. Where W itself is
better there, the layer is rounded as in `compensated_rounding`.

Source: to refit layer by layer over the quantised inputs is Hubara et al., Accurate Post Training Quantization With
Small Calibration Sets, 2021 (AdaQuant), equation 2, with least squares by gradient. x as the instrument for x', which
carries errors: Fuller, Measurement Error Models, 1987, section 1.4.
"""

from __future__ import annotations

from collections.abc import Callable

from calib8.engine.memory import trim
from calib8.graph import Layer
from calib8.lowering import Model
from calib8.measure.collect import Batches
from calib8.quantize import QuantPlan, with_given
from calib8.repair.aligned_offsets import AlignedOffsets
from calib8.repair.compensated_rounding import problem_of
from calib8.repair.paired_runs import PairedRuns
from calib8.repair.paired_windows import PairedWindows

REFITTED = "refitted-weights"
_LARGE_BYTES = 1 << 17  # of weights: their moments take so much that what was freed has to go back first


def refit_weights(
    model: Model,
    plan: QuantPlan,
    batches: Batches,
    runs: int,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    aligns: bool = False,
) -> QuantPlan:
    """Refit and round the weights of all layers that are matrices times windows; see the module's text.

    Args:
        batches: samples to solve on, a run each.
        runs: how many there are.
        threads: None for all cores; no result depends on it.
        progress: called with values that are done, and how many there are.
        aligns: whether offsets are aligned.

    Raises:
        Calib8Error: what the samples or a layer in Python raise.
    """
    by_value: dict[str, list[Layer]] = {}
    for layer in model.net.layers:
        if problem_of(model, plan, layer) is not None:
            by_value.setdefault(layer.bottoms[0], []).append(layer)
    paired = PairedRuns(model, batches, runs, threads)
    with paired.crew:
        for done, (value, layers) in enumerate(by_value.items()):
            progress(done, len(by_value))
            windows = paired.windows(plan, value, layers)
            for layer in layers:
                if layer.blobs[0].nbytes >= _LARGE_BYTES:
                    trim()
                plan = _solved(model, plan, layer, windows.pop(layer.name))
            if aligns:
                plan = AlignedOffsets([layer.name for layer in layers]).apply(model, plan, {})
    progress(len(by_value), len(by_value))
    return plan


def _solved(model: Model, plan: QuantPlan, layer: Layer, windows: PairedWindows) -> QuantPlan:
    problem = problem_of(model, plan, layer)
    if problem is None or not problem.is_known(windows):
        return plan
    return with_given(plan, problem.solved(windows), REFITTED)
