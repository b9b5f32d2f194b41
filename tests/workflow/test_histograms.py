"""Histograms that are kept: the same bytes from one run, from parts, and from a run that was killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calib8 import CalibrateOptions, open_network
from calib8.data.digests import digests_of
from calib8.errors import DataError, OptionError
from calib8.export import write_calibration_files
from calib8.measure.histogram_file import read_histograms
from calib8.workflow import (
    CountOptions,
    Part,
    calibrate,
    calibrate_from,
    compare_methods,
    count_histograms,
    count_to_file,
    merge_histograms,
    methods_left_out,
    open_calibrated,
    part_of,
)
from calib8.workflow.comparing import snr_of

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
FILES = DIGITS / "deploy.prototxt", DIGITS / "custom.caffemodel"
IMAGES = 30
KL = CalibrateOptions(iteration=IMAGES, repair="none")
MSE = CalibrateOptions(iteration=IMAGES, method="mse", repair="none")
EAGER = CountOptions(save_seconds=0)


@pytest.fixture(scope="module")
def whole(network):
    """One run of all images, with the exact counts of kl."""
    return count_histograms(network, KL)


@pytest.mark.parametrize("options", [KL, MSE, replace(MSE, method="percentile"), replace(MSE, method="kl-fine")])
def test_thresholds_are_those_of_a_run(network, whole, options):
    direct, kept = calibrate(network, options), calibrate_from(network, whole, options)
    assert kept.thresholds == direct.thresholds and kept.origin == direct.origin
    assert kept.plan.thresholds == direct.plan.thresholds
    assert {v: h.counts.tolist() for v, h in kept.histograms.items()} == {
        v: h.counts.tolist() for v, h in direct.histograms.items()
    }


def test_two_passes_for_every_method(network, whole):
    options = replace(MSE, two_pass=True)
    exact = count_histograms(network, options)
    assert calibrate_from(network, exact, options).thresholds == calibrate(network, options).thresholds
    with pytest.raises(OptionError, match="`two_pass` need them"):
        calibrate_from(network, whole, options)


def test_the_files_without_the_data(network, whole, tmp_path):
    """The network is opened without its LMDB, and gives the same files."""
    for name in ("deploy.prototxt", "custom.caffemodel"):
        shutil.copy(DIGITS / name, tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    bare = open_calibrated(tmp_path / "deploy.prototxt", tmp_path / "custom.caffemodel", whole)
    assert bare.source is None
    write_calibration_files(tmp_path / "a", "x", bare.model, calibrate_from(bare, whole, MSE).plan)
    write_calibration_files(tmp_path / "b", "x", network.model, calibrate(network, MSE).plan)
    written = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert len(written) >= 4 and written == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("memory_opt", [False, True])
def test_bytes_do_not_depend_on_how_it_was_run(network, whole, threads, memory_opt):
    found = count_histograms(network, replace(KL, threads=threads, memory_opt=memory_opt), EAGER, save=lambda _: None)
    assert found.to_bytes() == whole.to_bytes()


def test_parts_merge_to_the_bytes_of_one_run(network, whole):
    parts = [part_of(network, IMAGES, index, 4) for index in (1, 2, 3, 4)]
    assert [(p.start, p.stop) for p in parts] == [(0, 7), (7, 15), (15, 22), (22, 30)]
    fine = [count_histograms(network, MSE, CountOptions(part)) for part in parts]
    maxima = merge_histograms({str(i): one for i, one in enumerate(fine)})
    assert maxima.to_bytes() == count_histograms(network, MSE).to_bytes()
    exact = [
        count_histograms(network, KL, CountOptions(p, maxima), known) for p, known in zip(parts, fine, strict=True)
    ]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        assert merge_histograms({str(i): exact[i] for i in order}).to_bytes() == whole.to_bytes()


def test_parts_end_with_batches_where_samples_hang_together(network, tmp_path):
    text = FILES[0].read_text()
    reshape = (
        'layer {{ name: "r" type: "Reshape" bottom: "{0}" top: "r" reshape_param {{ shape {{ dim: [1, -1] }} }} }}'
    )
    (tmp_path / "deploy.prototxt").write_text(text + reshape.format(network.model.net.outputs[0]))
    other = open_network(tmp_path / "deploy.prototxt", FILES[1], network.samples)
    size = network.samples.batch_size
    assert other.model.batch_of_one() is None and size > 1
    parts = [part_of(other, 4 * size + 1, index, 2) for index in (1, 2)]
    assert parts[0].start == 0 and parts[0].stop == parts[1].start and parts[1].stop == 4 * size + 1
    assert parts[0].stop % size == 0


def test_parts_that_cannot_be(network):
    with pytest.raises(OptionError, match=r"`shard` is 3/2"):
        part_of(network, 10, 3, 2)
    with pytest.raises(OptionError, match="3 samples cannot be divided into 4 parts"):
        part_of(network, 3, 1, 4)


class StopHereError(Exception):
    """Ends a run as a kill would: with nothing written after it."""


@pytest.mark.parametrize("saves", [1, 2, 3, 4, 5, 6])
def test_an_interrupted_run_goes_on_to_the_same_bytes(network, whole, tmp_path, saves):
    kept = []

    def save(found):
        kept.append(found.to_bytes())
        if len(kept) == saves:
            raise StopHereError

    counting = CountOptions(Part(0, IMAGES), save_seconds=0)
    with pytest.raises(StopHereError):
        count_histograms(network, KL, counting, save=save)
    (tmp_path / "x.hist.part").write_bytes(kept[-1])
    found = count_to_file(network, KL, tmp_path / "x.hist", counting)
    assert found.to_bytes() == (tmp_path / "x.hist").read_bytes() == whole.to_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["x.hist"]


def test_saving_happens_between_all_batches(network):
    done = []
    count_histograms(network, KL, EAGER, save=lambda found: done.append(found.unfinished))
    batch = network.samples.batch_size
    steps = [min(n, IMAGES) for n in range(batch, IMAGES + batch, batch)]
    assert done == [(n, 0) for n in steps] + [(IMAGES, n) for n in steps]


KILLED = """
import sys, time
from calib8 import CalibrateOptions, open_network
from calib8.workflow import CountOptions, count_to_file
def slowly(progress):
    time.sleep(0.05)
network = open_network(sys.argv[1], sys.argv[2])
count_to_file(network, CalibrateOptions(iteration=30, threads=1), sys.argv[3], CountOptions(save_seconds=0), slowly)
"""


def test_a_killed_process_goes_on_where_it_was(network, whole, tmp_path):
    target = tmp_path / "x.hist"
    partial = tmp_path / "x.hist.part"
    with subprocess.Popen([sys.executable, "-c", KILLED, *map(str, FILES), str(target)]) as process:
        end = time.monotonic() + 60
        while not (partial.exists() and read_histograms(partial).unfinished >= (12, 0)):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    done = read_histograms(partial).unfinished
    seen = []
    count_to_file(network, KL, target, progress=seen.append)
    assert target.read_bytes() == whole.to_bytes() and not partial.exists()
    first = next(p.done for p in seen if p.stage == "calibrating")
    assert first > sum(done)


def test_more_images_and_another_method_take_what_is_there(network, whole, tmp_path):
    target = tmp_path / "x.hist"
    count_to_file(network, replace(MSE, iteration=12), target)
    count_to_file(network, MSE, target)
    assert target.read_bytes() == count_histograms(network, MSE).to_bytes()
    passes = []
    count_to_file(network, KL, target, progress=lambda p: passes.append(p) if p.stage == "calibrating" else None)
    assert target.read_bytes() == whole.to_bytes() and passes[0].done > IMAGES  # the second pass only
    before = target.stat().st_mtime_ns
    count_to_file(network, KL, target, progress=lambda p: passes.clear() if p.stage == "calibrating" else None)
    assert passes and target.stat().st_mtime_ns == before  # nothing was left to be counted, or written


def test_files_of_something_else_are_refused(network, tmp_path):
    target = tmp_path / "x.hist"
    count_to_file(network, MSE, target)
    with pytest.raises(DataError, match=r"holds other histograms(.|\n)*`bins` differs: 2048 and 1024"):
        count_to_file(network, replace(MSE, bins=1024), target)
    with pytest.raises(DataError, match="holds 30 samples, and 20 are asked for"):
        count_to_file(network, replace(MSE, iteration=20), target)
    with pytest.raises(DataError, match="not the first of the 40 of this run"):
        count_to_file(network, replace(MSE, iteration=50), target, CountOptions(Part(10, 50)))
    changed = replace(network.model.net.layers[1], name="other")
    net = replace(network.model.net, layers=(network.model.net.layers[0], changed, *network.model.net.layers[2:]))
    with pytest.raises(DataError, match=r"the network \(its layers or weights\) differs"):
        calibrate_from(replace(network, model=replace(network.model, net=net)), read_histograms(target), MSE)


def test_maxima_of_other_samples_are_refused(network):
    small = count_histograms(network, replace(MSE, iteration=1))
    with pytest.raises(DataError, match="there are larger values"):
        count_histograms(network, KL, CountOptions(maxima=small))


def test_the_same_samples_twice(network, whole, caplog):
    with pytest.raises(DataError) as why:
        merge_histograms({"a": whole, "b": count_histograms(network, KL, CountOptions(Part(5, 9)))})
    assert why.value.problems == ("all samples of one of a and b are in the other",)
    merge_histograms({"a": whole, "b": count_histograms(network, KL, CountOptions(Part(28, 32)))})
    assert "a and b have 2 samples in common" in caplog.text


def test_another_network_is_named_before_its_samples(network, whole, tmp_path):
    """Files of another network are of the same samples, as a rule; that is not what is wrong with them."""
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))
    prototxt = tmp_path / "digits" / "deploy.prototxt"
    prototxt.write_text(prototxt.read_text().replace('type: "ReLU"', 'type: "TanH"'))
    options = CalibrateOptions(iteration=3, method="mse")
    other = count_histograms(open_network(prototxt, tmp_path / "digits" / "custom.caffemodel"), options)
    with pytest.raises(DataError, match="one and other cannot be merged") as why:
        merge_histograms({"one": count_histograms(network, options), "other": other})
    assert "the network (its layers or weights) differs" in why.value.problems


def test_digests_tell_samples_apart():
    batch = {"data": np.arange(8, dtype=np.float32).reshape(2, 4), "label": np.zeros(2, np.float32)}
    first, second = digests_of(batch)
    assert first != second
    assert digests_of({top: array[1:] for top, array in batch.items()})[0] == second
    assert digests_of({**batch, "label": np.ones(2, np.float32)})[0] != first
    info = {"im_info": np.array([[3, 4, 1]], np.float32)}  # the same for every sample
    assert digests_of({**batch, **info})[0] != first


def test_methods_side_by_side(network, whole):
    rows = compare_methods(whole)
    results = {m: calibrate_from(network, whole, replace(MSE, method=m)) for m in rows[0].by_method}
    assert list(results) == ["kl", "kl-fine", "mse", "percentile", "max"]
    names = {group.name: group for group in whole.identity.groups}
    for row in rows:
        for method, found in row.by_method.items():
            group = names[row.name]
            thresholds = results[method].thresholds
            assert found.threshold == thresholds[group.written if method == "kl" else group.rectified]
    fine = count_histograms(network, MSE)
    assert list(compare_methods(fine)[0].by_method) == ["kl-fine", "mse", "percentile", "max"]
    assert methods_left_out(fine, ["kl", "mse"]) == ["kl"]
    with pytest.raises(OptionError, match="exact counts"):
        compare_methods(fine, ["kl"])


def test_signal_to_noise_of_a_blob():
    """By a loop over values that lie in the middle of their bins."""
    values = np.arange(128, dtype=np.float32)
    counter = count_of(values)
    for threshold in (127.0, 64.0, 20.0):
        noise = 0.0
        for value in values.tolist():
            code = min(127, int(value * 128 / threshold + 0.5))
            noise += (value - code * threshold / 128) ** 2
        expected = 10 * np.log10(sum(v * v for v in values.tolist()) / noise)
        assert snr_of(counter, threshold) == pytest.approx(expected, rel=1e-9)
    assert snr_of(counter, 128.0) == np.inf


def count_of(values):
    from calib8.measure.histogram import Histogram  # noqa: PLC0415

    counter = Histogram(float(values.max()), 128)
    counter.add(values)
    return counter.result()
