"""How much is repaired, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass

from calib8.choices import REPAIR_LEVELS, REPAIR_PASSES
from calib8.errors import OptionError


@dataclass(frozen=True)
class RepairOptions:
    """How a plan is repaired.

    Attributes:
        level: one of `calib8.repair.LEVELS`.
        without: names of `calib8.repair.PASSES` that are left out.
        threads: None for all cores; no result depends on it.

    Raises:
        OptionError: values that are not possible.
    """

    level: str = "standard"
    without: frozenset[str] = frozenset()
    threads: int | None = None

    def __post_init__(self) -> None:
        """Raises OptionError."""
        if self.level not in REPAIR_LEVELS:
            raise OptionError(f"`repair` is {self.level!r}; choose one of {', '.join(REPAIR_LEVELS)}")
        unknown = sorted(self.without.difference(REPAIR_PASSES))
        if unknown:
            raise OptionError(f"`without` names {unknown[0]!r}; choose from {', '.join(REPAIR_PASSES)}")
