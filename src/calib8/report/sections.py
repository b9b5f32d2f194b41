"""The parts of the page, from verdict to record."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from calib8.analyze.doctor import Finding, Severity
from calib8.analyze.doctor.networks import weight_peaks
from calib8.analyze.doctor.preprocessing import Fit
from calib8.analyze.sensitivity import UnitSensitivity
from calib8.graph import Layer
from calib8.quantize import fold_groups
from calib8.report.contents import Report
from calib8.report.drawings import (
    DAMAGE_TEXTS,
    channels_drawing,
    damage_level,
    histogram_drawing,
    network_drawing,
)
from calib8.report.html import Markup, number, percent, tag
from calib8.report.shown_samples import sample_section

_TABLE = (
    "layer", "type", "loss", "SNR", "cosine", "top-1", "own SNR", "cumulative SNR", "SNR without", "threshold",
    "clipped", "saturated", "codes used",
)  # fmt: skip
_EXPLAINED = {
    "loss": "what the metric says of this layer alone in INT8",
    "SNR": "signal to noise at the outputs, this layer alone in INT8",
    "cosine": "of the outputs, this layer alone in INT8",
    "top-1": "how often the best class is the same, this layer alone in INT8",
    "own SNR": "at the layer's own top, this layer alone in INT8",
    "cumulative SNR": "at the outputs, all layers up to this one in INT8",
    "SNR without": "at the outputs, all layers but this one in INT8",
    "threshold": "of its top",
    "clipped": "share of the values beyond the threshold",
    "saturated": "share of the codes that are -128 or 127; before a BatchNorm many may be, and cost nothing, that a "
    "ReLU takes away",
    "codes used": "share of the 256 codes that occur",
}
_WORST = 3
_NETWORK_TEXT = (
    "What each layer alone in INT8 does to the outputs: signal to noise. A long bar is much damage; a click opens the "
    "layer's own page below."
)
_NAMED = re.compile(r"`(\w+)=([^`]+)`")


def verdict_section(report: Report) -> Markup:
    """How good it is, in words and figures."""
    found = report.verdict
    rows = [
        tag("li", tag("b", ", ".join(output.blobs)), f" {output.text}", class_=output.grade.value)
        for output in found.outputs
    ]
    worst = min(found.outputs, key=lambda output: output.comparison.snr_db, default=None)
    facts = [(str(len(report.sensitivity.units)), "layers in INT8")]
    if worst is not None:
        snr = worst.comparison.snr_db
        facts.append((f"{snr:.1f} dB" if math.isfinite(snr) else number(snr), "signal to noise at the outputs"))
        facts.append((f"{worst.comparison.cosine:.4f}", "cosine"))
        facts += [(f"{worst.agreement:.1%}", f"of {worst.answers} answers are the same")] if worst.asked else []
    figures = [tag("div", tag("b", value), tag("span", what), class_="fact") for value, what in facts]
    return tag(
        "section", tag("p", found.grade.value, class_=f"grade {found.grade.value}"),
        tag("p", _plain(found.sentence), class_="sentence"), tag("div", *figures, class_="facts"),
        tag("ul", *rows, class_="outputs"), tag("p", f"Measured on {found.samples}.", class_="note"),
        id="verdict", class_="hero", aria_label="verdict",
    )  # fmt: skip


def network_section(report: Report) -> Markup:
    """The network, coloured by damage."""
    units = report.sensitivity.units
    damage = {layer: row.damage["alone"].outputs.snr_db for row in units for layer in row.unit.layers}
    legend = [tag("span", text, class_=f"step d{level}") for level, text in enumerate(DAMAGE_TEXTS)]
    legend.append(tag("span", "FP32", class_="step none"))
    drawing = network_drawing(report.model.net, damage)
    return _section(
        "network", "Where is it lost?",
        tag("p", _NETWORK_TEXT),
        tag("p", *legend, class_="legend"), tag("div", drawing, class_="scroll", tabindex="0"),
    )  # fmt: skip


def table_section(report: Report) -> Markup:
    """The sensitivity, to be sorted and searched."""
    head = [tag("th", text, scope="col", title=_EXPLAINED.get(text)) for text in _columns(report)]
    rows = [_table_row(report, row) for row in report.sensitivity.ranked()]
    box = tag(
        "input", type="search", id="search", placeholder="layer or type", aria_label="search layers", disabled=True
    )
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="sortable n-last", id="layers")
    return _section(
        "table", "Layers by damage",
        tag("p", box, " ", tag("output", f"{len(rows)} layers", id="shown"), class_="tools"),
        tag("div", table, class_="scroll wide-table", tabindex="0"),
        tag("p", f"Loss: {report.sensitivity.judge}, over {report.sensitivity.samples} samples.", class_="note"),
    )  # fmt: skip


def _columns(report: Report) -> list[str]:
    """Without top-1 where no output holds classes."""
    no_classes = math.isnan(report.sensitivity.whole.top1)
    return [text for text in _TABLE if not (no_classes and text == "top-1")]


def _table_row(report: Report, row: UnitSensitivity) -> Markup:
    alone, net = row.damage["alone"], report.model.net
    cumulative, without = (row.damage[mode].outputs.snr_db for mode in ("cumulative", "without"))
    observed = observed_of(report).get(row.unit.top, row.unit.top)
    histogram = report.histograms.get(observed)
    clipped = math.nan if histogram is None else histogram.beyond_threshold(row.threshold)
    link = tag("a", row.unit.name, href=f"#layer-{net.index_of[row.unit.layers[0]]}")
    swatch = tag("span", class_=f"swatch d{damage_level(alone.outputs.snr_db)}", aria_hidden="true")
    cells = [
        tag("th", swatch, link, scope="row", data_sort=row.unit.name), tag("td", row.type),
        _cell(alone.loss, number(alone.loss, 3)), *(_cell(v, number(v, 3)) for v in (alone.outputs.snr_db,)),
        _cell(alone.outputs.cosine, f"{alone.outputs.cosine:.5f}"),
        *([_cell(alone.outputs.top1, percent(alone.outputs.top1))] if "top-1" in _columns(report) else []),
        *(_cell(v, number(v, 3)) for v in (alone.own.snr_db, cumulative, without)),
        _cell(row.threshold, number(row.threshold)), _cell(clipped, percent(clipped)),
        _cell(row.usage.saturation, percent(row.usage.saturation)), _cell(row.usage.in_use, percent(row.usage.in_use)),
    ]  # fmt: skip
    return tag("tr", *cells)


def _cell(value: float, text: str) -> Markup:
    """A number, with what it is sorted by."""
    key = (
        ""
        if math.isnan(value)
        else "1e99"
        if value == math.inf
        else "-1e99"
        if value == -math.inf
        else repr(float(value))
    )
    return tag("td", text, data_sort=key)


def samples_section(report: Report) -> Markup:
    """FP32 and INT8 side by side."""
    shown = [sample_section(report, one) for one in report.samples]
    return _section("samples", "What it looks like", tag("div", *shown, class_="samples"))


def doctor_section(report: Report) -> Markup:
    """Did I feed the right pictures?"""
    found = report.diagnosis
    check, sure = found.preprocessing, found.convergence
    parts: list[Markup] = []
    if found.findings:
        parts.append(tag("ul", *map(_finding, found.findings), class_="findings"))
    else:
        parts.append(tag("p", "Nothing to complain of.", class_="agree"))
    if check.given is not None:
        head = tag("tr", *(tag("th", text, scope="col") for text in ("preprocessing", "misfit", "fits")))
        rows = [
            _fit_row(check.given, "as given"),
            *(_fit_row(f, f"{f.gain:.2f} times as well") for f in check.others[:5]),
        ]
        parts.append(tag("table", tag("thead", head), tag("tbody", *rows), class_="plain"))
        parts.append(tag("p", f"{check.tried} others tried, by {check.evidence}.", class_="note"))
        if not check.findings:
            parts.append(tag("p", f"{check.sentence[0].upper()}{check.sentence[1:]}."))
    if not math.isnan(sure.typical):
        text = f"Thresholds of {sure.images} images are sure within {sure.typical:.1%}; {len(sure.unsure)} of "
        parts.append(tag("p", text + f"{len(sure.errors)} blobs are not within 5 %."))
    return _section("doctor", "The right pictures?", *parts)


def _finding(one: Finding) -> Markup:
    subject = [tag("b", one.subject), ": "] if one.subject else []
    advice = [tag("span", _plain(one.advice), class_="advice")] if one.advice else []
    return tag(
        "li", tag("span", one.severity.value, class_=f"badge {one.severity.value}"), " ", *subject, one.text, *advice
    )  # fmt: skip


def _fit_row(fit: Fit, remark: str) -> Markup:
    name = fit.recipe.text + (f", {fit.what}" if fit.what else "")
    return tag("tr", tag("th", name, scope="row"), tag("td", number(fit.misfit, 3)), tag("td", remark))


def next_section(report: Report) -> Markup:
    """What to do, the most useful first."""
    items = [
        one.text + (f": {one.advice}" if one.advice else "")
        for one in report.diagnosis.findings
        if one.severity is Severity.PROBLEM
    ]
    items.append(_plain(report.verdict.sentence))
    worst = [row for row in report.sensitivity.ranked() if damage_level(row.damage["alone"].outputs.snr_db) > 2][
        :_WORST
    ]
    if worst:
        names = ", ".join(row.unit.name for row in worst)
        items.append(
            f"the most harmful layers are {names}: try other thresholds for them (calib8 tune), or leave them in FP32"
        )
    if report.diagnosis.convergence.findings:
        items.append(report.diagnosis.convergence.findings[0].advice + ", for surer thresholds")
    return _section("next", "What to do next", tag("ol", *(tag("li", text) for text in items)))


def layers_section(report: Report) -> Markup:
    """A page for each layer, opened by its link."""
    units = {name: row for row in report.sensitivity.units for name in row.unit.layers}
    observed = observed_of(report)
    pages = [
        _layer(report, index, layer, units.get(layer.name), observed)
        for index, layer in enumerate(report.model.net.layers)
    ]
    return _section("pages", "Layer by layer", *pages)


def _layer(
    report: Report, index: int, layer: Layer, unit: UnitSensitivity | None, observed: Mapping[str, str]
) -> Markup:
    level = "none" if unit is None else f"d{damage_level(unit.damage['alone'].outputs.snr_db)}"
    summary = tag(
        "summary", tag("span", class_=f"swatch {level}", aria_hidden="true"), tag("b", layer.name), f" {layer.type}"
    )
    parts = [tag("p", _shapes(report, layer), class_="note")]
    if unit is not None:
        parts.append(tag("p", _damage(unit)))
    for top in layer.tops:
        parts.append(_blob(report, top, observed))
    peaks = weight_peaks(layer)
    if peaks.size > 1:
        parts.append(tag("h4", "weights, largest of each output channel"))
        parts.append(channels_drawing(peaks.tolist(), "largest weights"))
    return tag("details", summary, *parts, id=f"layer-{index}", class_="layer")


def _shapes(report: Report, layer: Layer) -> str:
    shapes = report.model.shapes
    ends = [
        ", ".join("x".join(map(str, shapes[v])) or "scalar" for v in values) for values in (layer.bottoms, layer.tops)
    ]
    own = report.calibration.plan.forms.get(layer.name)
    return f"{ends[0]} to {ends[1]}, {'FP32' if own is None else 'INT8'}" if ends[0] else ends[1]


def _damage(unit: UnitSensitivity) -> str:
    texts = [f"{mode} {number(d.outputs.snr_db, 3)} dB" for mode, d in unit.damage.items()]
    texts = [text.replace("exact dB", "exact") for text in texts]
    usage = f"{percent(unit.usage.in_use)} of the 256 codes occur; {percent(unit.usage.saturation)} of the values are"
    return f"At the outputs: {', '.join(texts)}. {usage} at the ends, -128 or 127."


def _blob(report: Report, value: str, observed: Mapping[str, str]) -> Markup:
    net, plan = report.model.net, report.calibration.plan
    source = observed.get(value, value)
    title = tag("h4", f"blob {net.blob_of[value]}")
    chosen = plan.thresholds.get(value)
    histogram = report.histograms.get(source)
    if histogram is None or chosen is None:
        return title
    shared = []
    if source != value:
        writer = net.producer[source]
        link = tag("a", writer.name, href=f"#layer-{net.index_of[writer.name]}")
        shared = [tag("p", f"Its threshold comes from blob {net.blob_of[source]}, as layer ", link, " leaves it:")]
    methods = report.thresholds.get(source, {})
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row", class_=f"m-{name}"),
            tag("td", number(t)),
            tag("td", percent(histogram.beyond_threshold(t))),
        )
        for name, t in (("chosen", chosen), *methods.items())
    ]
    head = tag("tr", *(tag("th", text, scope="col") for text in ("method", "threshold", "clipped")))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="plain")
    drawing = histogram_drawing(histogram, methods, chosen)
    ranges = []
    peaks = report.diagnosis.survey.channel_peaks.get(value)
    if peaks is not None and peaks.size > 1:
        ranges = [tag("h5", "largest |x| of each channel"), channels_drawing(peaks.tolist(), "largest |x|")]
    return tag("div", title, *shared, tag("div", drawing, table, class_="blob"), *ranges)


def observed_of(report: Report) -> dict[str, str]:
    """By value, the one whose distribution gives its threshold: the one of its group that was counted."""
    groups = fold_groups(report.model, report.calibration.plan.enable_concat_quantize)
    counted = {group: [v for v in group.members if v in report.histograms] for group in groups}
    return {member: own[0] for group, own in counted.items() if own for member in group.members}


def record_section(report: Report) -> Markup:
    """What was done, with which versions."""
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", tag("code", text))) for key, text in report.record.items()]
    return _section("record", "Record", tag("table", tag("tbody", *rows), class_="plain record"))


def _plain(text: str) -> str:
    """A sentence of the library for people: options in the place of parameters, without marks of code."""
    return _NAMED.sub(r"--\1 \2", text).replace("`", "")


def _section(name: str, title: str, *contents: Markup) -> Markup:
    return tag("section", tag("h2", title), *contents, id=name)


SECTIONS: Sequence[tuple[str, str]] = (
    ("verdict", "Verdict"), ("network", "Network"), ("table", "Layers"), ("samples", "Samples"), ("doctor", "Doctor"),
    ("next", "Next"), ("record", "Record"),
)  # fmt: skip
"""What the page's navigation names."""
