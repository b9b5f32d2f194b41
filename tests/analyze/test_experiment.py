"""Runs in parts give the bits that a whole network gives, whatever is kept, and do not do again what is known."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.analyze.experiment import Experiment, ExperimentOptions, real_values
from calib8.analyze.units import units_of
from calib8.engine import EngineOptions, Executor, run_int8
from calib8.errors import DataError
from calib8.lowering.readings import Codes
from calib8.quantize import fold_groups, make_plan, observed_values, replan, setup_of

PYTHON = """
import caffe
class Double(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data
"""
ROWS = """
import caffe
class Rows(caffe.Layer):
    def setup(self, bottom, top): top[0].reshape(1, 4)
    def reshape(self, bottom, top): pass
    def forward(self, bottom, top):
        top[0].reshape(9, 4)
        top[0].data[...] = bottom[0].data[0, :, :3, :3].reshape(4, 9).T
"""
WITH_ROWS = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 6, 6] } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "rows" type: "Python" bottom: "c1" top: "rows" python_param { module: "rows" layer: "Rows" } }
layer { name: "ip1" type: "InnerProduct" bottom: "rows" top: "ip1" inner_product_param { num_output: 6 } }
layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 5 } }
"""
WITH_PYTHON = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 6, 6] } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "py" type: "Python" bottom: "c1" top: "py" python_param { module: "double" layer: "Double" } }
layer { name: "c2" type: "Convolution" bottom: "py" top: "c2" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "c2" bottom: "c1" top: "sum" }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip" inner_product_param { num_output: 5 } }
"""


def whole(model, setup, sample, names):
    return run_int8(model, setup, sample, names, EngineOptions(1, repack_weights=True))


def variants_of(model, plan, units):
    everything = setup_of(plan).int8_layers
    for unit in units:
        yield unit, setup_of(plan, unit.layers)
        yield unit, setup_of(plan, everything - set(unit.layers))
        yield unit, setup_of(plan, [n for u in units if u.stop <= unit.stop for n in u.layers])


@pytest.mark.parametrize("budget", [1 << 30, 20_000, 0])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_bits_of_the_whole_network(digits, budget, threads):
    experiment = Experiment(digits.model, digits.samples[:3], ["prob"], ExperimentOptions(threads, budget))
    for unit, setup in variants_of(digits.model, digits.plan, units_of(digits.model, digits.plan, experiment.needed)):
        variant = experiment.variant(setup)
        names = [unit.top, "prob"]

        def run(lane, sample, variant=variant, names=names, unit=unit):
            found = lane.run(sample, variant, names, [unit.start], [unit.stop])
            return {name: array.copy() for name, array in found.items()}

        for sample, found in enumerate(experiment.each(run, range(3))):
            expected = whole(digits.model, setup, digits.samples[sample], names)
            for name in names:
                np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name} with {unit.name}")
    kept = {id(a): a for s in experiment.kept._kept.values() for v in s.values() for a in v.values()}
    assert sum(a.nbytes for a in kept.values()) == experiment.kept._bytes <= budget


def test_layers_in_python_that_give_more_rows_than_they_said(tmp_path, monkeypatch, random_model):
    (tmp_path / "rows.py").write_text(ROWS)
    monkeypatch.chdir(tmp_path)
    model = random_model(WITH_ROWS)
    assert model.shapes["ip2"] == (1, 5)
    plan = make_plan(model, dict.fromkeys(observed_values(model), 6.0))
    sample = {"x": np.random.default_rng(0).standard_normal((1, 3, 6, 6), np.float32)}
    experiment = Experiment(model, [sample], ["ip2"], ExperimentOptions(threads=1))
    for unit, setup in variants_of(model, plan, units_of(model, plan, experiment.needed)):
        variant = experiment.variant(setup)
        (found,) = experiment.each(lambda lane, i, v=variant: lane.run(i, v, ["ip2"], [3, 5])["ip2"].copy(), [0])
        assert found.shape == (9, 5)
        np.testing.assert_array_equal(found, whole(model, setup, sample, ["ip2"])["ip2"], err_msg=unit.name)


def test_layers_in_python_and_values_that_skip_them(tmp_path, monkeypatch, random_model):
    (tmp_path / "double.py").write_text(PYTHON)
    monkeypatch.chdir(tmp_path)
    model = random_model(WITH_PYTHON)
    plan = make_plan(model, dict.fromkeys(observed_values(model), 6.0))
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 3, 6, 6), np.float32)} for _ in range(3)]
    experiment = Experiment(model, samples, ["ip"], ExperimentOptions(threads=2))
    for unit, setup in variants_of(model, plan, units_of(model, plan, experiment.needed)):
        variant = experiment.variant(setup)
        for keep in ([2], [3], [2, 3, 4]):
            found = experiment.each(lambda lane, i, v=variant, k=keep: lane.run(i, v, ["ip"], k)["ip"].copy(), range(3))
            for sample, array in zip(samples, found, strict=True):
                np.testing.assert_array_equal(array, whole(model, setup, sample, ["ip"])["ip"], err_msg=unit.name)


def count_layers(monkeypatch):
    """The layers of every graph that is built, in order."""
    built = []
    original = Executor.__init__

    def noted(self, steps, observed, options):
        built.append([name for step in steps for name in step.layers])
        original(self, steps, observed, options)

    monkeypatch.setattr(Executor, "__init__", noted)
    return built


def test_a_changed_threshold_recomputes_only_what_depends_on_it(digits, monkeypatch):
    experiment = Experiment(digits.model, digits.samples[:1], ["prob"])
    start, stop = experiment.position("sum"), experiment.position("conv3_3x3") + 1
    touched = ["sum", "relu_sum", "conv3_1x1", "relu3_1x1", "conv3_3x3"]
    built = count_layers(monkeypatch)

    def run(plan):
        variant = experiment.variant(setup_of(plan))
        experiment.each(lambda lane, sample: lane.run(sample, variant, ["prob"], [start], [stop]), [0])

    run(digits.plan)
    assert built[1] == touched and [layers[-1] for layers in built] == ["scale2b", "conv3_3x3", "prob"]
    built.clear()
    (source,) = [g.name for g in fold_groups(digits.model) if "sum" in g.members]
    changed = dict.fromkeys(["sum@sum", "sum"], digits.plan.thresholds[source] * 1.1)
    run(replan(digits.model, digits.plan, changed))
    assert built == [touched]  # what comes before is kept, the graph of what comes behind is there already


def test_codes_and_real_values_of_an_output_that_lies_before_what_is_kept(digits):
    experiment = Experiment(digits.model, digits.samples[:1], ["pool1", "prob"], ExperimentOptions(threads=1))
    variant = experiment.variant(setup_of(digits.plan))
    keep = [experiment.position("sum")]
    names = ["pool1", Codes("pool1"), "prob"]

    def run(lane, sample):
        return {n: a.copy() for n, a in lane.run(sample, variant, names, keep).items()}

    (first,), (second,) = experiment.each(run, [0]), experiment.each(run, [0])
    assert set(first) == set(names)
    for name in names:
        np.testing.assert_array_equal(first[name], second[name])
    threshold = digits.plan.thresholds["pool1"]
    np.testing.assert_array_equal(first["pool1"], real_values(first[Codes("pool1")], threshold))


def test_references_are_fp32(digits):
    experiment = Experiment(digits.model, digits.samples[:2], ["prob"], ExperimentOptions(threads=2))
    for sample, found in zip(digits.samples, experiment.references, strict=False):
        expected = whole(digits.model, setup_of(digits.plan, []), sample, ["prob"])
        np.testing.assert_array_equal(found["prob"], expected["prob"])


def test_without_samples_there_is_nothing_to_run(digits):
    with pytest.raises(DataError, match="no sample"):
        Experiment(digits.model, [], ["prob"])


RESIDUAL = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 9, 9] } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: CHANNELS kernel_size: 3 } }
layer { name: "n1" type: "BatchNorm" bottom: "c1" top: "n1" }
layer { name: "s1" type: "Scale" bottom: "n1" top: "s1" scale_param { bias_term: true } }
layer { name: "r1" type: "ReLU" bottom: "s1" top: "s1" }
layer { name: "c2" type: "Convolution" bottom: "s1" top: "c2"
        convolution_param { num_output: CHANNELS kernel_size: 3 pad: 1 } }
layer { name: "n2" type: "BatchNorm" bottom: "c2" top: "n2" }
layer { name: "s2" type: "Scale" bottom: "n2" top: "s2" scale_param { bias_term: true } }
layer { name: "sum" type: "Eltwise" bottom: "s1" bottom: "s2" top: "sum" }
layer { name: "c3" type: "Convolution" bottom: "sum" top: "c3"
        convolution_param { num_output: CHANNELS kernel_size: 1 } }
layer { name: "sum2" type: "Eltwise" bottom: "sum" bottom: "c3" top: "sum2" }
layer { name: "s3" type: "Scale" bottom: "sum2" top: "s3" }
layer { name: "n4" type: "BatchNorm" bottom: "s3" top: "n4" }
"""


@pytest.mark.parametrize("channels", [5, 64])
def test_joined_affines_give_the_same_bits_wherever_a_run_is_cut(random_model, channels):
    model = random_model(RESIDUAL.replace("CHANNELS", str(channels)))
    sample = {"x": np.random.default_rng(0).standard_normal((1, 3, 9, 9), np.float32)}
    tops = [top for layer in model.net.layers[1:] for top in layer.tops]

    def found(names, split, *, joined=True):
        experiment = Experiment(model, [sample], names, ExperimentOptions(threads=1, joined_affines=joined))
        run = lambda lane, i: lane.run(i, experiment.fp32, names, (), split)  # noqa: E731
        return {name: array.copy() for name, array in experiment.each(run, [0])[0].items()}

    whole = found(["n4"], [])["n4"]
    pairs = {model.net.layer_by_name[name].tops[0] for name in model.batch_norm_pairs}
    for at, layer in enumerate(model.net.layers):
        if at and not pairs.intersection(layer.tops):  # a BatchNorm and its Scale are one unit: no run is cut there
            np.testing.assert_array_equal(found(["n4"], [at + 1])["n4"], whole, err_msg=layer.name)
    everything, plain = found(tops, []), found(tops, [], joined=False)
    np.testing.assert_array_equal(everything["n4"], whole)
    for name in tops:
        near = 1e-5 * np.abs(plain[name]).max()
        np.testing.assert_allclose(everything[name], plain[name], rtol=0, atol=near, err_msg=name)
    assert any(not np.array_equal(everything[name], plain[name]) for name in tops)


def test_values_before_a_position_are_forgotten(digits):
    experiment = Experiment(digits.model, digits.samples[:2], ["prob"], ExperimentOptions(threads=1))
    experiment.each(lambda lane, i: lane.run(i, experiment.fp32, ["prob"], [2, 4, 6]), range(2))
    experiment.kept.forget(4)
    assert sorted(len(beginning) for beginning in experiment.kept._kept) == [4, 6]
    kept = {id(a): a for s in experiment.kept._kept.values() for v in s.values() for a in v.values()}
    assert sum(a.nbytes for a in kept.values()) == experiment.kept._bytes
    assert experiment.fp32.longest(experiment.kept, 0, 3) == (0, {})


def test_real_values_of_codes():
    codes = np.arange(256, dtype=np.uint8).reshape(1, 2, 128)
    expected = ((np.arange(256) - 128) * 3.3 / 128).astype(np.float32).reshape(1, 2, 128)
    np.testing.assert_array_equal(real_values(codes, 3.3), expected)
    units = np.array([1.0, 0.25])
    np.testing.assert_array_equal(real_values(codes, 3.3, units), expected * np.float32([[[1], [0.25]]]))
    assert real_values(codes[:, :, :0], 3.3).shape == (1, 2, 0)
