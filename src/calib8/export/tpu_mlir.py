"""Files for the vendor's current toolchain, tpu-mlir: what its model_deploy.py takes beside its own .mlir.

The calibration table has lines that begin with `#`, then `name threshold min max` for every value, in real units with
seven decimals.

The names are those that its model_transform.py gives to a value of a Caffe network: the last layer that writes a blob
gives its value the bare name, the one before it `/1`, and so on. Layers that it merges keep the last one's name, so
some lines are read by nobody, which does no harm. It also inserts operators of its own, whose names are known:

- a ReLU behind a Concat moves in front of it, to every bottom: `bottom_move_ahead_relu`, and `top_relu` for the Concat
- a Normalize becomes six operators. Nothing measures what is between them, so they must not run in INT8: they are in a
  quantize table of their own, `name F32`.

Of `min` and `max` it reads the sign of `min` alone, and that only for symmetric INT8 on chips with unsigned codes: a
value that is never negative gets twice the levels. The sign follows from the layers here (`Op.non_negative`); what may
be negative is written as -threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from calib8.errors import TableError
from calib8.graph import Layer
from calib8.layers.concat import Concat
from calib8.layers.normalize import Normalize
from calib8.layers.relu import ReLU
from calib8.lowering import Model

_DECIMALS = 7
_SIGNIFICANT = 6  # digits that a threshold below 1 keeps
_NORMALIZE_IN_F32 = ("square", "conv", "sqrt", "reciprocal", "mul")


@dataclass(frozen=True)
class TpuMlirFiles:
    """The calibration table, and the quantize table, which is empty if none is needed."""

    calibration_table: bytes
    quantize_table: bytes


@dataclass(frozen=True)
class _Row:
    """One operator's result. Thresholds of those in FP32 are not read, but must be there."""

    name: str
    threshold: float
    non_negative: bool = False
    fp32: bool = False


def tpu_mlir_files(name: str, model: Model, thresholds: Mapping[str, float]) -> TpuMlirFiles:
    """Write the bytes of the files.

    Args:
        name: the network's name, for the headers.
        thresholds: of every value, in real units.

    Raises:
        TableError: names that the table cannot hold; all of them.
    """
    names = tpu_mlir_names(model)
    unsigned = non_negative_values(model)
    rows = [_Row(entry, thresholds[value], value in unsigned) for value, entry in names.items()]
    rows += [row for layer in model.net.layers for row in _inserted(model, layer, names, thresholds)]
    # The table's columns are parted by blanks, and its rows are found by name.
    problems = [f"{row.name!r} has a blank in it" for row in rows if row.name.split() != [row.name]]
    problems += [f"two values would be called {n!r}" for n, count in Counter(r.name for r in rows).items() if count > 1]
    if problems or name.splitlines() != [name]:
        raise TableError(f"{model.net.source}: the tpu-mlir table cannot hold these names", problems or [repr(name)])
    table = [f"# {name}: calibration table for tpu-mlir, written by calib8", "# op_name    threshold    min    max"]
    in_fp32 = [f"{row.name} F32" for row in rows if row.fp32]
    header = [f"# {name}: quantize table for tpu-mlir, written by calib8", "# op_name    quantize_mode"]
    return TpuMlirFiles(_bytes(table + list(map(_line, rows))), _bytes(header + in_fp32) if in_fp32 else b"")


def tpu_mlir_names(model: Model) -> dict[str, str]:
    """Give tpu-mlir's name of every value that it has, in the order of the layers.

    Dropouts make no values. Its count of a blob's writers has layers of all phases, and Dropouts where the prototxt has
    the layers of V1. Source: sophgo/tpu-mlir, python/transform/CaffeConverter.py, resolve_alias and get_loc.
    """
    net = model.net
    to_come = {
        blob: sum(net.is_old or layer_type != "Dropout" for layer_type in types)
        for blob, types in net.writers_in_file.items()
    }
    names: dict[str, str] = {}
    for layer in model.net.layers:
        if layer.type != "Dropout":
            for top, blob in zip(layer.tops, layer.top_blobs, strict=True):
                to_come[blob] -= 1
                names[top] = f"{blob}/{to_come[blob]}" if to_come[blob] else blob
    return names


def non_negative_values(model: Model) -> frozenset[str]:
    """Find the values that hold no negative number, whatever the input; those of which that is known."""
    known: set[str] = set()
    for layer, op in model.pairs:
        if op.kind != "source" and op.non_negative([b in known for b in layer.bottoms]):
            known.update(layer.tops)
    return frozenset(known)


def _inserted(model: Model, layer: Layer, names: Mapping[str, str], thresholds: Mapping[str, float]) -> Iterator[_Row]:
    """List the rows of the operators that come in with a layer."""
    op, top = model.op_of[layer.name], layer.tops[0] if layer.tops else ""
    if isinstance(op, Concat):
        # tpu-mlir moves a ReLU that is all that reads a Concat in front of it, once for each bottom.
        readers = model.net.consumers[top]
        if len(readers) == 1 and isinstance(relu := model.op_of[readers[0].name], ReLU) and relu.passive:
            yield _Row(f"{names[top]}_relu", thresholds[readers[0].tops[0]], True)
            yield from (_Row(f"{names[b]}_move_ahead_relu", thresholds[b], True) for b in dict.fromkeys(layer.bottoms))
    # It takes a Normalize apart; all but the last part runs in FP32, so that their thresholds mean nothing.
    if isinstance(op, Normalize):
        yield from (_Row(f"{names[top]}_{part}", 1.0, fp32=True) for part in _NORMALIZE_IN_F32)
        yield _Row(f"{names[top]}_scale", thresholds[top])


def _line(row: _Row) -> str:
    high = _decimal(row.threshold)
    return f"{row.name} {high} {_decimal(0.0) if row.non_negative else f'-{high}'} {high}"


def _decimal(value: float) -> str:
    """Write seven decimals, and more where the number has not enough digits in them."""
    more = _SIGNIFICANT - 1 - math.floor(math.log10(value)) if value else 0
    return f"{value:.{max(_DECIMALS, more)}f}"


def _bytes(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
