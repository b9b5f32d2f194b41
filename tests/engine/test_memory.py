"""Memory that goes back to the system, and what is there all the same."""

from __future__ import annotations

import mmap
import re
import weakref
from pathlib import Path

import numpy as np
import pytest

from calib8.engine import EngineOptions, Executor, memory
from calib8.lowering import build_model, lower_float
from calib8.measure.collect import CollectOptions, collect_histograms
from calib8.proto.caffemodel import read_caffemodel, write_caffemodel
from calib8.proto.text import parse_prototxt

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="says what is in memory")
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 512] } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 1024 } }
"""


def anonymous() -> int:
    """How many kB are in memory that are of no file."""
    return int(re.search(r"^RssAnon:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def resident(what: str) -> int:
    """How many kB are in memory of a file that is mapped."""
    heads = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *", re.MULTILINE)
    kinds = heads.split(Path("/proc/self/smaps").read_text())
    own = [one for one in kinds[1:] if what in one.partition("\n")[0]]
    return sum(int(re.search(r"^Rss: +(\d+)", one, re.MULTILINE)[1]) for one in own)


@pytest.fixture
def weights(tmp_path):
    """A caffemodel of 2 MB, and the array that lies in it."""
    param = parse_prototxt(NET).net.layer[1]
    values = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)
    write_caffemodel(tmp_path / "own.caffemodel", "n", [(param, [values, np.zeros(1024, np.float32)])])
    return values, read_caffemodel(tmp_path / "own.caffemodel")


def test_pages_of_files_are_dropped_and_read_again(weights):
    values, model = weights
    (blob, _) = next(layer.blobs for layer in model.layers if layer.name == "ip")
    assert np.array_equal(blob, values) and resident("own.caffemodel") >= 2000
    memory.forget([blob[3:].T, np.zeros(4)])
    assert resident("own.caffemodel") < 100
    assert np.array_equal(blob, values) and resident("own.caffemodel") >= 2000


def test_what_is_in_memory_alone_stays(tmp_path):
    (tmp_path / "file").write_bytes(bytes(1 << 16))
    with (tmp_path / "file").open("rb") as file:
        private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    for owner in (private, mmap.mmap(-1, 1 << 16)):
        array = np.frombuffer(owner, np.uint8)
        array[:] = 7
        memory.forget([array, np.zeros(3)])
        assert (array == 7).all()


def test_passes_leave_no_weights_of_the_file_in_memory(weights):
    values, read = weights
    model = build_model(parse_prototxt(NET), read)
    x, seen = np.ones((1, 512), np.float32), []
    options = CollectOptions(engine=EngineOptions(threads=1))
    batches = iter([{"x": x}] * 3)
    found = collect_histograms(model, lambda: batches, ["ip"], options, lambda done: seen.append(resident("own.")))
    assert len(seen) == 3 and max(seen) < 100
    assert found["ip"].maximum == pytest.approx(np.abs(values.sum(axis=1)).max(), rel=1e-4)


@pytest.mark.parametrize("repack", [False, True])
def test_matrices_that_are_lent_are_read_where_they_lie(repack):
    """Repacked they are copied all the same, as the kernels want them."""
    text = NET.replace("512", "2048").replace("1024", "4096")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4096, 2048), np.float32), rng.standard_normal(4096, np.float32)]  # 32 MB
    model = build_model(parse_prototxt(text), {"ip": arrays})
    x, outputs, taken = rng.standard_normal((1, 2048), np.float32), [], []
    for lend in (False, True):
        memory.empty_arena()
        before = anonymous()
        engine = EngineOptions(threads=1, lend_weights=lend, repack_weights=repack)
        executor = Executor(lower_float(model, ["ip"]), ["ip"], engine)
        memory.trim()
        taken.append(anonymous() - before)
        for _ in range(2):
            executor.run({"x": x}, lambda name, array: outputs.append(array.copy()))
        del executor
    assert all(np.array_equal(output, outputs[0]) for output in outputs)
    assert taken[0] > 30_000 and (taken[1] > 30_000 if repack else taken[1] < 8_000)


@pytest.mark.parametrize("repack", [False, True])
def test_what_is_lent_lives_as_long_as_the_session(repack):
    text = NET.replace("512", "2048").replace("1024", "4096")
    x, engine = np.ones((1, 2048), np.float32), EngineOptions(threads=1, lend_weights=True, repack_weights=repack)
    steps = lower_float(build_model(parse_prototxt(text), {"ip": [np.ones((4096, 2048)), np.zeros(4096)]}), ["ip"])
    gone = weakref.ref(max(steps[0].weights.values(), key=np.size))
    executor = Executor(steps, ["ip"], engine).sibling()
    del steps
    executor.run({"x": x}, lambda name, array: np.testing.assert_array_equal(array, np.full((1, 4096), 2048.0)))
    assert gone() is not None
    del executor
    assert gone() is None


def test_what_the_arena_kept_is_freed():
    shape = (1, 64, 256, 256)  # 16 MB
    layers = "".join(
        f'layer {{ name: "l{i}" type: "AbsVal" bottom: "{f"l{i - 1}" if i else "x"}" top: "l{i}" }}' for i in range(3)
    )
    text = f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: {list(shape)} }} }} }} {layers}'
    executor = Executor(lower_float(build_model(parse_prototxt(text)), ["l2"]), ["l2"], EngineOptions(threads=1))
    x = np.ones(shape, np.float32)
    executor.run({"x": x}, lambda name, array: None)
    before = anonymous()
    memory.empty_arena()
    assert before - anonymous() > 15_000
    executor.run({"x": x}, lambda name, array: None)  # which takes it again


def test_a_library_that_cannot_trim_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_c_library", object)
    memory.trim()
