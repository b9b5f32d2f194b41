"""Rounding of weights against loops that follow the papers: an inverse that shrinks, and every integer tried."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from calib8.repair.rounding import compensated, curvature, descended, nearest, output_error


@pytest.fixture
def problem():
    """Weights in steps, some near the ends of int8, and second moments of inputs that go together."""
    rng = np.random.default_rng(4)
    inputs = rng.normal(0, 20, (90, 6)) @ rng.normal(0, 1, (6, 70)) + rng.normal(3, 4, (90, 70))
    return rng.normal(0, 60, (5, 70)), inputs.T @ inputs / len(inputs)


def curved(moments, damping):
    return curvature(moments[None], np.array([damping]))


def gptq(target, hessian, order):
    """Optimal Brain Surgeon, a weight at a time: the inverse Hessian of the free weights is kept."""
    result = np.empty_like(target)
    for row, weights in enumerate(target):
        w, inverse, free = weights.copy(), np.linalg.inv(hessian), list(range(len(weights)))
        for i in order:
            at = free.index(i)
            q = min(max(int(np.floor(w[i] + 0.5)), -128), 127)
            result[row, i] = q
            for place, j in enumerate(free):
                w[j] -= (w[i] - q) / inverse[at, at] * inverse[at, place] if j != i else 0.0
            inverse = inverse - np.outer(inverse[:, at], inverse[at]) / inverse[at, at]
            inverse = np.delete(np.delete(inverse, at, 0), at, 1)
            free.remove(i)
    return result


def test_compensated_rounding_is_gptq(problem):
    target, moments = problem
    order = sorted(range(70), key=lambda i: -moments[i, i])
    np.testing.assert_array_equal(
        compensated(target[None], curved(moments, 0.5))[0], gptq(target, moments + 0.5 * np.eye(70), order)
    )


def test_output_error_is_that_of_outputs():
    rng = np.random.default_rng(0)
    inputs, target = rng.normal(0, 9, (30, 4)), rng.normal(0, 5, (3, 4))
    errors = [((target - nearest(target)) @ x) ** 2 for x in inputs]
    np.testing.assert_allclose(
        output_error(target[None], nearest(target)[None], (inputs.T @ inputs / 30)[None])[0],
        np.mean(errors, axis=0),
        rtol=1e-12,
    )


def best_of_all(target, moments):
    """The integers around each weight, all combinations."""
    around = [(np.floor(v) - 1, np.floor(v), np.floor(v) + 1, np.floor(v) + 2) for v in target]
    errors = [(target - np.array(q)) @ moments @ (target - np.array(q)) for q in itertools.product(*around)]
    return min(errors)


def test_both_steps_come_near_the_best_integers():
    """Nearest integers are far from it."""
    rng = np.random.default_rng(11)
    ratios = []
    for _ in range(20):
        inputs = rng.normal(0, 20, (40, 2)) @ rng.normal(0, 1, (2, 5)) + rng.normal(0, 3, (40, 5))
        target, moments = rng.normal(0, 40, (1, 5)), inputs.T @ inputs / 40
        over = curved(moments, 1e-9)
        found = descended(target[None], compensated(target[None], over), over)
        best = best_of_all(target[0], moments)
        errors = [output_error(target[None], q, moments[None]).item() for q in (nearest(target)[None], found)]
        ratios.append([error / best for error in errors])
    plain, ours = np.median(ratios, axis=0)
    assert ours < 1.2 < 4 < plain


def descent(target, rounded, hessian, order, sweeps):
    """Each weight tries every integer."""
    found = rounded.copy()
    for _ in range(sweeps):
        for i in order:
            for row in range(len(found)):
                trials = np.repeat(found[row : row + 1], 256, axis=0)
                trials[:, i] = np.arange(-128, 128)
                errors = target[row] - trials
                found[row] = trials[np.argmin(np.einsum("nk,kl,nl->n", errors, hessian, errors))]
    return found


@pytest.mark.parametrize("sweeps", [1, 3])
def test_descent_takes_each_weights_best_integer(problem, sweeps):
    target, moments = problem
    over = curved(moments, 2.0)
    found = descended(target[None], nearest(target)[None], over, sweeps)
    expected = descent(target, nearest(target), moments + 2 * np.eye(70), over.order[0], sweeps)
    np.testing.assert_array_equal(found[0], expected)
    errors = [output_error(target[None], q, over.matrix) for q in (nearest(target)[None], found)]
    assert (errors[1] < errors[0]).all()


def test_descent_ends_where_nothing_moves(problem):
    target, moments = problem
    over = curved(moments, 2.0)
    settled = descended(target[None], nearest(target)[None], over, 1000)
    np.testing.assert_array_equal(descended(target[None], settled, over, 1), settled)


def test_groups_are_problems_of_their_own():
    rng = np.random.default_rng(8)
    inputs = rng.normal(0, 9, (40, 3, 6)) * rng.uniform(0.1, 9, (3, 6))
    moments = np.einsum("ngk,ngl->gkl", inputs, inputs) / 40
    target = rng.normal(0, 50, (3, 4, 6))

    def solve(part, of):
        over = curvature(of, np.full(len(of), 0.3))
        return descended(part, compensated(part, over), over, 1)

    alone = [solve(target[g : g + 1], moments[g : g + 1])[0] for g in range(3)]
    np.testing.assert_array_equal(solve(target, moments), alone)
    np.testing.assert_array_equal(
        output_error(target, nearest(target), moments)[1:2],
        output_error(target[1:2], nearest(target[1:2]), moments[1:2]),
    )


def test_clipped_weights_are_made_up_for():
    """A weight beyond int8 leaves its rest to the input that moves with it."""
    moments = np.array([[1.0, 0.99], [0.99, 1.0]])
    found = compensated(np.array([[[140.0, 10.0]]]), curved(moments, 1e-6))
    np.testing.assert_array_equal(found, [[[127, 23]]])


def test_inputs_that_never_moved_get_nearest_integers():
    target = np.array([[[1.4, -2.6, 300.0]]])
    np.testing.assert_array_equal(compensated(target, curved(np.zeros((3, 3)), 1.0)), [[[1, -3, 127]]])


_OF_SIZE = """
import hashlib, numpy as np
from calib8.repair.rounding import compensated, curvature, descended
rng = np.random.default_rng(1)
rows = rng.integers(-128, 128, (900, 300)).astype(np.float64)
rows[:, ::2] += rows[:, 1::2]
target, over = rng.normal(0, 40, (1, 200, 300)), curvature((rows.T @ rows / 900)[None], np.array([60.0]))
print(hashlib.sha256(descended(target, compensated(target, over), over).tobytes()).hexdigest())
"""


def test_threads_of_the_linear_algebra_library_do_not_count():
    found = set()
    for threads in ("1", "2", "3"):
        env = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", _OF_SIZE]
        found.add(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1
