"""Sensitivity as a picture: damage along the network, and what the thresholds of the worst layers do to their values.

Needs matplotlib (`pip install calib8[plot]`), which draws without a display. The same figures give the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from calib8.analyze.sensitivity import MODES, Sensitivity, UnitSensitivity
from calib8.errors import OptionError
from calib8.measure.histogram import BlobHistogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORST = 6
_COLUMNS = 3
_MOST_LABELS = 70
_HIGHEST_DB = 80.0
"""Where a point without an error is drawn."""


def sensitivity_picture(network: str, sensitivity: Sensitivity, histograms: Mapping[str, BlobHistogram]) -> bytes:
    """Draw a PNG.

    Args:
        network: its name, for the title.
        histograms: by value, those of the units' tops that are to be shown; others have none.

    Raises:
        OptionError: there is no matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an optional package
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise OptionError("a picture needs matplotlib: pip install 'calib8[plot]'") from None
    worst = [row for row in sensitivity.ranked() if row.unit.top in histograms][:_WORST]
    figure = Figure(figsize=(14, 5 + 3 * math.ceil(len(worst) / _COLUMNS)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = 1 + math.ceil(len(worst) / _COLUMNS)
    grid = figure.add_gridspec(rows, _COLUMNS, height_ratios=[1.6] + [1.0] * (rows - 1))
    _draw_damage(figure.add_subplot(grid[0, :]), network, sensitivity)
    for index, row in enumerate(worst):
        place = grid[1 + index // _COLUMNS, index % _COLUMNS]
        _draw_histogram(figure.add_subplot(place), row, histograms[row.unit.top])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def _draw_damage(axes: Axes, network: str, sensitivity: Sensitivity) -> None:
    places = range(len(sensitivity.units))
    for mode, style in zip(MODES, ("o-", "s-", "^:"), strict=True):
        ratios = [min(row.damage[mode].outputs.snr_db, _HIGHEST_DB) for row in sensitivity.units]
        axes.plot(places, ratios, style, markersize=4, linewidth=1, label=f"{mode}, at the outputs")
    own = [min(row.damage["cumulative"].own.snr_db, _HIGHEST_DB) for row in sensitivity.units]
    axes.plot(places, own, "--", color="grey", linewidth=1, label="cumulative, at its own top")
    axes.set_title(f"{_plain(network)}: what INT8 costs, over {sensitivity.samples} samples")
    axes.set_ylabel("signal to noise ratio (dB)")
    every = math.ceil(len(sensitivity.units) / _MOST_LABELS)
    axes.set_xticks(list(places)[::every])
    axes.set_xticklabels([_plain(row.unit.name) for row in sensitivity.units][::every], rotation=90, fontsize=6)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_histogram(axes: Axes, row: UnitSensitivity, histogram: BlobHistogram) -> None:
    centres = np.arange(histogram.bins) * histogram.width
    axes.fill_between(centres, np.maximum(histogram.counts, 0.5), 0.5, step="mid", alpha=0.6)
    axes.axvline(row.threshold, color="red", linewidth=1, label=f"threshold {row.threshold:.4g}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_title(f"{_plain(row.unit.name)}: {row.damage['alone'].outputs.snr_db:.1f} dB alone", fontsize=8)
    axes.set_xlabel("|x|", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=7)


def _plain(text: str) -> str:
    """Names may hold anything; a pair of $ would be typeset as mathematics."""
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in text).replace("$", r"\$")


def shown_tops(sensitivity: Sensitivity) -> Sequence[str]:
    """List the tops of the units whose histograms a picture has, the worst first."""
    return [row.unit.top for row in sensitivity.ranked()][:_WORST]
