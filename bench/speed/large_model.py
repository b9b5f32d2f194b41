"""A VGG-16 with random weights (528 MB): time and peak memory of loading, of counting, and of a calibration.

    python bench/speed/large_model.py [FOLDER [IMAGES]]

FOLDER keeps the 528 MB for the next time. IMAGES, a folder, take the place of random numbers as samples. Of a
calibration with its defaults every part has a row; that needs Linux, which can forget a peak.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from calib8.proto.caffemodel import write_caffemodel
from calib8.proto.text import parse_prototxt

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_DENSE = ((4096, 512 * 7 * 7), (4096, 4096), (1000, 4096))


def prototxt() -> str:
    """The text of the network, with in-place ReLUs and Dropouts as its authors have them."""
    text = ['name: "vgg16"', _layer("data", "Input", (), "data", "input_param { shape { dim: [1, 3, 224, 224] } }")]
    bottom = "data"
    for stage, (channels, depth) in enumerate(_STAGES, 1):
        for index in range(1, depth + 1):
            name = f"conv{stage}_{index}"
            convolution = f"convolution_param {{ num_output: {channels} kernel_size: 3 pad: 1 }}"
            text += [_layer(name, "Convolution", (bottom,), name, convolution), _relu(name)]
            bottom = name
        pooling = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
        text.append(_layer(f"pool{stage}", "Pooling", (bottom,), f"pool{stage}", pooling))
        bottom = f"pool{stage}"
    for index, (outputs, _) in enumerate(_DENSE, 6):
        name = f"fc{index}"
        text.append(_layer(name, "InnerProduct", (bottom,), name, f"inner_product_param {{ num_output: {outputs} }}"))
        if index < 8:
            text += [_relu(name), _layer(f"drop{index}", "Dropout", (name,), name, "")]
        bottom = name
    text.append(_layer("prob", "Softmax", (bottom,), "prob", ""))
    return "\n".join(text)


def _layer(name: str, kind: str, bottoms: tuple[str, ...], top: str, parameters: str) -> str:
    inputs = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ name: "{name}" type: "{kind}" {inputs} top: "{top}" {parameters} }}'


def _relu(name: str) -> str:
    return _layer(f"relu_{name}", "ReLU", (name,), name, "")


def weights() -> dict[str, list[np.ndarray]]:
    """He-initialised blobs by layer name."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for stage, (width, depth) in enumerate(_STAGES, 1):
        for index in range(1, depth + 1):
            shapes[f"conv{stage}_{index}"] = (width, channels, 3, 3)
            channels = width
    shapes |= {f"fc{i}": shape for i, shape in enumerate(_DENSE, 6)}
    return {
        name: [
            rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:]))),
            np.zeros(shape[0], np.float32),
        ]
        for name, shape in shapes.items()
    }


def make(folder: Path) -> None:
    """Write deploy.prototxt and custom.caffemodel."""
    (folder / "deploy.prototxt").write_text(prototxt())
    blobs = weights()
    layers = parse_prototxt(prototxt()).net.layer
    write_caffemodel(folder / "custom.caffemodel", "vgg16", [(x, blobs.get(x.name, [])) for x in layers])


_MEASURED = """
import json, resource, sys, time
import numpy as np
start = time.perf_counter()
from calib8.engine import Executor
from calib8.lowering import build_model, lower_float
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
folder, images, release = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "release"
prototxt = read_prototxt(folder + "/deploy.prototxt")
model = build_model(prototxt, read_caffemodel(folder + "/custom.caffemodel"))
image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
found = {}
if images == 0:
    Executor(lower_float(model, ["prob"]), ["prob"]).run({"data": image}, lambda name, array: None)
else:
    from calib8.measure.collect import CollectOptions, collect_histograms
    from calib8.engine import EngineOptions
    observed = [v for v in model.shapes if "@" not in v]
    options = CollectOptions(engine=EngineOptions(release_blobs=release))
    collect_histograms(model, lambda: iter([{"data": image}] * images), observed, options)
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak()}))
"""


_CALIBRATED = """
import json, sys, time
from pathlib import Path
import numpy as np
from calib8.data import Preprocess
from calib8.repair import work
from calib8.repair.bias_correction import BiasCorrection
from calib8.repair.compensated_rounding import CompensatedRounding
from calib8.workflow import Arrays, CalibrateOptions, Images, calibrate, open_network
folder, images = Path(sys.argv[1]), sys.argv[2]
found, parts = {}, ["load, and histograms of 10 images"]
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
def close():
    seconds, most = found.get(parts[-1], (0, 0))
    found[parts[-1]] = seconds + time.process_time() - close.since, max(most, peak())
    Path("/proc/self/clear_refs").write_text("5")
    close.since = time.process_time()
close.since = 0
def as_part(owner, method, name_of):
    own = getattr(owner, method)
    def timed(*given):
        close()
        parts.append(name_of(*given))
        try:
            return own(*given)
        finally:
            close()
            parts.pop()
            if len(parts) == 1:
                parts[0] = "the rest"
    setattr(owner, method, timed)
as_part(work.Guard, "__init__", lambda *_: "FP32 of held-out samples")
as_part(work.Work, "stage", lambda *_: "measure plans in INT8")
as_part(work.Work, "floor", lambda *_: "measure thresholds")
as_part(work.Work, "starts", lambda *_: "equalised channels")
as_part(work.Work, "observed", lambda _, passes, *__: "observe for " + passes[0].name)
for one in (CompensatedRounding, BiasCorrection):
    as_part(one, "apply", lambda one, *_: one.name)
if images:
    samples = Images(images, preprocess=Preprocess(mean=(104, 117, 123)))
else:
    values = np.random.default_rng(0).normal(0, 60, (10, 3, 224, 224)).astype(np.float32)
    np.save(folder / "data.npy", values)
    samples = Arrays(folder / "data.npy")
network = open_network(folder / "deploy.prototxt", folder / "custom.caffemodel", samples)
calibrate(network, CalibrateOptions(iteration=10))
close()
print(json.dumps(found))
"""


def calibrated(folder: Path, images: str) -> dict[str, list[float]]:
    """Calibrate in a process of its own: seconds of processor time and peak of every part, by its name."""
    command = [sys.executable, "-c", _CALIBRATED, str(folder), images]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(folder: Path, images: int, mode: str) -> dict[str, float]:
    """Run in a process of its own."""
    command = [sys.executable, "-c", _MEASURED, str(folder), str(images), mode]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "custom.caffemodel"
    if not model.exists():
        start = time.perf_counter()
        make(folder)
        print(f"made in {time.perf_counter() - start:.1f} s")
    size = model.stat().st_size / 2**20
    print(f"{'what':<44}{'seconds':>9}{'peak MB':>9}{'times the weights':>19}")
    for what, images, mode in (
        ("load, one forward pass", 0, "keep"),
        ("collect histograms of 10 images", 10, "keep"),
        ("collect histograms of 10 images, memory_opt", 10, "release"),
    ):
        found = measure(folder, images, mode)
        print(f"{what:<44}{found['seconds']:>9.1f}{found['peak']:>9.0f}{found['peak'] / size:>19.2f}")
    if not Path("/proc/self/clear_refs").exists():
        return
    print("\ncalibrate with its defaults (processor time)")
    parts = calibrated(folder, sys.argv[2] if len(sys.argv) > 2 else "")
    parts["together"] = [sum(seconds for seconds, _ in parts.values()), max(peak for _, peak in parts.values())]
    for name, (seconds, peak) in parts.items():
        print(f"  {name:<42}{seconds:>9.1f}{peak:>9.0f}{peak / size:>19.2f}")


if __name__ == "__main__":
    main()
