"""Sensitivity, tuning and mixed precision as tables, JSON, CSV and log lines. The same results give the same bytes.

JSON knows no infinity: a ratio without noise, or a figure that does not apply, is null there, and `inf` or empty in
CSV. Keys are added, never renamed or removed.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence

from calib8.analyze.metrics import Comparison, OutputComparison
from calib8.analyze.mixed import MixedPrecision
from calib8.analyze.sensitivity import MODES, Sensitivity, UnitSensitivity
from calib8.analyze.tuning import Losses, TuningResult
from calib8.lowering import Model
from calib8.quantize import QuantPlan

_FIGURES = ("cosine", "snr_db", "mse", "top1")
SENSITIVITY_HEADER = (
    "layers", "type", "loss", "SNR", "cosine", "top-1", "own SNR", "cumulative SNR", "SNR without", "saturated",
    "codes used",
)  # fmt: skip


def sensitivity_table(sensitivity: Sensitivity) -> list[tuple[str, ...]]:
    """Write `SENSITIVITY_HEADER` and the rows below it, without top-1 where no output holds classes."""
    at = SENSITIVITY_HEADER.index("top-1")
    rows = [SENSITIVITY_HEADER, *sensitivity_rows(sensitivity)]
    return [row[:at] + row[at + 1 :] for row in rows] if math.isnan(sensitivity.whole.top1) else rows


def sensitivity_rows(sensitivity: Sensitivity) -> list[tuple[str, ...]]:
    """Write the units, the most harmful first, as rows of text under `SENSITIVITY_HEADER`.

    Loss, SNR, cosine and top-1 are those of the unit alone at the outputs; "own SNR" is at its own top.
    """
    return [_sensitivity_row(row) for row in sensitivity.ranked()]


def _sensitivity_row(row: UnitSensitivity) -> tuple[str, ...]:
    alone = row.damage["alone"]
    others = (row.damage[mode].outputs.snr_db for mode in ("cumulative", "without"))
    return (
        row.unit.name, row.type, f"{alone.loss:.3g}", _db(alone.outputs.snr_db), f"{alone.outputs.cosine:.5f}",
        _percent(alone.outputs.top1), _db(alone.own.snr_db), *map(_db, others),
        _percent(row.usage.saturation), _percent(row.usage.in_use),
    )  # fmt: skip


def sensitivity_json(network: str, origin: str, sensitivity: Sensitivity) -> bytes:
    """Write everything that was measured, the units in the order of the network.

    Args:
        network: its name.
        origin: where the thresholds come from.
    """
    units = [
        {
            "layers": row.unit.layers,
            "type": row.type,
            "threshold": row.threshold,
            "saturation": row.usage.saturation,
            "codes_in_use": row.usage.in_use,
            **{
                mode: {"loss": damage.loss, "outputs": _figures(damage.outputs), "own_top": _figures(damage.own)}
                for mode, damage in row.damage.items()
            },
        }
        for row in sensitivity.units
    ]
    whole = {"loss": sensitivity.whole_loss, "outputs": _figures(sensitivity.whole)}
    head = {"network": network, "thresholds": origin, "samples": sensitivity.samples, "metric": sensitivity.judge}
    return _json({**head, "int8": whole, "units": units})


def sensitivity_csv(sensitivity: Sensitivity) -> bytes:
    """Write one line a unit, the most harmful first."""
    columns = [f"{mode}_{what}" for mode in MODES for what in ("loss", *_columns("outputs"), *_columns("own_top"))]
    lines = [["layers", "type", "threshold", "saturation", "codes_in_use", *columns]]
    for row in sensitivity.ranked():
        cells: list[object] = [row.unit.name, row.type, row.threshold, row.usage.saturation, row.usage.in_use]
        for damage in row.damage.values():
            cells += [damage.loss, *_figures(damage.outputs).values(), *_figures(damage.own).values()]
        lines.append([_cell(cell) for cell in cells])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def tuning_json(
    network: str,
    search: str,
    judge: str,
    samples: tuple[int, int],
    start: QuantPlan,
    result: TuningResult,
    model: Model,
) -> bytes:
    """Write what a search began with, what it accepted and where it ended.

    Args:
        search, judge: their names.
        samples: how many were tuned on, and how many were held out.
        start: the plan at the beginning.
    """
    changed = [
        {
            "layer": layer.name,
            "blob": blob,
            "before": start.thresholds[top],
            "after": result.plan.thresholds[top],
        }
        for layer in model.net.layers
        for top, blob in zip(layer.tops, layer.top_blobs, strict=True)
        if start.thresholds[top] != result.plan.thresholds[top]
    ]
    accepted = [
        {
            "method": step.method,
            "thresholds": {step.target or model.net.producer[g].name: t for g, t in step.thresholds.items()},
            "before": step.before,
            "after": step.after,
            "held_out_before": step.held_out_before,
            "held_out_after": step.held_out_after,
        }
        for step in result.accepted
    ]
    return _json(
        {
            "network": network, "search": search, "metric": judge, "finished": result.finished, "trials": result.trials,
            "samples": dict(zip(("tuned", "held_out"), samples, strict=True)),
            "loss": {"before": _losses(result.before), "after": _losses(result.after)},
            "accepted": accepted, "thresholds": changed,
        }
    )  # fmt: skip


def mixed_json(network: str, judge: str, samples: int, max_drop: float, proposal: MixedPrecision) -> bytes:
    """Write a proposal, and what each layer that it keeps in FP32 buys."""
    kept = [{"layers": one.unit.layers, "buys": one.buys} for one in proposal.kept]
    drop = {"all_in_int8": proposal.drop_before, "proposed": proposal.drop_after, "allowed": max_drop}
    return _json(
        {
            "network": network, "metric": judge, "samples": samples, "drop": drop, "kept": kept,
            "fp32_layers": proposal.fp32_layers, "int8_layer": proposal.int8_layer,
        }
    )  # fmt: skip


def difference_log(differences: Mapping[str, float]) -> bytes:
    """Write the original tool's report.log: a line `layer difference` for each layer."""
    return "".join(f"{layer} {difference:.9g}\n" for layer, difference in differences.items()).encode()


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figures(comparison: Comparison | OutputComparison) -> dict[str, float]:
    return {figure: getattr(comparison, figure) for figure in _FIGURES}


def _columns(where: str) -> list[str]:
    return [f"{where}_{figure}" for figure in _FIGURES]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)


def _losses(losses: Losses) -> dict[str, float | None]:
    return {"tuned": losses.tuned, "held_out": losses.held_out}


def _db(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "exact" if value > 0 else "no signal"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2%}"
