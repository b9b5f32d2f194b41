"""Histograms over samples: the same whatever the batch size, the number of threads and the memory policy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from calib8.engine import EngineOptions, executor, run_float
from calib8.engine.session import open_session
from calib8.errors import DataError
from calib8.lowering import build_model
from calib8.measure import collect as collect_module
from calib8.measure.collect import CollectOptions, collect_histograms
from calib8.proto.text import parse_prototxt

NET = """
name: "net"
layer {{
  name: "data" type: "Input" top: "data" top: "label"
  input_param {{ shape {{ dim: [{n}, 3, 12, 10] }} shape {{ dim: {n} }} }}
}}
layer {{
  name: "c1" type: "Convolution" bottom: "data" top: "c1"
  convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 }}
}}
layer {{ name: "bn" type: "BatchNorm" bottom: "c1" top: "c1" }}
layer {{ name: "sc" type: "Scale" bottom: "c1" top: "c1" scale_param {{ bias_term: true }} }}
layer {{ name: "r1" type: "ReLU" bottom: "c1" top: "c1" }}
layer {{ name: "lrn" type: "LRN" bottom: "c1" top: "lrn" }}
layer {{
  name: "p1" type: "Pooling" bottom: "lrn" top: "p1" pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }}
}}
layer {{
  name: "c2" type: "Convolution" bottom: "p1" top: "c2" convolution_param {{ num_output: 6 kernel_size: 1 }}
}}
layer {{ name: "cat" type: "Concat" bottom: "p1" bottom: "c2" top: "cat" }}
layer {{ name: "gp" type: "Pooling" bottom: "cat" top: "gp" pooling_param {{ pool: AVE global_pooling: true }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "gp" top: "ip" inner_product_param {{ num_output: 5 }} }}
layer {{ name: "prob" type: "Softmax" bottom: "ip" top: "prob" }}
"""
RESHAPED = """
layer {{ name: "re" type: "Reshape" bottom: "cat" top: "re" reshape_param {{ shape {{ dim: {n} dim: -1 }} }} }}
"""


def random_weights(prototxt):
    """Blobs of the right shapes, from a model without weights."""
    rng = np.random.default_rng(1)
    model = build_model(prototxt)
    weights = {}
    for layer, op in model.pairs:
        shapes = op.blob_shapes([model.shapes[b] for b in layer.bottoms])
        weights[layer.name] = [np.abs(rng.standard_normal(s)).astype(np.float32) for s in shapes]
    return weights


def network(batch, extra=""):
    prototxt = parse_prototxt((NET + extra).format(n=batch))
    return build_model(prototxt, random_weights(prototxt))


def samples(count):
    rng = np.random.default_rng(2)
    return rng.standard_normal((count, 3, 12, 10)).astype(np.float32), rng.integers(0, 5, count).astype(np.float32)


def batches_of(size, count=12):
    images, labels = samples(count)
    return lambda: ({"data": images[i : i + size], "label": labels[i : i + size]} for i in range(0, count, size))


def collect(batch=1, observed=None, *, extra="", count=12, **options):
    model = network(batch, extra)
    values = observed or list(model.shapes)
    engine = {k: options.pop(k) for k in ("threads", "release_blobs") if k in options}
    return collect_histograms(
        model, batches_of(batch, count), values, CollectOptions(engine=EngineOptions(**engine), **options)
    )


def same(one, other):
    assert one.keys() == other.keys()
    for value, histogram in one.items():
        assert np.array_equal(histogram.counts, other[value].counts), value
        assert (histogram.maximum, histogram.samples) == (other[value].maximum, other[value].samples), value


@pytest.mark.parametrize("two_passes", [False, True])
@pytest.mark.parametrize(
    "options", [{"batch": 4}, {"batch": 5}, {"threads": 1}, {"threads": 3}, {"release_blobs": True}]
)
def test_nothing_changes_the_histograms(options, two_passes):
    same(collect(two_passes=two_passes, threads=2), collect(two_passes=two_passes, **{"threads": 2, **options}))


@pytest.mark.parametrize("two_passes", [False, True])
def test_pieces_of_a_network_change_nothing(monkeypatch, two_passes):
    whole = collect(two_passes=two_passes, threads=2)
    opened = []
    monkeypatch.setattr(collect_module, "PIECE_BYTES", 1)
    monkeypatch.setattr(executor, "open_session", lambda *a, **k: opened.append(a) or open_session(*a, **k))
    same(whole, collect(two_passes=two_passes, threads=2))
    assert len(opened) > 5


def test_counts_are_those_of_the_network_s_own_values():
    model = network(12)
    images, labels = samples(12)
    values = run_float(model, {"data": images, "label": labels}, list(model.shapes))
    for value, histogram in collect(two_passes=True).items():
        sizes = np.abs(values[value].astype(np.float64)).ravel()
        width = histogram.maximum / (histogram.bins - 1)
        bins = np.floor(np.abs(values[value].ravel()).astype(np.float64) / width + 0.5).astype(int)
        assert histogram.maximum == pytest.approx(sizes.max(), rel=1e-5)
        # The batch is computed otherwise than its images, so a value may lie a rounding error beside.
        moved = np.abs(np.cumsum(np.bincount(bins, minlength=histogram.bins + 1)[: histogram.bins] - histogram.counts))
        assert moved.max() <= 0.01 * sizes.size + 1, value


def test_one_pass_differs_from_two_within_its_bound():
    one, two = collect(two_passes=False), collect(two_passes=True)
    for value, histogram in two.items():
        assert one[value].maximum == histogram.maximum and one[value].samples == histogram.samples
        beyond = np.abs(np.cumsum(one[value].counts) - np.cumsum(histogram.counts)).max()
        assert beyond <= max(2, 0.02 * histogram.samples), value


@pytest.mark.parametrize("options", [{}, {"release_blobs": True}])
def test_a_network_with_a_fixed_batch_runs_whole_batches(options):
    """Reshape to a fixed first axis: images cannot be taken apart, and all values still come out."""
    whole = collect(batch=3, extra=RESHAPED, **options)
    assert whole["re"].samples == whole["cat"].samples == collect()["cat"].samples
    assert whole["data"].samples == 12 * 360


def test_only_what_is_observed_is_computed():
    histograms = collect(observed=["p1"])
    assert list(histograms) == ["p1"]


def test_samples_of_several_shapes():
    model = network(1, "")
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, 3, 12, w)).astype(np.float32) for w in (10, 10, 14, 12, 18, 16, 20, 10)]
    values = ["data", "c1", "p1"]
    found = collect_histograms(model, lambda: ({"data": x, "label": np.zeros(1, np.float32)} for x in images), values)
    assert found["data"].samples == sum(x.size for x in images)


def test_missing_inputs_are_named():
    model = network(1, 'layer {{ name: "neg" type: "Power" bottom: "label" top: "neg" }}')
    with pytest.raises(DataError, match="'label'"):
        collect_histograms(model, lambda: iter([{"data": samples(1)[0]}]), ["c1"])


def test_inputs_that_no_layer_reads_need_not_be_given():
    model = network(4, 'layer {{ name: "s" type: "Silence" bottom: "label" }}')
    images, _ = samples(6)
    observed = ["c1", "label"]
    for size in (4, 3):  # the last batch is smaller, or every one
        parts = [{"data": images[i : i + size]} for i in range(0, 6, size)]
        found = collect_histograms(model, lambda parts=parts: iter(parts), observed)
        assert found["c1"].samples == 6 * 6 * 12 * 10 and found["label"].dead


def test_no_samples_are_an_error():
    model = network(1)
    with pytest.raises(DataError, match="no sample"):
        collect_histograms(model, lambda: iter([]), ["c1"])


def test_values_that_are_not_finite_are_counted_apart():
    model = network(1)
    images, labels = samples(4)
    images[1, 0, 3, 4] = np.nan
    images[2, 1, 0, 0] = np.inf
    found = collect_histograms(
        model, lambda: ({"data": images[i : i + 1], "label": labels[i : i + 1]} for i in range(4)), ["data"]
    )["data"]
    assert (found.nans, found.infs, found.samples) == (1, 1, images.size - 2)
    assert np.isfinite(found.maximum)


def test_errors_of_the_data_come_through_from_any_thread():
    model = network(1)

    def broken():
        yield {"data": samples(1)[0], "label": np.zeros(1, np.float32)}
        raise DataError("sample 2 is broken")

    with pytest.raises(DataError, match="sample 2"):
        collect_histograms(model, broken, ["c1"], CollectOptions(engine=EngineOptions(threads=3)))


def test_progress_counts_images_of_all_passes():
    model = network(4)
    seen = []
    options = CollectOptions(two_passes=True, engine=EngineOptions(threads=1))
    collect_histograms(model, batches_of(4), ["c1"], options, seen.append)
    assert seen == list(range(1, 25))


def test_memory_does_not_grow_with_the_samples():
    def peak(count):
        collect(count=2, threads=2)  # warm
        images, labels = samples(4)
        model = network(1)
        tracemalloc.start()
        collect_histograms(
            model,
            lambda: ({"data": images[i % 4][None], "label": labels[i % 4][None]} for i in range(count)),
            list(model.shapes),
            CollectOptions(engine=EngineOptions(threads=2)),
        )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(400) <= 1.05 * peak(40)


def test_pieces_and_released_blobs_lower_the_peak(monkeypatch):
    """A chain of ten blobs of 1 MB: those of a graph, or two, are alive at a time instead of all."""
    layers = "".join(
        f'layer {{ name: "a{i}" type: "AbsVal" bottom: "{f"a{i - 1}" if i else "data"}" top: "a{i}" }}\n'
        for i in range(10)
    )
    data = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 4, 256, 256] } } }\n'
    prototxt = parse_prototxt(data + layers)
    model = build_model(prototxt, {})
    image = np.ones((1, 4, 256, 256), np.float32)

    def peak(**engine):
        options = CollectOptions(bins=128, engine=EngineOptions(threads=1, **engine))
        tracemalloc.start()
        found = collect_histograms(model, lambda: iter([{"data": image}] * 3), list(model.shapes), options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, found

    tables = 11 * 8 * 16384
    (in_pieces, expected), (released, found) = peak(), peak(release_blobs=True)
    same(expected, found)
    assert in_pieces - tables <= 7 * image.nbytes
    assert released - tables <= 4 * image.nbytes
    monkeypatch.setattr(collect_module, "PIECE_BYTES", None)
    whole, found = peak()
    same(expected, found)
    assert whole - tables >= 10 * image.nbytes
