"""ONNX operators as Caffe layers, one function each: what it reads and checks, and the layers that compute the same.

A function takes the node and the writer of layers, and returns the node's outputs. It raises RefusedError for what the
layers cannot compute exactly. Modules are by kind; importing the package registers all of them.
"""

from __future__ import annotations

import importlib
import pkgutil

from calib8.onnx_in.operators.table import OPERATORS, Results

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["OPERATORS", "Results"]
