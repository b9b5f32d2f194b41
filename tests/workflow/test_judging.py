"""Judging and tuning as a library: the results of the commands, functions as metrics, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from calib8 import DropOptions, Metric, SensitivityOptions, TuneOptions, Tuner, sensitivity, tune
from calib8.cli.main import main
from calib8.errors import DataError, OptionError, QuantizationError
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import write_caffemodel
from calib8.workflow import change_thresholds, open_network, write_mixed, write_sensitivity, write_tuning
from calib8.workflow.judging import make_judge

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
IGNORED = frozenset(["conv1", "pool1", "conv2a", "conv2b", "sum", "relu_sum", "conv3_3x3", "pool3"])
FEW = TuneOptions(samples=4, held_out=6, ignored=IGNORED, iteration=20)


@pytest.fixture(scope="module")
def commands(network, tmp_path_factory):
    """What the commands write of the same calibration."""
    folder = tmp_path_factory.mktemp("commands") / "digits"
    shutil.copytree(DIGITS, folder, ignore=shutil.ignore_patterns("bmnet_*"))
    assert main(["calibrate", "digits", str(folder), "-n", "20", "--method", "mse", "--repair", "none"]) == 0
    judged = ["digits", str(folder), "--samples", "4", "-n", "20", "--output", str(folder)]
    assert main(["sensitivity", *judged, "--no-picture"]) == 0
    (folder / "tuned").mkdir()
    judged[-1] = str(folder / "tuned")
    assert main(["tune", *judged, "--held-out", "6", "--ignore_layer_list", ",".join(IGNORED)]) == 0
    return folder


def test_sensitivity_as_the_command_says_it(network, result, commands, tmp_path):
    found = sensitivity(network, result, SensitivityOptions(samples=4))
    paths = write_sensitivity(tmp_path, "digits", found, result.origin)
    written, expected = (json.loads((f / paths[0].name).read_text()) for f in (tmp_path, commands))
    assert written.pop("thresholds") == "mse, 20 images" and expected.pop("thresholds").endswith(".pb2")
    assert written == expected and len(paths) == 2


def test_tuning_as_the_command_does_it(network, result, commands, tmp_path):
    told = []
    found = tune(network, result, FEW, told.append)
    assert found.found.after.tuned < found.found.before.tuned
    assert found.calibration.plan is found.plan and found.calibration.origin.endswith("mse, 20 images")
    for path in write_tuning(tmp_path, "digits", network, found):
        assert path.read_bytes() == (commands / "tuned" / path.name).read_bytes(), path.name
    record = json.loads((tmp_path / "bmnet_digits.calib8.json").read_text())
    assert set(record["files"]) == {p.name for p in tmp_path.iterdir()} - {"bmnet_digits.calib8.json"}
    # "calibrating" is what kl looks at, before the ReLU: mse, which the calibration was made by, has not measured it.
    assert {one.stage for one in told} == {"calibrating", "tuning"} and all(0 <= one.done <= one.total for one in told)


def test_a_record_goes_on(network, result, tmp_path, caplog):
    original = TuneOptions(samples=2, held_out=0, search="original", layer="conv1", record=tmp_path / "new" / "record")
    first = tune(network, result, original)
    assert first.search == "original, one layer" and set(first.differences) == {"conv1"}
    again = tune(network, result, original)
    assert "goes on behind" in caplog.text and again.plan.thresholds == first.plan.thresholds


def test_mixed_precision_and_damage(network, result, tmp_path):
    metric = Metric("difference")
    tuner = Tuner(network, result, TuneOptions(samples=4, held_out=0, search="none"), DropOptions(1e-9, metric))
    mixed = tuner.mixed_precision()
    assert mixed.metric == "difference" and mixed.found.kept and mixed.samples == 4
    assert write_mixed(tmp_path, "digits", network, mixed)[0].name == "bmnet_digits_mixed.json"
    names = ["bmnet_digits_fp32_layers.txt", "bmnet_digits_int8_layer.txt", "bmnet_digits_mixed.json"]
    assert list(json.loads((tmp_path / "bmnet_digits_mixed.calib8.json").read_text())["files"]) == names
    damage = tuner.layer_damage()
    assert damage.whole > 0 and list(damage.differences)[-1] == "ip"
    with pytest.raises(OptionError, match="leaves nothing to tune"):
        tuner.tune()
    with pytest.raises(OptionError, match="DropOptions"):
        Tuner(network, result, TuneOptions(samples=4)).mixed_precision()


def test_a_function_as_metric(network, result):
    def agreement(fp32, int8):
        assert set(fp32) == {"prob"} and len(fp32["prob"]) == 4
        return (fp32["prob"].argmax(1) == int8["prob"].argmax(1)).mean()

    found = sensitivity(network, result, SensitivityOptions(samples=4, metric=Metric(function=agreement)))
    assert found.judge.endswith("agreement") and 0 <= found.whole_loss <= 1

    def broken(fp32, int8):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # the caller's own function, and his own traceback
        sensitivity(network, result, SensitivityOptions(samples=4, metric=Metric(function=broken)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "`samples` is 0"),
        ({"budget": -1}, "`budget` is -1"),
        ({"search": "best"}, "`search` is 'best'"),
        ({"at": "end"}, "`at` is 'end'"),
        ({"minutes": 0}, "`minutes` is 0"),
        ({"held_out": -1}, "`held_out` is -1"),
        ({"layer": "ip", "difference": -1}, "`difference` is -1"),
        ({"difference": 1}, "`difference` is that of a layer"),
    ],
)
def test_options_that_are_refused(wrong, message):
    with pytest.raises(OptionError, match=message):
        TuneOptions(**wrong)


def test_all_that_is_wrong_is_said_together():
    with pytest.raises(OptionError) as error:
        TuneOptions(samples=0, minutes=-1)
    assert len(error.value.problems) == 2
    for wrong in ({"name": "difference", "labels": "l.txt"}, {"name": "top1", "anchors": ((1, 2),)}):
        with pytest.raises(OptionError, match="are not read by `metric`"):
            Metric(**wrong)
    with pytest.raises(OptionError, match="`max_drop` is -1"):
        DropOptions(-1)


def test_what_does_not_fit_the_network(network, result):
    with pytest.raises(OptionError, match="there is no layer 'nobody'"):
        Tuner(network, result, TuneOptions(ignored={"nobody"}))
    with pytest.raises(OptionError, match="layer 'bn1' has no threshold to tune"):
        Tuner(network, result, TuneOptions(samples=2, layer="bn1"))
    with pytest.raises(DataError, match="`samples` asks for 9999 images, and the data have 150"):
        sensitivity(network, result, SensitivityOptions(samples=9999))


def test_nothing_in_int8(tmp_path):
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3] } } }\n'
    text += 'layer { name: "prob" type: "Softmax" bottom: "x" top: "prob" }\n'
    (tmp_path / "deploy.prototxt").write_text(text)
    write_caffemodel(tmp_path / "w", "softmax", [(caffe_pb2.LayerParameter(name="prob", type="Softmax"), [])])
    network = open_network(tmp_path / "deploy.prototxt", tmp_path / "w")
    with pytest.raises(QuantizationError, match="no layer of this network runs in INT8"):
        sensitivity(network, change_thresholds(network, {"x": 1.0, "prob": 1.0}))


@pytest.mark.parametrize("order", [("box", "prob"), ("prob", "box")])
def test_top1_is_that_of_classes_not_of_boxes_beside_them(random_model, order):
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 4] } } }
    layer { name: "box" type: "InnerProduct" bottom: "data" top: "box" inner_product_param { num_output: 4 } }
    layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }
    layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
    """
    model = random_model(text)
    judge = make_judge(Metric("top1"), model, order, None)
    reference = {"box": np.float32([[1, 2, 3, 4]]), "prob": np.float32([[0, 1, 0]])}
    result = {"box": np.float32([[4, 3, 2, 1]]), "prob": np.float32([[0, 1, 0]])}
    assert judge.loss([0], [judge.part(reference, result)]) == 0
    result["prob"] = np.float32([[1, 0, 0]])
    assert judge.loss([0], [judge.part(reference, result)]) == 1
