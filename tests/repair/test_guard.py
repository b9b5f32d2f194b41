"""The guard: how samples are split, which values stand for the outputs, and the noise, against loops."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.lowering import lower_float
from calib8.quantize import make_plan, observed_values
from calib8.repair.guard import Guard, decibels, judged_values, split
from calib8.repair.rounded_values import with_rounded_values

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "k" type: "Convolution" bottom: "c" top: "k" convolution_param { num_output: 5 kernel_size: 1 } }
layer { name: "s" type: "Softmax" bottom: "k" top: "s" }
layer { name: "f" type: "Flatten" bottom: "s" top: "f" }
layer { name: "d" type: "Convolution" bottom: "c" top: "d" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "g" type: "Flatten" bottom: "d" top: "g" }
"""


@pytest.fixture
def model(random_model):
    return random_model(NETWORK, 2)


@pytest.fixture
def samples():
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(0, 1, (1, 3, 4, 4)).astype(np.float32)} for _ in range(6)]


@pytest.fixture
def plan(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    return make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in found) for v in values})


def numbers(batches):
    return [int(batch["n"][0]) for batch in batches()]


@pytest.mark.parametrize(("images", "batch", "held_out"), [(12, 5, [4, 9]), (3, 1, [2]), (2, 2, [1]), (10, 10, [4, 9])])
def test_every_fifth_image_is_held_out(images, batch, held_out):
    def batches():
        for start in range(0, images, batch):
            yield {"n": np.arange(start, min(start + batch, images))}

    parts = split(batches, images)
    assert numbers(parts.guard) == held_out and numbers(parts.guard) == held_out  # again, too
    assert sorted(numbers(parts.solve) + held_out) == list(range(images))
    assert (parts.solving, parts.guarding) == (images - len(held_out), len(held_out))


def test_many_images_are_not_all_kept():
    """What a repair keeps of its samples must not grow with them; those that it takes lie evenly."""
    parts = split(lambda: ({"n": np.array([n])} for n in range(5000)), 5000)
    solved, guarded = numbers(parts.solve), numbers(parts.guard)
    assert (len(solved), len(guarded)) == (parts.solving, parts.guarding) == (256, 64)
    taken = sorted(solved + guarded)
    assert len(set(taken)) == 320 and taken[0] < 16 and taken[-1] >= 4984
    assert max(np.diff(taken)) <= 17


def test_images_that_go_together_stay_together():
    parts = split(lambda: iter([{"n": np.arange(0, 5)}, {"n": np.arange(5, 13)}]), 13, per_run=2)
    assert [run["n"].tolist() for run in parts.guard()] == [[8, 9]]
    assert [run["n"].tolist() for run in parts.solve()] == [[0, 1], [2, 3], [4, 5], [6, 7], [10, 11]]
    assert (parts.solving, parts.guarding) == (10, 2)


def test_runs_that_can_be_read_alone():
    """The same runs, and no others are read."""
    read = []

    def only(runs):
        read.append(list(runs))
        return ({"n": np.arange(2 * run, 2 * run + 2)} for run in runs)

    apart = split(lambda: iter(()), 13, per_run=2, only=only)
    together = split(lambda: iter([{"n": np.arange(0, 5)}, {"n": np.arange(5, 13)}]), 13, per_run=2)
    for part in ("guard", "solve"):
        found, expected = ([run["n"].tolist() for run in getattr(one, part)()] for one in (apart, together))
        assert found == expected
    assert read == [[4], [0, 1, 2, 3, 5]]
    assert (apart.solving, apart.guarding) == (together.solving, together.guarding)


def test_samples_of_other_shapes(model, plan, samples, random_model):
    """As Python layers may give them: judged as by a network of their own shape."""
    rng = np.random.default_rng(9)
    large = [{"x": rng.normal(0, 1, (1, 3, 6, 5)).astype(np.float32)} for _ in range(2)]
    blobs = {x.name: x.blobs for x in model.net.layers}
    other = random_model(NETWORK.replace("dim: [1, 3, 4, 4]", "dim: [1, 3, 6, 5]"), weights=blobs)
    assert Guard(model, lambda: iter(large)).noise(plan) == Guard(other, lambda: iter(large)).noise(plan)
    assert Guard(model, lambda: iter(samples + large)).runs == 8


def test_values_before_a_softmax_are_judged(model):
    assert judged_values(model) == {"k": 1, "g": None}


@pytest.mark.parametrize(
    ("behind", "judged"),
    [
        ('layer { name: "a" type: "ArgMax" bottom: "%s" top: "a" argmax_param { axis: 1 } }', 1),
        ('layer { name: "a" type: "ArgMax" bottom: "%s" top: "a" argmax_param { axis: -1 } }', 3),
        ('layer { name: "a" type: "ArgMax" bottom: "%s" top: "a" }', None),
    ],
)
def test_what_goes_into_an_arg_max_is_judged(random_model, behind, judged):
    network = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 5 kernel_size: 1 } }
layer { name: "p" type: "Softmax" bottom: "c" top: "p" }
"""
    bare, _, _ = network.rpartition("layer")
    assert judged_values(random_model(bare + behind % "c")) == {"c": judged}
    assert judged_values(random_model(network + behind % "p")) == {"c": 1}


def test_classes_of_a_flat_list_and_largest_values_are_judged_as_they_are(random_model):
    network = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }
layer { name: "i" type: "InnerProduct" bottom: "x" top: "i" inner_product_param { num_output: 5 } }
layer { name: "a" type: "ArgMax" bottom: "i" top: "a" argmax_param { out_max_val: false } }
"""
    assert judged_values(random_model(network)) == {"i": 1}
    assert judged_values(random_model(network.replace("false", "true"))) == {"a": None}


def test_what_goes_into_a_layer_in_python_is_judged(random_model):
    text = (
        NETWORK
        + """
layer { name: "o" type: "DetectionOutput" bottom: "g" bottom: "f" bottom: "p" top: "o"
  detection_output_param { num_classes: 5 nms_param { nms_threshold: 0.4 } } }
layer { name: "p" type: "PriorBox" bottom: "c" bottom: "x" top: "p" prior_box_param { min_size: 3 } }
"""
    )
    order = text.index('layer { name: "o"'), text.index('layer { name: "p"')
    text = text[: order[0]] + text[order[1] :] + text[order[0] : order[1]]
    text = text.replace("num_output: 5 kernel", "num_output: 5 kernel").replace(
        "num_output: 2 kernel_size: 1", "num_output: 4 kernel_size: 1"
    )
    assert judged_values(random_model(text)) == {"g": None, "k": 1, "p": None}


def test_noise_is_the_mean_over_outputs(model, samples, plan, run_int8):
    noise = {"k": 0.0, "g": 0.0}
    signal = {"k": 0.0, "g": 0.0}
    for sample in samples:
        exact = run_float(model, sample, ["k", "g"])
        found = run_int8(model, plan, sample, ["k", "g"], real_inputs=["x"])
        for name in noise:
            x, y = exact[name].astype(float), found[name].astype(float)
            if name == "k":
                x, y = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
            noise[name] += ((y - x) ** 2).sum()
            signal[name] += ((x - x.mean()) ** 2).sum()
    expected = np.mean([noise[n] / signal[n] for n in noise])
    guard = Guard(model, lambda: iter(samples))
    assert guard.runs == 6
    assert guard.noise(plan) == pytest.approx(expected, rel=1e-5)


def fake(x, t):
    return np.clip(np.floor(x.astype(float) * 128 / t + 0.5), -128, 127) * t / 128


def test_noise_of_values_has_float_weights(model, samples, plan):
    """Inputs and tops rounded, weights as they are."""
    blobs = {x.name: [b.astype(float) for b in x.blobs] for x in model.net.layers}
    t = plan.thresholds
    guard = Guard(model, lambda: iter(samples))
    noise, signal = np.zeros(2), np.zeros(2)
    for sample in samples:
        exact = run_float(model, sample, ["k", "d"])
        x = fake(sample["x"][0], t["x"])
        w, b = blobs["c"]
        c = np.array(
            [[[(w[o] * x[:, i : i + 3, j : j + 3]).sum() + b[o] for j in (0, 1)] for i in (0, 1)] for o in range(6)]
        )
        c = fake(c, t["c"])
        for at, name in enumerate("kd"):
            w, b = blobs[name]
            y = fake(np.einsum("oi,ihw->ohw", w[:, :, 0, 0], c) + b[:, None, None], t[name])
            z = exact[name][0].astype(float)
            if name == "k":
                y, z = y - y.mean(axis=0), z - z.mean(axis=0)
            noise[at] += ((y - z) ** 2).sum()
            signal[at] += ((z - z.mean()) ** 2).sum()
    assert guard.noise_of_values(plan) == pytest.approx(np.mean(noise / signal), rel=1e-4)
    assert guard.noise_of_values(plan) != pytest.approx(guard.noise(plan), rel=1e-2)


def test_threads_do_not_count(model, samples, plan):
    found = {Guard(model, lambda: iter(samples), threads).noise(plan) for threads in (1, 2, 3)}
    assert len(found) == 1


def test_decibels():
    assert decibels(0.01) == pytest.approx(20) and decibels(0.0) == np.inf


def test_what_does_not_count_images_belongs_to_every_run():
    info = np.array([[300, 300, 1]], np.float32)

    def batches():
        for start, stop in ((0, 5), (5, 9)):
            yield {"data": np.arange(start, stop, dtype=np.float32), "im_info": info}

    samples = split(batches, 9, per_run=2)
    runs = [*samples.solve(), *samples.guard()]
    assert sorted(run["data"].tolist() for run in runs) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert all(np.array_equal(run["im_info"], info) for run in runs)


def test_nan_is_looked_for_only_where_there_may_be_one(model, samples, plan):
    """The same noise, with fewer nodes in the graph."""
    looked_for = [
        [
            n.op_type
            for step in lower_float(with_rounded_values(model, plan, nan=nan), ("k", "d"))
            for n in step.onnx.graph.node
        ]
        for nan in (True, False)
    ]
    assert [nodes.count("IsNaN") for nodes in looked_for] == [3, 0]
    careful, quick = (Guard(model, lambda: iter(samples), nan=nan).noise_of_values(plan) for nan in (True, False))
    assert careful == quick > 0
