"""The network, histograms, weights and comparisons as SVG. Colours are classes, which the page's style fills in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Layer, Net
from calib8.measure.histogram import BlobHistogram
from calib8.report.html import Markup, joined, number, percent, short, tag
from calib8.report.lanes import Edge, lanes_of

Array = NDArray[Any]
ROW, LANE = 26, 18
_RADIUS = 6.5
_MARGIN = 16
_TEXT_WIDTH = 780
_BAR = 300.0
_NO_DAMAGE_DB = 60.0
_WIDTH, _HEIGHT = 640, 190
_BARS = 128
_DAMAGE_DB = (40, 30, 25, 20, 15, 10)
DAMAGE_LEVELS = len(_DAMAGE_DB) + 1
DAMAGE_TEXTS = (">= 40 dB", "30-40", "25-30", "20-25", "15-20", "10-15", "< 10 dB")
_MOST_CHANNELS = 160


def damage_level(snr_db: float) -> int:
    """0 for next to no damage, up to `DAMAGE_LEVELS` - 1."""
    return sum(snr_db < limit for limit in _DAMAGE_DB)


def network_drawing(net: Net, damage: Mapping[str, float]) -> Markup:
    """Every layer a row, the first one on top, with a bar as long as its damage; a layer without one is hollow.

    Args:
        damage: by layer name, the signal to noise ratio at the outputs in dB that the layer leaves, alone in INT8.
    """
    lanes = lanes_of(net)
    height, text_at = len(net.layers) * ROW + _MARGIN, _MARGIN + lanes.width * LANE + 8
    parts = [tag("path", class_="edge", d=_way(edge)) for edge in lanes.edges]
    for row, layer in enumerate(net.layers):
        parts.append(_network_row(row, layer, _x(lanes.lane_of[row]), float(text_at), damage.get(layer.name)))
    width = text_at + _TEXT_WIDTH
    return tag(
        "svg", *parts, class_="network", width=float(width), height=float(height),
        viewBox=f"0 0 {width} {height}", role="group", aria_label="the network, layer by layer",
    )  # fmt: skip


def _network_row(row: int, layer: Layer, x: float, text_at: float, snr_db: float | None) -> Markup:
    """A link to the layer's page: circle, name, type, and a bar of its damage."""
    y, step = _y(row), "none" if snr_db is None else f"d{damage_level(snr_db)}"
    said = "FP32" if snr_db is None else f"{number(snr_db, 3)} dB" if math.isfinite(snr_db) else "no damage"
    parts = [
        tag("title", f"{layer.name} ({layer.type}): {said}"),
        tag("rect", class_="hit", x=0.0, y=y - ROW / 2, width=text_at + _TEXT_WIDTH, height=float(ROW)),
        tag("circle", class_=f"node {step}", cx=x, cy=y, r=_RADIUS),
        tag("text", _cut(layer.name, 34), class_="name", x=text_at, y=y + 4),
        tag("text", _cut(layer.type, 18), class_="type", x=text_at + 250, y=y + 4),
        tag("text", said, class_="type", x=text_at + 450, y=y + 4, text_anchor="end"),
    ]
    if snr_db is not None:
        length = max(_NO_DAMAGE_DB - max(snr_db, 0.0), 0.0) / _NO_DAMAGE_DB * _BAR
        parts.append(
            tag("rect", class_=f"damage {step}", x=text_at + 462, y=y - 6, width=max(length, 1.5), height=12.0)
        )
    return tag("a", *parts, href=f"#layer-{row}", aria_label=f"{layer.name}, {layer.type}, {said}")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _way(edge: Edge) -> str:
    """Down its lane, with a bend where it leaves its layer and where it comes to the next one."""
    x0, x, x1 = _x(edge.source), _x(edge.lane), _x(edge.target)
    top, bottom = _y(edge.start), _y(edge.stop)
    down, up = top + (ROW if edge.source != edge.lane else 0), bottom - (ROW if edge.lane != edge.target else 0)
    way = [f"M{short(x0)} {short(top)}"]
    if x0 != x:
        way.append(f"C{short(x0)} {short(top + ROW / 2)} {short(x)} {short(down - ROW / 2)} {short(x)} {short(down)}")
    if up > down:
        way.append(f"V{short(up)}")
    if x != x1:
        start = max(up, down) if up >= down else down
        way.append(
            f"C{short(x)} {short(start + ROW / 2)} {short(x1)} {short(bottom - ROW / 2)} {short(x1)} {short(bottom)}"
        )
    elif up <= down and bottom > down:
        way.append(f"V{short(bottom)}")
    return "".join(way)


def _x(lane: int) -> float:
    return _MARGIN + lane * LANE


def _y(row: int) -> float:
    return row * ROW + ROW / 2 + _MARGIN / 2


def histogram_drawing(histogram: BlobHistogram, thresholds: Mapping[str, float], chosen: float) -> Markup:
    """The distribution of |x| with a logarithmic height, and the thresholds; what the chosen one clips is shaded."""
    end = max([histogram.maximum, chosen, *thresholds.values()]) * 1.02 or 1.0
    counts = _regrouped(histogram, end)
    top = math.log10(max(float(counts.max()), 1.0)) + 0.2
    left, base = 8, _HEIGHT - 26

    def x(value: float) -> float:
        return left + (_WIDTH - 2 * left) * value / end

    def y(count: float) -> float:
        return base - (base - 22) * (math.log10(count) + 0.2) / (top + 0.2) if count >= 1 else float(base)

    way = [f"M{short(x(0))} {base}"]
    for index, count in enumerate(counts):
        way.append(f"V{short(y(float(count)))}H{short(x(end * (index + 1) / _BARS))}")
    way.append(f"V{base}Z")
    clipped = tag(
        "rect", class_="clipped", x=x(chosen), y=18.0, width=max(x(histogram.maximum) - x(chosen), 0.0),
        height=float(base - 18),
    )  # fmt: skip
    parts = [
        clipped,
        tag("path", class_="bars", d="".join(way)),
        tag("path", class_="axis", d=f"M{left} {base}H{_WIDTH - left}"),
    ]
    for name, threshold in thresholds.items():
        parts.append(_threshold_line(x(threshold), base, name, same=math.isclose(threshold, chosen, rel_tol=1e-5)))
    parts.append(tag("line", class_="chosen", x1=x(chosen), x2=x(chosen), y1=14.0, y2=float(base)))
    for value, anchor in ((0.0, "start"), (end / 2, "middle"), (end, "end")):
        parts.append(tag("text", number(value, 3), class_="tick", x=x(value), y=float(base + 18), text_anchor=anchor))
    share = percent(histogram.beyond_threshold(chosen))
    title = tag(
        "title", f"distribution of |x| up to {number(histogram.maximum)}, threshold {number(chosen)} clips {share}"
    )
    return tag("svg", title, *parts, class_="histogram", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")


def _threshold_line(x: float, base: int, name: str, *, same: bool) -> Markup:
    line = tag("line", class_="method", x1=x, x2=x, y1=22.0, y2=float(base))
    anchor = "end" if x > _WIDTH - 60 else "start"
    label = tag("title", name)
    return tag("g", label, line, class_=f"threshold m-{name}" + (" same" if same else ""), data_anchor=anchor)


def _regrouped(histogram: BlobHistogram, end: float) -> NDArray[np.float64]:
    """Counts in `_BARS` bars from 0 to `end`; bin j of a histogram lies around j * width."""
    centres = np.arange(histogram.bins) * histogram.width
    bars = np.minimum((centres / end * _BARS).astype(np.int64), _BARS - 1)
    return np.asarray(np.bincount(bars, histogram.counts.astype(np.float64), minlength=_BARS), np.float64)


def channels_drawing(peaks: Sequence[float], what: str) -> Markup:
    """The largest |x| of each channel as bars; many channels share bars, of which the largest one counts."""
    values = np.asarray(peaks, np.float64)
    groups = np.array_split(values, min(len(values), _MOST_CHANNELS))
    largest = [float(group.max()) for group in groups]
    top = max(largest) or 1.0
    width, height = 640.0, 90.0
    step = width / len(largest)
    way = []
    for index, value in enumerate(largest):
        x, tall = index * step, max(value / top * (height - 14), 0.6)
        way.append(
            f"M{short(x)} {short(height)}V{short(height - tall)}H{short(x + max(step - 1, 0.6))}V{short(height)}Z"
        )
    median = float(np.median(values[values > 0])) if (values > 0).any() else 0.0
    y = height - median / top * (height - 14)
    parts = [tag("path", class_="bars", d="".join(way)), tag("line", class_="median", x1=0.0, x2=width, y1=y, y2=y)]
    title = tag("title", f"{what} of {len(values)} channels, up to {number(top)}, median {number(median)}")
    return tag("svg", title, *parts, class_="channels", viewBox="0 0 640 90", preserveAspectRatio="none", role="img")


def scatter_drawing(reference: Array, result: Array, most: int = 400) -> Markup:
    """INT8 over FP32, number by number; on the diagonal they are equal."""
    x, y = reference.reshape(-1).astype(np.float64), result.reshape(-1).astype(np.float64)
    step = max(1, len(x) // most)
    x, y = x[::step], y[::step]
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    span = high - low or 1.0
    points = [
        tag("circle", cx=_place(a, low, span), cy=220 - _place(b, low, span), r=2.0) for a, b in zip(x, y, strict=True)
    ]
    line = tag("line", class_="diagonal", x1=10.0, y1=210.0, x2=210.0, y2=10.0)
    title = tag("title", f"INT8 over FP32, from {number(low)} to {number(high)}")
    return tag("svg", title, line, joined(points), class_="scatter", viewBox="0 0 220 220", role="img")


def _place(value: float, low: float, span: float) -> float:
    return 10 + 200 * (value - low) / span
