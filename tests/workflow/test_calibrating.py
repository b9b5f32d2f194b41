"""Opening a network and calibrating it as a library: the same as the command, and what it refuses."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import calib8
from calib8 import (
    CalibrateOptions,
    calibrate_given,
    change_thresholds,
    choose_thresholds,
    open_network,
    read_calibration,
)
from calib8.cli.main import main
from calib8.data import SampleSource, takes
from calib8.errors import DataError, OptionError, QuantizationError, TableError
from calib8.quantize import observed_values
from calib8.repair import Guard, split
from calib8.repair.guard import judged_values
from calib8.workflow import calibrate, calibrate_again, needed_histograms, repairing

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
FILES = DIGITS / "deploy.prototxt", DIGITS / "custom.caffemodel"


def test_every_public_name_is_there_and_says_what_it_does():
    for name in calib8.__all__:
        assert getattr(calib8, name).__doc__, name
    assert calib8.__version__ == version("calib8")


def test_the_files_of_the_command(network, result, tmp_path):
    (tmp_path / "library").mkdir()
    (tmp_path / "command").mkdir()
    calib8.write_calibration_files(tmp_path / "library", "digits", network.model, result.plan)
    command = ["calibrate", "digits", str(DIGITS), "-n", "20", "--method", "mse", "--repair", "none"]
    assert main([*command, "--output", str(tmp_path / "command")]) == 0
    folders = [tmp_path / "library", tmp_path / "command"]
    written, by_command = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    records = [json.loads(files.pop("bmnet_digits.calib8.json")) for files in (written, by_command)]
    assert "bmnet_digits_int8.caffemodel" in written and written == by_command
    assert records[0].items() <= records[1].items()  # the command adds its options


def test_files_are_read_again(network, result, tmp_path):
    _, _, table, _ = paths = calib8.write_calibration_files(tmp_path, "digits", network.model, result.plan)
    again = read_calibration(network, table, paths[0])
    assert again.plan.thresholds == result.plan.thresholds and again.origin == str(table)
    for name, own in result.plan.forms.items():
        if own is not None:
            assert all(np.array_equal(a, b) for a, b in zip(own.blobs, again.plan.forms[name].blobs, strict=True))


def test_another_method_needs_no_new_run(network, result):
    other = choose_thresholds(network, result.histograms, CalibrateOptions(method="max", repair="none"))
    data = network.model.inputs[0]
    assert other.thresholds[data] == np.float32(result.histograms[data].maximum) != result.thresholds[data]
    assert other.origin == "max, 100 images" and result.origin == "mse, 20 images"
    with pytest.raises(OptionError, match=r"kl lacks histograms of 1\d values \('data' \.\.\); needed_histograms"):
        choose_thresholds(network, result.histograms, CalibrateOptions(method="kl"))


def test_only_what_a_method_lacks_is_measured(network, result):
    told = []
    options = CalibrateOptions(iteration=20, method="kl-fine")
    assert needed_histograms(network, options, result.histograms, told.append) is result.histograms and not told
    found = needed_histograms(network, CalibrateOptions(iteration=20, method="kl"), result.histograms, told.append)
    assert told[-1].done == told[-1].total == 40
    behind = [v for v in result.histograms if v not in observed_values(network.model, as_written=True)]
    assert behind and all(found[v] is result.histograms[v] for v in behind)
    assert found["data"].exact and not result.histograms["data"].exact


def test_changed_thresholds_leave_the_others(network, result):
    changed = change_thresholds(network, {"pool1": 3.5}, result)
    assert changed.plan.thresholds["pool1"] == 3.5 and changed.histograms is result.histograms
    assert changed.thresholds["data"] == result.thresholds["data"] and result.plan.thresholds["pool1"] != 3.5
    with pytest.raises(TableError, match="no threshold"):
        change_thresholds(network, {"pool1": 3.5})


def by_layer(network, plan):
    """A plan's thresholds by the names that a table has; those of blobs mean their last writers."""
    return {layer.name: plan.thresholds[layer.tops[0]] for layer in network.model.net.layers}


def held_out_noise(network, plan):
    """Of 40 samples behind the first 60."""
    samples = list(takes(network.samples, 100, 60))
    return Guard(network.of_one_sample, split(lambda: iter(samples), 40, every=1).guard).noise(plan)


@pytest.mark.parametrize("method", ["kl", "mse", "max"])
def test_given_thresholds_are_kept_and_integers_repaired(network, method):
    plain = calibrate(network, CalibrateOptions(iteration=60, method=method, repair="none"))
    found = calibrate_given(network, by_layer(network, plain.plan), CalibrateOptions(iteration=60))
    assert found.plan.thresholds == plain.plan.thresholds and not found.plan.channel_units
    assert found.repaired.best.noise <= found.repaired.plain[0].noise
    before, after = (held_out_noise(network, one.plan) for one in (plain, found))
    assert after < before if method == "mse" else after <= before


def test_given_thresholds_without_a_repair_are_the_contract_s(network, result):
    options = CalibrateOptions(repair="none")
    found, plain = calibrate_given(network, by_layer(network, result.plan), options), result.plan
    assert found.repaired is None and found.plan.thresholds == plain.thresholds and not found.plan.given
    for name, own in plain.forms.items():
        if own is not None:
            assert all(np.array_equal(a, b) for a, b in zip(own.blobs, found.plan.forms[name].blobs, strict=True))


def test_some_given_thresholds_leave_the_others(network, result):
    found = calibrate_given(network, {"pool1": 3.5}, before=result, origin="by hand")
    assert found.plan.thresholds == {**result.plan.thresholds, "pool1": 3.5} and found.origin == "by hand"
    assert found.histograms is result.histograms and found.repaired is not None
    with pytest.raises(TableError, match="no threshold"):
        calibrate_given(network, {"pool1": 3.5})


def test_without_samples_given_thresholds_are_not_repaired(network, result, caplog):
    """None at all, one that nothing is left beside of, and some that cannot be read, of which the head says nothing."""

    class Broken(SampleSource):
        shapes, size, batch_size, notes = network.samples.shapes, 20, 1, ()

        def batches(self):
            raise DataError("the disk is gone", ["and the network, too"])
            yield

    given = by_layer(network, result.plan)
    plain = change_thresholds(network, given).plan
    options = CalibrateOptions(iteration=10)
    for source, iteration, said in ((None, 10, "no data layer"), (Broken(), 10, "the disk is gone"), (..., 1, "of 1")):
        caplog.clear()
        other = network if source is ... else dataclasses.replace(network, source=source)
        found = calibrate_given(other, given, dataclasses.replace(options, iteration=iteration))
        assert found.repaired is None
        assert len(caplog.messages) == 1 and said in caplog.text and "\n" not in caplog.messages[0]
        for name, own in plain.forms.items():
            other = found.plan.forms[name]
            assert own is None or all(np.array_equal(a, b) for a, b in zip(own.blobs, other.blobs, strict=True))


def test_progress_is_told_image_by_image(network):
    told = []
    calibrate(network, CalibrateOptions(iteration=4, two_pass=True, threads=1, repair="none"), told.append)
    assert {(one.stage, one.total) for one in told} == {("calibrating", 8)}
    assert [one.done for one in told] == list(range(1, 9))


def test_options_are_refused_before_anything_runs():
    for wrong in ({"method": "guess"}, {"bins": 100}, {"threads": 0}):
        with pytest.raises(OptionError):
            CalibrateOptions(**wrong)
    with pytest.raises(dataclasses.FrozenInstanceError):
        CalibrateOptions().iteration = 3


def test_given_shapes_need_no_data(tmp_path):
    for file in FILES:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    files = tmp_path / FILES[0].name, tmp_path / FILES[1].name
    with pytest.raises(DataError):
        open_network(*files)
    network = open_network(*files, shapes={"data": (3, 1, 8, 8)})
    assert network.model.shapes["data"] == (3, 1, 8, 8) and network.of_one_sample.shapes["data"] == (1, 1, 8, 8)
    with pytest.raises(DataError, match="no data layer that gives samples"):
        calibrate(network)


def test_public_names_are_loaded_when_they_are_asked_for():
    """In three places: for the reader and type checkers, for `import *`, and for whoever asks."""
    tree = ast.parse(Path(calib8.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in typed.body for alias in node.names}
    assert sorted(imported) == sorted(calib8.__all__)
    for name, module in imported.items():
        assert getattr(calib8, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = calib8.nothing


def test_formats_of_other_tools(network, result, tmp_path):
    written = [calib8.write_format(tmp_path, one, "d", network.model, result.plan) for one in ("onnx", "tpu-mlir")]
    assert [path.name for paths in written for path in paths] == ["d_float.onnx", "d_qdq.onnx", "d_cali_table"]
    assert [path.name for path in calib8.write_format(tmp_path, "onnx", "e", network.model)] == ["e_float.onnx"]
    with pytest.raises(OptionError, match="`format` tpu-mlir is for a calibrated network"):
        calib8.write_format(tmp_path, "tpu-mlir", "e", network.model)
    with pytest.raises(OptionError, match="`format` is 'tflite'; expected one of tpu-mlir, onnx"):
        calib8.write_format(tmp_path, "tflite", "e", network.model)


def test_another_batch(network):
    assert network.with_batch(3).model.shapes["data"] == (3, 1, 8, 8)
    with pytest.raises(OptionError, match="`batch` is 0"):
        network.with_batch(0)


def test_check_collects_what_is_wrong(tmp_path):
    assert not calib8.check(*FILES).problems
    (tmp_path / "net").write_text('layer { name: "a" type: "ReLU" bottom: "nobody" top: "a" }')
    found = calib8.check(tmp_path / "net", tmp_path / "missing")
    assert len(found.problems) == 2 and "missing" in found.problems[0] and "nobody" in found.problems[1]


def test_a_repair_by_default(network):
    """Several sets of thresholds, a guard of every fifth image, and what it found in the result."""
    told = []
    repaired = calibrate(network, CalibrateOptions(iteration=20), told.append)
    assert repaired.origin == "mse/kl/kl-fine/percentile, 20 images, standard repair"
    assert repaired.repaired.guarding == 4 and repaired.plan is repaired.repaired.best.plan
    assert [one.stage for one in told].count("repairing") > 0
    last = told[-1]
    assert last.done == last.total
    assert repaired.repaired.best.noise < repaired.repaired.plain[0].noise
    again = calibrate_again(network, repaired.histograms, CalibrateOptions(iteration=20))
    assert again.repaired.lines() == repaired.repaired.lines()


def test_a_repair_reads_only_what_it_looks_at(network, monkeypatch):
    """Of many samples a few, evenly; where the source cannot seek, all are read, for the same result."""
    for room in ("workflow.repairing", "repair.guard"):
        monkeypatch.setattr(f"calib8.{room}.MOST_RUNS", 10)
    options = CalibrateOptions(iteration=100, method="mse", without=frozenset(["equalised-channels"]))
    histograms = needed_histograms(network, options)
    kind, starts = type(network.samples), []
    seek = kind.batches_from
    monkeypatch.setattr(kind, "batches_from", lambda self, start: starts.append(start) or seek(self, start))
    found = calibrate_again(network, histograms, options)
    assert set(starts) == set(range(5, 100, 10)) and found.repaired.guarding == 2
    starts.clear()
    monkeypatch.setattr("calib8.workflow.repairing.Seekable", int)
    assert calibrate_again(network, histograms, options).repaired.lines() == found.repaired.lines()
    assert set(starts) == {0}


class OneByOne:
    """A source of single samples, which says where it was begun to be read, and how many it gave."""

    def __init__(self, source):
        self.shapes = {top: (1, *shape[1:]) for top, shape in source.shapes.items()}
        self.size, self.batch_size, self.notes, self.starts, self.given = source.size, 1, (), [], 0
        self._samples = [
            {t: a[i : i + 1] for t, a in b.items()} for b in source.batches() for i in range(len(b["data"]))
        ]

    def batches(self):
        return self.batches_from(0)

    def batches_from(self, start):
        self.starts.append(start)
        for sample in self._samples[start:]:
            self.given += 1
            yield dict(sample)


@pytest.mark.parametrize(("kept", "times"), [(0, (8, 3)), (1 << 20, (1, 1)), (7 * 270, None)])
def test_a_measurement_reads_only_the_samples_that_are_held_out(network, monkeypatch, kept, times):
    """And what there is room to keep it reads once, with the same result."""
    monkeypatch.setattr("calib8.workflow.repairing._KEPT_BYTES", kept)
    options = CalibrateOptions(iteration=20, method="mse", without=frozenset(["equalised-channels", "thresholds"]))
    single = dataclasses.replace(network, source=OneByOne(network.samples))
    histograms, source = needed_histograms(single, options), single.samples
    source.starts.clear()
    source.given = 0
    found = calibrate_again(single, histograms, options)
    assert source.given == len(source.starts) and source.starts[:4] == [4, 9, 14, 19]
    assert found.repaired.lines() == calibrate_again(network, histograms, options).repaired.lines()
    counted = {number: source.starts.count(number) for number in range(20)}
    held_out = {counted.pop(number) for number in (4, 9, 14, 19)}
    assert (held_out, set(counted.values())) == (({times[0]}, {times[1]}) if times else ({1}, {1, 3}))


def test_parts_of_a_repair_are_left_out(network, result):
    options = CalibrateOptions(iteration=20, method="mse", without=frozenset(["compensated-rounding", "channel-units"]))
    found = calibrate_again(network, result.histograms, options)
    stages = [stage.name for stage in found.repaired.stages]
    assert stages[:3] == ["equalised-channels, least noise", "bias-correction", "refitted-weights"]
    # Four images decide whether units break it, and they differ by the machine's own last bits.
    assert stages[3:] in ([], ["as it is", "as it is, bias-correction", "as it is, refitted-weights"])
    assert len(found.repaired.plain) == 1 and found.origin == "mse, 20 images, standard repair"
    with pytest.raises(OptionError, match="choose from thresholds"):
        CalibrateOptions(without=frozenset(["magic"]))


def test_one_image_is_too_few_for_a_repair(network, caplog):
    found = calibrate(network, CalibrateOptions(iteration=1))
    assert found.repaired is None and "nothing is repaired" in caplog.text
    plain = calibrate(network, CalibrateOptions(iteration=1, method="mse", repair="none"))
    assert found.plan.thresholds == plain.plan.thresholds


def test_answers_of_few_samples_have_room_for_larger_ones(network, monkeypatch):
    with_room = calibrate(network, CalibrateOptions(iteration=10))
    without = calibrate(network, CalibrateOptions(iteration=10, without=frozenset(["tail-room"])))
    (answer,) = judged_values(network.model)
    largest = without.histograms[answer].maximum
    assert without.plan.thresholds[answer] <= largest * 1.03 < with_room.plan.thresholds[answer]

    real = repairing.make_plan

    def refused(model, thresholds, *others):
        if thresholds[answer] > largest * 1.03:
            raise QuantizationError("the contract cannot express that")
        return real(model, thresholds, *others)

    monkeypatch.setattr(repairing, "make_plan", refused)
    narrow = calibrate(network, CalibrateOptions(iteration=10, without=frozenset(["equalised-channels"])))
    assert narrow.plan.thresholds[answer] <= largest * 1.03
