"""Windows of what a layer gets in INT8, and of what FP32 has at the same places: refitted weights are solved over them.

See `refitted_weights`. Sums are exact whatever the order of the samples: x' is codes, and x whole numbers of 1/16 of a
code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.layer_kit.window_product import WindowProduct
from calib8.repair.input_windows import InputWindows, Moments, Wanted, exact_products, moments_of

Array = NDArray[Any]

_FINE = 16  # steps of a code, of x
_FURTHEST = 1 << 8  # codes: what lies further out is clipped
_EVERY = 5  # a sample of so many says which ridge
_RIDGES = (1.0, 16.0)  # that are tried, in multiples of the mean of the diagonal


@dataclass(frozen=True, eq=False)
class PairedMoments(Moments):
    """Moments of x', and of x beside it.

    Attributes:
        float_sums: of x, (G, K).
        cross: of x x'^T, (G, K, K).
        float_products: of x x^T, (G, K, K).
    """

    float_sums: NDArray[np.float64]
    cross: NDArray[np.float64]
    float_products: NDArray[np.float64]

    @property
    def arrays(self) -> tuple[NDArray[np.float64], ...]:
        """All sums, in the order of the fields."""
        return self.sums, self.products, self.float_sums, self.cross, self.float_products

    @property
    def float_means(self) -> NDArray[np.float64]:
        """E[x], (G, K), in codes."""
        return self.float_sums / self.count

    def refitted(
        self, weights: NDArray[np.float64], *ridges: float, centred: bool, without: PairedMoments | None = None
    ) -> Iterator[NDArray[np.float64]]:
        """Yield V for the weights W, (G, O, K), for one ridge after the other; see `refitted_weights`.

        Args:
            ridges: in multiples of the mean of the diagonal, to which that of a rounded input, 1/12, is added.
            without: windows among these that are left out. Sums are exact, so the others are what is left.
        """
        count = self.count - (without.count if without else 0)

        def mean(of: Callable[[PairedMoments], NDArray[np.float64]]) -> NDArray[np.float64]:
            found: NDArray[np.float64] = of(self) - (of(without) if without else 0)
            found /= count
            return found

        means, float_means = mean(lambda m: m.sums), mean(lambda m: m.float_sums)
        squares = mean(lambda m: np.diagonal(m.products, axis1=1, axis2=2))
        size = (squares - (means**2 if centred else 0)).mean(axis=1) + 1 / 12
        # One matrix of a wide layer takes 11 MB, so that each is made when it is needed.
        floats = mean(lambda m: m.float_products)
        if centred:
            floats -= float_means[:, :, None] * float_means[:, None, :]
        transposed = weights.transpose(0, 2, 1)
        wanted, places = floats @ transposed, np.arange(weights.shape[-1])
        del floats
        cross = mean(lambda m: m.cross)
        if centred:
            cross -= float_means[:, :, None] * means[:, None, :]
        diagonal = np.diagonal(cross, axis1=1, axis2=2).copy()
        for ridge in ridges:
            held = (ridge * size)[:, None]
            cross[:, places, places] = diagonal + held
            try:
                # (E[x x'^T] + held) V^T = (E[x x^T] + held) W^T
                yield np.linalg.solve(cross, wanted + held[:, :, None] * transposed).transpose(0, 2, 1)
            except np.linalg.LinAlgError:  # codes that run against their inputs: of a network that is ruined elsewhere
                yield weights

    def errors(
        self, weights: NDArray[np.float64], found: Iterable[NDArray[np.float64]], *, centred: bool
    ) -> Iterator[float]:
        """Yield E |V x' - W x|^2 - E |W x|^2, summed over the outputs, of one V after the other."""
        cross = self.cross / self.count
        if centred:
            cross -= self.float_means[:, :, None] * self.means[:, None, :]
        twice = 2 * (weights @ cross)
        del cross
        own = self.covariance if centred else self.second
        for one in found:
            yield float(np.einsum("gok,gok->", one @ own - twice, one))


@dataclass(frozen=True, eq=False)
class ChosenMoments(PairedMoments):
    """Moments of all windows, and of a part of them.

    Attributes:
        held_out: of some samples, which say how tightly weights that are solved over the others are to be held.
    """

    held_out: PairedMoments

    def chosen(self, weights: NDArray[np.float64], *, centred: bool) -> Callable[[NDArray[np.float64]], Wanted]:
        """Refit weights, with the ridge that is best on the part that was held out; or leave them as they are."""
        others = self.refitted(weights, *_RIDGES, centred=centred, without=self.held_out)
        errors = list(self.held_out.errors(weights, itertools.chain([weights], others), centred=centred))
        best = int(np.argmin(errors))
        if best == 0:
            return super().chosen(weights, centred=centred)
        ridge = _RIDGES[best - 1]
        return lambda rows: Wanted(
            next(self.refitted(rows, ridge, centred=centred)), np.einsum("gok,gk->go", rows, self.float_means)
        )


class Seen(NamedTuple):
    """Windows of one sample, (G, n, K) each.

    Attributes:
        codes: of x', int8.
        off: x - x', int16, in steps.
    """

    codes: NDArray[np.int8]
    off: NDArray[np.int16]


class PairedWindows:
    """Windows of the codes that a layer gets, and of what FP32 has at the same places.

    Args:
        op: the layer that reads the value.
        threshold: of the value, in real units.
        per_sample: how many windows of a sample are kept.
    """

    widest = 1152  # a dozen matrices of them are alive, 11 MB each

    def __init__(self, op: WindowProduct, threshold: float, per_sample: int) -> None:
        self._codes = InputWindows(op, threshold, per_sample)
        self._op, self._per_sample = op, per_sample
        self._step = threshold / INT8_LEVELS / _FINE
        self._off: list[NDArray[np.int16]] = []  # x - x' of each sample, in steps

    def seen(self, codes: Array, values: Array) -> Seen:
        """Look at a value of one sample: its codes, int8, and FP32's, in real units. Several threads can."""
        steps = np.rint(np.nan_to_num(self._op.product_windows(values, self._per_sample), nan=0.0) / self._step)
        own, most = self._op.product_windows(codes, self._per_sample), _FINE * _FURTHEST - 1
        return Seen(own, np.clip(steps, -most, most).astype(np.int16) - _FINE * own.astype(np.int16))

    def add(self, seen: Seen) -> None:
        """Take in what was seen of one sample."""
        self._codes.add_windows(seen.codes)
        self._off.append(seen.off)

    @property
    def count(self) -> int:
        """Number of windows so far."""
        return self._codes.count

    def mean_squares(self) -> NDArray[np.float64]:
        """Compute E[x'^2] of every input, (G, K)."""
        return self._codes.mean_squares()

    def moments(self, first: int = 0, last: int | None = None) -> Moments:
        """Compute the moments of a range of the K inputs, all by default; of a single sample there is none of x."""
        if len(self._off) < 2:
            return self._codes.moments(first, last)
        held_out = range(min(_EVERY, len(self._off)) - 1, len(self._off), _EVERY)
        others = [at for at in range(len(self._off)) if at not in held_out]
        part, whole = self._of(held_out, first, last), self._of(others, first, last)
        for mine, more in zip(whole.arrays, part.arrays, strict=True):
            np.add(mine, more, out=mine)
        sums, products, float_sums, cross, floats = whole.arrays
        return ChosenMoments(whole.count + part.count, sums, products, float_sums, cross, floats, part)

    def _of(self, samples: Sequence[int], first: int, last: int | None) -> PairedMoments:
        """The moments of some samples: those of the codes, and of what x is off by, which is small."""
        codes = np.concatenate([self._codes.parts[at][:, :, first:last] for at in samples], axis=1)
        off = np.concatenate([self._off[at][:, :, first:last] for at in samples], axis=1)
        own, cross, floats = moments_of(codes), exact_products(off, codes), exact_products(off, off)
        cross /= _FINE  # of (x - x') x'^T until here
        floats /= _FINE**2
        for more in (cross, cross.transpose(0, 2, 1), own.products):
            floats += more
        cross += own.products
        float_sums = own.sums + off.sum(axis=1, dtype=np.float64) / _FINE
        return PairedMoments(own.count, own.sums, own.products, float_sums, cross, floats)
