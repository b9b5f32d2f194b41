"""Caffe's layer types, one file each. Importing the package registers all of them."""

from __future__ import annotations

import importlib
import pkgutil

from calib8.layer_kit.base import Call, Op, QuantizeCall, make_op, register, registry
from calib8.layer_kit.fields import RefusedError
from calib8.layer_kit.form import IntegerForm, same_integers
from calib8.layer_kit.onnx_builder import OnnxBuilder

__all__ = [
    "Call",
    "IntegerForm",
    "OnnxBuilder",
    "Op",
    "QuantizeCall",
    "RefusedError",
    "make_op",
    "register",
    "registry",
    "same_integers",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"calib8.layers.{_module.name}")
