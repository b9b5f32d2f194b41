"""What a threshold is measured on: a value as its layer writes it, or behind the ReLU; zeros counted, or left out.

python bench/observation.py MODELS IMAGES [--network NAME]... [--draws N]

MODELS and IMAGES as in real_models.py. For every method and each of the four rules: agreement with FP32 and SNR (see
evaluation.py), means over the calibration sets. Exact counts (two passes) everywhere, so that nothing else differs.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from evaluation import Evaluation
from real_models import DRAWS, Network, real_models

from calib8.errors import QuantizationError
from calib8.measure.collect import CollectOptions, collect_histograms
from calib8.measure.histogram import BlobHistogram
from calib8.measure.thresholds import METHODS, ThresholdOptions, find_threshold
from calib8.quantize import QuantPlan, fold_groups, make_plan

COUNTS_ZEROS = ("kl", "kl-fine", "percentile")
"""Methods for which zeros can matter; mse and max give the same with and without."""


def histograms(network: Network, draw: int, bins: int) -> dict[str, BlobHistogram]:
    """Of everything that either rule measures."""
    groups = fold_groups(network.model)
    values = list(dict.fromkeys(v for g in groups for v in (g.written, g.rectified)))
    options = CollectOptions(bins, two_passes=True)
    batches = network.source(network.calibration(draw)).batches
    return collect_histograms(network.model, batches, values, options)


def plan_of(
    network: Network, found: Mapping[str, BlobHistogram], method: str, *, as_written: bool, zeros: bool
) -> QuantPlan:
    """The plan by one method and one rule."""
    measured = {g.name: found[g.measured(as_written=as_written)] for g in fold_groups(network.model)}
    if not zeros:
        measured = {v: h if h.dead else h.without_zeros() for v, h in measured.items()}
    own = METHODS[method].threshold
    found_thresholds = {
        v: find_threshold(h, method) if h.dead else own(h, ThresholdOptions()) for v, h in measured.items()
    }
    return make_plan(network.model, found_thresholds, dead=[v for v, h in measured.items() if h.dead])


def show(network: Network, draws: int, bins: int) -> None:
    """The lines of one network."""
    evaluation = Evaluation(network)
    sets = [histograms(network, draw, bins) for draw in range(draws)]
    n, ones = evaluation.samples, np.ones(evaluation.samples)
    fp32 = evaluation.fp32.quality(ones)
    print(f"\n{network.name}: {n} samples, FP32 {network.task.measure} {fp32:.3f}, {bins} bins", flush=True)
    for method in METHODS:
        for as_written in (False, True):
            for zeros in (True, False) if method in COUNTS_ZEROS else (False,):
                rule = f"{'written' if as_written else 'behind'}, zeros {'counted' if zeros else 'left out'}"
                try:
                    plans = [plan_of(network, h, method, as_written=as_written, zeros=zeros) for h in sets]
                except QuantizationError as why:
                    print(f"  {method:<11}{rule:<26}cannot be expressed: {why.problems[0]}", flush=True)
                    continue
                results = [evaluation.of(plan) for plan in plans]
                quality, agreement, snr = (
                    float(np.mean([getattr(r, what)(ones) for r in results]))
                    for what in ("quality", "agreement", "snr")
                )
                print(f"  {method:<11}{rule:<26}{quality:>7.3f}{agreement:>7.3f}{snr:>6.1f} dB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--network", action="append", help="only this one; may be given several times")
    parser.add_argument("--draws", type=int, default=DRAWS, choices=range(1, DRAWS + 1), help="calibration sets")
    parser.add_argument("--bins", type=int, default=2048)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for network in real_models(options.models, options.images):
        if options.network is None or network.name in options.network:
            show(network, options.draws, options.bins)


if __name__ == "__main__":
    main()
