"""Outputs that lie over one another, and never over what is still read."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import EngineOptions, Executor
from calib8.engine.layout import laid_out
from calib8.lowering import HostStep, OnnxStep, build_model, lower_float
from calib8.lowering.steps import last_readers
from calib8.proto.text import parse_prototxt, read_prototxt

CHAIN = 'layer { name: "x" type: "Input" top: "v0" input_param { shape { dim: [1, 4, 8, 8] } } }' + "".join(
    f"""
    layer {{ name: "l{i}" type: "Power" bottom: "v{i}" top: "v{i + 1}" power_param {{ scale: {1 + i / 8} shift: 1 }} }}
    """
    for i in range(8)
)
SKIP = """
layer { name: "small" type: "Pooling" bottom: "v2" top: "small" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "v8" bottom: "v1" top: "sum" }
"""
VIEW = """
import caffe

class View(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data
"""
X = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)


def steps_of(model, values):
    """A graph for each layer."""
    return lower_float(model, values, max_output_bytes=1)


def seen(executor, x=X):
    found = {}
    executor.run({"v0": x}, lambda name, array: found.__setitem__(name, array.copy()))
    return found


def all_values(model):
    return [value for value in model.shapes if value not in model.inputs]


def test_values_are_those_without_sharing():
    model = build_model(parse_prototxt(CHAIN + SKIP))
    values = all_values(model)
    steps = steps_of(model, values)
    assert len(steps) > 8
    plain, sharing = Executor(steps, values), Executor(steps, values, share=True)
    twin = sharing.sibling()
    for scale in (1, 2, 3):  # buffers that were written before
        expected = seen(plain, X * scale)
        assert seen(twin, -X).keys() == expected.keys() == set(values)
        found = seen(sharing, X * scale)
        assert all(np.array_equal(found[value], expected[value]) for value in values)


def test_nothing_lies_over_what_is_still_read():
    model = build_model(parse_prototxt(CHAIN + SKIP))
    steps = steps_of(model, all_values(model))
    layout = laid_out(steps, last_readers(steps))
    needed = {}
    for at, step in enumerate(steps):
        for reading in (*step.outputs, *step.inputs):
            needed.setdefault(reading, []).append(at)
    buffers = layout.buffers()
    for one, of_one in buffers.items():
        assert one in needed and of_one.ctypes.data % 64 == 0 and of_one.flags.c_contiguous
        for other, of_other in buffers.items():
            together = min(needed[one]) <= max(needed[other]) and min(needed[other]) <= max(needed[one])
            assert one == other or not (together and np.shares_memory(of_one, of_other)), (one, other)


def test_it_takes_little_more_than_the_widest_place():
    model = build_model(parse_prototxt(CHAIN))
    steps = steps_of(model, all_values(model))
    assert laid_out(steps, last_readers(steps)).size == 2 * X.nbytes


def test_siblings_share_nothing():
    model = build_model(parse_prototxt(CHAIN))
    executor = Executor(steps_of(model, ["v8"]), ["v8"], share=True)
    arrays = []
    for one in (executor, executor.sibling()):
        one.run({"v0": X}, lambda name, array: arrays.append(array))
    assert not np.shares_memory(*arrays)


def test_what_a_layer_in_python_was_given_stays(tmp_path):
    (tmp_path / "view.py").write_text(VIEW)
    python = """
    layer { name: "py" type: "Python" bottom: "v2" top: "py" python_param { module: "view" layer: "View" } }
    layer { name: "end" type: "Eltwise" bottom: "v8" bottom: "py" top: "end" }
    """
    (tmp_path / "deploy.prototxt").write_text(CHAIN + python)
    model = build_model(read_prototxt(tmp_path / "deploy.prototxt"))
    values = all_values(model)
    steps = steps_of(model, values)
    (host,) = (at for at, step in enumerate(steps) if isinstance(step, HostStep))
    places = laid_out(steps, last_readers(steps)).buffers()
    later = [reading for step in steps[host + 1 :] if isinstance(step, OnnxStep) for reading in step.outputs]
    assert later and not any(np.shares_memory(places["v2"], places[reading]) for reading in later)
    expected, found = seen(Executor(steps, values)), seen(Executor(steps, values, share=True))
    assert all(np.array_equal(found[value], expected[value]) for value in values)


@pytest.mark.parametrize("share", [False, True])
def test_a_caller_may_say_where_values_go(share):
    model = build_model(parse_prototxt(CHAIN))
    executor = Executor(steps_of(model, ["v4", "v8"]), ["v4", "v8"], EngineOptions(threads=1), share=share)
    target, found = np.empty_like(X), {}
    executor.run({"v0": X}, found.__setitem__, {"v4": target})
    assert found["v4"] is target and np.array_equal(target, seen(executor)["v4"])
