"""What is kept of images, and what is said of it: convergence, odd samples, odd layers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from calib8.analyze.doctor import Severity
from calib8.analyze.doctor.convergence import check_convergence
from calib8.analyze.doctor.networks import check_network
from calib8.analyze.doctor.samples import check_samples
from calib8.analyze.doctor.survey import called_in, survey_images
from calib8.measure.thresholds import ThresholdOptions, find_threshold
from calib8.quantize import QuantPlan, observed_values

NETWORK = """
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "a" type: "Convolution" bottom: "conv" top: "a" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "b" type: "Convolution" bottom: "conv" top: "b" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "both" type: "Concat" bottom: "a" bottom: "b" top: "both" }
"""


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(NETWORK, seed=1)


def samples(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(count)]


def survey(model, images):
    values = tuple(dict.fromkeys((*observed_values(model), "a", "b")))
    return survey_images(model, [{"data": image} for image in images], values, "data", 2048, threads=1)


def name(index):
    return f"image{index}"


def test_each_image_is_counted_once_in_its_half(model):
    images = samples(5)
    found = survey(model, images)
    assert found.images == 5
    assert [half["data"].samples for half in found.halves] == [3 * 192, 2 * 192]
    assert found.whole["data"].samples == 5 * 192
    np.testing.assert_array_equal(found.peaks[:, found.values.index("data")], [np.abs(image).max() for image in images])
    np.testing.assert_array_equal(
        found.channel_peaks["data"], [max(np.abs(image[0, c]).max() for image in images) for c in range(3)]
    )


def test_errors_of_thresholds(model):
    found = survey(model, samples(6))
    said = check_convergence(found, "max", ThresholdOptions())
    for value in found.values:
        a, b = (find_threshold(half[value], "max") for half in found.halves)
        assert said.errors[value] == pytest.approx(abs(a - b) / (a + b))
    root = math.sqrt(sum(e * e for e in said.errors.values()) / len(said.errors))
    assert said.typical == pytest.approx(root)


def test_more_images_are_asked_for_where_halves_differ(model):
    images = [image * (3 if index % 2 else 1) for index, image in enumerate(samples(8))]
    said = check_convergence(survey(model, images), "max", ThresholdOptions())
    assert len(said.unsure) > 3 and said.enough > 8
    (finding,) = said.findings
    assert f"-n {said.enough}" in finding.advice and finding.area == "images"


def test_equal_halves_are_sure(model):
    said = check_convergence(survey(model, [x for x in samples(4) for _ in range(2)]), "kl", ThresholdOptions())
    assert said.typical == 0 and said.findings == () and said.unsure == ()


def test_too_few_to_say_anything(model):
    (finding,) = check_convergence(survey(model, samples(2)), "kl", ThresholdOptions()).findings
    assert finding.severity is Severity.PROBLEM


def test_odd_samples_are_named(model):
    images = samples(8)
    images[1] *= 10
    images[3][:] = 0.25
    images[6] = images[5] + 1e-4
    images[7][0, 0, 0, 0] = np.nan
    found = {one.subject: one for one in check_samples(survey(model, images), name)}
    assert set(found) == {"image1", "image3", "image5", "image7"}
    assert "alone sets the range" in found["image1"].text and "next largest" in found["image1"].text
    assert "same number everywhere" in found["image3"].text
    assert "image6" in found["image5"].text
    assert found["image7"].severity is Severity.PROBLEM and "NaN" in found["image7"].text


def test_ordinary_samples_are_not(model):
    assert check_samples(survey(model, samples(20)), name) == ()


def test_odd_layers(random_model):
    random = np.random.default_rng(2)
    first = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    first[1] = 0
    first[2] *= 100
    small = random.standard_normal((2, 4, 1, 1)).astype(np.float32)
    weights = {
        "conv": [first, np.float32([1, -1, 1, 1])],
        "a": [small, np.zeros(2, np.float32)],
        "b": [small * 1e-3, np.zeros(2, np.float32)],
    }
    model = random_model(NETWORK, weights=weights)
    found = check_network(model, survey(model, samples(4)), QuantPlan({}, {}, warnings=("layer 'a': much",)))
    texts = {(one.subject, one.text.split(";")[0]) for one in found}
    assert any(subject == "conv" and "largest weight" in text for subject, text in texts)
    assert any(subject.startswith("conv") and "1 of its 4 channels are 0" in text for subject, text in texts)
    assert any(subject == "both" and "'b'" in text for subject, text in texts)
    assert ("a", "much") in texts


def test_what_integers_warn_of_in_many_layers_is_one_hint(model):
    """ResNets have a dozen BatchNorms with dead channels."""
    dead = [f"layer 'bn{i}': the variance of channel {i} is low; dead" for i in range(11)]
    plan = QuantPlan({}, {}, warnings=(*dead, "layer 'c': the bias of channel 1 does not fit"))
    found = check_network(model, survey(model, samples(4)), plan)
    assert [(one.subject, one.text) for one in found] == [
        ("c", "the bias of channel 1 does not fit"),
        ("11 layers ('bn0', 'bn1', 'bn2', ..)", "the variance of some channels is low; dead"),
    ]


def test_an_ordinary_network_is_not(model):
    assert check_network(model, survey(model, samples(4)), None) == ()


def test_a_batch_norm_without_its_factor_is_a_problem(random_model):
    text = NETWORK.splitlines()[1] + 'layer { name: "n" type: "BatchNorm" bottom: "data" top: "n" }'
    blobs = [np.float32([1, 2, 3]), np.float32([1, 1, 1]), np.float32([0])]
    model = random_model(text, weights={"n": blobs})
    normal = random_model(text, weights={"n": [*blobs[:2], np.float32([1])]})
    kept = survey_images(normal, [{"data": x} for x in samples(4)], ("data",), "data", 2048, threads=1)
    (finding,) = [x for x in check_network(model, replace(kept), None) if x.severity is Severity.PROBLEM]
    assert finding.subject == "n" and "scale factor" in finding.text


def test_values_that_are_overwritten_in_place_are_called_by_their_place(model):
    first, last = (layer.tops[0] for layer in model.net.layers[1:3] if layer.name in ("conv", "relu"))
    assert called_in(model, [first, last, "a"]) == {
        first: "conv (before relu)",
        last: called_in(model, [last])[last],
        "a": "a",
    }
    assert "before" not in called_in(model, [last])[last]
