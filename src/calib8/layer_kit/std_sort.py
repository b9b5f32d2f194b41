"""The order in which C++'s std::sort leaves equal keys, which decides what a detector keeps when scores tie.

std::sort is not stable, but it is not random either. libstdc++ (bits/stl_algo.h, bits/stl_heap.h) partitions with the
median of three until no part has more than 16 elements, sorts a part by a heap when it was divided too often, and
ends with an insertion sort, which keeps the order of equals. Here a stable sort stands for the last stage; the first
two, which only matter where keys tie, are repeated step by step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SMALL = 16  # _S_threshold


def std_sort_descending(keys: NDArray[np.float32]) -> NDArray[np.intp]:
    """Find the permutation that std::sort with `a > b` makes of (N) keys, none of them NaN."""
    order = np.argsort(-keys, kind="stable")
    ordered = keys[order]
    if len(keys) <= _SMALL or not np.any(ordered[1:] == ordered[:-1]):
        return order
    arranged = _introsort_loop(keys.tolist())
    return arranged[np.argsort(-keys[arranged], kind="stable")]


def _introsort_loop(keys: list[float]) -> NDArray[np.intp]:
    """Where the elements stand after std::__introsort_loop."""
    items = list(range(len(keys)))
    parts = [(0, len(items), 2 * (len(items).bit_length() - 1))]
    while parts:
        first, last, depth = parts.pop()
        while last - first > _SMALL:
            if depth == 0:
                items[first:last] = _heap_sorted(items[first:last], keys)
                break
            depth -= 1
            cut = _partition(items, keys, first, last)
            parts.append((cut, last, depth))
            last = cut
    return np.array(items, dtype=np.intp)


def _partition(items: list[int], keys: list[float], first: int, last: int) -> int:
    """std::__unguarded_partition_pivot: the pivot ends in `first`; returns where the second part begins."""
    middle = _median(items, keys, first + 1, first + (last - first) // 2, last - 1)
    items[first], items[middle] = items[middle], items[first]
    pivot, low, high = keys[items[first]], first + 1, last
    while True:
        while keys[items[low]] > pivot:
            low += 1
        high -= 1
        while pivot > keys[items[high]]:
            high -= 1
        if low >= high:
            return low
        items[low], items[high] = items[high], items[low]
        low += 1


def _median(items: list[int], keys: list[float], a: int, b: int, c: int) -> int:
    """Which of three places holds the median (std::__move_median_to_first)."""
    x, y, z = keys[items[a]], keys[items[b]], keys[items[c]]
    if x > y:
        return b if y > z else c if x > z else a
    return a if x > z else c if y > z else b


def _heap_sorted(items: list[int], keys: list[float]) -> list[int]:
    """std::__partial_sort of a whole part: make_heap, then sort_heap."""
    for parent in range((len(items) - 2) // 2, -1, -1):
        _sift(items, keys, parent, len(items), items[parent])
    for end in range(len(items) - 1, 0, -1):
        value, items[end] = items[end], items[0]
        _sift(items, keys, 0, end, value)
    return items


def _sift(heap: list[int], keys: list[float], hole: int, length: int, value: int) -> None:
    """std::__adjust_heap: the hole sinks to a leaf, then `value` climbs from there."""
    top, child = hole, hole
    while child < (length - 1) // 2:
        child = 2 * (child + 1)
        if keys[heap[child]] > keys[heap[child - 1]]:
            child -= 1
        heap[hole], hole = heap[child], child
    if length % 2 == 0 and child == (length - 2) // 2:
        child = 2 * child + 1
        heap[hole], hole = heap[child], child
    parent = (hole - 1) // 2
    while hole > top and keys[heap[parent]] > keys[value]:
        heap[hole], hole = heap[parent], parent
        parent = (hole - 1) // 2
    heap[hole] = value
