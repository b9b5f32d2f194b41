"""Accuracy before and after `calib8 tune`, on images that neither calibration nor tuning has seen, over several sets.

python bench/accuracy_after_tuning.py MODELS IMAGES [--network NAME]... [--method METHOD]... [--sets N]

MODELS and IMAGES are the folders that real_models.py describes. A set is a draw of 100 calibration images; thresholds
are tuned on 10 of them and held against 30 others, as `tune` does by default. Figures as in accuracy.py.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
from evaluation import Evaluation
from figures import difference, estimate, mean
from real_models import CALIBRATION_IMAGES, DRAWS, Network, real_models

from calib8.errors import QuantizationError
from calib8.measure.thresholds import METHODS
from calib8.quantize import QuantPlan
from calib8.workflow import CalibrateOptions, TuneOptions, calibrate, open_network, tune

DEFAULT_NETWORKS = ("squeezenet_v1.1", "cifar10_resnet20", "mobilenetv2_yolov3_nano_voc")


def tuned(network: Network, method: str, draw: int) -> tuple[QuantPlan, QuantPlan, str]:
    """The plan before and after, and what the search says."""
    samples = network.calibration(draw)
    order = np.random.default_rng(draw).permutation(len(samples))
    source = network.source(samples.chosen(order.tolist()))
    opened = open_network(network.folder / "deploy.prototxt", network.folder / "custom.caffemodel", source)
    result = calibrate(opened, CalibrateOptions(iteration=CALIBRATION_IMAGES, method=method))
    start = time.perf_counter()
    found = tune(opened, result, TuneOptions(iteration=CALIBRATION_IMAGES)).found
    seconds = time.perf_counter() - start
    change = [
        b / a - 1 for a, b in ((found.before.tuned, found.after.tuned), (found.before.held_out, found.after.held_out))
    ]
    said = f"{found.trials} trials, {seconds:.0f} s, difference {change[0]:+.0%} tuned, {change[1]:+.0%} held out"
    return result.plan, found.plan, said


def show(network: Network, methods: list[str], sets: int) -> None:
    """The lines of one network."""
    evaluation = Evaluation(network)
    n, ones = evaluation.samples, np.ones(evaluation.samples)
    what = network.task.measure
    print(f"\n{network.name}: {n} samples; FP32 {what} {estimate(evaluation.fp32.quality, n).text('.3f')}", flush=True)
    for method in methods:
        before, after = [], []
        try:
            for draw in range(sets):
                start, end, said = tuned(network, method, draw)
                before.append(evaluation.of(start))
                after.append(evaluation.of(end))
                pair = ((r.quality(ones), r.agreement(ones), r.snr(ones)) for r in (before[-1], after[-1]))
                figures = " -> ".join(f"{q:.3f}, {a:.3f}, {s:.1f} dB" for q, a, s in pair)
                print(f"  {method}, set {draw}: {figures}; {said}", flush=True)
        except QuantizationError as why:
            print(f"  {method}: cannot be expressed: {why.problems[0] if why.problems else why}", flush=True)
            continue
        gain = mean([difference(b.quality, a.quality) for a, b in zip(before, after, strict=True)])
        closer = mean([difference(b.agreement, a.agreement) for a, b in zip(before, after, strict=True)])
        print(
            f"  {method}: {what} {estimate(mean([r.quality for r in before]), n).text('.3f')} -> "
            f"{estimate(mean([r.quality for r in after]), n).text('.3f')}, gain {estimate(gain, n).text('+.3f')}; "
            f"{network.task.agreement} {estimate(closer, n).text('+.3f')}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--network", action="append", help=f"default: {', '.join(DEFAULT_NETWORKS)}")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--sets", type=int, default=DRAWS, choices=range(1, DRAWS + 1))
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for network in real_models(options.models, options.images):
        if network.name in (options.network or DEFAULT_NETWORKS):
            show(network, options.method or ["kl", "mse"], options.sets)


if __name__ == "__main__":
    main()
