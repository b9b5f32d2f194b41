"""How much is repaired, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass

from calib8.choices import MOVING_PASSES, REPAIR_LEVELS, REPAIR_PASSES, THOROUGH_PASSES
from calib8.errors import OptionError


@dataclass(frozen=True)
class RepairOptions:
    """How a plan is repaired.

    Attributes:
        level: one of `calib8.repair.LEVELS`.
        without: names of `calib8.repair.PASSES` that are left out.
        threads: None for all cores; no result depends on it.
        keep_thresholds: leave out the parts that move thresholds, too, and the trial of several sets of them.

    Raises:
        OptionError: values that are not possible.
    """

    level: str = "standard"
    without: frozenset[str] = frozenset()
    threads: int | None = None
    keep_thresholds: bool = False

    def __post_init__(self) -> None:
        """Raises OptionError."""
        if self.level not in REPAIR_LEVELS:
            raise OptionError(f"`repair` is {self.level!r}; choose one of {', '.join(REPAIR_LEVELS)}")
        unknown = sorted(self.without.difference(REPAIR_PASSES))
        if unknown:
            raise OptionError(f"`without` names {unknown[0]!r}; choose from {', '.join(REPAIR_PASSES)}")

    def does(self, name: str) -> bool:
        """Tell whether a part is done, at a level that has it."""
        return name not in self.without and not (self.keep_thresholds and name in MOVING_PASSES)

    @property
    def aligns(self) -> bool:
        """Whether offsets are aligned: only units between a convolution and its BatchNorm make that possible."""
        return self.does("aligned-offsets") and self.does("channel-units")

    @property
    def left_out(self) -> tuple[str, ...]:
        """The parts that the level has, nobody left out, and that are not done since thresholds are kept."""
        of_level = [name for name in MOVING_PASSES if self.level == "thorough" or name not in THOROUGH_PASSES]
        return tuple(name for name in of_level if name not in self.without and not self.does(name))
