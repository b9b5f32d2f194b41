"""What counting on a cluster costs: seconds of a shard, bytes of its state, seconds of a merge; and what follows.

python bench/speed/cluster.py PROTOTXT CAFFEMODEL IMAGES [-n SHARD] [--mean ..]

Measures one shard with one thread, in seconds of its processor, beside it the plain counting of the same images, and
what Dask takes for a task and for a state. From that: hours for 50,000 and 1,000,000 images on 10 and 100 workers, and
the load of the process that merges.
"""

from __future__ import annotations

import argparse
import copy
import operator
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from distributed import Client, LocalCluster, wait

from calib8 import CalibrateOptions, Images, Preprocess, open_network
from calib8.measure.histogram_file import HistogramSet
from calib8.workflow import CountOptions, Part, count_histograms, measure_histograms
from calib8.workflow.calibrating import observed_by
from calib8.workflow.histograms import count_exactly

Result = TypeVar("Result")
MOST_IN_SHARD = 512


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """A result, and the seconds of this process's processor that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def scheduled(state: HistogramSet, count: int = 300) -> tuple[float, float]:
    """Seconds of this process's processor for a task without a result, and for one whose result is a state.

    Scheduler and client are both in this process, so each of them alone takes less.
    """
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address=":0", silence_logs=50, memory_limit=0
    )  # fmt: skip
    with cluster, Client(cluster) as client:
        data = client.scatter(state)
        client.gather(client.map(operator.not_, range(100), pure=False))  # everything is imported
        _, plain = timed(lambda: client.gather(client.map(operator.not_, range(count), pure=False)))
        copies = [client.submit(copy.copy, data, pure=False) for _ in range(count // 10)]
        wait(copies)
        _, fetched = timed(lambda: [one.result() for one in copies])
    return plain / count, fetched / len(copies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prototxt", type=Path)
    parser.add_argument("caffemodel", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("-n", "--shard", type=int, default=32)
    parser.add_argument("--mean", type=float, nargs="*", default=[104, 117, 123])
    options = parser.parse_args()
    images = Images(options.images, preprocess=Preprocess(mean=tuple(options.mean)))
    network = open_network(options.prototxt, options.caffemodel, images)
    kl = CalibrateOptions(iteration=options.shard, threads=1)
    one_pass = replace(kl, method="mse")
    part = Part(0, options.shard)

    count_histograms(network, one_pass, CountOptions(Part(0, 1)))  # sessions and caches are warm
    plain, seconds = timed(lambda: measure_histograms(network, observed_by(network, one_pass), one_pass))
    fine, first = timed(lambda: count_histograms(network, one_pass, CountOptions(part)))
    exact, second = timed(lambda: count_exactly(network, kl, part, fine.maxima))
    packed = [len(pickle.dumps(one)) for one in (fine, exact)]
    merges = [timed(lambda one=one: [one.merge(one) for _ in range(20)])[1] / 20 for one in (fine, exact)]
    per_image = [first / options.shard, second / options.shard]
    print(f"{len(fine.fine)} values, {len(exact.exact)} exactly; {len(plain)} for mse alone")
    print(f"plain, one pass     {1e3 * seconds / options.shard:8.2f} ms an image")
    for name, ms, size, merge in zip(("first", "second"), per_image, packed, merges, strict=True):
        state = f"{size / 1e6:.2f} MB a shard, {1e3 * merge:.2f} ms a merge"
        print(f"{name + ' pass':<20}{1e3 * ms:8.2f} ms an image, {state}")
    print(f"file                {len(replace(fine, exact=exact.exact).to_bytes()) / 1e6:8.2f} MB")
    task, fetch = scheduled(fine)
    print(f"Dask: {1e3 * task:.2f} ms a task, {1e3 * fetch:.1f} ms to fetch a state, scheduler and client together")
    most = MOST_IN_SHARD * sum(per_image) / 2 / (task + fetch)
    print(f"one core for both would be enough for {most:.0f} workers with {MOST_IN_SHARD} images a shard")
    for count in (50_000, 1_000_000):
        for workers in (10, 100):
            shards = max(4 * workers, -(-count // MOST_IN_SHARD))
            hours = count * sum(per_image) / workers / 3600
            load = shards * (sum(packed) / 1e6), shards * sum(merges)
            print(
                f"{count:>9} images, {workers:>3} workers: {hours:7.2f} h, {shards} shards a pass; "
                f"fetched {load[0]:.0f} MB, {load[0] / hours / 3600:.1f} MB/s; merged in {load[1]:.0f} s"
            )


if __name__ == "__main__":
    main()
