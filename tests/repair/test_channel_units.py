"""Units of channels: the same numbers in FP32, less noise in INT8, and real units wherever a value is read."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from calib8.engine import EngineOptions, run_float
from calib8.engine import run_int8 as engine_run_int8
from calib8.errors import TableError
from calib8.export import read_plan, write_calibration_files
from calib8.lowering.integer import IntegerSetup
from calib8.lowering.readings import Codes
from calib8.measure.collect import CollectOptions
from calib8.quantize import integer_setup, make_plan, observed_values, replan, setup_of
from calib8.quantize.channel_units import affine_pairs, recovered_units
from calib8.repair import RepairOptions, ThresholdSets, repair, run_pass, split
from calib8.repair.aligned_offsets import AlignedOffsets, aligned, moved_before
from calib8.repair.channel_units import ChannelUnits
from calib8.repair.compensated_rounding import CompensatedRounding, problem_of
from calib8.repair.guard import Guard
from calib8.repair.paired_windows import PairedWindows
from calib8.repair.passes import observe
from calib8.repair.refitted_weights import refit_weights
from calib8.repair.rounded_values import with_rounded_values

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 7] } enable_quantize: 1 } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "sc" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "d" type: "Convolution" bottom: "c" top: "d"
  convolution_param { num_output: 4 kernel_size: 1 bias_term: false } }
layer { name: "bd" type: "BatchNorm" bottom: "d" top: "bd" }
layer { name: "e" type: "Convolution" bottom: "bd" top: "e" convolution_param { num_output: 3 kernel_size: 1 } }
"""
SAMPLES = 30
NAMES = ("c", "bn", "sc", "r", "d", "bd", "e")


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(0.3, 1, (1, 3, 8, 7)).astype(np.float32)} for _ in range(SAMPLES)]


@pytest.fixture(scope="module")
def model(random_model, samples):
    """Channels of c are of very different size, BatchNorm makes them alike; the last one is multiplied by 0."""
    model = random_model(NETWORK, 3)
    blobs = {x.name: [b.copy() for b in x.blobs] for x in model.net.layers}
    sizes = np.float32([1, 0.3, 4, 3, 0.5, 1])
    blobs["c"][0] *= sizes[:, None, None, None]
    for conv, norm in (("c", "bn"), ("d", "bd")):
        model = random_model(NETWORK, 3, blobs)
        top = model.net.layer_by_name[conv].tops[0]
        seen = np.concatenate([run_float(model, sample, [top])[top] for sample in samples])
        axes = (0, 2, 3)
        blobs[norm][:3] = seen.mean(axes), seen.var(axes), np.ones(1, np.float32)
    blobs["sc"][0][5] = 0
    blobs["sc"][0][0] = -abs(blobs["sc"][0][0])
    return random_model(NETWORK, 3, blobs)


@pytest.fixture(scope="module")
def plan(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    return make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in found) for v in values})


@pytest.fixture(scope="module")
def found(model, plan, samples):
    return run_pass(ChannelUnits(SAMPLES), model, plan, lambda: iter(samples))


def noise(model, plan, samples, layers=NAMES, values=("e",)):
    forms = {n: f for n, f in plan.forms.items() if f is not None}
    setup = IntegerSetup(frozenset(layers), forms, plan.thresholds, channel_units=plan.channel_units)
    off = []
    for sample in samples:
        exact, got = run_float(model, sample, values), engine_run_int8(model, setup, sample, values)
        off.append([float(np.square(got[v] - exact[v]).mean() / np.square(exact[v]).mean()) for v in values])
    return np.mean(off, axis=0)


def test_the_network_loses_less(model, plan, found, samples):
    assert noise(model, found, samples)[0] < 0.5 * noise(model, plan, samples)[0]


def test_units_are_parts_of_the_threshold(model, plan, found):
    between = model.net.layer_by_name["c"].tops[0]
    assert set(found.channel_units) == {between, "d"}
    units = found.channel_units[between]
    assert units.max() == pytest.approx(1) and (units > 0).all() and units.max() / units.min() > 8
    assert found.thresholds["e"] == plan.thresholds["e"] and found.given.keys() == {"c", "bn", "sc", "d", "bd"}


def test_factors_are_exact(model, found):
    """Real factor times unit is what the integers of the BatchNorm are; so nothing is lost there."""
    pairs = list(affine_pairs(model, found.forms))
    assert [p.convolution.name for p in pairs] == ["c", "d"]
    for pair in pairs:
        form, units = found.forms[pair.batch_norm.name], found.channel_units[pair.between]
        tx, ty = found.thresholds[pair.between], found.thresholds[pair.batch_norm.tops[0]]
        exact = pair.factors * units * tx / ty * 2.0**form.rshift
        np.testing.assert_allclose(form.scale, exact, rtol=1e-6)
    assert found.forms["bn"].scale[5] == 0


def test_codes_of_a_channel_reach_its_range(model, found, samples, run_int8):
    """No channel that moves is left with a few codes; none is clipped much where a ReLU does not take it away."""
    between = model.net.layer_by_name["c"].tops[0]
    pair = next(affine_pairs(model, found.forms))
    codes = [run_int8(model, found, s, [Codes(between)], real_inputs=["x"])[Codes(between)] for s in samples]
    values = [run_float(model, s, [between])[between] for s in samples]
    codes, values = (np.concatenate(x).transpose(1, 0, 2, 3).reshape(6, -1)[:5] for x in (codes, values))
    alive = values * pair.factors[:5, None] + pair.offsets[:5, None] > 0
    assert (alive.mean(axis=1) > 0.001).sum() == 4
    worth = np.abs(np.ldexp(pair.affine.scale[:5].astype(float), -pair.affine.rshift))
    assert (worth >= 0.35).any()
    for own, counts, ratio in zip(np.abs(codes.astype(int)), alive, worth, strict=True):
        if counts.mean() > 0.001:
            assert ratio < 0.35 or np.quantile(own, 0.99) > 40  # the BatchNorm has no more codes for it
            assert np.mean(own[counts] >= 127) < 0.02


@pytest.mark.parametrize(
    "layers", [c for n in range(1, 6) for c in itertools.combinations(("c", "bn,sc", "r", "d", "bd", "e"), n)]
)
def test_any_layers_in_int8_read_and_give_real_units(model, found, samples, layers):
    """Whatever runs in INT8, all values are near FP32's, in FP32's units."""
    names = ",".join(layers).split(",")
    # The ReLU takes away what there is no room for in c, and all of it, so it is left out here.
    values = tuple(t for x in model.net.layers for t in x.tops if x.name not in ("c", "bn"))
    assert noise(model, found, samples[:4], names, values).max() < 0.02


def test_files_tell_the_units(model, found, plan, tmp_path):
    """The record does; without it, the integers and the FP32 network alone. Files without units have none."""
    for name, one in (("with", found), ("without", plan)):
        paths = write_calibration_files(tmp_path, name, model, one)
        told = read_plan(model, paths[2], paths[0]).channel_units
        assert {v: u.tolist() for v, u in told.items()} == {v: u.tolist() for v, u in one.channel_units.items()}
        (tmp_path / f"bmnet_{name}.calib8.json").unlink()
        read = read_plan(model, paths[2], paths[0])
        assert read.channel_units.keys() == one.channel_units.keys() and not read.unexplained
        for value, units in one.channel_units.items():
            live = next(p for p in affine_pairs(model, one.forms) if p.between == value).factors != 0
            np.testing.assert_allclose(read.channel_units[value][live], units[live], rtol=1e-5)
            assert (read.channel_units[value][~live] == 1).all()


def test_recovered_units_of_zeros(model, found):
    """A factor that an integer does not tell leaves the unit at 1."""
    forms = {**found.forms, "bn": replace(found.forms["bn"], scale=np.zeros(6, np.int8))}
    units = recovered_units(model, found.thresholds, forms)
    np.testing.assert_array_equal(units[model.net.layer_by_name["c"].tops[0]], np.ones(6))


def test_units_stay_when_thresholds_change(model, found, samples):
    """A search that rounds some layers anew does it in their units."""
    between = model.net.layer_by_name["c"].tops[0]
    changed = replan(model, found, {between: found.thresholds[between] * 1.1})
    assert changed.channel_units is found.channel_units and changed.forms["c"] is not found.forms["c"]
    assert noise(model, changed, samples)[0] < 2 * noise(model, found, samples)[0]


def test_setups_carry_units(model, found):
    assert integer_setup(model, found).channel_units is found.channel_units


def test_order_and_threads_do_not_count(model, plan, samples, found):
    other = run_pass(
        ChannelUnits(SAMPLES), model, plan, lambda: iter(samples[::-1]), CollectOptions(engine=EngineOptions(threads=3))
    )
    assert other.thresholds == found.thresholds
    for value, units in found.channel_units.items():
        np.testing.assert_array_equal(other.channel_units[value], units)


def test_a_value_that_others_read_or_that_is_an_output_has_none(random_model, samples):
    text = (
        NETWORK
        + """
layer { name: "too" type: "Convolution" bottom: "d" top: "too" convolution_param { num_output: 1 kernel_size: 1 } }"""
    )
    model = random_model(text)
    values = observed_values(model)
    plan = make_plan(model, {v: float(np.abs(run_float(model, samples[0], values)[v]).max()) for v in values})
    assert [p.convolution.name for p in affine_pairs(model, plan.forms)] == ["c"]


def test_the_plain_table_gives_its_shifts_and_a_table_alone_is_refused(model, found, tmp_path):
    """Shifts of a repaired plan do not follow from thresholds: they are read, or the weights are asked for."""
    weights, plain, binary, _ = write_calibration_files(tmp_path, "n", model, found)
    read = read_plan(model, plain, weights)
    for name, form in found.forms.items():
        if form is not None and form.blobs:
            assert read.forms[name].accumulator_shift == form.accumulator_shift
            assert all(np.array_equal(a, b) for a, b in zip(read.forms[name].blobs, form.blobs, strict=True))
    assert read.channel_units.keys() == found.channel_units.keys()
    with pytest.raises(TableError, match=r"do not follow from its thresholds(.|\n)*layer 'bn' has a right shift"):
        read_plan(model, binary)


def test_compensated_rounding_may_be_observed_together_with_it(model, plan, found, samples):
    """What it looks at is the same before and behind this pass, so one run over the samples serves both."""
    passes = [ChannelUnits(SAMPLES), CompensatedRounding(SAMPLES)]
    runs = []

    def batches():
        runs.append(1)
        return iter(samples)

    together = plan
    for one, observed in zip(passes, observe(passes, model, plan, batches), strict=True):
        together = one.apply(model, together, observed)
    apart = run_pass(passes[1], model, found, lambda: iter(samples))
    assert len(runs) == 1
    assert together.thresholds == apart.thresholds and together.given == apart.given
    for name, form in apart.forms.items():
        for a, b in zip(form.blobs if form else (), together.forms[name].blobs if form else (), strict=True):
            np.testing.assert_array_equal(a, b)


# Offsets that are aligned behind it


@pytest.fixture(scope="module")
def rounded(model, found, samples):
    return run_pass(CompensatedRounding(SAMPLES), model, found, lambda: iter(samples))


@pytest.fixture(scope="module")
def lined_up(model, rounded, samples):
    return run_pass(AlignedOffsets(), model, rounded, lambda: iter(samples))


def test_what_the_offset_gives_away_the_bias_takes_up(model, rounded, lined_up):
    """In codes of the top: bias * r + offset is what it was, to half a step of each; without a bias nothing moves."""
    before, after = (list(affine_pairs(model, one.forms)) for one in (rounded, lined_up))
    moved = 0
    for old, new in zip(before, after, strict=True):
        one, other = rounded.forms[old.convolution.name], lined_up.forms[old.convolution.name]
        np.testing.assert_array_equal(one.weights, other.weights)
        np.testing.assert_array_equal(old.affine.scale, new.affine.scale)
        if old.convolution.name == "d":
            assert other is one and new.affine is old.affine
            continue
        ratio = np.ldexp(old.affine.scale.astype(float), -old.affine.rshift)

        def together(form, affine, ratio=ratio):
            return np.ldexp(form.bias.astype(float), -form.rshift) * ratio + np.ldexp(affine.shift, -affine.rshift)

        step = np.abs(ratio) * 2.0**-other.rshift + 2.0**-new.affine.rshift
        assert (np.abs(together(one, old.affine) - together(other, new.affine)) <= step / 2 + 1e-9).all()
        offsets = np.ldexp(new.affine.shift.astype(float), -new.affine.rshift)
        np.testing.assert_allclose(offsets, aligned(offsets, np.abs(ratio)), atol=2.0**-new.affine.rshift)
        moved += int((old.affine.shift != new.affine.shift).sum())
    assert moved > 0 and lined_up.thresholds == rounded.thresholds


WIDE = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 7] } enable_quantize: 1 } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 12 kernel_size: 3 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "sc" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
"""


def test_one_rounding_is_less_noise_than_two(random_model, samples):
    """Channels as large as each other: two roundings have up to twice the noise of one.

    Weights are in float, and samples are codes.
    """
    samples = [{"x": np.clip(np.rint(s["x"] * 32) / 32, -3.9, 3.9)} for s in samples]
    blobs = {x.name: [b.copy() for b in x.blobs] for x in random_model(WIDE, 5).net.layers}
    first = random_model(WIDE, 5, blobs)
    top = first.net.layer_by_name["c"].tops[0]
    seen = np.concatenate([run_float(first, sample, [top])[top] for sample in samples])
    blobs["bn"][:3] = seen.mean((0, 2, 3)), seen.var((0, 2, 3)), np.ones(1, np.float32)
    blobs["sc"] = [np.ones(12, np.float32), np.linspace(-0.2, 0.2, 12, dtype=np.float32)]
    model = random_model(WIDE, 5, blobs)
    plan = make_plan(model, dict.fromkeys(observed_values(model), 4.0))
    off = []
    for aligns in (False, True):
        one = run_pass(ChannelUnits(SAMPLES, aligns=aligns), model, plan, lambda: iter(samples))
        one = run_pass(AlignedOffsets(), model, one, lambda: iter(samples)) if aligns else one
        off.append(Guard(model, lambda: iter(samples)).noise_of_values(one))
    assert off[1] < 0.95 * off[0]


def test_once_is_enough(model, lined_up, samples):
    again = run_pass(AlignedOffsets(), model, lined_up, lambda: iter(samples))
    for name, form in lined_up.forms.items():
        for a, b in zip(form.blobs if form else (), again.forms[name].blobs if form else (), strict=True):
            np.testing.assert_array_equal(a, b)


def test_rounded_values_know_of_it(model, rounded, lined_up):
    """With float weights a value is rounded where the integers round it: moved by what the offset has given away."""
    between = model.net.layer_by_name["c"].tops[0]
    moved, none = moved_before(model, lined_up)[between], moved_before(model, rounded)[between]
    pair = next(affine_pairs(model, lined_up.forms))
    step = lined_up.thresholds["c"] / 128 / np.abs(pair.factors[:5])  # a code of the top, in units of c
    assert (np.abs(moved[:5]) <= 0.51 * step).all() and (np.abs(none[:5]) <= 0.51 * step / 8).all()
    assert np.abs(moved[:5] / step).max() > 0.1 and moved[5] == 0
    assert with_rounded_values(model, lined_up) is not model


def test_offsets_that_do_not_fit_stay(model, rounded):
    forms = dict(rounded.forms)
    forms["c"] = replace(forms["c"], bias=np.full_like(forms["c"].bias, 32767))
    changed = AlignedOffsets().apply(model, replace(rounded, forms=forms), {})
    assert (changed.forms["c"].bias.astype(int) <= 32767).all()
    kept = changed.forms["c"].bias == 32767
    np.testing.assert_array_equal(changed.forms["bn"].shift[kept], rounded.forms["bn"].shift[kept])
    assert kept.any()


def test_few_samples_leave_room_for_others(model, plan, samples):
    """Ranges of four samples clip what others have; all 30 need hardly any room."""
    rng = np.random.default_rng(11)
    others = [{"x": rng.normal(0.3, 1, (1, 3, 8, 7)).astype(np.float32)} for _ in range(40)]
    between = model.net.layer_by_name["c"].tops[0]
    for count, grows in ((4, True), (SAMPLES, False)):
        some = samples[:count]
        with_room, without = (
            run_pass(ChannelUnits(count, has_room=has_room), model, plan, lambda some=some: iter(some))
            for has_room in (True, False)
        )
        ranges = [one.thresholds[between] * one.channel_units[between] for one in (with_room, without)]
        assert (ranges[0] >= ranges[1] * 0.999).all()
        noises = [Guard(model, lambda: iter(others)).noise_of_values(one) for one in (with_room, without)]
        assert (noises[0] < 0.95 * noises[1]) == grows and noises[0] < 1.05 * noises[1]


@pytest.mark.parametrize("without", [(), ("aligned-offsets",), ("channel-units",)])
def test_a_repair_ends_with_it(model, plan, samples, without):
    """Units alone make it possible; whoever leaves one of the two out has no such stage."""
    sets = ThresholdSets(["max"], lambda name: plan, lambda name, histogram: histogram.maximum)
    told = []
    found = repair(
        model,
        sets,
        split(lambda: iter(samples), SAMPLES),
        RepairOptions(without=frozenset({"equalised-channels", *without})),
        progress=lambda *one: told.append(one),
    )
    names = [stage.name for stage in found.stages]
    assert ("aligned-offsets" in names) == (not without)
    assert told[-1][1] == told[-1][2]


def test_offsets_are_aligned_before_the_next_layer_is_refitted(model, plan, samples):
    """What later layers make up for is what the aligned network gives; afterwards there is nothing to align."""
    batches = lambda: iter(samples)  # noqa: E731
    units = run_pass(ChannelUnits(SAMPLES), model, plan, batches)
    found = refit_weights(model, units, batches, SAMPLES, aligns=True)
    again = AlignedOffsets().apply(model, found, {})
    for name in ("c", "bn"):
        for mine, theirs in zip(found.forms[name].blobs, again.forms[name].blobs, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    plain = refit_weights(model, units, batches, SAMPLES)
    assert (plain.forms["bn"].shift != found.forms["bn"].shift).any()
    windows = PairedWindows(model.op_of["d"], found.thresholds["c"], 4096)
    for sample in samples:
        codes = engine_run_int8(model, setup_of(found), sample, [Codes("c")])[Codes("c")]
        real = run_float(model, sample, ["c"])["c"]
        windows.add(windows.seen((codes.astype(np.int16) - 128).astype(np.int8), real))
    expected = problem_of(model, units, model.net.layer_by_name["d"]).solved(windows)["d"]
    np.testing.assert_array_equal(expected.weights, found.forms["d"].weights)
