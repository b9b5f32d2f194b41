"""Files of histograms: their bytes, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from calib8.errors import DataError, OptionError
from calib8.measure.histogram import AdaptiveHistogram, Histogram
from calib8.measure.histogram_file import Group, HistogramSet, Identity, parse_histograms, read_histograms

GROUPS = (Group("data", "data", "data"), Group("conv", "relu", "conv"))
IDENTITY = Identity("f" * 64, "mean=1", (("data", (3, 4, 4)),), GROUPS, 128, False)


def made(seed, *, maximum=8.0, exact=True):
    rng = np.random.default_rng(seed)
    values = {v: np.clip(rng.normal(size=500), -8, 8).astype(np.float32) for v in ("data", "conv", "relu")}
    fine, exactly = {}, {}
    for value, array in values.items():
        fine[value] = AdaptiveHistogram(128)
        fine[value].add(array)
        exactly[value] = Histogram(maximum, 128)
        exactly[value].add(array)
    states = {v: c.state() for v, c in exactly.items() if v != "relu"} if exact else {}
    samples = np.array([seed, seed + 100], np.uint64)
    return HistogramSet(IDENTITY, samples, {v: c.state() for v, c in fine.items()}, states)


def parts_of(data):
    """A file as the module's text describes it, read by nothing of the product."""
    assert data[:8] == b"calib8h\x01"
    length = int.from_bytes(data[8:16], "little")
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()
    return json.loads(data[16 : 16 + length]), data[16 + length : -32]


def sealed(header, body):
    text = json.dumps(header).encode()
    content = b"calib8h\x01" + len(text).to_bytes(8, "little") + text + body
    return content + hashlib.sha256(content).digest()


def test_the_layout():
    found = made(1)
    header, body = parts_of(found.to_bytes())
    assert header["samples"] == 2 and np.frombuffer(body, "<u8", 2).tolist() == [1, 101]
    assert [(s["value"], s["exact"], s["bins"]) for s in header["states"]] == [
        ("data", False, 16384), ("conv", False, 16384), ("relu", False, 16384),
        ("data", True, 128), ("conv", True, 128),
    ]  # fmt: skip
    first = header["states"][0]
    counts = np.frombuffer(body, first["type"], first["bins"], 16)
    assert np.array_equal(counts, found.fine["data"].counts) and first["type"] == "|u1"
    assert float.fromhex(first["maximum"]) == found.fine["data"].maximum and first["samples"] == 500


def test_a_file_is_read_as_it_was_written(tmp_path):
    for found in (made(1), made(2, exact=False), replace(made(3), unfinished=(2, 1))):
        (tmp_path / "a").write_bytes(found.to_bytes())
        again = read_histograms(tmp_path / "a")
        assert again.to_bytes() == found.to_bytes()
        assert again.unfinished == found.unfinished and again.identity == IDENTITY


def test_large_counts_take_wide_types():
    found = made(1)
    for most, kind in ((255, "|u1"), (256, "<u2"), (2**16, "<u4"), (2**32, "<u8")):
        counts = found.fine["data"].counts.copy()
        counts[-1] = most
        state = replace(found.fine["data"], counts=counts, samples=int(counts.sum()))
        data = replace(found, fine={**found.fine, "data": state}).to_bytes()
        assert parts_of(data)[0]["states"][0]["type"] == kind
        assert np.array_equal(parse_histograms(data, "x").fine["data"].counts, counts)


def test_merges_in_any_order_have_the_same_bytes():
    a, b, c = made(1), made(2), made(3)
    whole = a.merge(b).merge(c).to_bytes()
    assert c.merge(a.merge(b)).to_bytes() == whole == b.merge(c).merge(a).to_bytes()
    assert parse_histograms(whole, "x").exact


def test_exact_counts_over_different_maxima_are_left_out_in_any_order():
    a, b, c = made(1), made(2, maximum=9.0), made(3)
    whole = a.merge(b).merge(c)
    assert not whole.exact and whole.to_bytes() == c.merge(a).merge(b).to_bytes()


def test_exact_counts_are_used_only_over_their_own_maximum():
    found = made(1)
    with pytest.raises(OptionError, match=r"of 1 values \('data' \.\.\) are over the maximum of other samples"):
        found.histograms(["data"], exact=True)
    with pytest.raises(OptionError, match=r"of 1 values \('relu' \.\.\) are missing"):
        found.histograms(["relu"], exact=True)
    own = {v: replace(s, maximum=found.fine[v].maximum) for v, s in found.exact.items()}
    assert replace(found, exact=own).histograms(["data"], exact=True)["data"].exact
    assert not found.histograms(["data"], exact=False)["data"].exact


def test_what_does_not_belong_together_is_not_merged():
    other = replace(IDENTITY, network="0" * 64, preparation="mean=2", bins=256)
    with pytest.raises(DataError) as why:
        made(1).merge(replace(made(2), identity=other))
    assert why.value.problems == (
        "the network (its layers or weights) differs",
        "the preparation of the samples differs: 'mean=1' and 'mean=2'",
        "`bins` differs: 128 and 256",
    )
    with pytest.raises(DataError, match="not come to its end"):
        made(1).merge(replace(made(2), unfinished=(1, 0)))


def test_samples_in_both():
    assert made(1).shares_samples_with(made(1)) == 2
    assert made(1).shares_samples_with(made(101)) == 1  # 1, 101 and 101, 201
    assert made(1).shares_samples_with(made(2)) == 0


def test_any_changed_or_missing_byte_is_found():
    data = made(1).to_bytes()
    for place in (*range(16, len(data), 997), len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(DataError, match="damaged"):
            parse_histograms(bytes(changed), "x")
    for length in (len(data) - 1, 40, 16, 8):
        with pytest.raises(DataError, match="damaged"):
            parse_histograms(data[:length], "x")
    with pytest.raises(DataError, match="damaged"):
        parse_histograms(data + b"\0", "x")


def test_other_files_and_later_formats():
    with pytest.raises(DataError, match="no file of histograms"):
        parse_histograms(b"", "x")
    with pytest.raises(DataError, match="format 2; this calib8 reads format 1"):
        parse_histograms(b"calib8h\x02", "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.update(samples=2**61), "its header tells of"),
        (lambda h: h["states"][0].update(bins=2**40), "its header tells of"),
        (lambda h: h["states"][0].update(bins=-1), "-1 is no number"),
        (lambda h: h["states"][0].update(type="<f8"), "type"),
        (lambda h: h["states"][0].update(type="O"), "type"),
        (lambda h: h["states"][0].update(maximum="nan"), "maximum"),
        (lambda h: h["states"][0].update(samples=499), "do not add up"),
        (lambda h: h["states"][0].update(zeros=10**6), "more zeros"),
        (lambda h: h["states"][0].update(exact=True), "16384 bins"),
        (lambda h: h["states"][0].update(value="other"), "states of the values"),
        (lambda h: h["identity"].update(bins=130), "multiple of 128"),
        (lambda h: h["identity"].pop("groups"), "groups"),
        (lambda h: h.update(states=7), "not iterable"),
        (lambda h: h.update(unfinished=[1]), "index"),
    ],
)
def test_headers_that_lie(change, words):
    header, body = parts_of(made(1).to_bytes())
    change(header)
    with pytest.raises(DataError, match=words):
        parse_histograms(sealed(header, body), "x")


def test_headers_that_are_none():
    for text in (b"[]", b"{", b"[" * 10**5):
        content = b"calib8h\x01" + len(text).to_bytes(8, "little") + text
        with pytest.raises(DataError, match="header cannot be read"):
            parse_histograms(content + hashlib.sha256(content).digest(), "x")
    content = b"calib8h\x01" + (2**60).to_bytes(8, "little") + b"{}"
    with pytest.raises(DataError, match="header cannot be read"):
        parse_histograms(content + hashlib.sha256(content).digest(), "x")
