"""Threads: the order of results, lanes, errors, and how far they run ahead."""

from __future__ import annotations

import threading
import time

import pytest

from calib8.engine import Crew


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("items", [0, 1, 2, 7, 20])
def test_results_come_in_the_order_of_the_items(count, items):
    def work(lane, item):
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    with Crew(count) as crew:
        assert list(crew.stream(work, iter(range(items)))) == [i * i for i in range(items)]
        assert crew.each(work, list(range(items))) == [i * i for i in range(items)]


@pytest.mark.parametrize("kind", ["stream", "each"])
def test_a_lane_has_one_item_at_a_time(kind):
    busy, lanes = set(), set()
    lock = threading.Lock()

    def work(lane, item):
        with lock:
            assert lane not in busy
            busy.add(lane)
            lanes.add(lane)
        time.sleep(0.001)
        with lock:
            busy.remove(lane)

    with Crew(3) as crew:
        list(getattr(crew, kind)(work, range(30)))
    assert lanes <= {0, 1, 2} and len(lanes) > 1


def test_items_are_taken_as_threads_become_free():
    taken, go = [], threading.Event()

    def items():
        for item in range(10):
            taken.append(item)
            yield item

    def work(lane, item):
        go.wait()
        return item

    with Crew(2) as crew:
        results = crew.stream(work, items())
        first = threading.Thread(target=lambda: next(results))
        first.start()
        time.sleep(0.05)
        assert len(taken) <= 4  # two run, one waits, one is being handed over
        go.set()
        first.join()
        assert list(results) == list(range(1, 10))


@pytest.mark.parametrize("count", [1, 3])
def test_errors_come_through(count):
    def work(lane, item):
        if item == 3:
            raise ValueError("item 3")
        return item

    with Crew(count) as crew:
        found = []
        with pytest.raises(ValueError, match="item 3"):
            for result in crew.stream(work, range(9)):
                found.append(result)
        assert found == [0, 1, 2]
        with pytest.raises(ValueError, match="item 3"):
            crew.each(work, range(9))
        assert crew.each(work, range(3)) == [0, 1, 2]


def test_the_first_item_s_error_is_the_one_that_comes():
    """Whichever comes earlier."""

    def work(lane, item):
        time.sleep(0.02 if item == 1 else 0)
        if item:
            raise ValueError(f"item {item}")

    with Crew(3) as crew, pytest.raises(ValueError, match="item 1"):
        crew.each(work, range(9))


def test_a_long_item_holds_up_no_other_one():
    done, others = [], threading.Event()

    def work(lane, item):
        if item == 0:
            assert others.wait(10)
        done.append(item)
        if len(done) == 7:
            others.set()

    with Crew(2) as crew:
        crew.each(work, range(8))
    assert done == [1, 2, 3, 4, 5, 6, 7, 0]


def test_one_thread_is_the_caller_s():
    with Crew(1) as crew:
        assert crew.each(lambda lane, item: threading.get_ident(), [0, 1]) == [threading.get_ident()] * 2
