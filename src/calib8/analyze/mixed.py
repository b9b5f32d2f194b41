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

from calib8.analyze.bench import Bench, Job, Parts, Runner, Setting
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
    runner: Runner | None = None,
) -> MixedPrecision:
    """Find a small set of units to keep in FP32 so that the judge's loss over all samples is at most `max_drop`.

    Args:
        compared: the values whose squared difference decides where drops are equal; they and the judge's are outputs
            of the experiment.
        runner: who runs the networks; None for the experiment itself, of which nothing is run otherwise.

    Raises:
        OptionError: the judge cannot judge the outputs.
    """
    setting = Setting(plan, judge, experiment.outputs, tuple(compared))
    return _Proposal(experiment, setting, max_drop, progress, runner or Bench(experiment, setting)).make()


@dataclass(frozen=True)
class Drops(Job[tuple[Any, float]]):
    """Wants, of networks with some layers in FP32, what the judge says of each sample, and the squared difference.

    Attributes:
        networks: of each the layers in INT8, and the positions at which what is kept in FP32 begins.
    """

    networks: tuple[tuple[frozenset[str], tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """The number of networks."""
        return len(self.networks)

    def piece(self, start: int, stop: int) -> Drops:
        """Some of the networks."""
        return Drops(self.networks[start:stop])

    def parts(self, bench: Bench, samples: Sequence[int]) -> Parts[tuple[Any, float]]:
        """Run them."""
        experiment, setting = bench.experiment, bench.setting
        judge, difference = setting.judge, SquaredDifference(setting.compared)

        def of(in_int8: frozenset[str], starts: Sequence[int]) -> list[tuple[Any, float]]:
            variant = experiment.variant(setup_of(setting.plan, in_int8))

            def part(lane: Lane, sample: int) -> tuple[Any, float]:
                reference = experiment.references[sample]
                outputs = lane.run(sample, variant, experiment.outputs, starts)
                return judge.part(reference, outputs), difference.part(reference, outputs)

            return experiment.each(part, samples)

        return [of(*network) for network in self.networks]


class _Proposal:
    """A proposal while it is made. A result is (drop, squared difference): smaller is better, in this order."""

    def __init__(
        self,
        experiment: Experiment,
        setting: Setting,
        max_drop: float,
        progress: Progress,
        runner: Runner,
    ) -> None:
        self._experiment, self._plan, self._judge = experiment, setting.plan, setting.judge
        self._difference, self._runner = SquaredDifference(setting.compared), runner
        self._max_drop, self._progress = max_drop, progress
        ops = experiment.model.op_of
        units = units_of(experiment.model, setting.plan, experiment.needed)
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
            self._run([[*kept, unit] for unit in tried])
            tried.sort(key=lambda unit: self._result([*kept, unit]))
            ranking = tried + ranking[len(tried) :]
            kept.append(ranking.pop(0))
        return kept

    def _pruned(self, kept: Sequence[Unit]) -> list[Unit]:
        """Without the units that are not needed any more; those that were kept last are tried last.

        Errors may cancel: what was needed beside another unit may not be without it, so all are tried until none goes.
        """
        left, before = list(kept), len(kept) + 1
        while len(left) < before:
            before = len(left)
            for unit in tuple(left):
                fewer = [other for other in left if other is not unit]
                if self._result(fewer)[0] <= self._max_drop:
                    left = fewer
        return left

    def _result(self, kept: Collection[Unit]) -> tuple[float, float]:
        self._run([kept])
        return self._known[frozenset(kept)]

    def _run(self, wanted: Sequence[Collection[Unit]]) -> None:
        """Get to know the results of some networks, as many at a time as the runner likes."""
        unknown = [kept for kept in wanted if frozenset(kept) not in self._known]
        samples = range(len(self._experiment.samples))
        for start in range(0, len(unknown), self._runner.at_once):
            following = unknown[start : start + self._runner.at_once]
            done, what = len(self._known), ",".join(unit.name for unit in following[0]) or "all in INT8"
            self._progress(done, done + len(following), what)
            networks = tuple((self._in_int8(kept), tuple(unit.start for unit in kept)) for kept in following)
            for kept, parts in zip(following, self._runner.parts(Drops(networks), samples), strict=True):
                judged, squared = zip(*(parts or []), strict=True)
                drop = self._judge.loss(samples, judged)
                self._known[frozenset(kept)] = drop, self._difference.loss(samples, squared)
