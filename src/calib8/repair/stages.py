"""What a repair begins with, has on its way, and finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from calib8.measure.histogram import BlobHistogram
from calib8.quantize import QuantPlan
from calib8.repair.equalised_channels import InChannelUnits
from calib8.repair.guard import decibels

Told = Callable[[str, int, int], None]
"""Called with what is under way, how much of it is done, and of how much."""


@dataclass(frozen=True)
class ThresholdSets:
    """Sets of thresholds that are tried.

    Attributes:
        names: the first one is what the plan without a repair has, and has to be possible.
        plan_of: from a name to the contract's own plan, with thresholds of `least` at least.
        threshold_of: from a name, and a distribution that no plan has been made of yet, to a threshold.
        least: thresholds by value that are not gone below, as samples do not show what needs them (`tail_room`).
        nan: whether samples may make a value NaN; where it is known that none does, the repair takes less time.
    """

    names: Sequence[str]
    plan_of: Callable[[str], QuantPlan]
    threshold_of: Callable[[str, BlobHistogram], float]
    least: Mapping[str, float] = field(default_factory=dict)
    nan: bool = True

    def first(self) -> ThresholdSets:
        """Return the first one alone."""
        return replace(self, names=self.names[:1])


@dataclass(frozen=True, eq=False)
class Counted:
    """How channels are counted.

    Attributes:
        name: how their units were chosen; empty for none.
        network: in these units.
        in_units: as `Stage` has it.
    """

    name: str
    network: InChannelUnits
    in_units: Mapping[str, BlobHistogram] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Start:
    """Where passes may begin.

    Attributes:
        counted: the network.
        plan: before the passes; of a large network without the integers of its layers: only whether a layer has some.
        make: makes it with them.
        noise: with float weights, where it was measured.
        least: thresholds by value that were raised to make room for what was not seen, and are not gone below.
    """

    counted: Counted
    plan: QuantPlan
    make: Callable[[], QuantPlan]
    noise: float = math.inf
    least: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stage:
    """A plan on the way.

    Attributes:
        name: of the thresholds, or of the pass that has made it.
        plan: of a network of more than 16 million weights without its integers, unless it is the best.
        noise: on the guard's samples; see `guard`.
        in_units: distributions of |x|, each channel in its unit, of the values that equalised channels are of.
    """

    name: str
    plan: QuantPlan
    noise: float
    in_units: Mapping[str, BlobHistogram] = field(default_factory=dict)

    @property
    def decibels(self) -> float:
        """Signal over noise."""
        return decibels(self.noise)


@dataclass(frozen=True, eq=False)
class Repaired:
    """What a repair has found.

    Attributes:
        best: the stage with the least noise of those that can be the result; see `pipeline`.
        plain: the contract's own plans, one for each set of thresholds, the one that there would be without a repair
            first.
        stages: the plans behind each pass, in order.
        floor: noise that is left with float weights, by set of thresholds.
        guarding: how many samples chose.
        floored: on how many samples the floor was measured; see `pipeline`.
        with_boxes: whether noise is the mean of that of values and that of decoded boxes.
        left_out: parts that would have moved thresholds, where these were given and are kept.
    """

    best: Stage
    plain: tuple[Stage, ...]
    stages: tuple[Stage, ...]
    floor: Mapping[str, float]
    guarding: int
    floored: int
    with_boxes: bool = False
    left_out: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Say what was chosen, and what it gained."""
        first = self.plain[0]
        floors = ", ".join(f"{name} {decibels(noise):.1f} dB" for name, noise in self.floor.items())
        measure = (
            "signal to noise of values and of decoded boxes, in the mean," if self.with_boxes else "signal to noise"
        )
        found = [f"{measure} of {self.guarding} samples that were held out, all layers in INT8:"]
        found += [f"  {stage.name:<36}{stage.decibels:6.1f} dB" for stage in (*self.plain, *self.stages)]
        if floors:
            more = f", of {self.floored} samples, which choose the thresholds" if self.floored > self.guarding else ""
            found.append(f"with float weights{more}: {floors}")
        if self.left_out:
            found.append(f"thresholds stay as they are given; left out, as they move them: {', '.join(self.left_out)}")
        gain = self.best.decibels - first.decibels
        return [*found, f"chosen: {self.best.name}, {gain:+.1f} dB against {first.name}"]
