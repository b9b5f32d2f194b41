"""What those who wait are told: a callback that takes a `Progress`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """How far a function of the workflow has come.

    Attributes:
        stage: what is under way, like "calibrating"; a function may go through several stages.
        done: what is done of this stage, counted in images, layers or trials.
        total: of how many; None where that is not known. It may grow.
        what: the layer, or whatever is being done just now; "" for nothing to say.
    """

    stage: str
    done: int
    total: int | None = None
    what: str = ""


class ProgressCallback(Protocol):
    """Called again and again while a function works; what it raises ends the work."""

    def __call__(self, progress: Progress, /) -> None:
        """Take in how far the work has come."""


def quiet(progress: Progress) -> None:
    """Tell nobody."""
