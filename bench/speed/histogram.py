"""Cost of counting a blob, compiled and in numpy, and what a second thread brings: python bench/speed/histogram.py"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from calib8.measure import counting
from calib8.measure.histogram import AbsMax, AdaptiveHistogram, Histogram

REPEATS = 15


def best_ns_per_element(work: Callable[[], object], elements: int) -> float:
    calls = max(1, (1 << 20) // elements)
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, time.perf_counter() - start)
    return best / (calls * elements) * 1e9


def blobs(elements: int) -> dict[str, NDArray[np.float32]]:
    normal = np.random.default_rng(0).standard_normal(elements).astype(np.float32)
    return {
        "normal": normal,
        "ReLU, 50% zeros": np.maximum(normal, 0),
        "ReLU, 75% zeros": np.maximum(normal - np.float32(0.674), 0),
        "ReLU, 90% zeros": np.maximum(normal - np.float32(1.282), 0),
        "all zeros": np.zeros_like(normal),
    }


def speed_of_two_threads() -> float:
    """How much faster two threads count two blobs into two histograms than one thread does."""
    x = blobs(1 << 17)["ReLU, 50% zeros"]

    def count(histogram: AdaptiveHistogram) -> None:
        for _ in range(200):
            histogram.add(x)

    alone = together = float("inf")
    for _ in range(REPEATS // 3):
        first, second = AdaptiveHistogram(), AdaptiveHistogram()
        start = time.perf_counter()
        count(first)
        count(second)
        alone, start = min(alone, time.perf_counter() - start), time.perf_counter()
        threads = [threading.Thread(target=count, args=(histogram,)) for histogram in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = min(together, time.perf_counter() - start)
    return alone / together


def main() -> None:
    for compiled in (True, False) if counting.COMPILED else (False,):
        counting.COMPILED = compiled
        print("compiled" if compiled else "numpy")
        print_costs()
        print(f"two threads: {speed_of_two_threads():.2f} times as fast as one")


def print_costs() -> None:
    print(f"{'blob':<18}{'elements':>10}{'max':>8}{'two-pass':>10}{'one-pass':>10}{'204800':>10}   ns/element")
    for elements in (1 << 12, 1 << 14, 1 << 17, 1 << 20):
        for name, x in blobs(elements).items():
            largest = AbsMax()
            largest.add(x)
            exact, fine = Histogram(largest.maximum), Histogram(largest.maximum, 204800)
            adaptive = AdaptiveHistogram()
            figures = [
                best_ns_per_element(lambda add=add, x=x: add(x), elements)
                for add in (largest.add, exact.add, adaptive.add, fine.add)
            ]
            print(f"{name:<18}{elements:>10}{figures[0]:>8.2f}" + "".join(f"{f:>10.2f}" for f in figures[1:]))


if __name__ == "__main__":
    main()
