"""The part of pycaffe that calib8 does not have."""

from __future__ import annotations

from typing import NoReturn

from calib8.errors import UnsupportedError


def refuse_training(what: str) -> NoReturn:
    """Raise UnsupportedError."""
    raise UnsupportedError(f"{what} is for training; calib8 is for inference only")


class TrainingMethods:
    """What a net cannot do."""

    def backward(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: calib8 is for inference only."""
        refuse_training("Net.backward")

    def _backward(self, *args: object, **kwargs: object) -> NoReturn:
        refuse_training("Net._backward")

    def forward_backward_all(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: calib8 is for inference only."""
        refuse_training("Net.forward_backward_all")

    def clear_param_diffs(self) -> NoReturn:
        """Refuse: calib8 is for inference only."""
        refuse_training("Net.clear_param_diffs")

    def before_backward(self, function: object) -> NoReturn:
        """Refuse: calib8 is for inference only."""
        refuse_training("Net.before_backward")

    def after_backward(self, function: object) -> NoReturn:
        """Refuse: calib8 is for inference only."""
        refuse_training("Net.after_backward")


class Solver:
    """What stands in the place of a solver's class."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        refuse_training(type(self).__name__)


class SGDSolver(Solver):
    """Not there: calib8 is for inference only."""


class NesterovSolver(Solver):
    """Not there: calib8 is for inference only."""


class AdaGradSolver(Solver):
    """Not there: calib8 is for inference only."""


class RMSPropSolver(Solver):
    """Not there: calib8 is for inference only."""


class AdaDeltaSolver(Solver):
    """Not there: calib8 is for inference only."""


class AdamSolver(Solver):
    """Not there: calib8 is for inference only."""


class NCCL(Solver):
    """Not there: calib8 is for inference only."""


def get_solver(filename: str) -> NoReturn:
    """Refuse: calib8 is for inference only."""
    refuse_training("get_solver")


def has_nccl() -> bool:
    """Tell whether several GPUs can train together: never."""
    return False


def solver_count() -> int:
    """Count the solvers that train together: one, since none does."""
    return 1


def solver_rank() -> int:
    """Give the number of this process among them."""
    return 0


def set_solver_count(count: int) -> NoReturn:
    """Refuse: calib8 is for inference only."""
    refuse_training("set_solver_count")


def set_solver_rank(rank: int) -> NoReturn:
    """Refuse: calib8 is for inference only."""
    refuse_training("set_solver_rank")


def set_multiprocess(enabled: bool) -> NoReturn:
    """Refuse: calib8 is for inference only."""
    refuse_training("set_multiprocess")
