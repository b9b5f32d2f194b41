"""Our INT8 beside that of other tools, on the same images: python bench/peers.py MODELS IMAGES [options]

MODELS and IMAGES are the folders that real_models.py describes. All calibrate with the same samples and are measured
on the same others, prepared alike: quality, agreement with FP32 and SNR (see evaluation.py), in brackets 95 % intervals
over the evaluation samples. Then, by how much ours is above each peer, on the same draws of samples. Figures of several
calibration sets (--draws) are averaged, and the SNR of each set is told.

- calib8: the integers of the BM1880, which has one scale for the weights of a layer
- ncnn: what ncnn2table's default (`kl`) finds, in ncnn's runtime (see other_runtimes.py): signed activations, a scale
  for each channel of the weights, and real values wherever no convolution or inner product reads them
- tpu-mlir, for a chip (--chip) that has signed activations and a scale for each channel of the weights: its own `kl`,
  in its own interpreter; FP32 first, which shows that it has read the same network

Of equal largest probabilities the first class is taken everywhere; "ties" counts the samples that have them. What a
peer cannot do is said in a line. Seconds are not told: the tools share no way to run.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
from accuracy import VARIANTS
from evaluation import Evaluation, Result
from figures import Figure, difference, estimate, mean
from other_runtimes import ncnn, ncnn2table, ncnn_runs
from real_models import CALIBRATION_IMAGES, DRAWS, Classes, Network, real_models
from toolchain import Toolchain, ToolchainError, TpuMlir

from calib8.errors import Calib8Error

Array = np.ndarray
OURS = ("standard", "thorough")
Figures = tuple[Figure, ...]
"""Quality, agreement and SNR."""
_FIGURES = attrgetter("quality", "agreement", "snr")


@dataclass(frozen=True)
class Subject:
    """A network, and what everybody gets of it.

    Attributes:
        sets: of calibration samples.
    """

    network: Network
    evaluation: Evaluation
    sets: Sequence[Sequence[Array]]

    def ours(self, variant: str, samples: Sequence[Array]) -> Result:
        found = VARIANTS[variant](self.network, samples)
        return self.evaluation.of(found.plan, found.model)

    def ncnn(self, samples: Sequence[Array]) -> Result:
        files = ncnn2table(self.network.model, self.network, samples)
        return self.evaluation.by(ncnn_runs(files, self.network, self.evaluation.names))


def show(subject: Subject, variants: Sequence[str], environment: Path | None, chip: str) -> None:
    """The table of one network."""
    evaluation = subject.evaluation
    n, measure = evaluation.samples, evaluation.network.task.measure
    fp32 = estimate(evaluation.fp32.quality, n).text(".3f")
    print(f"\n{subject.network.name}: {n} samples; FP32 {measure} {fp32}")
    print(f"  SNR of {', '.join(evaluation.measured_on)}", flush=True)
    ours = [(name, row(f"calib8, {name}", subject, partial(subject.ours, name))) for name in variants]
    peers = list(_peers(subject, environment, chip))
    for our_name, our in ours:
        for name, peer in peers:
            if our is not None and peer is not None:
                above = [difference(a, b) for a, b in zip(our, peer, strict=True)]
                print(f"  {our_name} above {name}: {told(evaluation, above, '+')}", flush=True)


def _peers(subject: Subject, environment: Path | None, chip: str) -> Iterator[tuple[str, Figures | None]]:
    if ncnn is None:
        print("  ncnn: left out, no such package")
    else:
        name = f"ncnn {ncnn.__version__}, kl"
        yield name, row(name, subject, subject.ncnn)
    if environment is None:
        print("  tpu-mlir: left out, no --tpu-mlir")
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield _tpu_mlir(subject, environment, chip, Path(folder))
        except ToolchainError as why:
            print(f"  tpu-mlir: {why}", flush=True)


def _tpu_mlir(subject: Subject, environment: Path, chip: str, folder: Path) -> tuple[str, Figures | None]:
    evaluation, inputs = subject.evaluation, subject.network.evaluation
    tools = Toolchain(environment, folder)
    theirs = TpuMlir(tools, subject.network, evaluation.names)
    first = replace(subject, sets=subject.sets[:1])  # FP32 is the same with all of them
    row(f"tpu-mlir {tools.version}, FP32", first, lambda _: evaluation.by(theirs.float_outputs(inputs)))
    name = f"tpu-mlir {tools.version}, {chip} kl"
    return name, row(name, subject, lambda samples: evaluation.by(theirs.int8_outputs(samples, inputs, chip)))


def row(name: str, subject: Subject, run: Callable[[Sequence[Array]], Result]) -> Figures | None:
    """Print what a tool's integers are worth, or why it has none; None in that case."""
    try:
        results = [run(samples) for samples in subject.sets]
    except (Calib8Error, ToolchainError) as why:
        print(f"  {name:<34}{str(why).splitlines()[0]}", flush=True)
        return None
    evaluation = subject.evaluation
    figures: Figures = tuple(map(mean, zip(*map(_FIGURES, results), strict=True)))
    is_classes = isinstance(evaluation.network.task, Classes)
    ties = f"; ties {np.mean([result.ties for result in results]):.0f}" if is_classes else ""
    each = ", ".join(f"{result.snr(np.ones(evaluation.samples)):.1f}" for result in results)
    sets = f"; sets {each}" if len(results) > 1 else ""
    print(f"  {name:<34}{told(evaluation, figures)}{ties}{sets}", flush=True)
    return figures


def told(evaluation: Evaluation, figures: Sequence[Figure], sign: str = "") -> str:
    """Quality, agreement and SNR with their names; once where quality is the agreement."""
    n, task = evaluation.samples, evaluation.network.task
    quality, agreement, snr = (
        estimate(figure, n).text(f"{sign}.{digits}f") for figure, digits in zip(figures, (3, 3, 1), strict=True)
    )
    first = () if task.measure == task.agreement else (f"{task.measure} {quality}",)
    return "; ".join((*first, f"{task.agreement} {agreement}", f"SNR {snr} dB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--network", action="append", help="only this one; may be given several times")
    parser.add_argument("--variant", action="append", choices=OURS, help="of ours; may be given several times")
    parser.add_argument("--tpu-mlir", type=Path, metavar="ENV_SH", help="a file that puts its commands on the PATH")
    parser.add_argument("--chip", default="cv183x", help="of tpu-mlir (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=CALIBRATION_IMAGES, help="to calibrate with")
    parser.add_argument("--draws", type=int, default=1, choices=range(1, DRAWS + 1), help="calibration sets")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for network in real_models(options.models, options.images):
        if options.network is None or network.name in options.network:
            count = min(options.samples, len(network.pool))
            sets = [list(network.calibration(draw, count)) for draw in range(options.draws)]
            subject = Subject(network, Evaluation(network), sets)
            show(subject, options.variant or OURS, options.tpu_mlir, options.chip)


if __name__ == "__main__":
    main()
