"""Units of channels in the record of a run: the only place that tells those of carried channels.

    "channel_units": [{"tops": [["conv1", 0], ["relu1", 0]], "units": [1.0, 0.25, ...]}, ...]

A top is named by its layer and its place among the layer's tops; tops with the same units stand together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import TableError
from calib8.lowering import Model

Units = Mapping[str, NDArray[np.float64]]

KEY = "channel_units"


def units_to_json(model: Model, units: Units) -> list[dict[str, Any]]:
    """Give units by value as what a record holds."""
    together: dict[tuple[float, ...], list[list[Any]]] = {}
    for value, own in units.items():
        layer = model.net.producer[value]
        together.setdefault(tuple(own.tolist()), []).append([layer.name, layer.tops.index(value)])
    return [{"tops": tops, "units": list(own)} for own, tops in together.items()]


def units_from_json(content: Any, model: Model, source: str) -> dict[str, NDArray[np.float64]]:
    """Read units by value.

    Raises:
        TableError: they are none, or not of this network.
    """
    try:
        return {value: own for entry in list(content) for value, own in _entry(entry, model)}
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as why:
        raise TableError(
            f"{source}: its `{KEY}` are not those of {model.net.source} ({type(why).__name__}: {why}); take the record "
            "of this network's calibration, or calibrate again"
        ) from None


def _entry(entry: Mapping[str, Any], model: Model) -> list[tuple[str, NDArray[np.float64]]]:
    units = np.array([float(unit) for unit in entry["units"]])
    if not all(math.isfinite(unit) and unit > 0 for unit in units.tolist()):
        raise ValueError("a unit that is not above 0")
    found = []
    for name, place in entry["tops"]:
        top = model.net.layer_by_name[name].tops[place]
        shape = model.shapes[top]
        if place < 0 or len(shape) < 2 or shape[1] != units.size:
            raise ValueError(f"layer {name!r} has a top {list(shape)}, not one of {units.size} channels")
        found.append((top, units))
    return found
