"""Our INT8 beside that of other tools, on the same images: python bench/peers.py MODELS IMAGES [options]

MODELS and IMAGES are the folders that real_models.py describes. All calibrate with the same samples and are measured
on the same others, prepared alike: quality, agreement with FP32 and SNR (see evaluation.py), in brackets 95 % intervals
over the evaluation samples. Then, by how much ours is above each peer, on the same draws of samples.

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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy import VARIANTS
from evaluation import Evaluation, Result
from figures import Figure, difference, estimate
from other_runtimes import ncnn, ncnn2table, ncnn_runs
from real_models import CALIBRATION_IMAGES, Classes, Network, real_models
from toolchain import Toolchain, ToolchainError, TpuMlir

from calib8.errors import Calib8Error

Array = np.ndarray
OURS = ("standard", "thorough")


@dataclass(frozen=True)
class Subject:
    """A network, and what everybody gets of it."""

    network: Network
    evaluation: Evaluation
    samples: Sequence[Array]

    def ours(self, variant: str) -> Result:
        found = VARIANTS[variant](self.network, self.samples)
        return self.evaluation.of(found.plan, found.model)

    def ncnn(self) -> Result:
        files = ncnn2table(self.network.model, self.network, self.samples)
        return self.evaluation.by(ncnn_runs(files, self.network, self.evaluation.names))

    def tpu_mlir(self, environment: Path, chip: str, folder: Path) -> Iterator[tuple[str, Callable[[], Result]]]:
        """What is run there, by name, FP32 first."""
        tools = Toolchain(environment, folder)
        name = f"tpu-mlir {tools.version}"
        theirs = TpuMlir(tools, self.network, self.samples, self.evaluation.names)
        inputs = self.network.evaluation
        yield f"{name}, FP32", lambda: self.evaluation.by(theirs.float_outputs(inputs))
        yield f"{name}, {chip} kl", lambda: self.evaluation.by(theirs.int8_outputs(inputs, chip))


def show(subject: Subject, variants: Sequence[str], environment: Path | None, chip: str) -> None:
    """The table of one network."""
    evaluation = subject.evaluation
    n, task = evaluation.samples, evaluation.network.task
    print(f"\n{subject.network.name}: {n} samples; FP32 {task.measure} {text(evaluation.fp32.quality, n, '.3f')}")
    print(f"  SNR of {', '.join(evaluation.measured_on)}", flush=True)
    ours = [(name, row(f"calib8, {name}", evaluation, lambda name=name: subject.ours(name))) for name in variants]
    peers = list(_peers(subject, environment, chip))
    for our_name, our in ours:
        for name, peer in peers:
            if our is not None and peer is not None and not name.endswith("FP32"):
                changes = (
                    f"{task.measure} {text(difference(our.quality, peer.quality), n, '+.3f')}",
                    f"{task.agreement} {text(difference(our.agreement, peer.agreement), n, '+.3f')}",
                    f"SNR {text(difference(our.snr, peer.snr), n, '+.1f')} dB",
                )
                print(f"  {our_name} above {name}: {'; '.join(changes)}", flush=True)


def _peers(subject: Subject, environment: Path | None, chip: str) -> Iterator[tuple[str, Result | None]]:
    if ncnn is None:
        print("  ncnn: left out, no such package")
    else:
        name = f"ncnn {ncnn.__version__}, kl"
        yield name, row(name, subject.evaluation, subject.ncnn)
    if environment is None:
        print("  tpu-mlir: left out, no --tpu-mlir")
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, run in subject.tpu_mlir(environment, chip, Path(folder)):
                yield name, row(name, subject.evaluation, run)
        except ToolchainError as why:
            print(f"  tpu-mlir: {why}", flush=True)


def row(name: str, evaluation: Evaluation, run: Callable[[], Result]) -> Result | None:
    """Print what a tool's integers are worth, or why it has none; None in that case."""
    n, task = evaluation.samples, evaluation.network.task
    try:
        result = run()
    except (Calib8Error, ToolchainError) as why:
        print(f"  {name:<34}{str(why).splitlines()[0]}", flush=True)
        return None
    figures = (
        f"{task.measure} {text(result.quality, n, '.3f')}",
        f"{task.agreement} {text(result.agreement, n, '.3f')}",
        f"SNR {text(result.snr, n, '.1f')} dB",
        *([f"ties {result.ties}"] if isinstance(task, Classes) else []),
    )
    print(f"  {name:<34}{'; '.join(figures)}", flush=True)
    return result


def text(figure: Figure, samples: int, spec: str) -> str:
    return estimate(figure, samples).text(spec)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--network", action="append", help="only this one; may be given several times")
    parser.add_argument("--variant", action="append", choices=OURS, help="of ours; may be given several times")
    parser.add_argument("--tpu-mlir", type=Path, metavar="ENV_SH", help="a file that puts its commands on the PATH")
    parser.add_argument("--chip", default="cv183x", help="of tpu-mlir (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=CALIBRATION_IMAGES, help="to calibrate with")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for network in real_models(options.models, options.images):
        if options.network is None or network.name in options.network:
            samples = list(network.calibration(0, min(options.samples, len(network.pool))))
            subject = Subject(network, Evaluation(network), samples)
            show(subject, options.variant or OURS, options.tpu_mlir, options.chip)


if __name__ == "__main__":
    main()
