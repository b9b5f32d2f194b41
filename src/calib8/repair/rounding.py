"""Rounding weights so that the error of one makes up for that of another.

A layer has real weights V, measured in steps of its integers, and gets integers Q within int8. Over inputs x its
outputs are off by (V - Q) x, on average over the samples

    E |(v - q) x|^2 = (v - q)^T H (v - q),   H = E[x x^T],  for each output's row v of V.

Groups of a layer have matrices and inputs of their own; they are the first axis of all arrays here.

Nearest integers make every (v_i - q_i)^2 as small as it can be, not this sum: where inputs go together, which they do
in images, errors of opposite signs cancel. Two steps find better integers:

- `compensated`: one weight after the other is rounded, and those that are still free take over its error
- `descended`: one weight after the other is moved to the best integer with all others as they are

Everything is float64. Its last bits are the linear algebra library's business, and may differ from one number of
threads to another; a decision would have to lie within 1e-13 of a tie to differ with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LOWEST, _HIGHEST = -128, 127
_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Curvature:
    """How the output error grows with errors of the weights.

    Attributes:
        matrix: H, damped, (G, K, K).
        order: in which weights are rounded, by their place in H, (G, K); the one with the largest diagonal first.
        factor: lower triangular C with H[reversed order] = C C^T, (G, K, K).
    """

    matrix: Array
    order: NDArray[np.intp]
    factor: Array


def curvature(second_moments: Array, damping: Array) -> Curvature:
    """Damp E[x x^T] and factorise it.

    Args:
        second_moments: (G, K, K), symmetric, positive semidefinite.
        damping: added to each group's diagonal, (G), above 0: inputs that never moved among the samples, and directions
            in which few samples lie, are not taken for free.
    """
    matrix = second_moments.copy()
    places = np.arange(matrix.shape[-1])
    matrix[:, places, places] += damping[:, None]
    order = np.argsort(-np.diagonal(matrix, axis1=1, axis2=2), axis=1, kind="stable")
    factor = np.linalg.cholesky(_reordered(matrix, order[:, ::-1]))
    return Curvature(matrix, order, np.asarray(factor, dtype=np.float64))


def _reordered(matrix: Array, order: NDArray[np.intp]) -> Array:
    """Put rows and columns of each group's matrix in an order; of a single large one without a copy on the way."""
    if len(matrix) == 1:
        return np.asarray(matrix[0][np.ix_(order[0], order[0])][None])
    rows = np.take_along_axis(matrix, order[:, :, None], axis=1)
    return np.take_along_axis(rows, order[:, None, :], axis=2)


def nearest(target: Array) -> Array:
    """Round to the nearest integer within int8, as the contract does."""
    rounded: Array = target + 0.5
    np.floor(rounded, out=rounded)
    np.maximum(rounded, _LOWEST, out=rounded)  # np.clip takes twice the time for a few weights
    np.minimum(rounded, _HIGHEST, out=rounded)
    return rounded


def compensated(target: Array, over: Curvature) -> Array:
    """Round weights one after the other; those that are still free take over the error of those that are not.

    With C of `Curvature`, in reversed order (the last row is rounded first), the error to minimise is

        sum_i (C_ii e_i + sum_(j > i) C_ji e_j)^2,   e = v - q

    so that, once all e_j with j > i are decided, the best integer is the nearest to
    `v_i + sum_(j > i) C_ji e_j / C_ii`.

    Args:
        target: V, (G, O, K), in steps.

    Returns:
        Q, (G, O, K), whole numbers within int8.

    Source: the order and the updates of Frantar et al., GPTQ, 2022 (arXiv:2210.17323), equations 2 and 3, without an
    inverse of H: Chen et al., The Geometry of LLM Quantization, 2025 (arXiv:2507.18553) show that they are Babai's
    nearest plane algorithm on C.
    """
    last_first, factor = over.order[:, ::-1], over.factor
    free = np.ascontiguousarray(np.take_along_axis(target, last_first[:, None, :], axis=2).transpose(0, 2, 1))
    errors, rounded = np.zeros_like(free), np.empty_like(free)  # (G, K, O)
    for stop in range(free.shape[1], 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        carried = factor[:, stop:, start:stop].transpose(0, 2, 1) @ errors[:, stop:]
        for i in range(stop - 1, start - 1, -1):
            rounded[:, i] = nearest(free[:, i] + carried[:, i - start] / factor[:, i, i, None])
            errors[:, i] = free[:, i] - rounded[:, i]
            carried[:, : i - start] += factor[:, i, start:i, None] * errors[:, i, None, :]
    result = np.empty_like(target)
    np.put_along_axis(result, last_first[:, None, :], rounded.transpose(0, 2, 1), axis=2)
    return result


def descended(target: Array, rounded: Array, over: Curvature, sweeps: int = 2) -> Array:
    """Move one weight after the other to its best integer, all others as they are.

    The error is a parabola in each weight: with g = H (v - q) the best integer is the nearest to `q_i + g_i / H_ii`. No
    step makes the error larger.

    Args:
        target: V, (G, O, K), in steps.
        rounded: Q to begin with, (G, O, K).
        sweeps: how often all weights are visited, at most; fewer where nothing moves any more.

    Source: coordinate descent as in Behdin et al., QuantEase, 2023 (arXiv:2309.01885).
    """
    found = rounded.copy()
    slopes = (target - found) @ over.matrix
    for _ in range(sweeps):
        moves = sum(_move(found, slopes, over.matrix, over.order[:, place]) for place in range(found.shape[2]))
        if not moves:
            break
    return found


def _move(found: Array, slopes: Array, matrix: Array, chosen: NDArray[np.intp]) -> int:
    """Move one weight of every output, `chosen` in each group, and the slopes with it; tell how many moved."""
    groups = np.arange(len(found))
    before = found[groups, :, chosen]  # (G, O)
    best = nearest(before + slopes[groups, :, chosen] / matrix[groups, chosen, chosen][:, None])
    group, output = np.nonzero(best != before)
    if group.size:
        by = best[group, output] - before[group, output]
        slopes[group, output] -= by[:, None] * matrix[group, chosen[group]]
        found[group, output, chosen[group]] += by
    return int(group.size)


def output_error(target: Array, rounded: Array, second_moments: Array) -> Array:
    """Compute E |(v - q) x|^2 for each output, (G, O), in squared steps."""
    errors = target - rounded
    found: Array = np.einsum("gok,gok->go", errors @ second_moments, errors)
    return found
