"""The order of equal keys, against C++'s own std::sort where a compiler is installed."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.layer_kit import std_sort as module
from calib8.layer_kit.std_sort import std_sort_descending

_PROGRAM = """
#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>
int main() {
  int n;
  while (scanf("%d", &n) == 1) {
    std::vector<std::pair<float, int>> v(n);
    for (int i = 0; i < n; ++i) { scanf("%f", &v[i].first); v[i].second = i; }
    std::sort(v.begin(), v.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    for (const auto& p : v) printf("%d ", p.second);
    printf("\\n");
  }
}
"""


@pytest.fixture(scope="module")
def std_sort(tmp_path_factory):
    """std_sort(lists): what libstdc++ makes of each list of keys."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    folder = tmp_path_factory.mktemp("std_sort")
    (folder / "sort.cpp").write_text(_PROGRAM)
    subprocess.run([compiler, "-std=c++14", "-o", folder / "sort", folder / "sort.cpp"], check=True)

    def run(lists):
        text = "\n".join(f"{len(keys)} " + " ".join(f"{k:g}" for k in keys) for keys in lists)
        lines = subprocess.run([folder / "sort"], input=text, capture_output=True, text=True, check=True).stdout
        return [[int(i) for i in line.split()] for line in lines.splitlines()]

    return run


def median_of_three_killer(half: int, divisor: int) -> np.ndarray:
    """Keys that divide so badly that std::sort turns to its heap; divided, so that there are ties."""
    keys = np.zeros(2 * half, np.float32)
    for i in range(1, half + 1):
        keys[i - 1] = i if i % 2 else half + i - 1
        keys[half + i - 1] = 2 * i
    return -(keys // divisor)


def test_equal_keys_stand_as_in_libstdcpp(std_sort):
    rng = np.random.default_rng(5)
    lists = []
    for n in (0, 1, 16, 17, 18, 33, 100, 1000):
        for values in (1, 2, 7, 60):
            keys = rng.integers(0, values, n).astype(np.float32)
            runs = [np.sort(part)[::-1] for part in np.array_split(keys, 4)]
            lists += [keys, np.sort(keys), np.sort(keys)[::-1], np.concatenate(runs)]
    lists += [median_of_three_killer(half, divisor) for half in (50, 301) for divisor in (1, 2, 5)]
    for keys, expected in zip(lists, std_sort(lists), strict=True):
        assert std_sort_descending(keys).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=200))
def test_is_a_sorting_permutation(keys):
    keys = np.array(keys, np.float32)
    order = std_sort_descending(keys)
    assert sorted(order.tolist()) == list(range(len(keys)))
    assert np.all(np.diff(keys[order]) <= 0)


def test_distinct_keys_are_simply_sorted():
    keys = np.random.default_rng(0).permutation(500).astype(np.float32)
    assert np.array_equal(keys[std_sort_descending(keys)], np.arange(499, -1, -1))


def test_heap_is_reached(monkeypatch):
    calls = []
    real = module._heap_sorted
    monkeypatch.setattr(module, "_heap_sorted", lambda items, keys: calls.append(len(items)) or real(items, keys))
    std_sort_descending(median_of_three_killer(300, 2))
    assert calls
