"""Axpy, Mul and MatMul against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sides = st.integers(1, 4)


def random(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape) + 1).standard_normal(shape).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.lists(sides, min_size=2, max_size=5), st.booleans())
def test_axpy(run_layer, shape, full_rank):
    a = random(*shape[:2], *(1,) * (len(shape) - 2)) if full_rank else random(*shape[:2])
    x, z = random(*shape), random(*shape) * 2
    found = run_layer("Axpy", a, x, z)
    assert found.shape == x.shape
    for place in np.ndindex(*shape):
        factor = float(a[(*place[:2], *(0,) * (a.ndim - 2))])
        assert found[place] == pytest.approx(factor * float(x[place]) + float(z[place]), abs=1e-5)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 2, 1), (2, 3, 2, 1), (2, 3, 2, 1)),
        ((2, 4, 1, 1), (2, 3, 5, 5), (2, 3, 5, 5)),
        ((3, 2), (2, 3, 5), (2, 3, 5)),
        ((2,), (2,), (2,)),
    ],
)
def test_axpy_wants_one_factor_per_channel(refusal, shapes):
    assert "expected one factor per sample and channel" in refusal("Axpy", *shapes)


def test_axpy_wants_equal_summands(refusal):
    assert "third (2, 3, 5, 4)" in refusal("Axpy", (2, 3), (2, 3, 5, 5), (2, 3, 5, 4))


@settings(max_examples=40, deadline=None)
@given(st.lists(sides, max_size=4), st.data())
def test_mul_repeats(run_layer, shape, data):
    def operand():
        given_axes = shape[data.draw(st.integers(0, len(shape))) :]
        return tuple(1 if data.draw(st.booleans()) else d for d in given_axes)

    a, b = random(*operand()), random(*operand()) + 1
    in_weights = data.draw(st.booleans())
    if in_weights:
        param = f"mul_param {{ {' '.join(f'mul_shape: {d}' for d in b.shape)} }}"
        found = run_layer("Mul", a, param=param, blobs=(b,))
    else:
        found = run_layer("Mul", a, b)
    rank = max(a.ndim, b.ndim)
    assert found.ndim == rank
    for place in np.ndindex(*found.shape):
        factors = []
        for operand_ in (a, b):
            own = place[rank - operand_.ndim :]
            factors.append(float(operand_[tuple(0 if d == 1 else p for p, d in zip(own, operand_.shape, strict=True))]))
        assert found[place] == pytest.approx(factors[0] * factors[1], rel=1e-6)
    assert all(n in (1, m) for n, m in zip(a.shape[::-1], found.shape[::-1], strict=False))


def test_mul_refuses(refusal):
    assert "factors are (2, 3) and (2, 4)" in refusal("Mul", (2, 3), (2, 4))
    assert "factors are (2, 3) and (2,)" in refusal("Mul", (2, 3), param="mul_param { mul_shape: 2 }")


@settings(max_examples=20, deadline=None)
@given(sides, sides, sides, st.booleans())
def test_matmul(run_layer, m, k, n, as_image):
    a, b = random(m, k), random(n, k)
    bottoms = (a.reshape(1, m, k, 1), b.reshape(n, 1, k)) if as_image else (a, b)
    found = run_layer("MatMul", *bottoms, param=f"matmul_param {{ dim_1: {m} dim_2: {k} dim_3: {n} }}")
    assert found.shape == (m, n)
    for i, j in np.ndindex(m, n):
        assert found[i, j] == pytest.approx(sum(float(a[i, q]) * float(b[j, q]) for q in range(k)), abs=1e-5)


def test_matmul_refuses(refusal):
    param = "matmul_param { dim_1: 2 dim_2: 3 dim_3: 4 }"
    assert "first bottom is (2, 4), 8 elements" in refusal("MatMul", (2, 4), (4, 3), param=param)
    assert "second bottom is (3, 3), 9 elements" in refusal("MatMul", (2, 3), (3, 3), param=param)
    assert "no matrix of 1 x 1" in refusal("MatMul", (2, 3), (4, 3))
