"""Reports: what stands in them, numbers that JSON does not know, names that hold anything, the same bytes twice."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.analyze.judges import SquaredDifference
from calib8.analyze.mixed import KeptUnit, MixedPrecision
from calib8.analyze.pictures import sensitivity_picture, shown_tops
from calib8.analyze.report import (
    SENSITIVITY_HEADER,
    difference_log,
    mixed_json,
    sensitivity_csv,
    sensitivity_json,
    sensitivity_rows,
    sensitivity_table,
    tuning_json,
)
from calib8.analyze.search import Accept
from calib8.analyze.sensitivity import measure_sensitivity
from calib8.analyze.tuning import Losses, TuningResult
from calib8.analyze.units import Unit
from calib8.errors import OptionError
from calib8.measure.histogram import AdaptiveHistogram
from calib8.quantize import replan


@pytest.fixture(scope="module")
def found(digits):
    experiment = Experiment(digits.model, digits.samples[:3], ["prob"], ExperimentOptions(threads=1))
    return measure_sensitivity(experiment, digits.plan, SquaredDifference(["prob"]), ["prob"])


def test_json_has_every_figure_of_every_unit(found):
    report = json.loads(sensitivity_json("digits", "kl", found))
    assert (report["network"], report["thresholds"], report["samples"], report["metric"]) == (
        "digits",
        "kl",
        3,
        "difference",
    )
    assert report["int8"]["loss"] == found.whole_loss
    for row, unit in zip(report["units"], found.units, strict=True):
        assert row["layers"] == list(unit.unit.layers) and row["threshold"] == unit.threshold
        assert row["saturation"] == unit.usage.saturation and row["codes_in_use"] == unit.usage.in_use
        for mode, damage in unit.damage.items():
            assert row[mode]["loss"] == damage.loss
            for where, figures in (("outputs", damage.outputs), ("own_top", damage.own)):
                for figure, value in row[mode][where].items():
                    own = getattr(figures, figure)
                    assert value == own if math.isfinite(own) else value is None, (unit.unit.name, mode, where, figure)
    assert report["units"][0]["without"]["own_top"]["snr_db"] is None  # the first layer's FP32 top: no error at all


def test_csv_has_the_same_numbers_the_worst_first(found):
    lines = list(csv.DictReader(io.StringIO(sensitivity_csv(found).decode())))
    assert [line["layers"] for line in lines] == [unit.unit.name for unit in found.ranked()]
    for line, unit in zip(lines, found.ranked(), strict=True):
        assert float(line["alone_loss"]) == unit.damage["alone"].loss
        assert float(line["without_own_top_snr_db"]) == unit.damage["without"].own.snr_db
        assert float(line["cumulative_outputs_cosine"]) == unit.damage["cumulative"].outputs.cosine


def test_the_table(found):
    rows = sensitivity_rows(found)
    assert all(len(row) == len(SENSITIVITY_HEADER) for row in rows)
    assert rows[0][0] == found.ranked()[0].unit.name


def test_top_1_only_of_outputs_that_hold_classes(found):
    assert sensitivity_table(found) == [SENSITIVITY_HEADER, *sensitivity_rows(found)] and found.whole.top1 >= 0
    assert found.of_classes(["prob"]) == found
    none = found.of_classes([])
    header, *rows = sensitivity_table(none)
    assert "top-1" not in header and all(len(row) == len(header) for row in rows)
    assert math.isnan(none.whole.top1) and none.whole.snr_db == found.whole.snr_db
    units = json.loads(sensitivity_json("digits", "kl", none))["units"]
    assert {unit[mode]["outputs"]["top1"] for unit in units for mode in ("alone", "cumulative", "without")} == {None}
    assert units[0]["alone"]["own_top"]["top1"] is not None


def test_the_same_bytes(found):
    assert sensitivity_json("d", "kl", found) == sensitivity_json("d", "kl", found)
    assert sensitivity_csv(found) == sensitivity_csv(found)


def test_tuning(digits):
    group = "ip"
    plan = replan(digits.model, digits.plan, {group: digits.plan.thresholds[group] * 2})
    steps = (
        Accept({group: 2.0}, 4.0, 3.0, 5.0, 4.5),
        Accept({group: 2.5}, 3.0, 2.0, method="mse"),
        Accept({group: 3.0}, 2.0, 1.0, target="ip"),
    )
    result = TuningResult(plan, Losses(4.0, 5.0), Losses(math.inf, None), steps, 7, False, {})
    report = json.loads(tuning_json("d", "candidates", "difference", (10, 30), digits.plan, result, digits.model))
    assert report["loss"] == {"before": {"tuned": 4.0, "held_out": 5.0}, "after": {"tuned": None, "held_out": None}}
    assert [step["method"] for step in report["accepted"]] == [None, "mse", None]
    assert report["accepted"][0]["thresholds"] == {"ip": 2.0} and report["accepted"][0]["held_out_after"] == 4.5
    assert [(row["layer"], row["after"]) for row in report["thresholds"]] == [("ip", plan.thresholds["ip"])]
    assert report["samples"] == {"tuned": 10, "held_out": 30} and report["finished"] is False


def test_mixed_precision():
    unit = Unit(("bn", "scale"), "s", "s", 1, 3)
    proposal = MixedPrecision((KeptUnit(unit, 0.5),), 0.6, 0.1, ("conv",), ("bn", "scale"))
    report = json.loads(mixed_json("d", "top1", 20, 0.2, proposal))
    assert report["kept"] == [{"layers": ["bn", "scale"], "buys": 0.5}]
    assert report["drop"] == {"all_in_int8": 0.6, "proposed": 0.1, "allowed": 0.2}
    assert (report["int8_layer"], report["fp32_layers"]) == ("conv", ["bn", "scale"])


def test_report_log():
    assert difference_log({"conv1": 0.25, "fc/2": 1e-12}) == b"conv1 0.25\nfc/2 1e-12\n"


def test_a_picture_is_a_png_and_the_same_twice(found):
    pytest.importorskip("matplotlib")
    counter = AdaptiveHistogram()
    counter.add(np.random.default_rng(0).standard_normal(1000, np.float32))
    histograms = dict.fromkeys(shown_tops(found), counter.result())
    first = sensitivity_picture("d$i", found, histograms)
    assert first.startswith(b"\x89PNG\r\n") and first == sensitivity_picture("d$i", found, histograms)
    assert sensitivity_picture("d", found, {}).startswith(b"\x89PNG\r\n")


def test_without_matplotlib(found, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(OptionError, match="calib8\\[plot\\]"):
        sensitivity_picture("d", found, {})
