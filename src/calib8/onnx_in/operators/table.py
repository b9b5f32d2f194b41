"""The table of operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from calib8.onnx_in.node import Node
from calib8.onnx_in.values import Value
from calib8.onnx_in.writer import LayerWriter

Results = Value | Sequence[Value]
"""A node's first output, or all of them."""
Convert = Callable[[Node, LayerWriter], Results]
ConvertT = TypeVar("ConvertT", bound=Convert)

OPERATORS: dict[str, Convert] = {}
"""By ONNX's name."""


def operator(*names: str) -> Callable[[ConvertT], ConvertT]:
    """Make a function known as that of these operators."""

    def known(function: ConvertT) -> ConvertT:
        for name in names:
            if name in OPERATORS:
                raise AssertionError(f"operator {name} is there twice")
            OPERATORS[name] = function
        return function

    return known
