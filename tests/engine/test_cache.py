"""The cache of executors: what stays open, and who gets which."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from calib8.engine import Executor, ExecutorCache
from calib8.lowering import build_model, lower_float
from calib8.proto.text import parse_prototxt


class Fake:
    """An executor that only has a size."""

    def __init__(self, name: str, shared_bytes: int = 0, own_bytes: int = 0) -> None:
        self.name, self.shared_bytes, self.own_bytes = name, shared_bytes, own_bytes

    def sibling(self) -> Fake:
        return Fake(f"{self.name}'", self.shared_bytes, self.own_bytes)


class Makers:
    """Makes executors and notes which."""

    def __init__(self, **sizes: int) -> None:
        self.sizes, self.made = sizes, ""

    def __call__(self, name: str) -> Callable[[], Fake]:
        def make() -> Fake:
            self.made += name
            return Fake(name, self.sizes.get(name, 1))

        return make


def test_the_one_that_was_not_used_for_the_longest_time_goes():
    cache, make = ExecutorCache(3), Makers()
    for name in "abcabdab":  # c makes room for d
        assert cache.get(name, make(name)).name == name
    assert make.made == "abcd" and len(cache) == 3
    cache.get("c", make("c"))
    assert make.made == "abcdc"


def test_memory_is_bounded():
    cache, make = ExecutorCache(10, most_bytes=100, always=1), Makers(a=40, b=50, c=10, d=11)
    for name in "abc":
        cache.get(name, make(name))
    assert (len(cache), cache.nbytes) == (3, 100)
    cache.get("d", make("d"))
    assert (len(cache), cache.nbytes) == (3, 71)  # a has gone


def test_some_stay_however_large_they_are():
    cache, make = ExecutorCache(10, most_bytes=1, always=2), Makers(a=40, b=50, c=60)
    for name in "abcbcbc":
        cache.get(name, make(name))
    assert make.made == "abc" and cache.nbytes == 110


def test_lanes_share_what_can_be_shared():
    cache = ExecutorCache(2)
    first = cache.get("x", lambda: Fake("x", 100, 7), lane=3)
    second = cache.get("x", lambda: Fake("y"), lane=0)
    assert (first.name, second.name, cache.nbytes, len(cache)) == ("x", "x'", 114, 1)
    assert cache.get("x", lambda: Fake("z"), lane=3) is first


def test_one_of_many_threads_makes_it():
    cache, making, made = ExecutorCache(2), threading.Barrier(4), []

    def get(lane: int) -> Fake:
        making.wait()
        return cache.get("x", lambda: made.append(lane) or Fake("x"), lane)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(get, range(4)))
    assert len(made) == 1 and len({id(executor) for executor in found}) == 4


def test_what_cannot_be_made_is_tried_again():
    cache = ExecutorCache(2)

    def broken() -> Fake:
        raise ValueError

    with pytest.raises(ValueError):
        cache.get("x", broken)
    assert cache.get("x", lambda: Fake("x")).name == "x"


def test_an_executor_knows_about_how_much_it_takes():
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3000 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 5 } }
    layer { name: "r" type: "ReLU" bottom: "ip" top: "r" }
    """
    weights = {"ip": [np.zeros((5, 3000), np.float32), np.zeros(5, np.float32)]}
    model = build_model(parse_prototxt(text), weights)
    executor = Executor(lower_float(model, ["r"]), ["r"])
    assert executor.own_bytes == 4 * (10 + 10)
    assert executor.shared_bytes == 4 * 5 * 3000  # so small a thing as this bias lies in the graph
