"""A calibration beside its peers, each in a process of its own, in turn: seconds, memory, and times the forward passes.

python bench/speed/peers.py [MODEL_FOLDER [N]] [--rounds R] [--peer "NAME=COMMAND"].. [-- options of `calib8 calibrate`]

MODEL_FOLDER holds deploy.prototxt and custom.caffemodel (default: examples/digits), N is the number of images (100).
What follows `--` says where images come from, such as --images.

Rows: as many bare forward passes, loaded and warm before the clock starts; calib8 by `kl`, which is what ncnn2table
does, and by `mse`, without repair and verdict; ONNX Runtime's own calibrators over the same network and the same
samples, which they get as arrays, while calib8 reads pictures; and every COMMAND, for instance

    --peer "ncnn2table=ncnn2table a.param a.bin images.txt a.table mean=[104,117,123] norm=[1,1,1] shape=[227,227,3]
            pixel=BGR thread=2 method=kl"

Medians. `processor` is user and system time together: on a busy machine it says more than the clock.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
THREADS = 2

# The rows below run in processes of their own, whose memory is measured: what they import is theirs alone.
_FORWARD = """
import sys, time, resource
sys.path.insert(0, sys.argv[1])
from peers import samples_of
from calib8.engine import EngineOptions, Executor
from calib8.lowering import lower_float
network, samples = samples_of(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
model = network.of_one_sample
executor = Executor(lower_float(model, model.net.outputs), model.net.outputs, EngineOptions(threads=THREADS))
executor.run(samples[0], lambda name, array: None)
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
start, before = time.perf_counter(), used()
for sample in samples:
    executor.run(sample, lambda name, array: None)
print(time.perf_counter() - start, used() - before)
""".replace("THREADS", str(THREADS))
_ONNX_RUNTIME = """
import os, sys
import numpy as np
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator
onnx, samples, method, augmented = sys.argv[1:]
class Reader(CalibrationDataReader):
    def __init__(self):
        self.files = iter(sorted(os.listdir(samples)))
    def get_next(self):
        name = next(self.files, None)
        return None if name is None else dict(np.load(os.path.join(samples, name)))
calibrator = create_calibrator(onnx, augmented_model_path=augmented, calibrate_method=CalibrationMethod[method])
calibrator.collect_data(Reader())
calibrator.compute_data()
"""


@dataclass(frozen=True)
class Used:
    """What a process took: seconds by the clock, seconds of processors, peak MB."""

    seconds: float
    processor: float
    megabytes: float


def samples_of(folder: str, images: int, options: Sequence[str]) -> tuple[object, list[Mapping[str, object]]]:
    """A network, and samples for its inputs, one image each, as `calib8 calibrate` takes them."""
    from calib8.cli import main as cli  # noqa: PLC0415 - this process would count its memory
    from calib8.cli.images import images_of  # noqa: PLC0415
    from calib8.data import takes  # noqa: PLC0415
    from calib8.workflow import open_network  # noqa: PLC0415

    parsed = cli.build_parser().parse_args(["calibrate", "peers", folder, *options])
    path = Path(folder)
    network = open_network(path / "deploy.prototxt", path / "custom.caffemodel", images_of(parsed))
    model = network.of_one_sample
    samples = []
    for batch in takes(network.samples, images):
        inputs = model.inputs_of(batch)
        count = len(next(iter(inputs.values())))
        samples += [{name: array[i : i + 1].copy() for name, array in inputs.items()} for i in range(count)]
    return network, samples


def run(command: Sequence[str]) -> Used:
    """Run a process to its end."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{shlex.join(command)[:200]} failed:\n{said.read().decode(errors='replace')[-2000:]}")
    return Used(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def forward(folder: Path, images: int, options: Sequence[str]) -> Used:
    """As many bare forward passes; the memory of the process is not shown, since all samples are in it."""
    here = str(Path(__file__).resolve().parent)
    command = [sys.executable, "-c", _FORWARD, here, str(folder), str(images), *options]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, processor = map(float, said.split())
    return Used(seconds, processor, float("nan"))


def onnx_of(folder: Path, images: int, options: Sequence[str], scratch: Path) -> tuple[Path, Path]:
    """Write the network as ONNX for one image, and its samples, a file each."""
    program = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); from peers import samples_of; "
        "_, samples = samples_of(sys.argv[2], int(sys.argv[3]), sys.argv[5:]); "
        "[np.savez(f'{sys.argv[4]}/{i:05}.npz', **x) for i, x in enumerate(samples)]"
    )
    data, own = scratch / "samples", scratch / "own"
    data.mkdir()
    own.mkdir()
    for entry in folder.iterdir():
        (own / entry.name).symlink_to(entry.resolve())
    here = str(Path(__file__).resolve().parent)
    run([sys.executable, "-c", program, here, str(folder), str(images), str(data), *options])
    few = ["-n", str(min(images, 4)), "--no-verdict", "--repair", "none", "--output", str(own)]
    run([*_calib8(), "calibrate", "peers", str(folder), *few, *options])
    run([*_calib8(), "export", "peers", str(own), "--format", "onnx", "--batch", "1"])
    return own / "peers_float.onnx", data


def _calib8() -> list[str]:
    return [sys.executable, "-c", "import sys; from calib8.cli.main import main; sys.exit(main(sys.argv[1:]))"]


def rows_of(
    folder: Path, images: int, options: Sequence[str], peers: Mapping[str, str], scratch: Path
) -> dict[str, Sequence[str]]:
    """The command of each row."""
    onnx, data = onnx_of(folder, images, options, scratch)
    output = scratch / "output"
    output.mkdir()
    common = [str(folder), "-n", str(images), "--threads", str(THREADS), "--output", str(output), *options]
    plain = ["--repair", "none", "--no-verdict"]
    rows: dict[str, Sequence[str]] = {
        f"calib8, {method}": [*_calib8(), "calibrate", "peers", *common, *plain, "--method", method]
        for method in ("kl", "mse")
    }
    for method in ("MinMax", "Entropy"):
        augmented = str(scratch / f"{method}.onnx")
        rows[f"onnxruntime, {method}"] = [sys.executable, "-c", _ONNX_RUNTIME, str(onnx), str(data), method, augmented]
    rows |= {name: shlex.split(command) for name, command in peers.items()}
    return rows


def measured(
    folder: Path, images: int, rounds: int, options: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> dict[str, list[Used]]:
    """All rows in turn, so many times."""
    found: dict[str, list[Used]] = {name: [] for name in ("forward passes", *rows)}
    for _ in range(rounds):
        found["forward passes"].append(forward(folder, images, options))
        for name, command in rows.items():
            found[name].append(run(command))
    return found


def main() -> None:
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(usage=(__doc__ or "").splitlines()[2])
    parser.add_argument("folder", nargs="?", type=Path, default=DIGITS)
    parser.add_argument("images", nargs="?", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="append", default=[])
    own = parser.parse_args(sys.argv[1:at])
    options, peers = sys.argv[at + 1 :], dict(peer.split("=", 1) for peer in own.peer)
    with tempfile.TemporaryDirectory() as scratch:
        rows = rows_of(own.folder, own.images, options, peers, Path(scratch))
        found = measured(own.folder, own.images, own.rounds, options, rows)
    bare = median(used.seconds for used in found["forward passes"])
    busy = median(used.processor for used in found["forward passes"])
    print(f"{own.folder.name}, {own.images} images, {THREADS} threads, median of {own.rounds}")
    print(f"{'':24}{'seconds':>9}{'x forward':>11}{'processor':>11}{'x forward':>11}{'peak MB':>9}")
    for name, every in found.items():
        seconds, processor, peak = (median(getattr(u, f) for u in every) for f in ("seconds", "processor", "megabytes"))
        memory = f"{peak:9.0f}" if peak == peak else f"{'':>9}"
        print(f"{name:24}{seconds:9.2f}{seconds / bare:11.2f}{processor:11.2f}{processor / busy:11.2f}{memory}")


if __name__ == "__main__":
    main()
