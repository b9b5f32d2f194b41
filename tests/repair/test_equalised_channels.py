"""Equalised channels: the same numbers in FP32, less noise in INT8, real units wherever a value is read."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from onnxruntime import InferenceSession

from calib8.engine import run_float, run_int8
from calib8.errors import TableError
from calib8.export import read_plan, write_calibration_files, write_format
from calib8.lowering.integer import IntegerSetup
from calib8.measure.collect import CollectOptions, collect
from calib8.measure.thresholds import find_threshold
from calib8.quantize import make_plan, observed_values, replan
from calib8.quantize.channel_units import in_channel_units
from calib8.repair.channel_values import ChannelValues
from calib8.repair.equalised_channels import EqualisedChannels, channel_classes

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 10, 8] } enable_quantize: 1 } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "ra" type: "ReLU" bottom: "a" top: "a" }
layer { name: "dw" type: "Convolution" bottom: "a" top: "dw"
  convolution_param { num_output: 6 group: 6 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "dw" top: "dw" }
layer { name: "sc" type: "Scale" bottom: "dw" top: "dw" scale_param { bias_term: true } }
layer { name: "pr" type: "PReLU" bottom: "dw" top: "pr" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b"
  convolution_param { num_output: 6 group: 2 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "pr" bottom: "b" top: "sum" }
layer { name: "p" type: "Pooling" bottom: "sum" top: "p" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "q" type: "Convolution" bottom: "p" top: "q" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "cat" type: "Concat" bottom: "p" bottom: "q" top: "cat" }
layer { name: "s" type: "Scale" bottom: "cat" top: "s" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip" inner_product_param { num_output: 5 } }
layer { name: "sig" type: "Sigmoid" bottom: "p" top: "sig" }
"""
SAMPLES = 24
LAYERS = ("a", "ra", "dw", "bn", "sc", "pr", "b", "sum", "p", "q", "cat", "s", "ip")
SIZES = np.float32([1, 0.1, 5, 0.3, 2, 0.05])


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(8)
    return [{"x": rng.normal(0.3, 1, (1, 3, 10, 8)).astype(np.float32)} for _ in range(SAMPLES)]


@pytest.fixture(scope="module")
def model_of(random_model):
    """Channels of very different sizes; with or without the Sigmoid that reads p, whose channels are fixed then."""

    def make(text=NETWORK):
        model = random_model(text, 4)
        blobs = {x.name: [b.copy() for b in x.blobs] for x in model.net.layers}
        blobs["a"] = [blob * SIZES.reshape(-1, *(1,) * (blob.ndim - 1)) for blob in blobs["a"]]
        blobs["sc"][0] *= SIZES[::-1]
        blobs["bn"][1][:], blobs["bn"][2][:] = 1.0, 1.0
        return random_model(text, 4, blobs)

    return make


@pytest.fixture(scope="module")
def model(model_of):
    return model_of(NETWORK[: NETWORK.index('layer { name: "sig"')])


def largest_of(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    return {v: max(float(np.abs(x[v]).max()) for x in found) for v in values}


@pytest.fixture(scope="module")
def plan(model, samples):
    return make_plan(model, largest_of(model, samples))


def equalised(model, plan, samples, threads=1, way="least_noise"):
    """The plan of the network itself, and the network in units that were chosen in this way.

    Without room for other samples: these are all that there are.
    """
    choice = EqualisedChannels(model, plan, has_room=False)
    options = CollectOptions(engine=replace(CollectOptions().engine, threads=threads))
    collect(model, lambda: iter(samples), choice.counters, options)
    ways = choice.ways()
    collect(model, lambda: iter(samples), ways.counters, options)
    units = getattr(ways, way)
    network = units.network()
    find = partial(find_threshold, method="max")
    inside = make_plan(network.model, {**plan.thresholds, **units.thresholds(find)})
    return network.real(inside), network


@pytest.fixture(scope="module", params=["least_noise", "by_range"])
def way(request):
    return request.param


@pytest.fixture(scope="module")
def found(way, model, plan, samples):
    return equalised(model, plan, samples, way=way)


def setup(plan, layers):
    forms = {n: f for n, f in plan.forms.items() if f is not None}
    return IntegerSetup(frozenset(layers), forms, plan.thresholds, channel_units=plan.channel_units)


def noise(model, plan, samples, values, layers=LAYERS):
    off = size = 0.0
    for sample in samples:
        exact = run_float(model, sample, values)
        got = run_int8(model, setup(plan, layers), sample, values)
        off += sum(float(((exact[v] - got[v]) ** 2).sum()) for v in values)
        size += sum(float((exact[v] ** 2).sum()) for v in values)
    return off / size


def test_classes_follow_channels(model, plan):
    """What a sum joins shares its classes; a Concat has those of its bottoms, one behind the other."""
    of = channel_classes(model, plan).of
    assert len(set(of["a"])) == 6
    for value in ("b", "sum", "p"):
        np.testing.assert_array_equal(of["pr"], of[value])
    np.testing.assert_array_equal(of["cat"], np.concatenate([of["p"], of["q"]]))
    assert len(set(of["s"])) == 10 and set(of["s"]).isdisjoint(of["cat"])
    assert {"x", "ip", "dw@bn", "dw@dw"}.isdisjoint(of)


def test_a_layer_that_mixes_channels_fixes_them(model_of, samples):
    model = model_of()
    of = channel_classes(model, make_plan(model, largest_of(model, samples))).of
    assert "p" not in of and "sum" not in of and "a" in of
    assert (of["cat"][:6] == -1).all() and (of["cat"][6:] >= 0).all()


NORMALISED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 10, 8] } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "b" type: "Convolution" bottom: "x" top: "b" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }
layer { name: "bn" type: "BatchNorm" bottom: "sum" top: "bn" batch_norm_param { eps: 0.01 } }
layer { name: "sc" type: "Scale" bottom: "bn" top: "sc" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "sc" top: "sc" }
layer { name: "c" type: "Convolution" bottom: "sc" top: "c" convolution_param { num_output: 4 kernel_size: 1 } }
"""


def test_a_batch_norm_behind_a_sum_takes_units_up(random_model, samples):
    """And its channels of small variance, which the contract takes for dead, live."""
    model = random_model(NORMALISED, 4)
    blobs = {x.name: [b.copy() for b in x.blobs] for x in model.net.layers}
    sizes = np.float32([1, 0.02, 5, 0.3, 2, 0.04])
    for name in ("a", "b"):
        blobs[name] = [blob * sizes.reshape(-1, *(1,) * (blob.ndim - 1)) for blob in blobs[name]]
    seen = np.concatenate([run_float(random_model(NORMALISED, 4, blobs), s, ["sum"])["sum"] for s in samples])
    blobs["bn"] = [seen.mean((0, 2, 3)), seen.var((0, 2, 3)), np.ones(1, np.float32)]
    model = random_model(NORMALISED, 4, blobs)
    plan = make_plan(model, largest_of(model, samples))
    found, network = equalised(model, plan, samples)
    assert {"a", "b", "sum", "sc", "bn"} <= found.channel_units.keys()
    for name in ("sum", "bn", "sc", "c"):
        exact, got = (run_float(one, samples[0], [name])[name] for one in (model, network.model))
        unit = network.units.get(name, np.ones(1)) if name != "bn" else np.ones(1)
        np.testing.assert_allclose(got * unit.reshape(1, -1, 1, 1), exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max())
    assert (plan.forms["bn"].scale == 0).any() and (found.forms["bn"].scale != 0).all()
    layers = ("a", "b", "sum", "bn", "sc", "r", "c")
    assert noise(model, found, samples, ["c"], layers) < 0.8 * noise(model, plan, samples, ["c"], layers)
    for part in (layers[:3], layers[3:], layers[:5]):
        assert noise(model, found, samples, ["sum", "sc", "c"], part) < 1e-3


def test_the_network_in_units_computes_the_same(model, found, samples):
    values = [v for v in model.shapes if v not in model.inputs]
    for sample in samples[:3]:
        exact, got = run_float(model, sample, values), run_float(found[1].model, sample, values)
        for value in values:
            unit = found[1].units.get(value, np.ones(1))
            if value in ("dw@bn",):  # inside of one step with its Scale, whose units it has
                continue
            mine = got[value] * unit.reshape(1, -1, *(1,) * (exact[value].ndim - 2))
            np.testing.assert_allclose(mine, exact[value], rtol=2e-5, atol=2e-5 * np.abs(exact[value]).max())


def test_units_by_range_are_the_root_of_the_relative_range(model, plan, samples):
    """Of channels that no sum joins to others, behind the ReLU."""
    units = equalised(model, plan, samples, way="by_range")[0].channel_units["a"]
    seen = np.concatenate([run_float(model, s, ["a"])["a"] for s in samples])
    sizes = np.abs(seen).max((0, 2, 3))
    assert units.max() == 1
    np.testing.assert_allclose(units, np.sqrt(np.maximum(sizes / sizes.max(), 1 / 64)), rtol=1e-6)


def test_it_loses_less(model, plan, found, way, samples):
    """Least noise counts on weights before a BatchNorm being repaired, which they are not here."""
    most = {"by_range": 0.5, "least_noise": 0.95}[way]
    assert noise(model, found[0], samples, ["ip"]) < most * noise(model, plan, samples, ["ip"])
    assert noise(model, found[0], samples, ["a", "s"]) < noise(model, plan, samples, ["a", "s"])


def test_values_have_real_units_whatever_runs_in_int8(model, plan, found, samples):
    """Every first part of the layers, every last part, and each layer alone, as well as without units."""
    parts = [LAYERS[:n] for n in range(1, len(LAYERS))] + [LAYERS[n:] for n in range(1, len(LAYERS))]
    parts += [(name,) for name in LAYERS if name not in ("bn", "sc")]
    shown = ["a", "dw", "pr", "b", "sum", "p", "q", "cat", "s", "ip"]
    for layers in parts:
        if ("bn" in layers) != ("sc" in layers):
            continue
        mine, without = (noise(model, one, samples[:4], shown, layers) for one in (found[0], plan))
        assert mine < 1.2 * without + 1e-5, layers


def test_other_thresholds_keep_the_units(model, found):
    """Layers that are quantised anew are so in the units of their bottoms and tops."""
    plan, network = found
    again = replan(model, plan, dict.fromkeys(["a", "a@a"], plan.thresholds["a"] * 0.9))
    inside = make_plan(
        network.model, {**plan.thresholds, "a": plan.thresholds["a"] * 0.9, "a@a": plan.thresholds["a"] * 0.9}
    )
    for name in ("a", "dw", "b"):
        for mine, theirs in zip(again.forms[name].blobs, inside.forms[name].blobs, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("order", "threads"), list(itertools.product([1, -1], [1, 3])))
def test_neither_order_nor_threads_count(model, plan, way, found, samples, order, threads):
    other, _ = equalised(model, plan, samples[::order], threads, way)
    assert other.thresholds == found[0].thresholds
    assert {v: u.tolist() for v, u in other.channel_units.items()} == {
        v: u.tolist() for v, u in found[0].channel_units.items()
    }


def test_the_record_tells_the_units(model, found, tmp_path):
    paths = write_calibration_files(tmp_path, "net", model, found[0])
    read = read_plan(model, paths[2], paths[0])
    assert {v: u.tolist() for v, u in read.channel_units.items()} == {
        v: u.tolist() for v, u in found[0].channel_units.items()
    }
    assert not read.unexplained


@pytest.mark.parametrize("rows", [1, 2, 256])
def test_without_the_record_it_is_noticed(model, plan, found, tmp_path, monkeypatch, rows):
    """Whichever part of a layer is looked at when."""
    monkeypatch.setattr("calib8.quantize.unexplained._ROWS", rows)
    for name, one in (("with", found[0]), ("without", plan)):
        paths = write_calibration_files(tmp_path, name, model, one)
        (tmp_path / f"bmnet_{name}.calib8.json").unlink()
        assert bool(read_plan(model, paths[2], paths[0]).unexplained) == (name == "with")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: entry["units"].pop(), "not one of"),
        (lambda entry: entry["units"].__setitem__(0, 0.0), "above 0"),
        (lambda entry: entry["units"].__setitem__(0, float("nan")), "above 0"),
        (lambda entry: entry.pop("tops"), "tops"),
        (lambda entry: entry["tops"].append(["nowhere", 0]), "nowhere"),
        (lambda entry: entry["tops"].append(["a", 7]), "range"),
    ],
)
def test_units_of_another_network_are_refused(model, found, tmp_path, change, said):
    paths = write_calibration_files(tmp_path, "net", model, found[0])
    record = tmp_path / "bmnet_net.calib8.json"
    content = json.loads(record.read_text())
    change(content["channel_units"][0])
    record.write_text(json.dumps(content))
    with pytest.raises(TableError, match=said):
        read_plan(model, paths[2], paths[0])


def test_values_that_are_always_zero_have_no_unit_of_their_own(model, plan, samples):
    zeros = [{"x": np.zeros_like(sample["x"])} for sample in samples]
    nothing = in_channel_units(model, {})
    found, _ = equalised(nothing, plan, zeros, way="by_range")
    assert all(np.isfinite(u).all() and (u > 0).all() for u in found.channel_units.values())
    choice = EqualisedChannels(nothing, plan)  # the other units need thresholds that these zeros do not give
    collect(nothing, lambda: iter(zeros), choice.counters, CollectOptions())
    units = choice.ways().least_noise.network().units
    assert all(np.isfinite(u).all() and (u > 0).all() for u in units.values())


@pytest.mark.parametrize("format", ["onnx", "onnx-int8", "onnx-uint8", "tensorrt"])
def test_exports_compute_what_the_network_does(model, found, samples, tmp_path, format):
    """Thresholds are of values in units, and so are the weights that go with them."""
    paths = write_format(tmp_path, format, "net", model, found[0])
    for path in (path for path in paths if path.suffix == ".onnx"):
        session = InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        off = size = 0.0
        for sample in samples:
            exact = run_float(model, sample, ["ip"])["ip"]
            off += float(((session.run(["ip"], {"x": sample["x"]})[0] - exact) ** 2).sum())
            size += float((exact**2).sum())
        assert off / size < (1e-9 if "float" in path.name else 2e-3), path.name


def test_a_layer_in_python_may_give_no_row(model, plan, samples):
    """A detector without a proposal: a sample without a number says nothing, and is no error."""
    some, none = EqualisedChannels(model, plan), EqualisedChannels(model, plan)
    values = list(some.counters)
    for sample in samples[:2]:
        for value, array in run_float(model, sample, values).items():
            some.counters[value].add(array)
            for choice in (some, none):
                choice.counters[value].add(array[:0])
    for way in some.ways():
        assert {v: c.histogram.samples for v, c in way.counters.items()} == dict.fromkeys(way.counters, 0)
        assert way.counters.keys() == some.ways().counters.keys() <= set(values)
    assert none.ways().counters == {}
    assert all((units == 1).all() for way in none.ways() for units in way.network().units.values())
    kept = ChannelValues(4)
    kept.add(np.zeros((0, 3, 2, 2), np.float32))
    assert not kept.seen
