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

They round differently from the formula, so they only choose the finalists: the candidates that both errors together
leave open, nearly always one. Those are evaluated bin by bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 128

_EPSILON = 1e-30
_CHUNK = 1 << 8  # candidates at a time, whose groups a cache holds
_TINY = 1e-300
_LOG10_E = 1 / np.log(10)
_RUN = 512
_MOST_TERMS = 1 << 22
_CALL_TERMS = 1 << 11


def first_minimum(counts: NDArray[np.int64], candidates: NDArray[np.intp]) -> int:
    """Find the candidate with the smallest KL, the first of equals, as if the formula had evaluated each.

    Where more finalists are left than can be evaluated in some 0.1 s (2000 over few non-empty bins, 20 over 200,000),
    they are equals in every sense that counts, and the later ones drop out.

    Args:
        counts: values per bin, at least one of them not 0.
        candidates: numbers of bins, ascending, each from 128 to `counts.size`.
    """
    values = divergences(counts, candidates)
    smallest = float(values.min())
    finalists = candidates[values <= smallest + 2 * _error_bound(counts, smallest)]
    if finalists.size == 1:
        return int(finalists[0])
    bins = _FilledBins(counts)
    finalists = finalists[: _MOST_TERMS // (bins.count + _CALL_TERMS)]
    return int(finalists[int(np.argmin([bins.divergence(int(i)) for i in finalists]))])


def divergence(counts: NDArray[np.int64], end: int) -> float:
    """Compute KL of one candidate, term by term in the order of the bins; infinite if its bins are empty."""
    return _FilledBins(counts).divergence(end)


def divergences(counts: NDArray[np.int64], candidates: NDArray[np.intp]) -> NDArray[np.float64]:
    """Compute KL of every candidate from prefix sums, to within rounding; infinite where its bins are empty."""
    prefixes = _Prefixes(counts)
    parts = [prefixes.divergences(candidates[at : at + _CHUNK]) for at in range(0, candidates.size, _CHUNK)]
    return np.concatenate(parts)


class _FilledBins:
    """The bins that are not empty; the others add nothing to any sum.

    Attributes:
        count: how many there are.
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._places = np.flatnonzero(counts)
        self._values = counts[self._places]
        self._mass = _running_count(self._values)
        self.count = int(self._places.size)

    def divergence(self, end: int) -> float:
        """See `divergence`."""
        # From edges in bins to edges among the filled bins: bins that are empty take no part from here on.
        edges = np.searchsorted(self._places, _group_edges(np.array([end]))[0])
        inside, mass = int(edges[-1]), int(self._mass[edges[-1]])
        if mass == 0:
            return float("inf")
        sizes = np.diff(edges)
        spread = np.diff(self._mass[edges]) / np.maximum(sizes, 1)
        q = np.repeat(spread, sizes) / mass
        p = self._values[:inside].astype(np.float64)
        tail = int(self._mass[-1]) - mass
        # The tail joins the last bin of P. Where that one is empty it becomes a bin of P alone: Q has nothing there.
        if self._places[inside - 1] == end - 1:
            p[-1] += tail
        elif tail:
            p, q = np.append(p, tail), np.append(q, 0.0)
        p /= float(self._mass[-1])
        terms = p * (np.log10(p + _EPSILON) - np.log10(q + _EPSILON))
        return float(np.cumsum(terms)[-1])  # cumsum adds one after another, as a loop does; sum does not


class _Prefixes:
    """Prefix sums of h, of [h > 0] and of h*log10(h), each with a leading 0."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._counts = counts
        self._mass = _running_count(counts).astype(np.float64)  # exact below 2^53
        self._filled = _running_count(counts > 0).astype(np.float64)
        self._entropy = _running_sum(_x_log_x(counts))
        self._total = float(self._mass[-1])

    def divergences(self, ends: NDArray[np.intp]) -> NDArray[np.float64]:
        # The sum over `h'` is the one over h with the last bin taken out and put back, grown by the tail.
        edges = _group_edges(ends)
        mass, filled = (np.diff(np.take(sums, edges), axis=1) for sums in (self._mass, self._filled))
        spread = np.divide(mass, np.maximum(filled, 1.0, out=filled), out=filled)
        inside = self._mass[ends]
        last = self._counts[ends - 1].astype(np.float64)
        tail = self._total - inside
        p_log_p = self._entropy[ends - 1] + _x_log_x(last + tail) - _x_log_x(np.array(self._total))
        # Q spreads a group over its filled bins only, so an empty last bin has 0, and the tail meets the epsilon.
        q_last = np.where(last > 0, spread[:, -1] / np.maximum(inside, 1), 0.0)
        # Natural logarithms take half the time of those to 10. A group without mass has no part, whatever its own is.
        logs = np.log(np.maximum(spread, _TINY, out=spread), out=spread)
        p_log_q = np.einsum("ij,ij->i", mass, logs) * _LOG10_E - _x_log_x(inside)
        p_log_q += tail * np.log10(q_last + _EPSILON)
        return np.where(inside > 0, (p_log_p - p_log_q) / self._total, np.inf)


def _group_edges(ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """First bin of each group of every candidate, and the candidate's end: shape (candidates, 129)."""
    edges: NDArray[np.intp] = ends[:, None] * np.arange(LEVELS + 1) // LEVELS
    return edges


def _error_bound(counts: NDArray[np.int64], smallest: float) -> float:
    """Bound on the rounding errors of `divergences` and of the formula together, where KL is `smallest`.

    A sum of n terms, one after the other, is off by at most `n * 2^-53 * sum|term|`. In `divergences` n is the length
    of the runs plus their number, and `sum|term|` below 30 + log10(T). In the formula n is the number of bins, but
    `sum|term| = sum P*|log10(P/Q)|` is at most KL + sqrt(KL) (by Pinsker's inequality). 4 covers the terms' own errors.
    """
    kl = max(smallest, 0.0)
    prefix_sums = (30 + np.log10(float(counts.sum()))) * (_RUN + counts.size / _RUN)
    return float(4 * 2.0**-53 * (prefix_sums + counts.size * (kl + np.sqrt(kl))))


def _running_count(counts: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sums of the first 0, 1, .. counts."""
    sums = np.zeros(counts.size + 1, dtype=np.int64)
    np.cumsum(counts, out=sums[1:])
    return sums


def _running_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, .. values; in runs, whose errors do not add up over the whole length."""
    runs = np.zeros((-(-values.size // _RUN), _RUN))
    runs.reshape(-1)[: values.size] = values
    np.cumsum(runs, axis=1, out=runs)
    runs[1:] += np.cumsum(runs[:-1, -1])[:, None]
    return np.concatenate((np.zeros(1), runs.reshape(-1)[: values.size]))


def _x_log_x(values: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    return x * _log10(x)


def _log10(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """log10, and 0 for 0: only products with the value itself are used."""
    return np.log10(np.where(values > 0, values, 1.0))
