"""The guide's class: its keys, its methods, its files, and that nothing but the data decides what is in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8 import Calibration
from calib8.errors import CaffemodelError, Calib8Error, DataError, OptionError, TableError
from calib8.measure.thresholds import METHODS
from calib8.proto import calibration_pb2
from calib8.proto.caffemodel import read_caffemodel

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"


@pytest.fixture
def folder(tmp_path):
    """A copy of the network that the repository carries."""
    copy = tmp_path / "digits"
    shutil.copytree(DIGITS, copy, ignore=shutil.ignore_patterns("bmnet_*"))
    return copy


def info_of(folder, **changes):
    return {
        "model_name": "digits",
        "in_prototxt": folder / "deploy.prototxt",
        "in_caffemodel": str(folder / "custom.caffemodel"),
        "iteration": 40,
        **changes,
    }


def files_of(folder, output, threads=2, repair="standard", **changes):
    output.mkdir()
    calibration = Calibration(info_of(folder, **changes), threads=threads, repair=repair)
    calibration.calc_tables()
    return {path.name: path.read_bytes() for path in calibration.export(output)}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of the network as it is, in bytes."""
    return files_of(DIGITS, tmp_path_factory.mktemp("first") / "files")


def test_the_guide_s_own_lines(folder, tmp_path):
    calibration = Calibration(info_of(folder, enable_memory_opt=False, enable_calibration_opt=1, histogram_bin_num=2048,
                                      math_lib_path="./lib/calibration_math.so"))  # fmt: skip
    calibration.calc_tables()
    calibration.export_model(f"{tmp_path}/bmnet_digits_int8.caffemodel")
    calibration.export_calibration_pb2(f"{tmp_path}/bmnet_digits_calibration_table")
    calibration.export_calirabtion_pb2(f"{tmp_path}/again")
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    table = {f"bmnet_digits_calibration_table{suffix}" for suffix in ("", ".pb2", ".prototxt")}
    records = {"bmnet_digits.calib8.json", "again.calib8.json"}
    assert names == {"bmnet_digits_int8.caffemodel", *table, "again", "again.pb2", "again.prototxt", *records}
    message = calibration_pb2.NetCalibrationParameter.FromString((tmp_path / "again.pb2").read_bytes())
    assert message.name == "digits"
    assert [row.name for row in message.layer] == [layer.name for layer in calibration.model.net.layers]


@pytest.mark.parametrize(
    "changes",
    [{}, {"threads": 1}, {"threads": 3}, {"enable_memory_opt": 1}, {"math_lib_path": "elsewhere"}],
    ids=str,
)
def test_the_same_data_give_the_same_bytes(folder, tmp_path, expected, changes):
    assert len(expected) == 4
    assert files_of(folder, tmp_path / "second", **changes) == expected


def test_the_batch_size_changes_nothing(folder, tmp_path, expected):
    expected = dict(expected)
    prototxt = folder / "deploy.prototxt"
    text = prototxt.read_text()
    assert "batch_size: 10" in text
    prototxt.write_text(text.replace("batch_size: 10", "batch_size: 7"))
    found = files_of(folder, tmp_path / "second")
    # The int8 model holds the layers' parameters, so the batch size itself; its blobs are the same.
    model = expected.pop("bmnet_digits_int8.caffemodel")
    assert found.pop("bmnet_digits_int8.caffemodel") != model
    assert found == expected
    first = tmp_path / "first.caffemodel"
    first.write_bytes(model)
    one, other = map(read_caffemodel, (first, tmp_path / "second" / "bmnet_digits_int8.caffemodel"))
    for layer, twin in zip(one.layers, other.layers, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(layer.blobs, twin.blobs, strict=True)), layer.name


def test_one_pass_finds_the_thresholds_of_two(folder):
    found = []
    for optimised in (1, 0):
        calibration = Calibration(info_of(folder, enable_calibration_opt=optimised), method="kl-fine", repair="none")
        calibration.calc_tables()
        found.append(calibration)
    one, two = found
    assert one.thresholds.keys() == two.thresholds.keys() == two.histograms.keys()
    for value, histogram in two.histograms.items():
        assert histogram.exact and not one.histograms[value].exact
        assert one.histograms[value].maximum == histogram.maximum
        # A count that moves may tip the choice between two candidates that are nearly equal, no further.
        assert one.thresholds[value] == pytest.approx(two.thresholds[value], rel=0.15)


def test_iteration_counts_images(folder):
    calibration = Calibration(info_of(folder, iteration=13), repair="none")
    calibration.calc_tables()
    data = calibration.model.inputs[0]
    assert calibration.histograms[data].samples == 13 * 64


def test_without_iteration_it_takes_100_images_or_all_there_are(folder):
    info = info_of(folder)
    del info["iteration"]
    for given in (info, {**info, "iteration": None}):
        calibration = Calibration(given, repair="none")
        calibration.calc_tables()
        calibration.find_tables("max")
        assert calibration.result.origin == f"max, {min(100, calibration.network.samples.size)} images"


def test_more_images_than_there_are(folder):
    calibration = Calibration(info_of(folder, iteration=100_000))
    with pytest.raises(DataError, match=r"100000 images.*the data set has \d+"):
        calibration.calc_tables()


def test_concat_quantize_keeps_thresholds_apart(folder):
    together, apart = (Calibration(info_of(folder, enable_concat_quantize=on), repair="none") for on in (0, 1))
    together.calc_tables()
    apart.calc_tables()
    bottoms = apart.model.net.layer_by_name["concat3"].bottoms
    assert len({together.plan.thresholds[b] for b in bottoms}) == 1
    assert len({apart.plan.thresholds[b] for b in bottoms}) == 2
    assert apart.plan.forms["concat3"].rshifts


def test_methods_from_one_set_of_histograms(folder):
    calibration = Calibration(info_of(folder), repair="none")
    calibration.calc_tables()
    measured = dict(calibration.thresholds)
    found = {}
    for method in METHODS:
        calibration.find_tables(method)
        found[method] = dict(calibration.thresholds)
    assert found["kl"] == measured
    data = calibration.model.inputs[0]
    assert found["max"][data] == np.float32(calibration.histograms[data].maximum)
    assert len({tuple(t.values()) for t in found.values()}) == len(METHODS)


def test_tune_tables_by_layer_and_by_blob(folder):
    calibration = Calibration(info_of(folder))
    calibration.calc_tables()
    before = dict(calibration.plan.thresholds)
    # The layer conv1 writes the first version of the blob conv1; the blob's name means its last version.
    calibration.tune_tables({"conv1": 1.5, "relu1": 2.5, "pool1": 3.5})
    after = calibration.plan.thresholds
    first, last = calibration.model.net.values_of_blob["conv1"][0], "conv1"
    assert (after[first], after[last], after["pool1"]) == (1.5, 2.5, 3.5)
    untouched = set(before) - {v for v in before if before[v] != after[v]}
    assert {"sum", "data"} <= untouched


def test_tune_tables_alone_takes_a_table_and_gives_its_files(folder, tmp_path):
    expected = files_of(folder, tmp_path / "first", repair="none")
    calibration = Calibration(info_of(folder), repair="none")
    rows = [line.split() for line in expected["bmnet_digits_calibration_table"].decode().splitlines()]
    calibration.tune_tables({name: float(threshold) for name, threshold, _ in rows})
    (tmp_path / "second").mkdir()
    again = {path.name: path.read_bytes() for path in calibration.export(tmp_path / "second")}
    assert again["bmnet_digits_int8.caffemodel"] == expected["bmnet_digits_int8.caffemodel"]


def test_tune_tables_keeps_thresholds_and_repairs_integers(folder):
    plain, repaired = (Calibration(info_of(folder), method="mse", repair=level) for level in ("none", "standard"))
    plain.calc_tables()
    given = {layer.name: plain.plan.thresholds[layer.tops[0]] for layer in plain.model.net.layers}
    repaired.tune_tables(given)
    assert repaired.plan.thresholds == plain.plan.thresholds
    found, first = repaired.result.repaired, repaired.plan
    assert found.best.noise < found.plain[0].noise and found.best.plan is first
    repaired.calc_tables()
    repaired.tune_tables(given)
    for name, form in first.forms.items():
        again = repaired.plan.forms[name]
        assert form is None or all(np.array_equal(a, b) for a, b in zip(form.blobs, again.blobs, strict=True))


def test_tune_tables_names_what_it_does_not_know(folder):
    calibration = Calibration(info_of(folder))
    with pytest.raises(OptionError, match=r"'nothing'(.|\n)*'nowhere'"):
        calibration.tune_tables({"nothing": 1.0, "nowhere": 2.0})


def test_tune_tables_needs_all_thresholds(folder):
    with pytest.raises(TableError, match="conv2a"):
        Calibration(info_of(folder)).tune_tables({"conv1": 1.0})


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_thresholds_must_be_positive_numbers(folder, value):
    calibration = Calibration(info_of(folder), repair="none")
    calibration.calc_tables()
    with pytest.raises(Calib8Error, match="pool1"):
        calibration.tune_tables({"pool1": value})


def test_a_dead_blob_is_said_and_can_be_given_a_threshold(folder, caplog):
    """All samples 0: every blob before the first bias is dead."""
    prototxt = folder / "deploy.prototxt"
    prototxt.write_text(prototxt.read_text().replace("scale: 0.0078125", "scale: 0"))
    calibration = Calibration(info_of(folder), repair="none")
    calibration.calc_tables()
    assert "'data' is dead" in caplog.text and "'pool3' is dead" not in caplog.text
    assert "blob 'conv1', as layer 'conv1' leaves it, is dead" in caplog.text
    assert all(np.isfinite(t) and t > 0 for t in calibration.plan.thresholds.values())
    calibration.tune_tables({"data": 0.75})
    assert calibration.plan.thresholds["data"] == 0.75


def test_nothing_to_export_before_quantising(folder, tmp_path):
    calibration = Calibration(info_of(folder))
    for export in (calibration.export_model, calibration.export_calibration_pb2):
        with pytest.raises(OptionError, match="calc_tables"):
            export(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_all_wrong_keys_at_once(folder):
    info = info_of(folder, iterations=3, enable_memory_opt="yes", histogram_bin_num="many", model_name=None)
    del info["in_caffemodel"]
    with pytest.raises(OptionError) as error:
        Calibration(info)
    for part in ("'iterations'", "enable_memory_opt is 'yes'", "histogram_bin_num is 'many'", "model_name is None"):
        assert part in str(error.value)
    assert "in_caffemodel is missing" in str(error.value)


@pytest.mark.parametrize("bins", [0, 1000, 2049, -128])
def test_bins_are_a_multiple_of_128(folder, bins):
    with pytest.raises(OptionError, match=f"histogram_bin_num is {bins}.*multiple of 128"):
        Calibration(info_of(folder, histogram_bin_num=bins))


@pytest.mark.parametrize("iteration", [0, -3])
def test_iteration_is_at_least_one(folder, iteration):
    with pytest.raises(OptionError, match=f"`iteration` is {iteration}"):
        Calibration(info_of(folder, iteration=iteration)).calc_tables()


def test_all_layers_without_weights_at_once(folder):
    prototxt = folder / "deploy.prototxt"
    text = prototxt.read_text()
    prototxt.write_text(text.replace('"conv1" type', '"other" type').replace('"conv2a" type', '"another" type'))
    with pytest.raises(CaffemodelError, match=r"'other' \(Convolution\) is not in(.|\n)*'another' \(Convolution\)"):
        Calibration(info_of(folder)).calc_tables()


def test_unknown_fields_are_named_once(folder, caplog):
    prototxt = folder / "deploy.prototxt"
    prototxt.write_text(
        prototxt.read_text().replace('name: "digits"', 'name: "digits"\nfrobnicate: 3\nwobble { x: 1 }')
    )
    Calibration(info_of(folder), repair="none").calc_tables()
    assert caplog.text.count("frobnicate") == 1 and caplog.text.count("wobble") == 1


def test_labels_that_nobody_reads_are_not_called_dead(folder, caplog):
    """A list without labels gives the label 0."""
    prototxt = folder / "deploy.prototxt"
    text = prototxt.read_text()
    begin, end = text.index("layer {"), text.index("# 1x8x8")
    data = 'image_data_param { source: "list.txt" is_color: false }'
    data = f'layer {{ name: "data" type: "ImageData" top: "data" top: "label" {data} }}\n'
    prototxt.write_text(text[:begin] + data + text[end:])
    cv2.imwrite(str(folder / "a.png"), np.arange(64, dtype=np.uint8).reshape(8, 8))
    (folder / "list.txt").write_text("a.png\n")
    calibration = Calibration(info_of(folder) | {"iteration": 1})
    calibration.calc_tables()
    assert calibration.histograms["label"].dead and "is dead" not in caplog.text


def test_inputs_that_no_layer_reads_need_no_data(folder, caplog):
    """Networks that were trained with a data layer of their own for the labels, and DeepLab's data_dim."""
    prototxt = folder / "deploy.prototxt"
    expected = Calibration(info_of(folder), repair="none")
    expected.calc_tables()
    label = 'layer { name: "label" type: "Data" top: "label" data_param { source: "nowhere" } }\n'
    size = 'layer { name: "size" type: "Input" top: "size" input_param { shape { dim: [10, 2] } } }\n'
    silence = 'layer { name: "silence" type: "Silence" bottom: "size" }\n'
    prototxt.write_text(prototxt.read_text() + label + size + silence)
    found = Calibration(info_of(folder), repair="none")
    found.calc_tables()
    assert {v: found.thresholds[v] for v in expected.thresholds} == expected.thresholds
    assert "is dead" not in caplog.text


def test_a_plain_input_needs_images(folder):
    prototxt = folder / "deploy.prototxt"
    text = prototxt.read_text()
    begin, end = text.index("layer {"), text.index("# 1x8x8")
    data = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 1, 8, 8] } } }\n'
    prototxt.write_text(text[:begin] + data + text[end:])
    with pytest.raises(DataError, match=r"`images=\.\.`"):
        Calibration(info_of(folder)).calc_tables()
