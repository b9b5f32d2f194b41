"""The calibration table of the vendor's current toolchain, tpu-mlir: what its model_deploy.py takes.

Lines that begin with `#`, then `name threshold min max` for every value, in real units with seven decimals.

The names are those that its model_transform.py gives to a value of a Caffe network: the last layer that writes a blob
gives its value the bare name, the one before it `/1`, and so on; a Dropout makes no value. Layers that it merges keep
the last one's name, so that there are lines that nobody reads, which does no harm.

Of `min` and `max` it reads the sign of `min` alone, and that only for symmetric INT8 on chips with unsigned codes: a
value that is never negative gets twice the levels. The sign follows from the layers here (`Op.non_negative`); what may
be negative is written as -threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from calib8.errors import TableError
from calib8.layers.dropout import Dropout
from calib8.lowering import Model

_DECIMALS = 7
_SIGNIFICANT = 6  # digits that a threshold below 1 keeps


def tpu_mlir_table(name: str, model: Model, thresholds: Mapping[str, float]) -> bytes:
    """The table's bytes.

    Args:
        name: the network's name, for the header.
        thresholds: of every value, in real units.

    Raises:
        TableError: names that the table cannot hold; all of them.
    """
    names = tpu_mlir_names(model)
    problems = [f"blob {model.net.blob_of[v]!r} has a blank in its name" for v, n in names.items() if n.split() != [n]]
    problems += [f"two values would be called {n!r}" for n, count in Counter(names.values()).items() if count > 1]
    if problems or name.splitlines() != [name]:
        raise TableError(f"{model.net.source}: the tpu-mlir table cannot hold these names", problems or [repr(name)])
    unsigned = non_negative_values(model)
    lines = [f"# {name}: calibration table for tpu-mlir, written by calib8", "# op_name    threshold    min    max"]
    for value, entry in names.items():
        high = _decimal(thresholds[value])
        lines.append(f"{entry} {high} {_decimal(0.0) if value in unsigned else f'-{high}'} {high}")
    return "".join(f"{line}\n" for line in lines).encode()


def tpu_mlir_names(model: Model) -> dict[str, str]:
    """tpu-mlir's name of every value that it has, in the order of the layers."""
    writes = [
        (top, blob)
        for layer, op in zip(model.net.layers, model.ops, strict=True)
        if not isinstance(op, Dropout)
        for top, blob in zip(layer.tops, layer.top_blobs, strict=True)
    ]
    later: dict[str, int] = {}
    names: dict[str, str] = {}
    for value, blob in reversed(writes):
        count = later.get(blob, 0)
        names[value] = f"{blob}/{count}" if count else blob
        later[blob] = count + 1
    return {value: names[value] for value, _ in writes}


def non_negative_values(model: Model) -> frozenset[str]:
    """The values that hold no negative number, whatever the input; those of which that is known."""
    found: set[str] = set()
    for layer, op in zip(model.net.layers, model.ops, strict=True):
        if op.kind != "source" and op.non_negative([b in found for b in layer.bottoms]):
            found.update(layer.tops)
    return frozenset(found)


def _decimal(value: float) -> str:
    """Seven decimals, and more where the number has not enough digits in them."""
    more = _SIGNIFICANT - 1 - math.floor(math.log10(value)) if value else 0
    return f"{value:.{max(_DECIMALS, more)}f}"
