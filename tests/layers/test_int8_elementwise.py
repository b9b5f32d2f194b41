"""Poolings, Eltwise, Concat and activations in INT8: every code equals that of naive loops, from thresholds on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import integer_layers as oracle

from calib8.errors import QuantizationError
from calib8.lowering.readings import Codes
from calib8.quantize import make_plan

MANY = settings(max_examples=25, deadline=None)
EVERY = np.arange(-128, 128)

# Powers of two make ties frequent; far apart they take every shift, and saturate.
thresholds = st.one_of(
    st.integers(-3, 3).map(lambda e: 2.0**e),
    st.integers(-28, 6).map(lambda e: 2.0**e),
    st.floats(2.0**-6, 2.0**6, width=32),
)


def network(shapes, layer_type: str, param: str) -> str:
    lines = [
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" '
        f"input_param {{ shape {{ {' '.join(f'dim: {d}' for d in shape)} }} }} }}"
        for i, shape in enumerate(shapes)
    ]
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(shapes)))
    return "\n".join([*lines, f'layer {{ name: "y" type: "{layer_type}" {bottoms} top: "y" {param} }}'])


@pytest.fixture(scope="module")
def check(random_model, run_int8):
    """check(type, param, xs, txs, ty, expected): the layer alone, or that it has no integers where expected is None."""

    def run(layer_type, param, xs, txs, ty, expected, *, blobs=(), concat=False, **options) -> None:
        model = random_model(network([x.shape for x in xs], layer_type, param), 0, {"y": blobs})
        measured = {f"x{i}": t for i, t in enumerate(txs)} | {"y": ty}
        if expected is None:
            with pytest.raises(QuantizationError, match="layer 'y'"):
                make_plan(model, measured, concat)
            return
        plan = make_plan(model, measured, concat)
        found = run_int8(model, plan, {f"x{i}": x for i, x in enumerate(xs)}, [Codes("y")], **options)
        assert found[Codes("y")].shape == expected.shape
        assert np.array_equal(found[Codes("y")], expected)

    return run


def codes_like(draw, *shapes):
    """Random codes of each shape, with the extremes among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return [np.where(rng.random(s) < 0.2, rng.choice([-128, 127], s), rng.integers(-128, 128, s)) for s in shapes]


# Poolings.


@settings(max_examples=25, deadline=None)
@given(data=st.data(), tx=thresholds, ty=thresholds)
def test_pooling(check, data, tx, ty):
    kernel, stride, pad = (data.draw(st.tuples(*[st.integers(*r)] * 2)) for r in ((1, 4), (1, 3), (0, 2)))
    pad = [min(p, k - 1) for p, k in zip(pad, kernel, strict=True)]
    spatial = [max(k - p, 1) + data.draw(st.integers(0, 4)) for k, p in zip(kernel, pad, strict=True)]
    method = data.draw(st.sampled_from(["MAX", "AVE", "AVE_EXC_PAD"]))
    ceil = data.draw(st.booleans())
    lengths = [oracle.pooled_length(*sizes, ceil=ceil) for sizes in zip(spatial, kernel, stride, pad, strict=True)]
    inside = all((length - 1) * s - p < size for length, s, p, size in zip(lengths, stride, pad, spatial, strict=True))
    if not inside or min(lengths) < 1:
        return  # a window without an element has a test of its own
    (x,) = codes_like(data.draw, (data.draw(st.integers(1, 2)), 2, *spatial))
    constants = oracle.pooling_constants(tx, ty)
    geometry = {"kernel": kernel, "stride": stride, "pad": pad, "ceil": ceil, "without_pad": method == "AVE_EXC_PAD"}
    expected = constants and oracle.pooling(x, constants, method[:3], **geometry)
    param = (
        f"pooling_param {{ pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} "
        f"stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} round_mode: {'CEIL' if ceil else 'FLOOR'} }}"
    )
    check("Pooling", param, [x], [tx], ty, expected)


@MANY
@given(data=st.data(), tx=thresholds, ty=thresholds, method=st.sampled_from(["MAX", "AVE"]))
def test_global_pooling(check, data, tx, ty, method):
    spatial = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    (x,) = codes_like(data.draw, (data.draw(st.integers(1, 2)), 3, *spatial))
    constants = oracle.pooling_constants(tx, ty)
    geometry = {"kernel": spatial, "stride": (1, 1), "pad": (0, 0)}
    expected = constants and oracle.pooling(x, constants, method, **geometry)
    check("Pooling", f"pooling_param {{ pool: {method} global_pooling: true }}", [x], [tx], ty, expected)


def test_windows_without_an_element(check):
    """Caffe leaves -FLT_MAX in the largest of nothing, whose code is -128; a sum of nothing is 0."""
    x = np.array([[[[5, 6], [7, 8]]]])
    for method, expected in (("MAX", [[5, -128], [-128, -128]]), ("AVE", [[5, 0], [0, 0]])):
        param = f"pooling_param {{ pool: {method} kernel_size: 1 stride: 3 }}"
        check("Pooling", param, [x], [1.0], 1.0, np.array([[expected]]))


# Eltwise.


@MANY
@given(data=st.data(), ty=thresholds, bits=st.sampled_from([16, 32]))
def test_eltwise_sum(check, data, ty, bits):
    txs = data.draw(st.lists(thresholds, min_size=2, max_size=5))
    coeffs = data.draw(st.lists(st.integers(-3, 3), min_size=len(txs), max_size=len(txs)))
    if data.draw(st.booleans()):
        coeffs = [1] * len(txs)
    shape = data.draw(st.sampled_from([(2, 40), (1, 2, 4, 5), (60,)]))
    xs = codes_like(data.draw, *[shape] * len(txs))
    if data.draw(st.booleans()):
        xs = [np.sign(x + 0.5).astype(np.int64) * 127 for x in xs]  # sums of large numbers
    constants = oracle.eltwise_constants(txs, ty)
    expected = constants and oracle.eltwise_sum(xs, constants, coeffs, bits)
    param = f"eltwise_param {{ operation: SUM {' '.join(f'coeff: {c}' for c in coeffs)} }}"
    check("Eltwise", param, xs, txs, ty, expected, accumulator_bits=bits)


def test_the_16_bit_sum_saturates_on_its_way(check):
    xs = [np.full((1, 1), v) for v in (127,) * 6 + (-128,) * 3]
    constants = oracle.eltwise_constants([1.0] * 9, 4.0)  # 64 >> 8
    assert constants == ([64] * 9, 8)
    check("Eltwise", "", xs, [1.0] * 9, 4.0, np.array([[32]]))  # (32767 - 3 * 8192) / 256
    check("Eltwise", "", xs, [1.0] * 9, 4.0, np.array([[95]]), accumulator_bits=32)  # (6 * 8128 - 3 * 8192) / 256


@MANY
@given(data=st.data(), ty=thresholds)
def test_eltwise_max(check, data, ty):
    txs = data.draw(st.lists(thresholds, min_size=2, max_size=4))
    if data.draw(st.booleans()):
        txs = txs[:1] * len(txs)
    xs = codes_like(data.draw, *[(3, 50)] * len(txs))
    constants = oracle.eltwise_constants(txs, ty)
    expected = constants and oracle.eltwise_max(xs, constants)
    check("Eltwise", "eltwise_param { operation: MAX }", xs, txs, ty, expected)


@MANY
@given(data=st.data(), ty=thresholds)
def test_eltwise_product(check, data, ty):
    txs = data.draw(st.lists(st.one_of(thresholds, st.just(128.0)), min_size=2, max_size=9))
    xs = codes_like(data.draw, *[(3, 50)] * len(txs))
    xs = [np.where(x > 100, 1, x) for x in xs]  # or nearly all products would saturate
    constants = oracle.product_constants(txs, ty)
    expected = constants and oracle.eltwise_product(xs, constants)
    check("Eltwise", "eltwise_param { operation: PROD }", xs, txs, ty, expected)


def test_a_product_of_all_pairs_of_codes(check):
    a, b = (np.array(v).reshape(1, -1) for v in zip(*itertools.product(EVERY, EVERY), strict=True))
    constants = oracle.product_constants([1.0, 1.0], 0.0625)
    mult, rs = constants
    expected = np.clip((2 * a * b * mult + (1 << rs)) // (2 << rs), -128, 127)
    check("Eltwise", "eltwise_param { operation: PROD }", [a, b], [1.0, 1.0], 0.0625, expected)


# Concat.


@MANY
@given(data=st.data(), ty=thresholds)
def test_concat_with_thresholds_of_its_bottoms(check, data, ty):
    txs = data.draw(st.lists(thresholds, min_size=2, max_size=4))
    if data.draw(st.booleans()):
        txs[0] = ty
    axis = data.draw(st.integers(-3, 2))
    shapes = [[2, 3, 4] for _ in txs]
    for shape in shapes:
        shape[axis] = data.draw(st.integers(1, 4))
    xs = codes_like(data.draw, *map(tuple, shapes))
    moved = [oracle.requantized(x, tx, ty) for x, tx in zip(xs, txs, strict=True)]
    expected = None if any(m is None for m in moved) else np.concatenate(moved, axis)
    check("Concat", f"concat_param {{ axis: {axis} }}", xs, txs, ty, expected, concat=True)


# Activations.


@pytest.mark.parametrize("shape", [(256,), (2, 128), (2, 4, 8, 4)])
def test_relu_over_all_codes(check, shape):
    x = EVERY.reshape(shape)
    check("ReLU", "", [x], [1.0], 1.0, oracle.relu(x))


@MANY
@given(tx=thresholds, ty=thresholds, slope=st.floats(-2, 2, width=32), four=st.booleans())
def test_leaky_relu_over_all_codes(check, tx, ty, slope, four):
    x = EVERY.reshape((2, 2, 8, 8) if four else (2, 128))
    sides = oracle.leaky_constants(slope, tx, ty)
    expected = sides and oracle.two_sided(x, sides[0], lambda place: sides[1])
    if slope == 0:
        return
    check("ReLU", f"relu_param {{ negative_slope: {slope!r} }}", [x], [tx], ty, expected)


@MANY
@given(data=st.data(), tx=thresholds, ty=thresholds)
def test_prelu_over_all_codes(check, data, tx, ty):
    shared, channels = data.draw(st.booleans()), data.draw(st.integers(1, 4))
    tail = data.draw(st.sampled_from([(256,), (16, 16), ()]))
    x = np.broadcast_to(EVERY.reshape(tail) if tail else EVERY[:, None], (256 if not tail else 1, channels, *tail))
    slopes = data.draw(st.lists(st.floats(-2, 2, width=32), min_size=channels, max_size=channels))
    slopes = np.array(slopes[0] if shared else slopes, np.float32)
    positive = oracle.weights_of(np.ones(1), None, tx, ty)
    negative = oracle.weights_of(slopes, None, tx, ty)
    expected = None
    if positive and negative:
        quantized = np.broadcast_to(negative[0], channels)
        expected = oracle.two_sided(
            x, (int(positive[0][0]), positive[2]), lambda place: (int(quantized[place[1]]), negative[2])
        )
    param = f"prelu_param {{ channel_shared: {str(shared).lower()} }}"
    check("PReLU", param, [x], [tx], ty, expected, blobs=[slopes])


@MANY
@given(tx=thresholds, ty=thresholds, alpha=st.one_of(st.just(1.0), st.floats(0, 4, width=32)))
def test_elu_over_all_codes(check, tx, ty, alpha):
    x = EVERY.reshape(2, 128)
    check("ELU", f"elu_param {{ alpha: {alpha!r} }}", [x], [tx], ty, oracle.elu(x, alpha, tx, ty))
