"""Time of a threshold search, in milliseconds: python bench/speed/kl.py"""

from __future__ import annotations

import sys
import time

import numpy as np

from calib8.measure.histogram import BlobHistogram, Histogram
from calib8.measure.thresholds import METHODS, find_threshold

REPEATS = 9
VALUES = 1 << 22
LIMITS = {("kl", 2048): 2.0, ("kl", 204_800): 60.0}
"""Milliseconds that a search may take, by method and number of bins."""


def best_ms(method: str, histogram: BlobHistogram) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        find_threshold(histogram, method)
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def histograms(bins: int) -> dict[str, BlobHistogram]:
    """A normal blob behind a ReLU; values of a few levels and an outlier, which leave many equal divergences."""
    random = np.random.default_rng(0)
    normal = np.maximum(random.standard_normal(VALUES).astype(np.float32), 0)
    levels = np.append(random.integers(0, 32, VALUES), 128 * 32).astype(np.float32)
    found = {}
    for name, values in (("ReLU", normal), ("levels", levels)):
        counter = Histogram(float(values.max()), bins)
        counter.add(values)
        found[name] = counter.result()
    return found


def main() -> int:
    methods = [name for name in METHODS if name != "max"]
    print(f"{'blob':<8}{'bins':>8}" + "".join(f"{name:>12}" for name in methods) + "   ms/search")
    late = []
    for bins in (2048, 8192, 204_800):
        for blob, histogram in histograms(bins).items():
            figures = {method: best_ms(method, histogram) for method in methods}
            print(f"{blob:<8}{bins:>8}" + "".join(f"{figure:>12.2f}" for figure in figures.values()))
            late += [(m, bins) for m in methods if figures[m] > LIMITS.get((m, bins), float("inf"))]
    for method, bins in late:
        print(f"{method} over {bins} bins takes more than {LIMITS[method, bins]:g} ms")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
