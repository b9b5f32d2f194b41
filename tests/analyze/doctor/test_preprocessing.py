"""Right preprocessing against wrong, on networks that were made to remember some."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calib8.analyze.doctor import Severity
from calib8.analyze.doctor.evidence import balance_of, evidence_of
from calib8.analyze.doctor.preprocessing import Variation, check_preprocessing, given_misfit
from calib8.analyze.doctor.recipes import Recipe, resampled, usual_recipes
from calib8.engine import run_float
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

RIGHT = Recipe((104.0, 117.0, 123.0), (0.017,) * 3, "bgr")
INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 16 dim: 16 }'
NORMED = (
    INPUT
    + """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "second" type: "Convolution" bottom: "bn" top: "second"
  convolution_param { num_output: 6 kernel_size: 3 bias_term: false } }
layer { name: "bn2" type: "BatchNorm" bottom: "second" top: "bn2" }
"""
)
PLAIN = (
    INPUT
    + """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 16 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
"""
)


def images(count, seed):
    """Blurred noise of three colours of their own, as samples of the right recipe."""
    random = np.random.default_rng(seed)
    pixels = random.normal(0, 60, (count, 3, 16, 16)) + random.normal(0, 20, (count, 1, 1, 1))
    pixels = np.clip(pixels + np.array([70.0, 120.0, 170.0]).reshape(3, 1, 1), 0, 255).round().astype(np.float32)
    raw = Recipe((0.0,) * 3, (1.0,) * 3, "bgr")
    return [{"data": resampled(one[None], raw, RIGHT)} for one in pixels]


@pytest.fixture(scope="module")
def trained():
    """A network whose BatchNorms hold the statistics of images that went through it."""
    random = np.random.default_rng(3)
    one = np.ones(1, np.float32)
    weights = {
        "conv": [random.standard_normal((8, 3, 3, 3)).astype(np.float32)],
        "bn": [np.zeros(8, np.float32), np.ones(8, np.float32), one],
        "second": [random.standard_normal((6, 8, 3, 3)).astype(np.float32)],
        "bn2": [np.zeros(6, np.float32), np.ones(6, np.float32), one],
    }
    for bottom, layer in (("conv", "bn"), ("second", "bn2")):
        model = build_model(parse_prototxt(NORMED), weights)
        seen = np.concatenate([run_float(model, sample, [bottom])[bottom] for sample in images(60, 0)])
        weights[layer] = [seen.mean((0, 2, 3)), seen.var((0, 2, 3)), one]
    return build_model(parse_prototxt(NORMED), weights)


def test_the_misfit_is_its_formula(trained):
    samples = images(5, 1)
    logs = []
    for bottom, layer in (("conv", "bn"), ("second", "bn2")):
        seen = np.concatenate([run_float(trained, s, [bottom])[bottom].astype(np.float64) for s in samples])
        mean, variance, _ = trained.net.layer_by_name[layer].blobs
        total = 0.0
        for c in range(seen.shape[1]):
            m, v, stored = seen[:, c].mean(), seen[:, c].var(), float(variance[c]) + 1e-5
            total += (math.log(stored / v) + (v + (m - float(mean[c])) ** 2) / stored - 1) / 2
        logs.append(math.log(total / seen.shape[1] + 1e-4))
    kind, found = given_misfit(trained, samples, threads=1)
    assert kind == "batchnorm"
    assert found == pytest.approx(math.exp(sum(logs) / 2), rel=1e-3)


@pytest.mark.parametrize("samples", [2, 3, 7])
def test_the_same_by_any_number_of_threads(trained, samples):
    wrong = Recipe((0.0,) * 3, (1.0,) * 3, "bgr")
    found = [check_preprocessing(trained, images(samples, 1), "data", wrong, threads=threads) for threads in (1, 3)]
    assert found[0] == found[1] and len(found[0].others) > 1


def test_no_cry_of_wolf(trained):
    found = check_preprocessing(trained, images(12, 1), "data", RIGHT, threads=1)
    assert found.findings == () and found.kind == "batchnorm" and found.tried >= 10
    assert found.given.misfit < min(fit.misfit for fit in found.others)


# Another mean of nearly the same size is no mistake that shows.
MISTAKES = [r for r in usual_recipes(RIGHT) if r.scale != RIGHT.scale or not any(r.mean)]


@pytest.mark.parametrize("wrong", MISTAKES, ids=lambda r: r.text)
def test_a_mistake_is_named_with_what_mends_it(trained, wrong):
    samples = [{"data": resampled(s["data"], RIGHT, wrong)} for s in images(12, 1)]
    found = check_preprocessing(trained, samples, "data", wrong, advice=lambda fit: fit.recipe.text, threads=1)
    (finding,) = found.findings
    assert found.others[0].recipe.same_as(RIGHT)
    assert finding.area == "preprocessing" and found.others[0].recipe.text in finding.text
    assert finding.advice == found.others[0].recipe.text and wrong.text in finding.text


def test_a_bad_mistake_is_a_problem(trained):
    wrong = Recipe((0.0,) * 3, (1.0,) * 3, "bgr")
    samples = [{"data": resampled(s["data"], RIGHT, wrong)} for s in images(12, 1)]
    (finding,) = check_preprocessing(trained, samples, "data", wrong, threads=1).findings
    assert finding.severity is Severity.PROBLEM and "looks wrong" in finding.text


def of_little_contrast(model, offset):
    """Images that fit nothing well, with a mean that is a little off: two BatchNorms are few."""
    given = Recipe((104.0 + offset, 117.0 - offset, 123.0 + offset), (0.017,) * 3, "bgr")
    samples = [{"data": resampled(s["data"] * np.float32(0.7), RIGHT, given)} for s in images(24, 1)]
    return check_preprocessing(model, samples, "data", given, threads=1)


def test_few_batch_norms_are_believed_only_where_they_say_much(trained):
    found = of_little_contrast(trained, 20)
    best = found.others[0]
    assert 1.15 < best.gain < 1.15**5 and best.sure == 1  # ten layers would be believed
    assert found.findings == () and found.weight == 0.2 and "2 BatchNorm layers (few" in found.evidence
    assert best in found.alike and "with so few BatchNorms nobody can tell it from" in found.sentence


def test_what_few_batch_norms_advise_is_to_look_it_up(trained):
    found = of_little_contrast(trained, 55)
    (finding,) = found.findings
    assert 1.15**5 < found.others[0].gain < 2**5 and finding.severity is Severity.HINT
    assert finding.advice.startswith("look up how the network was trained, or ")
    # What fits a little better is not told from what fits a little worse.
    assert "about as well: bgr, mean 127.5, scale 0.017" in finding.text


def test_images_of_another_kind(trained):
    random = np.random.default_rng(5)
    samples = [{"data": np.sign(random.standard_normal((1, 3, 16, 16))).astype(np.float32) * 1e4} for _ in range(4)]
    found = check_preprocessing(trained, samples, "data", Recipe((0.0,) * 3, (1.0,) * 3, "bgr"), threads=1)
    assert found.findings


def test_another_resize_that_fits_better(trained):
    padded = []
    for sample in images(12, 1):
        image = np.full_like(sample["data"], -104 * 0.017)
        image[:, :, 4:12] = sample["data"][:, :, ::2]
        padded.append({"data": image})
    other = Variation("resize warp", RIGHT, images(12, 1))
    found = check_preprocessing(trained, padded, "data", RIGHT, [other], threads=1)
    assert found.others[0].what == "resize warp" and "resize warp" in found.findings[0].text


def test_without_batch_norm_by_the_balance_of_rectifiers():
    random = np.random.default_rng(7)
    weights = [random.standard_normal((16, 3, 3, 3)).astype(np.float32), np.zeros(16, np.float32)]
    model = build_model(parse_prototxt(PLAIN), {"conv": weights})
    seen = np.concatenate([run_float(model, s, [v])[v] for s in images(20, 0) for v in evidence_of(model).values])
    weights[1] = -np.median(seen, axis=(0, 2, 3)).astype(np.float32)  # each unit is on for half of what it sees
    model = build_model(parse_prototxt(PLAIN), {"conv": weights})
    right = check_preprocessing(model, images(12, 1), "data", RIGHT, threads=1)
    assert right.kind == "balance" and right.findings == ()
    share = (run_float(model, images(1, 1)[0], right_values(model))[right_values(model)[0]] > 0).mean((0, 2, 3))
    bits = [-p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in share.astype(float)]
    assert given_misfit(model, images(1, 1), threads=1)[1] == pytest.approx(1 - sum(bits) / 16, abs=1e-6)
    wrong = Recipe((0.0,) * 3, (1 / 255,) * 3, "bgr")
    samples = [{"data": resampled(s["data"], RIGHT, wrong)} for s in images(12, 1)]
    (finding,) = check_preprocessing(model, samples, "data", wrong, threads=1).findings
    assert finding.severity is Severity.HINT and "weaker" in finding.text


def right_values(model):
    return list(evidence_of(model).values)


def test_a_network_that_tells_nothing(random_model):
    model = random_model(
        INPUT + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { kernel_size: 2 } }'
    )
    assert evidence_of(model) is None
    assert check_preprocessing(model, images(3, 0), "data", RIGHT).given is None


def test_what_cannot_be_told_apart_is_said(trained):
    gray = [{"data": np.repeat(s["data"].mean(1, keepdims=True), 3, axis=1)} for s in images(12, 1)]
    given = Recipe((100.0,) * 3, (0.017,) * 3, "bgr")  # gray pictures are the same in both orders
    found = check_preprocessing(trained, gray, "data", given, threads=1)
    assert [
        f.recipe.order
        for f in found.others
        if f.recipe.mean == given.mean and f.recipe.scale == given.scale and f.alike
    ]
    right = check_preprocessing(trained, images(12, 1), "data", RIGHT, threads=1)
    assert all(fit.misfit < 1.15 * right.given.misfit for fit in right.alike)
    assert right.sentence.startswith("the given one fits")


def test_without_batch_norm_nearly_the_same_is_the_same():
    random = np.random.default_rng(7)
    weights = [random.standard_normal((16, 3, 3, 3)).astype(np.float32), np.zeros(16, np.float32)]
    model = build_model(parse_prototxt(PLAIN), {"conv": weights})
    found = check_preprocessing(model, images(12, 1), "data", RIGHT, threads=1)
    assert found.findings == () and "nobody can tell it from" in found.sentence
    assert {f.recipe.text for f in found.alike} >= {f.recipe.text for f in found.others if 0.95 < f.gain < 1.09}
    assert all(fit.gain >= 1 / 1.1 for fit in found.alike)


def test_balance_is_judged_on_networks_with_batch_norm_too(trained):
    found = check_preprocessing(trained, images(6, 1), "data", RIGHT, threads=1, evidence=balance_of(trained))
    assert found.kind == "balance"


def test_rectifiers_of_a_network_that_makes_pictures_tell_nothing(random_model):
    picture = 'type: "Convolution" bottom: "conv" top: "p" convolution_param { num_output: 3 kernel_size: 1 }'
    model = random_model(f'{PLAIN} layer {{ name: "p" {picture} }}')
    assert evidence_of(model) is None
    assert "nothing to tell it by" in check_preprocessing(model, images(3, 0), "data", RIGHT).sentence
