"""Room above the largest value that was seen: against the formula in loops, and what it is worth on values to come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.measure.histogram import Histogram
from calib8.quantize import observed_values
from calib8.repair.tail_room import room_beyond, room_of_answers

BINS = 1 << 14
FACTORS = [1 + step / 128 for step in range(46)]


def histogram_of(values, bins=BINS):
    values = np.asarray(values, np.float32)
    counted = Histogram(float(np.abs(values).max()), bins)
    counted.add(values)
    return counted.result()


def by_the_formula(values):
    """Of values that are whole numbers of bins, so that a histogram loses nothing."""
    sizes = sorted((abs(int(v)) for v in values if v), reverse=True)
    k = min(max(math.isqrt(len(sizes)), 5), len(sizes))
    start = max(sizes[k - 1] - 0.5, 0)
    tail = [v for v in sizes if v > start]
    excess = sum(tail) / len(tail) - start
    errors = [
        (f * sizes[0]) ** 2 / (12 * 128**2)
        + len(tail) / len(sizes) * 2 * excess**2 * math.exp(-(f * sizes[0] - start) / excess)
        for f in FACTORS
    ]
    best = errors.index(min(errors))
    return FACTORS[best] * sizes[0] if best else 0.0


@given(st.lists(st.integers(-2000, 2000), max_size=60), st.integers(0, 400))
def test_it_is_what_the_formula_says(values, small):
    values = [*values, 2047, *[1] * small, 0, 0]
    assert room_beyond(histogram_of(values, 2048)) == pytest.approx(by_the_formula(values), rel=1e-6)


@pytest.mark.parametrize("count", [50, 200, 1000])
@pytest.mark.parametrize("tail", ["normal", "laplace"])
def test_few_values_get_a_threshold_that_fits_those_to_come(count, tail):
    rng = np.random.default_rng(7)
    coming = getattr(rng, tail)(size=200_000)

    def error(threshold):
        codes = np.clip(np.rint(coming * 128 / threshold), -128, 127)
        return np.square(codes * threshold / 128 - coming).mean()

    gains = []
    for _ in range(30):
        seen = getattr(rng, tail)(size=count)
        room = room_beyond(histogram_of(seen))
        assert np.abs(seen).max() < room < 1.36 * np.abs(seen).max()
        gains.append(error(np.abs(seen).max()) / error(room))
    assert np.mean(np.log(gains)) > 0.1


def test_many_values_show_themselves_where_they_end():
    assert room_beyond(histogram_of(np.random.default_rng(1).normal(size=400_000))) == 0


@pytest.mark.parametrize("values", [[6.0] * 40 + [1.5] * 20, [0.0] * 30, np.linspace(0, 1, 300).clip(0, 0.9)])
def test_what_has_a_bound_needs_no_room(values):
    assert room_beyond(histogram_of(values)) == 0


def test_zeros_do_not_count():
    seen = np.random.default_rng(2).normal(size=500)
    assert room_beyond(histogram_of([*seen, *np.zeros(100_000)])) == room_beyond(histogram_of(seen)) > 0


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(
        """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "a" type: "InnerProduct" bottom: "c" top: "a" inner_product_param { num_output: 4 } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 4 } }
layer { name: "p" type: "Softmax" bottom: "b" top: "p" }
layer { name: "s" type: "InnerProduct" bottom: "a" top: "s" inner_product_param { num_output: 2 } }
layer { name: "sr" type: "ReLU" bottom: "s" top: "sr" }
"""
    )


def test_answers_alone_have_room(model):
    values = observed_values(model)
    few = {v: histogram_of(np.random.default_rng(at).normal(size=100)) for at, v in enumerate(values)}
    found = room_of_answers(model, few)
    assert found == {"b": room_beyond(few["b"]), "sr": room_beyond(few["sr"])}
    assert min(found.values()) > 0
    many = histogram_of(np.random.default_rng(9).normal(size=400_000))
    assert room_of_answers(model, {**few, "b": many}).keys() == {"sr"}
    assert not room_of_answers(model, {v: few[v] for v in values if v not in found})
