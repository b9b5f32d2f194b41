"""`calib8 check PROTOTXT [CAFFEMODEL]`: what is in a network, what runs in INT8, and everything that is wrong."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from calib8.analyze.overview import FP32, INT8, LayerRow, Overview
from calib8.cli.arguments.network import is_model
from calib8.cli.flags import Flags, with_flags
from calib8.cli.table import aligned
from calib8.errors import some
from calib8.graph import Phase, Shape
from calib8.reading import exists, is_folder
from calib8.terminal import printable
from calib8.workflow import check

_NAMES_WIDTH = 48
_MOST_LISTED = 100


def run(options: argparse.Namespace) -> int:
    """Print the overview.

    Returns:
        0, or 1 for a network that cannot be used.
    """
    prototxt, caffemodel = _files(options.prototxt, options.caffemodel)
    phase = Phase[options.phase.upper()]
    overview = _in_flags(
        check(prototxt, caffemodel, dict(options.shapes), phase, run_python=options.run_python), options.flags
    )
    if options.json:
        print(json.dumps(as_json(overview, prototxt, caffemodel, phase), indent=1))
    else:
        print(as_text(overview, prototxt, caffemodel))
    return 1 if overview.problems else 0


def _in_flags(overview: Overview, flags: Flags) -> Overview:
    """With options in the place of parameters."""
    problems, not_run = (tuple(with_flags(t, flags) for t in texts) for texts in (overview.problems, overview.not_run))
    return replace(overview, problems=problems, not_run=not_run)


def _files(prototxt: Path, caffemodel: Path | None) -> tuple[Path, Path | None]:
    if not is_folder(prototxt):
        return prototxt, caffemodel
    own = prototxt / "custom.caffemodel"
    return prototxt / "deploy.prototxt", caffemodel or (own if exists(own) else None)


def as_text(overview: Overview, prototxt: Path, caffemodel: Path | None) -> str:
    """Write the table, what there is to say about the network as a whole, and the verdict."""
    parts = [_table(overview), _totals(overview)] if overview.rows else []
    parts += [_list(title, texts) for title, texts in _lists(overview)]
    checked = str(prototxt) if caffemodel is None else f"{prototxt} with {caffemodel}"
    problems = len(overview.problems)
    if problems:
        verdict = f"cannot be used: {problems} problem{'s' * (problems > 1)}"
    elif overview.not_run:
        verdict = "no problem where it was measured; --run-python measures the rest"
    else:
        is_whole = caffemodel is not None or is_model(prototxt)
        verdict = "can be used" if is_whole else "can be used; its weights were not checked (no caffemodel)"
    return "\n\n".join([part for part in parts if part] + [f"{checked}: {verdict}"])


def _lists(overview: Overview) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("notes", overview.notes), ("not measured", overview.not_run), ("problems", overview.problems)


def _table(overview: Overview) -> str:
    header = ("layer", "type", "bottoms", "tops", "top shapes", "parameters", "multiply-adds", "runs in")
    rows = [
        (
            row.name, row.type, _names(row.bottoms), _names(row.tops), ",".join(map(_by_x, row.top_shapes)),
            _number(row.parameters), _number(row.multiply_adds), _precision(row),
        )
        for row in overview.rows
    ]  # fmt: skip
    return aligned([header, *rows], right=(5, 6))


def _names(blobs: tuple[str, ...]) -> str:
    """As many names as a column has room for, at least one."""
    shown = next((n for n in range(len(blobs), 1, -1) if len(",".join(blobs[:n])) <= _NAMES_WIDTH), 1)
    return ",".join(blobs[:shown]) + (f" and {len(blobs) - shown} more" if shown < len(blobs) else "")


def _precision(row: LayerRow) -> str:
    return f"{row.precision}: {row.reason}" if row.reason else row.precision or ""


def _by_x(shape: Shape | None) -> str:
    if shape is None:
        return "?"
    return "x".join(map(str, shape)) or "scalar"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}" if value else ""


def _totals(overview: Overview) -> str:
    lines = [
        f"{len(overview.rows)} layers, {overview.parameters:,} parameters, {overview.multiply_adds:,} multiply-adds"
    ]
    in_int8, in_fp32 = overview.rows_in(INT8), overview.rows_in(FP32)
    if in_int8 or in_fp32:
        total = overview.multiply_adds
        share = f" ({_multiply_adds(in_int8) / total:.1%} of the multiply-adds)" if total else ""
        lines.append(f"{len(in_int8)} run in INT8{share}, {len(in_fp32)} in FP32")
    for what, blobs in (("inputs", overview.inputs), ("outputs", overview.outputs)):
        listed = ", ".join(f"{printable(blob)} {_by_x(shape)}" for blob, shape in blobs.items())
        lines.append(f"{what}: {listed or 'none'}")
    return "\n".join(lines)


def _multiply_adds(rows: tuple[LayerRow, ...]) -> int:
    return sum(row.multiply_adds or 0 for row in rows)


def _list(title: str, texts: tuple[str, ...]) -> str:
    return "\n  - ".join([f"{title}:", *map(printable, some(texts, _MOST_LISTED))]) if texts else ""


def as_json(overview: Overview, prototxt: Path, caffemodel: Path | None, phase: Phase) -> dict[str, object]:
    """Make the object that the help documents."""
    return {
        "prototxt": str(prototxt),
        "caffemodel": None if caffemodel is None else str(caffemodel),
        "phase": phase.name,
        "usable": not overview.problems,
        "name": overview.name,
        "inputs": [{"blob": blob, "shape": shape} for blob, shape in overview.inputs.items()],
        "outputs": [{"blob": blob, "shape": shape} for blob, shape in overview.outputs.items()],
        "layers": [asdict(row) for row in overview.rows],
        "totals": {
            "layers": len(overview.rows),
            "parameters": overview.parameters,
            "multiply_adds": overview.multiply_adds,
            "int8_layers": len(overview.rows_in(INT8)),
            "fp32_layers": len(overview.rows_in(FP32)),
            "int8_multiply_adds": _multiply_adds(overview.rows_in(INT8)),
        },
        "problems": list(overview.problems),
        "notes": list(overview.notes),
        "not_run": list(overview.not_run),
    }
