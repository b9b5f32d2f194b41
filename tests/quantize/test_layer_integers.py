"""The integers of every layer type with an integer rule, against loops written from the contract."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calib8.errors import QuantizationError
from calib8.quantize import make_plan

thresholds = st.floats(2.0**-6, 2.0**6, width=32)
seeds = st.integers(0, 1000)
FEW = settings(max_examples=40, deadline=None)


def doublings(m: float) -> int:
    """How often m is doubled until it reaches 64; None where it starts at 128 or more."""
    if m >= 128:
        return None
    count = 0
    while 0 < m < 64 and count < 31:
        m, count = 2 * m, count + 1
    return count


def rnd(v: float) -> int:
    return math.floor(v + 0.5)


def clamp(v: int, low: int, high: int) -> int:
    return max(low, min(high, v))


def weighted(w, b, tx, ty):
    """(Wq, Bq, rs) of the contract, value by value; None for a negative shift."""
    rs = doublings(max(abs(float(x)) for x in np.ravel(w)) * tx / ty)
    if rs is None:
        return None
    wq = [clamp(rnd(float(x) * (tx / ty) * 2.0**rs), -128, 127) for x in np.ravel(w)]
    bq = None if b is None else [clamp(rnd(float(x) * (128 / ty) * 2.0**rs), -32768, 32767) for x in np.ravel(b)]
    return wq, bq, rs


def input_of(*shape: int) -> str:
    dims = " ".join(f"dim: {d}" for d in shape)
    return f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'


def plan_of(model, tx, ty, layer="y"):
    return make_plan(model, {"x": tx, "y": ty}).forms[layer]


def check_weighted(model, tx, ty, w, b):
    expected = weighted(w, b, tx, ty)
    if expected is None:
        with pytest.raises(QuantizationError, match=r"layer 'y' .*negative right shift"):
            plan_of(model, tx, ty)
        return
    plan = plan_of(model, tx, ty)
    wq, bq, rs = expected
    assert plan.rshift == rs
    assert plan.blobs[0].dtype == np.int8 and plan.blobs[0].shape == w.shape
    assert plan.blobs[0].ravel().tolist() == wq
    if bq is None:
        assert len(plan.blobs) == 1
    else:
        assert plan.blobs[1].dtype == np.int16 and plan.blobs[1].ravel().tolist() == bq
        clamped = any(not -32768 <= rnd(float(x) * (128 / ty) * 2.0**rs) <= 32767 for x in b)
        assert bool(plan.warnings) == clamped


SUMS = {
    "conv": ('type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 group: 2 }', (1, 2, 5, 5)),
    "conv without bias": (
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 bias_term: false }', (1, 4, 2, 2),
    ),
    "depthwise": ('type: "ConvolutionDepthwise" convolution_param { num_output: 6 kernel_size: 3 }', (1, 6, 4, 4)),
    "deconv": ('type: "Deconvolution" convolution_param { num_output: 2 kernel_size: 2 stride: 2 }', (1, 3, 2, 2)),
    "inner product": ('type: "InnerProduct" inner_product_param { num_output: 5 }', (1, 7)),
    "transposed": ('type: "InnerProduct" inner_product_param { num_output: 5 transpose: true }', (1, 7)),
    "scale": ('type: "Scale" scale_param { bias_term: true }', (1, 6, 2, 2)),
    "scale of all axes": ('type: "Scale" scale_param { num_axes: -1 }', (1, 2, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SUMS)
@FEW
@given(seed=seeds, tx=thresholds, ty=thresholds, size=st.floats(2.0**-12, 8, width=32))
def test_weighted_sums(random_model, kind, seed, tx, ty, size):
    text, shape = SUMS[kind]
    model = random_model(input_of(*shape) + f'layer {{ name: "y" bottom: "x" top: "y" {text} }}', seed)
    blobs = [b * np.float32(size) for b in model.net.layers[1].blobs]
    model = random_model(input_of(*shape) + f'layer {{ name: "y" bottom: "x" top: "y" {text} }}', 0, {"y": blobs})
    check_weighted(model, tx, ty, blobs[0], blobs[1] if len(blobs) > 1 else None)


def test_dead_weights_have_no_shift(random_model):
    text = input_of(1, 2, 3, 3) + (
        'layer { name: "y" type: "Convolution" bottom: "x" top: "y" '
        "convolution_param { num_output: 2 kernel_size: 1 } }"
    )
    model = random_model(text, 0, {"y": [np.zeros((2, 2, 1, 1)), [1.0, -0.5]]})
    plan = plan_of(model, 1.0, 2.0)
    assert plan.rshift == 0
    assert plan.blobs[1].tolist() == [64, -32]


def test_a_bias_that_is_clamped_names_its_channels(random_model):
    text = (
        input_of(1, 3)
        + 'layer { name: "y" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 } }'
    )
    model = random_model(text, 0, {"y": [np.full((3, 3), 0.01), [1e6, 0.0, -1e6]]})
    plan = make_plan(model, {"x": 1.0, "y": 1.0})
    assert plan.forms["y"].blobs[1].tolist() == [32767, 0, -32768]
    assert len(plan.warnings) == 1 and "layer 'y'" in plan.warnings[0] and "channels 0, 2 " in plan.warnings[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(random_model, bad):
    text = (
        input_of(1, 2)
        + 'layer { name: "y" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 1 } }'
    )
    with pytest.raises(QuantizationError, match=r"layer 'y' .*NaN or infinite"):
        plan_of(random_model(text, 0, {"y": [[[1.0, bad]], [0.0]]}), 1.0, 1.0)


SHARED_WEIGHTS = """
layer { name: "z" type: "Input" top: "z" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }
layer { name: "y" type: "Convolution" bottom: "x" bottom: "z" top: "y" top: "w"
  convolution_param { num_output: 2 kernel_size: 1 } }
"""


def test_shared_weights_need_equal_thresholds(random_model):
    model = random_model(input_of(1, 2, 3, 3) + SHARED_WEIGHTS)
    equal = make_plan(model, {"x": 1.0, "z": 1.0, "y": 8.0, "w": 8.0})
    assert equal.forms["y"].blobs
    assert make_plan(model, {"x": 1.0, "z": 2.0, "y": 8.0, "w": 8.0}).forms["y"] is None


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@settings(max_examples=100, deadline=None)
@given(tx=thresholds, ty=thresholds)
def test_pooling(random_model, method, tx, ty):
    text = input_of(1, 2, 4, 4) + (
        f'layer {{ name: "y" type: "Pooling" bottom: "x" top: "y" '
        f"pooling_param {{ pool: {method} kernel_size: 2 stride: 2 }} }}"
    )
    model = random_model(text)
    if rnd(tx / ty) > 255:
        with pytest.raises(QuantizationError, match=r"layer 'y' .*does not fit 8 bits"):
            plan_of(model, tx, ty)
        return
    rs = max(s for s in range(32) if rnd(tx / ty * 2.0**s) < 256)
    plan = plan_of(model, tx, ty)
    assert (plan.multiplier, plan.rshift) == (rnd(tx / ty * 2.0**rs), rs)


def test_a_pooling_with_a_mask_stays_in_fp32(random_model):
    text = input_of(1, 2, 4, 4) + (
        'layer { name: "y" type: "Pooling" bottom: "x" top: "y" top: "mask" '
        "pooling_param { kernel_size: 2 stride: 2 } }"
    )
    assert make_plan(random_model(text), {"x": 1.0, "y": 1.0, "mask": 1.0}).forms["y"] is None


def eltwise(random_model, operation: str, bottoms: int, extra: str = ""):
    names = [f"x{i}" for i in range(bottoms)]
    inputs = "".join(
        f'layer {{ name: "{n}" type: "Input" top: "{n}" input_param {{ shape {{ dim: 1 dim: 2 }} }} }}\n' for n in names
    )
    reads = " ".join(f'bottom: "{n}"' for n in names)
    param = f"eltwise_param {{ operation: {operation} {extra} }}"
    return random_model(f'{inputs}layer {{ name: "y" type: "Eltwise" {reads} top: "y" {param} }}')


def eltwise_plan(model, txs, ty):
    return make_plan(model, {f"x{i}": t for i, t in enumerate(txs)} | {"y": ty}).forms["y"]


@pytest.mark.parametrize("operation", ["SUM", "MAX"])
@FEW
@given(txs=st.lists(thresholds, min_size=2, max_size=4), ty=thresholds)
def test_eltwise_sum_and_max(random_model, operation, txs, ty):
    model = eltwise(random_model, operation, len(txs))
    rs = doublings(max(tx / ty for tx in txs))
    if rs is None:
        with pytest.raises(QuantizationError, match="layer 'y'"):
            eltwise_plan(model, txs, ty)
        return
    plan = eltwise_plan(model, txs, ty)
    assert (plan.multipliers, plan.rshift) == (tuple(math.trunc(tx / ty * 2.0**rs) for tx in txs), rs)


@FEW
@given(txs=st.lists(thresholds, min_size=2, max_size=4), ty=thresholds)
def test_eltwise_product(random_model, txs, ty):
    factor = 1.0
    for tx in txs:
        factor *= tx / 128
    factor = factor * 128 / ty
    rs = doublings(factor)
    model = eltwise(random_model, "PROD", len(txs))
    if rs is None:
        with pytest.raises(QuantizationError, match="layer 'y'"):
            eltwise_plan(model, txs, ty)
        return
    plan = eltwise_plan(model, txs, ty)
    assert (plan.multipliers, plan.rshift) == ((math.trunc(factor * 2.0**rs),), rs)


def test_eltwise_takes_whole_coefficients_only(random_model):
    assert eltwise_plan(eltwise(random_model, "SUM", 2, "coeff: 1 coeff: -2"), [1, 1], 1).multipliers == (64, 64)
    assert eltwise_plan(eltwise(random_model, "SUM", 2, "coeff: 1 coeff: 0.5"), [1, 1], 1) is None


def largest_int8(ratio: Fraction) -> tuple[int, int] | None:
    """The largest scale that fits int8, by trying every shift."""
    scales = [(math.floor(ratio * 2**s + Fraction(1, 2)), s) for s in range(32)]
    fitting = [(scale, s) for scale, s in scales if -128 <= scale <= 127]
    return fitting[-1] if fitting else None


AWKWARD_SLOPE = float(np.float32(0.845977604))
"""With these thresholds slope * tx/ty is a tie, and slope * (tx/ty) in float64 lies below it."""


@settings(max_examples=100, deadline=None)
@given(tx=thresholds, ty=thresholds, slope=st.floats(2.0**-10, 1, width=32))
@example(tx=219.0, ty=AWKWARD_SLOPE * 8, slope=AWKWARD_SLOPE)
@example(tx=233.0, ty=AWKWARD_SLOPE * 8, slope=AWKWARD_SLOPE)
def test_leaky_relu(random_model, tx, ty, slope):
    text = input_of(1, 2) + (
        f'layer {{ name: "y" type: "ReLU" bottom: "x" top: "y" relu_param {{ negative_slope: {slope!r} }} }}'
    )
    model = random_model(text)
    ratio = Fraction(tx) / Fraction(ty)
    gt, le = largest_int8(ratio), largest_int8(Fraction(slope) * ratio)
    if gt is None or le is None:
        with pytest.raises(QuantizationError, match=r"layer 'y' .*does not fit int8"):
            plan_of(model, tx, ty)
        return
    leaky = plan_of(model, tx, ty)
    assert ((leaky.gt_scale, leaky.gt_rshift), (leaky.le_scale, leaky.le_rshift)) == (gt, le)


@pytest.mark.parametrize("shared_slope", [False, True])
@FEW
@given(seed=seeds, tx=thresholds, ty=thresholds)
def test_prelu(random_model, shared_slope, seed, tx, ty):
    text = input_of(1, 5, 2, 2) + (
        'layer { name: "y" type: "PReLU" bottom: "x" top: "y" '
        f"prelu_param {{ channel_shared: {str(shared_slope).lower()} }} }}"
    )
    model = random_model(text, seed)
    slopes = model.net.layers[1].blobs[0]
    positive, negative = weighted([1.0], None, tx, ty), weighted(slopes, None, tx, ty)
    if positive is None or negative is None:
        with pytest.raises(QuantizationError, match="layer 'y'"):
            plan_of(model, tx, ty)
        return
    plan = plan_of(model, tx, ty)
    assert (plan.gt_scale, plan.gt_rshift) == (positive[0][0], positive[2])
    assert (plan.blobs[0].ravel().tolist(), plan.le_rshift) == (negative[0], negative[2])
    assert plan.blobs[0].shape == slopes.shape


BATCH_NORM = 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "n" batch_norm_param { eps: 0.001 } }\n'
SCALE = 'layer { name: "y" type: "Scale" bottom: "n" top: "y" scale_param { bias_term: true } }\n'


def affine(mean, variance, factor, gamma, beta):
    """s and b per channel, dead channels (variance below 1/256 of the mean one) with s 0."""
    variance = [float(v) / factor for v in variance]
    mean = [float(m) / factor for m in mean]
    limit = sum(variance) / len(variance) / 256
    scale = [0.0 if v < limit else float(g) / math.sqrt(v + 0.001) for v, g in zip(variance, gamma, strict=True)]
    shift = [float(b) - m * s for b, m, s in zip(beta, mean, scale, strict=True)]
    return scale, shift


def check_batch_norm(plan, scale, shift, tx, ty):
    sq, bq, rs = weighted(scale, shift, tx, ty)
    assert plan.rshift == rs
    assert (plan.blobs[1].tolist(), plan.blobs[0].tolist()) == (sq, bq)
    assert plan.blobs[2].tolist() == [1]
    assert [b.dtype for b in plan.blobs] == [np.int16, np.int8, np.int8]


@FEW
@given(seed=seeds, tx=thresholds, factor=st.sampled_from([1.0, 999.98, 0.5]))
def test_batch_norm_with_its_scale_is_one_step(random_model, seed, tx, factor):
    rng = np.random.default_rng(seed)
    mean, gamma, beta = (rng.standard_normal(6).astype(np.float32) for _ in range(3))
    variance = np.abs(rng.standard_normal(6)).astype(np.float32) ** 6
    blobs = {"bn": [mean * np.float32(factor), variance * np.float32(factor), [factor]], "y": [gamma, beta]}
    model = random_model(input_of(1, 6, 2, 2) + BATCH_NORM + SCALE, 0, blobs)
    stored = model.net.layer_by_name["bn"].blobs
    scale, shift = affine(stored[0], stored[1], float(np.float32(factor)), gamma, beta)
    ty = float(np.float32(max(map(abs, scale)) * tx / 50))
    plans = make_plan(model, {"x": tx, "y": ty}).forms
    check_batch_norm(plans["bn"], scale, shift, tx, ty)
    assert plans["y"].hands_on and plans["y"].rshift == plans["bn"].rshift
    assert [b.tolist() for b in plans["y"].blobs] == [[1] * 6, [0] * 6]
    assert not plans["bn"].hands_on


@FEW
@given(seed=seeds, tx=thresholds)
def test_batch_norm_alone(random_model, seed, tx):
    model = random_model(input_of(1, 6, 2, 2) + BATCH_NORM.replace('"n"', '"y"'), seed)
    mean, variance, _ = model.net.layers[1].blobs
    scale, shift = affine(mean, variance, 1.0, [1.0] * 6, [0.0] * 6)
    ty = float(np.float32(tx))
    check_batch_norm(make_plan(model, {"x": tx, "y": ty}).forms["bn"], scale, shift, tx, ty)


def test_a_dead_channel_gives_its_beta_and_leaves_the_others_their_steps(random_model):
    blobs = {"bn": [[0.0, 0.0], [1.0, 1e-9], [1.0]], "y": [[1.0, 1.0], [0.0, 0.25]]}
    model = random_model(input_of(1, 2, 2, 2) + BATCH_NORM + SCALE, 0, blobs)
    plan = make_plan(model, {"x": 1.0, "y": 1.0})
    shift, scale, _ = plan.forms["bn"].blobs
    assert plan.forms["bn"].rshift == 7  # without the rule, 1/sqrt(0.001 + 1e-9) = 31.6 would give 2
    assert scale.tolist() == [127, 0]  # 2^7 / sqrt(1.001), clamped
    assert shift.tolist() == [0, 0.25 * 128 * 2**7]
    assert "layer 'bn'" in plan.warnings[0] and "channel 1 " in plan.warnings[0]


@FEW
@given(txs=st.lists(thresholds, min_size=2, max_size=3), ty=thresholds)
def test_concat_with_thresholds_of_its_bottoms(random_model, txs, ty):
    inputs = "".join(
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ dim: 1 dim: 2 }} }} }}\n'
        for i in range(len(txs))
    )
    reads = " ".join(f'bottom: "x{i}"' for i in range(len(txs)))
    model = random_model(f'{inputs}layer {{ name: "y" type: "Concat" {reads} top: "y" }}')
    given_thresholds = {f"x{i}": t for i, t in enumerate(txs)} | {"y": ty}
    if any(rnd(tx / ty) > 255 for tx in txs):
        with pytest.raises(QuantizationError, match="layer 'y'"):
            make_plan(model, given_thresholds, enable_concat_quantize=True)
        return
    concat = make_plan(model, given_thresholds, enable_concat_quantize=True).forms["y"]
    if all(tx == ty for tx in txs):
        assert concat.multipliers == ()
        return
    shifts = [max(s for s in range(32) if rnd(tx / ty * 2.0**s) < 256) for tx in txs]
    assert concat.rshifts == tuple(shifts)
    assert concat.multipliers == tuple(rnd(tx / ty * 2.0**s) for tx, s in zip(txs, shifts, strict=True))


@pytest.mark.parametrize("layer", ["Softmax", "Sigmoid", "TanH", "AbsVal"])
def test_layers_without_an_integer_rule_stay_in_fp32(random_model, layer):
    model = random_model(input_of(1, 4) + f'layer {{ name: "y" type: "{layer}" bottom: "x" top: "y" }}')
    assert plan_of(model, 1.0, 1.0) is None
