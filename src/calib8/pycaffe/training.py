"""The part of pycaffe that calib8 does not have."""

from __future__ import annotations

from typing import Any, NoReturn

from calib8.errors import UnsupportedError


def refuse_training(what: str) -> NoReturn:
    """Raise UnsupportedError."""
    raise UnsupportedError(f"{what} is for training; calib8 is for inference only")


class _Solver:
    """What stands in the place of a solver's class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        refuse_training(type(self).__name__)


class SGDSolver(_Solver):
    """Not there: calib8 is for inference only."""


class NesterovSolver(_Solver):
    """Not there: calib8 is for inference only."""


class AdaGradSolver(_Solver):
    """Not there: calib8 is for inference only."""


class RMSPropSolver(_Solver):
    """Not there: calib8 is for inference only."""


class AdaDeltaSolver(_Solver):
    """Not there: calib8 is for inference only."""


class AdamSolver(_Solver):
    """Not there: calib8 is for inference only."""


def get_solver(filename: str) -> NoReturn:
    """Not there: calib8 is for inference only."""
    refuse_training("get_solver")
