"""Real values to codes on their way into a graph: the contract's rounding, compiled and in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8 import arithmetic
from calib8.engine import entrance

WAYS = [pytest.param(True, marks=pytest.mark.skipif(not entrance.COMPILED, reason="no compiler")), False]


def codes_of(values, threshold, compiled):
    codes = np.empty(values.shape, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entrance, "COMPILED", compiled)
        entrance.enter(values, threshold, codes)
    return codes.view(np.int8) ^ np.int8(-128)


def beside_every_edge(threshold):
    """Values where codes change, and their neighbours among float32 numbers, on both sides."""
    edges = ((np.arange(-130, 131) - 0.5) * (threshold / 128)).astype(np.float32)
    below, above = np.nextafter(edges, np.float32(-np.inf)), np.nextafter(edges, np.float32(np.inf))
    return np.concatenate([edges, below, above])


@pytest.mark.parametrize("compiled", WAYS)
@settings(max_examples=60, deadline=None)
@given(st.floats(2.0**-90, 2.0**90, width=32))
def test_codes_are_those_of_the_contract_beside_every_edge(compiled, threshold):
    values = beside_every_edge(threshold)
    assert np.array_equal(codes_of(values, threshold, compiled), arithmetic.quantize(values, threshold))


@pytest.mark.parametrize("compiled", WAYS)
def test_what_is_no_number_and_what_is_too_large(compiled):
    values = np.array([[np.nan, np.inf, -np.inf], [3e38, -3e38, 1e-45]], np.float32)
    assert codes_of(values, 1.0, compiled).tolist() == [[0, 127, -128], [127, -128, 0]]


@pytest.mark.parametrize("compiled", WAYS)
def test_more_than_a_block(compiled):
    values = np.random.default_rng(0).standard_normal((3, 5, 4001)).astype(np.float32)
    assert np.array_equal(codes_of(values, 2.5, compiled), arithmetic.quantize(values, 2.5))


@pytest.mark.skipif(not entrance.COMPILED, reason="no compiler")
def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="as many codes"):
        entrance.enter(np.zeros(4, np.float32), 1.0, np.zeros(3, np.uint8))


@pytest.mark.parametrize("compiled", WAYS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("wide", [True, False])
def test_by_pixel(compiled, channels, wide):
    """Four channels side by side; code 0 where there are fewer. More than a block, and not a multiple of anything."""
    values = np.random.default_rng(0).standard_normal((3, channels, 13, 97)).astype(np.float32)
    values[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    codes = np.zeros((3, 13, 97, 4), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entrance, "COMPILED", compiled)
        if compiled:
            entrance._entrance.use_wide(wide)
        try:
            entrance.enter(values, 2.5, codes, by_pixel=True)
        finally:
            if compiled:
                entrance._entrance.use_wide(True)
    expected = arithmetic.quantize(values, 2.5)
    assert np.array_equal(codes[..., :channels].view(np.int8) ^ np.int8(-128), np.moveaxis(expected, 1, -1))
    assert (codes[..., channels:] == 128).all()


@pytest.mark.skipif(not entrance.COMPILED, reason="no compiler")
@settings(max_examples=30, deadline=None)
@given(st.floats(2.0**-90, 2.0**90, width=32))
def test_codes_without_vectors_of_512_bits(threshold):
    values = beside_every_edge(threshold)
    entrance._entrance.use_wide(False)
    try:
        assert np.array_equal(codes_of(values, threshold, True), arithmetic.quantize(values, threshold))
    finally:
        entrance._entrance.use_wide(True)


@pytest.mark.skipif(not entrance.COMPILED, reason="no compiler")
@pytest.mark.parametrize("shape", [(1, 2, 2, 4), (1, 3, 2, 3), (2, 2, 3, 4)])
def test_pixels_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="as many codes"):
        entrance.enter(
            np.zeros((1, 3, 2, 3), np.float32), 1.0, np.zeros(shape, np.uint8)[..., :3].copy(), by_pixel=True
        )
