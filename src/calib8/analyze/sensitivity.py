"""What quantising each layer costs: alone, together with all layers before it, and what leaving it in FP32 would gain.

A unit is a layer that can run in INT8, or a BatchNorm with its Scale. For each of them three networks are run:

- alone: the unit in INT8, everything else in FP32
- cumulative: all layers up to the unit in INT8, those behind it in FP32 (the loop of the BM1880 tool's guide)
- without: everything in INT8 but the unit

and compared with FP32 at the network's outputs and at the unit's own top (`units.seen_at`). The layers that a unit has
in common with the one before it are not computed again (`experiment`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calib8.analyze.bench import Bench, Job, Parts, Runner, Setting
from calib8.analyze.experiment import Experiment, Lane, lasting, real_values
from calib8.analyze.judges import Judge
from calib8.analyze.metrics import (
    CodeUsage,
    Comparison,
    OutputComparison,
    Reference,
    code_usage,
    compare,
    compare_outputs,
    total,
)
from calib8.analyze.units import Unit, units_of
from calib8.graph import Array
from calib8.lowering import Codes, Model, Reading
from calib8.quantize import QuantPlan, setup_of

_UNITS_OF_A_STRETCH = 60
"""Units that are run in one graph, where many of them are. Every unit begins somewhere else: what lies behind it is
opened up to the end of its stretch only, the stretches behind it once for all."""
MODES = ("alone", "cumulative", "without")
"""The networks that every unit is judged in."""

Progress = Callable[[int, int, str], None]
"""Called with the number of units that are done, of all units, and the name of the next one."""


@dataclass(frozen=True)
class Damage:
    """One network against FP32.

    Attributes:
        outputs: at the network's outputs.
        own: at the unit's own top, or where it is seen (`units.seen_at`).
        loss: what the judge says; see `judges`.
    """

    outputs: OutputComparison
    own: Comparison
    loss: float


@dataclass(frozen=True)
class UnitSensitivity:
    """One unit.

    Attributes:
        unit: its layers.
        type: the layer type, or the types with commas.
        threshold: of its top, in real units.
        usage: codes of its top in the INT8 network.
        damage: by mode.
    """

    unit: Unit
    type: str
    threshold: float
    usage: CodeUsage
    damage: dict[str, Damage]


@dataclass(frozen=True)
class Sensitivity:
    """All units of a network.

    Attributes:
        units: in the order of the network.
        whole: of the network with everything in INT8.
        whole_loss: what the judge says of it.
        judge: the judge's name.
        samples: number of samples.
    """

    units: tuple[UnitSensitivity, ...]
    whole: OutputComparison
    whole_loss: float
    judge: str
    samples: int

    def of_classes(self, values: Collection[str]) -> Sensitivity:
        """The same, with a top-1 of these outputs only, which hold classes."""
        units = tuple(
            replace(u, damage={mode: replace(d, outputs=d.outputs.of_classes(values)) for mode, d in u.damage.items()})
            for u in self.units
        )
        return replace(self, units=units, whole=self.whole.of_classes(values))

    def ranked(self) -> tuple[UnitSensitivity, ...]:
        """Sort the units by the loss that they cause alone, the worst first; equal ones in the order of the network."""
        return tuple(sorted(self.units, key=lambda u: -u.damage["alone"].loss))


def measure_sensitivity(
    experiment: Experiment,
    plan: QuantPlan,
    judge: Judge,
    compared: Sequence[str],
    progress: Progress = lambda done, units, name: None,
    runner: Runner | None = None,
) -> Sensitivity:
    """Run all units over all samples of an experiment.

    Args:
        compared: the values that stand for the network's outputs; they and the judge's are outputs of the experiment.
        runner: who runs them; None for the experiment itself, of which nothing is run otherwise.

    Raises:
        OptionError: the judge cannot judge the network's outputs.
    """
    runner = runner or Bench(experiment, Setting(plan, judge, experiment.outputs, tuple(compared)))
    units = units_of(experiment.model, plan, experiment.needed)
    samples, measured = range(len(experiment.samples)), list[UnitSensitivity]()
    while len(measured) < len(units):
        following = units[len(measured) : len(measured) + runner.at_once]
        progress(len(measured), len(units), following[0].name)
        for unit, parts in zip(following, runner.parts(UnitDamage(following), samples), strict=True):
            measured.append(_unit(experiment.model, plan, judge, unit, parts or []))
    progress(len(units), len(units), "all in INT8")
    (whole,) = runner.parts(WholeDamage(), samples)
    loss = judge.loss(samples, [judged for _, judged in whole or []])
    outputs = total((compared for compared, _ in whole or []), OutputComparison())
    return Sensitivity(tuple(measured), outputs, loss, judge.name, len(samples))


@dataclass(frozen=True)
class _Part:
    """What one sample says of a unit in one mode."""

    outputs: OutputComparison
    own: Comparison
    judged: Any


_UnitParts = tuple[dict[str, _Part], CodeUsage]


def _unit(model: Model, plan: QuantPlan, judge: Judge, unit: Unit, measured: Sequence[_UnitParts]) -> UnitSensitivity:
    """Add up what the samples say of a unit."""
    damage = {
        mode: Damage(
            total((parts[mode].outputs for parts, _ in measured), OutputComparison()),
            total((parts[mode].own for parts, _ in measured), Comparison()),
            judge.loss(range(len(measured)), [parts[mode].judged for parts, _ in measured]),
        )
        for mode in MODES
    }
    types = ",".join(model.net.layer_by_name[name].type for name in unit.layers)
    usage = total((usage for _, usage in measured), CodeUsage())
    return UnitSensitivity(unit, types, plan.thresholds[unit.top], usage, damage)


@dataclass(frozen=True)
class WholeDamage(Job[tuple[OutputComparison, Any]]):
    """Wants what the network with everything in INT8 is like: compared with FP32, and what the judge says."""

    @property
    def size(self) -> int:
        """One network."""
        return 1

    def piece(self, start: int, stop: int) -> WholeDamage:
        """The network cannot be divided."""
        return self

    def parts(self, bench: Bench, samples: Sequence[int]) -> Parts[tuple[OutputComparison, Any]]:
        """Run it."""
        experiment, setting = bench.experiment, bench.setting
        everything = experiment.variant(setup_of(setting.plan))

        def part(lane: Lane, sample: int) -> tuple[OutputComparison, Any]:
            outputs = lasting(lane.run(sample, everything, experiment.outputs))
            reference = experiment.references[sample]
            compared = compare_outputs(reference, outputs, setting.compared)
            return compared, setting.judge.part(reference, outputs)

        return [experiment.each(part, samples)]


@dataclass(frozen=True)
class UnitDamage(Job[_UnitParts]):
    """Wants what each unit costs, in all modes, and the codes of its top.

    Attributes:
        units: in the order of the network, in which each one finds most of what it needs kept.
    """

    units: tuple[Unit, ...]

    @property
    def size(self) -> int:
        """The number of units."""
        return len(self.units)

    def piece(self, start: int, stop: int) -> UnitDamage:
        """Some of the units."""
        return UnitDamage(self.units[start:stop])

    def parts(self, bench: Bench, samples: Sequence[int]) -> Parts[_UnitParts]:
        """Run all units."""
        return [self._of_unit(bench, unit, samples) for unit in self.units]

    def _of_unit(self, bench: Bench, unit: Unit, samples: Sequence[int]) -> list[_UnitParts]:
        bench.experiment.kept.forget(unit.start)
        return bench.experiment.each(_Measurement(bench, unit).part, samples)


def _references(bench: Bench) -> list[dict[str, Reference]]:
    """FP32's outputs, by sample."""
    return [{v: Reference(array) for v, array in one.items()} for one in bench.experiment.references]


def _ends_of_stretches(bench: Bench) -> list[int]:
    """Positions behind every so many units."""
    units = units_of(bench.experiment.model, bench.setting.plan, bench.experiment.needed)
    return [unit.stop for unit in units[_UNITS_OF_A_STRETCH - 1 :: _UNITS_OF_A_STRETCH]]


class _Measurement:
    """One unit."""

    def __init__(self, bench: Bench, unit: Unit) -> None:
        setting = bench.setting
        self._experiment, self._plan, self._judge, self._unit = bench.experiment, setting.plan, setting.judge, unit
        self._compared = setting.compared
        self._references = bench.once(_references)
        self._cuts = [unit.stop, *(end for end in bench.once(_ends_of_stretches) if end > unit.stop)]
        everything = setup_of(setting.plan).int8_layers
        before = {name for name in everything if self._experiment.position(name) < unit.stop}
        setups = (unit.layers, before, everything - set(unit.layers))
        self._variants = {
            m: self._experiment.variant(setup_of(setting.plan, s)) for m, s in zip(MODES, setups, strict=True)
        }

    def part(self, lane: Lane, sample: int) -> _UnitParts:
        """Run one sample in all modes."""
        unit, experiment = self._unit, self._experiment
        own = Reference(lane.run(sample, experiment.fp32, [unit.seen], keep=[unit.stop])[unit.seen].copy())
        parts: dict[str, _Part] = {}
        usage = CodeUsage()
        # Each sample begins with another mode: threads that need the same graph wait until one of them has opened it.
        for mode in (*MODES[sample % len(MODES) :], *MODES[: sample % len(MODES)]):
            # What a unit in INT8 writes is read as codes. What is seen behind it may be in FP32, and is real.
            tops: list[Reading] = [] if mode == "without" else [Codes(unit.top)]
            if mode == "without" or unit.seen != unit.top:
                tops.append(unit.seen)
            names = tuple(dict.fromkeys([*tops, *experiment.outputs]))
            values = lane.run(sample, self._variants[mode], names, self._kept(mode), self._cuts)
            if mode == "cumulative":
                usage = code_usage(values[Codes(unit.top)])
            parts[mode] = self._part(sample, own, values)
        return parts, usage

    def _kept(self, mode: str) -> list[int]:
        return [self._unit.stop] if mode == "cumulative" else [self._unit.start]

    def _part(self, sample: int, own: Reference, values: Mapping[Reading, Array]) -> _Part:
        experiment, top = self._experiment, self._unit.seen
        codes = values.get(Codes(top))
        plan = self._plan
        mine = values[top] if codes is None else real_values(codes, plan.thresholds[top], plan.channel_units.get(top))
        reference = experiment.references[sample]
        outputs = {name: values[name] for name in experiment.outputs}
        compared = compare_outputs(self._references[sample], outputs, self._compared)
        return _Part(compared, compare(own, mine), self._judge.part(reference, outputs))
