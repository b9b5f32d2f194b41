"""The divergence between a blob's distribution and its 128-level version, for many clipping points at once.

For a candidate of i bins (threshold `width * i`), from the integer contract:

- P = the first i bins with everything beyond added to the last one, over the total T;
- Q = the first i bins merged into 128 groups, each group's mass spread evenly over its non-empty bins, over
  the sum S of the first i bins;
- `KL = sum P * (log10(P + 1e-30) - log10(Q + 1e-30))`.

Group k covers bins `floor(k*i/128)` to `floor((k+1)*i/128)`: equal groups where i is a multiple of 128.

Written with sums over groups, one candidate costs 128 steps. With h the counts, s and n a group's mass and
number of non-empty bins:

    T * KL = sum h' log10 h' - T log10 T - sum s log10(s/n) + S log10 S - tail * log10(Q of the last bin)

where h' is h with `tail = T - S` added to the last bin. The sums over bins come from prefix sums.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LEVELS = 128

_EPSILON = 1e-30
_CHUNK = 1 << 12
_Number = TypeVar("_Number", np.int64, np.float64)


def first_minimum(counts: NDArray[np.int64], candidates: NDArray[np.intp]) -> int:
    """The candidate with the smallest KL, the first of equals, as if each had been evaluated by the formula.

    Prefix sums round differently from the formula, so they only choose the finalists: the candidates that
    their error bound leaves open, nearly always one, are evaluated bin by bin.

    Args:
        counts: values per bin, at least one of them not 0.
        candidates: numbers of bins, ascending, each from 128 to `counts.size`.
    """
    values = divergences(counts, candidates)
    slack = _error_bound(counts)
    finalists = candidates[values <= values.min() + 2 * slack]
    if finalists.size == 1:
        return int(finalists[0])
    exact = [divergence(counts, int(i)) for i in finalists]
    return int(finalists[int(np.argmin(exact))])


def divergence(counts: NDArray[np.int64], end: int) -> float:
    """KL of one candidate, term by term in the order of the bins; infinite if its bins are empty."""
    inside = counts[:end].astype(np.float64)
    mass = float(inside.sum())
    if mass == 0:
        return float("inf")
    starts = _group_edges(np.array([end]))[0]
    sizes = np.diff(starts)
    filled = np.add.reduceat(inside > 0, starts[:-1], dtype=np.float64)
    spread = np.add.reduceat(inside, starts[:-1]) / np.maximum(filled, 1)
    q = np.where(inside > 0, np.repeat(spread, sizes), 0.0) / mass
    inside[-1] += float(counts[end:].sum())
    p = inside / float(counts.sum())
    used = np.flatnonzero(p)  # the others add 0
    terms = p[used] * (np.log10(p[used] + _EPSILON) - np.log10(q[used] + _EPSILON))
    return float(np.cumsum(terms)[-1])  # cumsum adds one after another, as a loop does; sum does not


def divergences(counts: NDArray[np.int64], candidates: NDArray[np.intp]) -> NDArray[np.float64]:
    """KL of every candidate from prefix sums, to within rounding; infinite where its bins are empty."""
    prefixes = _Prefixes(counts)
    parts = [prefixes.divergences(candidates[at : at + _CHUNK]) for at in range(0, candidates.size, _CHUNK)]
    return np.concatenate(parts)


class _Prefixes:
    """Prefix sums of h, of [h > 0] and of h*log10(h), each with a leading 0."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._counts = counts
        self._mass = _prefix(counts)
        self._filled = _prefix((counts > 0).astype(np.int64))
        self._entropy = _prefix(_x_log_x(counts))
        self._total = float(self._mass[-1])

    def divergences(self, ends: NDArray[np.intp]) -> NDArray[np.float64]:
        edges = _group_edges(ends)
        mass = np.diff(self._mass[edges], axis=1).astype(np.float64)
        filled = np.maximum(np.diff(self._filled[edges], axis=1), 1)
        spread = mass / filled
        inside = self._mass[ends].astype(np.float64)
        last = self._counts[ends - 1].astype(np.float64)
        tail = self._total - inside
        p_log_p = self._entropy[ends - 1] + _x_log_x(last + tail) - _x_log_x(np.array(self._total))
        q_last = np.where(last > 0, spread[:, -1] / np.maximum(inside, 1), 0.0)
        p_log_q = (mass * _log10(spread)).sum(axis=1) - _x_log_x(inside)
        p_log_q += tail * np.log10(q_last + _EPSILON)
        return np.where(inside > 0, (p_log_p - p_log_q) / self._total, np.inf)


def _group_edges(ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """First bin of each group of every candidate, and the candidate's end: shape (candidates, 129)."""
    edges: NDArray[np.intp] = ends[:, None] * np.arange(LEVELS + 1) // LEVELS
    return edges


def _error_bound(counts: NDArray[np.int64]) -> float:
    """Rounding error of `divergences`: a running sum over the bins of terms up to 30 plus log10 of the total."""
    return float(8 * counts.size * 2.0**-53 * (30 + np.log10(float(counts.sum()))))


def _prefix(values: NDArray[_Number]) -> NDArray[_Number]:
    return np.concatenate((np.zeros(1, dtype=values.dtype), np.cumsum(values)))


def _x_log_x(values: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    return x * _log10(x)


def _log10(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """log10, and 0 for 0: only products with the value itself are used."""
    return np.log10(np.where(values > 0, values, 1.0))
