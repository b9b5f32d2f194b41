"""Which layers to keep in FP32 so that a network loses no more than a given drop, and what each of them buys.

The smallest such set cannot be found without trying all of them. What is done: the layer whose return to FP32 gains
most is kept, then the one that gains most beside it, until the drop is met; then every kept layer that is not needed
any more goes back to INT8. A drop of many metrics moves in steps (a sample more or less), so that layers are often
equal in it: the squared difference of the outputs decides between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from calib8.analyze.experiment import Experiment, Lane
from calib8.analyze.judges import Judge, SquaredDifference
from calib8.analyze.units import Unit, units_of
from calib8.quantize import QuantPlan, setup_of, without_idle_layers

_REVISITED = 6
"""So many of the best units of the first round are tried again for every further place."""

Progress = Callable[[int, int, str], None]
"""Called with what is done, of how much as far as that is known, and what is being tried."""


@dataclass(frozen=True)
class KeptUnit:
    """A unit that stays in FP32.

    Attributes:
        unit: its layers.
        buys: how much larger the drop would be with it in INT8.
    """

    unit: Unit
    buys: float


@dataclass(frozen=True)
class MixedPrecision:
    """A proposal.

    Attributes:
        kept: units that stay in FP32, in the order of the network.
        drop_before, drop_after: with everything in INT8, and with the proposal.
        int8_layers: names of all layers in INT8, in the order of the network.
        fp32_layers: names of those that could run in INT8 and do not: the kept ones, and layers between them that only
            hand values on.
        data_layers: names of the layers that give the inputs.
    """

    kept: tuple[KeptUnit, ...]
    drop_before: float
    drop_after: float
    int8_layers: tuple[str, ...]
    fp32_layers: tuple[str, ...]
    data_layers: tuple[str, ...] = ()

    @property
    def int8_layer(self) -> str:
        """The string for int8_init; "" for a network whose layers all run in INT8, which means just that.

        Where no layer is left in INT8 it names the data layers, which have no integers.
        """
        return ",".join(self.int8_layers or self.data_layers) if self.kept else ""


def propose_mixed_precision(
    experiment: Experiment,
    plan: QuantPlan,
    judge: Judge,
    max_drop: float,
    compared: Sequence[str],
    progress: Progress = lambda done, steps, what: None,
) -> MixedPrecision:
    """Find a small set of units to keep in FP32 so that the judge's loss over all samples is at most `max_drop`.

    Args:
        compared: the values whose squared difference decides where drops are equal; they and the judge's are outputs
            of the experiment.

    Raises:
        OptionError: the judge cannot judge the outputs.
    """
    return _Proposal(experiment, plan, judge, SquaredDifference(compared), max_drop, progress).make()


class _Proposal:
    """A proposal while it is made. A result is (drop, squared difference): smaller is better, in this order."""

    def __init__(
        self,
        experiment: Experiment,
        plan: QuantPlan,
        judge: Judge,
        difference: SquaredDifference,
        max_drop: float,
        progress: Progress,
    ) -> None:
        self._experiment, self._plan, self._judge, self._difference = experiment, plan, judge, difference
        self._max_drop, self._progress, self._done = max_drop, progress, 0
        ops = experiment.model.op_of
        units = units_of(experiment.model, plan, experiment.needed)
        # Layers that only hand values on follow those before them.
        self._units = [u for u in units if not all(ops[name].passive or ops[name].moves_data for name in u.layers)]
        self._known: dict[frozenset[Unit], tuple[float, float]] = {}

    def make(self) -> MixedPrecision:
        before, _ = self._result(())
        kept = self._grown()
        kept = self._pruned(kept)
        after, _ = self._result(kept)
        ordered = sorted(kept, key=lambda unit: unit.start)
        bought = tuple(KeptUnit(u, self._result([k for k in kept if k is not u])[0] - after) for u in ordered)
        experiment = self._experiment
        layers = experiment.model.net.layers
        everything, chosen = setup_of(self._plan).int8_layers, self._in_int8(kept)
        return MixedPrecision(
            bought, before, after,
            tuple(x.name for x in layers if x.name in chosen),
            tuple(x.name for x in layers if x.name in everything - chosen),
            tuple(x.name for x in layers if experiment.model.op_of[x.name].kind == "source"),
        )  # fmt: skip

    def _in_int8(self, kept: Collection[Unit]) -> frozenset[str]:
        in_fp32 = {name for unit in kept for name in unit.layers}
        return without_idle_layers(self._experiment.model, setup_of(self._plan).int8_layers - in_fp32)

    def _grown(self) -> list[Unit]:
        kept: list[Unit] = []
        ranking = list(self._units)
        # The first round tries all; later ones only the best of it, since trying all again would take the square.
        while self._result(kept)[0] > self._max_drop and ranking:
            tried = ranking if not kept else ranking[:_REVISITED]
            results = {unit: self._result([*kept, unit]) for unit in tried}
            tried.sort(key=lambda unit: results[unit])
            ranking = tried + ranking[len(tried) :]
            kept.append(ranking.pop(0))
        return kept

    def _pruned(self, kept: Sequence[Unit]) -> list[Unit]:
        """Without the units that are not needed any more; those that were kept last are tried last."""
        left = list(kept)
        for unit in kept:
            fewer = [other for other in left if other is not unit]
            if self._result(fewer)[0] <= self._max_drop:
                left = fewer
        return left

    def _result(self, kept: Collection[Unit]) -> tuple[float, float]:
        key = frozenset(kept)
        if key not in self._known:
            self._progress(self._done, self._done + 1, ",".join(unit.name for unit in kept) or "all in INT8")
            self._known[key] = self._measured(kept)
            self._done += 1
        return self._known[key]

    def _measured(self, kept: Collection[Unit]) -> tuple[float, float]:
        experiment = self._experiment
        variant = experiment.variant(setup_of(self._plan, self._in_int8(kept)))
        starts = [unit.start for unit in kept]

        def part(lane: Lane, sample: int) -> tuple[Any, float]:
            reference = experiment.references[sample]
            outputs = lane.run(sample, variant, experiment.outputs, starts)
            return self._judge.part(reference, outputs), self._difference.part(reference, outputs)

        samples = range(len(experiment.samples))
        parts = experiment.each(part, samples)
        drop = self._judge.loss(samples, [judged for judged, _ in parts])
        return drop, self._difference.loss(samples, [squared for _, squared in parts])
