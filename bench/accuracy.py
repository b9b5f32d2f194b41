"""FP32 and INT8 side by side on real networks: python bench/accuracy.py MODELS IMAGES [options]

MODELS and IMAGES are the folders that real_models.py describes. For every network and every way to quantise it:
quality (top-1, mAP50, or F1 to FP32's boxes), its change from FP32, agreement with FP32, SNR (see evaluation.py), the
floor of its thresholds and units (activations INT8, weights float) and, where channels have units, the floor of one
scale a blob, with the best of the plain thresholds; seconds of the calibration. In brackets 95 % intervals over the
evaluation samples (bootstrap, FP32 and INT8 on the same draws); figures of several calibration sets are averaged,
and the spread of the SNR between the sets is said. Calibration and evaluation never share a sample. Of equal largest
probabilities the first class is taken, as users' argmax does; "ties" counts the samples that have them.

As a library: real_models.find gives a network and its samples, evaluation.Evaluation measures a plan.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evaluation import Evaluation, Result
from figures import Figure, difference, estimate, mean
from real_models import CALIBRATION_IMAGES, DRAWS, Network, real_models

from calib8.calibration import Calibration
from calib8.choices import DEFAULT_BINS
from calib8.errors import QuantizationError
from calib8.lowering import Model
from calib8.quantize import QuantPlan

Array = np.ndarray


class Quantised(NamedTuple):
    """What a variant makes of a network.

    Attributes:
        model: that the plan belongs to.
        plan: the integers.
        one_scale: a plan with one scale for all channels of a blob, with the thresholds of which a repair has measured
            the least noise; None where `plan` is one.
    """

    model: Model
    plan: QuantPlan
    one_scale: QuantPlan | None


Variant = Callable[[Network, Sequence[Array]], Quantised]
"""From a network and calibration samples."""


def calibrated(*, bins: int = DEFAULT_BINS, **options: Any) -> Variant:
    """What `Calibration` makes of these options."""

    def variant(network: Network, samples: Sequence[Array]) -> Quantised:
        calibration = Calibration(
            {
                "model_name": network.name,
                "in_prototxt": network.folder / "deploy.prototxt",
                "in_caffemodel": network.folder / "custom.caffemodel",
                "iteration": len(samples),
                "histogram_bin_num": bins,
            },
            source=network.source(samples),
            **options,
        )
        calibration.calc_tables()
        found = calibration.result.repaired
        one_scale = None
        if found is not None and found.floor and calibration.plan.channel_units:
            best = min(found.floor, key=found.floor.__getitem__)
            one_scale = next(stage.plan for stage in found.plain if stage.name == best)
        return Quantised(calibration.model, calibration.plan, one_scale)

    return variant


VARIANTS: dict[str, Variant] = {
    "original": calibrated(original=True),
    "original, 204800": calibrated(original=True, bins=204_800),
    "kl-fine": calibrated(method="kl-fine", repair="none"),
    "mse": calibrated(method="mse", repair="none"),
    "percentile": calibrated(method="percentile", repair="none"),
    "max": calibrated(method="max", repair="none"),
    "standard": calibrated(),
    "thorough": calibrated(repair="thorough"),
}


def show(network: Network, variants: Sequence[str], draws: int, count: int) -> None:
    """The lines of one network."""
    evaluation = Evaluation(network)
    n, task = evaluation.samples, network.task
    print(f"\n{network.name}: {n} samples; FP32 {task.measure} {estimate(evaluation.fp32.quality, n).text('.3f')}")
    for name in variants:
        results: list[tuple[Result, Result, Result]] = []
        seconds = []
        try:
            for draw in range(draws):
                samples = list(network.calibration(draw, min(count, len(network.pool))))
                start = time.perf_counter()
                found = VARIANTS[name](network, samples)
                seconds.append(time.perf_counter() - start)
                own = evaluation.floor(found.plan, found.model)
                one_scale = own if found.one_scale is None else evaluation.floor(found.one_scale, found.model)
                results.append((evaluation.of(found.plan, found.model), own, one_scale))
        except QuantizationError as why:
            print(f"  {name:<18}cannot be expressed: {why.problems[0] if why.problems else why}", flush=True)
            continue
        print(f"  {name:<18}" + line(evaluation, results, np.mean(seconds)), flush=True)


def line(evaluation: Evaluation, results: Sequence[tuple[Result, Result, Result]], seconds: float) -> str:
    """The mean over calibration sets, with intervals over samples."""
    n, task = evaluation.samples, evaluation.network.task

    def text(of: Callable[[Result], Figure], spec: str, which: int = 0) -> str:
        return estimate(mean([of(pair[which]) for pair in results]), n).text(spec)

    change = mean([difference(pair[0].quality, evaluation.fp32.quality) for pair in results])
    each = [pair[0].snr(np.ones(n)) for pair in results]
    parts = [
        f"{task.measure} {text(lambda r: r.quality, '.3f')}",
        f"change {estimate(change, n).text('+.3f')}",
        f"{task.agreement} {text(lambda r: r.agreement, '.3f')}",
        f"SNR {text(lambda r: r.snr, '.1f')} dB, sets {min(each):.1f} to {max(each):.1f}",
        f"floor {text(lambda r: r.snr, '.1f', 1)} dB, {task.agreement} {text(lambda r: r.agreement, '.3f', 1)}",
        f"of one scale a blob {text(lambda r: r.snr, '.1f', 2)} dB",
        f"{seconds:.1f} s",
    ]
    ties = [pair[0].ties for pair in results]
    return "; ".join([*parts, f"ties {np.mean(ties):.0f}"] if any(ties) else parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--network", action="append", help="only this one; may be given several times")
    parser.add_argument("--variant", action="append", choices=VARIANTS)
    parser.add_argument("--draws", type=int, default=DRAWS, choices=range(1, DRAWS + 1), help="calibration sets")
    parser.add_argument("--samples", type=int, default=CALIBRATION_IMAGES, help="in a calibration set")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for network in real_models(options.models, options.images):
        if options.network is None or network.name in options.network:
            show(network, options.variant or list(VARIANTS), options.draws, options.samples)


if __name__ == "__main__":
    main()
