"""FP32 and INT8 side by side on one sample: picture, best classes, boxes, maps of classes, pictures, numbers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calib8.analyze.answers import SHOWN_SCORE, Answer, Boxes, Classes, ClassMap, Detection, Picture
from calib8.analyze.doctor.recipes import Recipe
from calib8.analyze.metrics import compare
from calib8.analyze.verdict import SHARES
from calib8.report.contents import Report, ShownSample
from calib8.report.drawings import scatter_drawing
from calib8.report.html import Markup, number, percent, tag

Array = NDArray[Any]
_LARGEST = 320
_BEST = 5
_MOST_BOXES = 40
_QUALITY = 82


def sample_section(report: Report, sample: ShownSample) -> Markup:
    """One sample."""
    picture = None if sample.image is None else displayed(sample.image, report.recipe)
    parts = [_answer(report, answer, sample, picture) for answer in report.answers]
    if picture is not None and not any(isinstance(answer, Boxes) for answer in report.answers):
        parts.insert(0, tag("figure", image_tag(picture, sample.name), tag("figcaption", "the sample")))
    return tag("article", tag("h3", sample.name), tag("div", *parts, class_="sides"), class_="sample")


def _answer(report: Report, answer: Answer, sample: ShownSample, picture: Array | None) -> Markup:
    if isinstance(answer, Classes):
        return _classes(report, answer, sample)
    if isinstance(answer, Boxes):
        return _boxes(report, answer, sample, picture)
    if isinstance(answer, ClassMap):
        return _maps(answer, sample)
    if isinstance(answer, Picture):
        return _pictures(report, answer, sample)
    return _numbers(report, answer.values[0], sample)


def _classes(report: Report, answer: Classes, sample: ShownSample) -> Markup:
    x, y = answer.scores(sample.fp32)[0], answer.scores(sample.int8)[0]
    best = list(dict.fromkeys([*np.argsort(-x)[:_BEST], *np.argsort(-y)[:_BEST]]))
    top = max(float(x.max()), float(y.max()), 1e-12)
    rows = [
        tag(
            "tr", tag("th", class_name(report.classes, int(c)), scope="row"),
            tag("td", _bar(float(x[c]) / top, "fp32"), _bar(float(y[c]) / top, "int8"), class_="bar"),
            tag("td", _score(float(x[c]), top)), tag("td", _score(float(y[c]), top)),
        )
        for c in best
    ]  # fmt: skip
    same = int(x.argmax()) == int(y.argmax())
    said = tag("p", "same best class" if same else "another best class", class_="agree" if same else "differ")
    head = tag("tr", *(tag("th", text, scope="col") for text in ("class", "", "FP32", "INT8")))
    return tag("figure", tag("table", tag("thead", head), tag("tbody", *rows), class_="best"), said)


def _score(value: float, top: float) -> str:
    """Probabilities with three digits behind the point."""
    return f"{value:.3f}" if top <= 1.01 else number(value, 3)


def _bar(share: float, kind: str) -> Markup:
    bar = tag("rect", class_=kind, x=0.0, y=0.0, width=max(share, 0.0) * 120, height=7.0)
    return tag("svg", bar, class_="share", viewBox="0 0 120 7", width=120.0, height=7.0, aria_hidden="true")


def class_name(classes: Sequence[str], label: int) -> str:
    """Its name, or its number."""
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def _boxes(report: Report, answer: Boxes, sample: ShownSample, picture: Array | None) -> Markup:
    found = [answer.detections(outputs, SHOWN_SCORE)[:_MOST_BOXES] for outputs in (sample.fp32, sample.int8)]
    agreeing, asked = answer.agreement(sample.fp32, sample.int8)
    said = f"FP32 {len(found[0])} boxes, INT8 {len(found[1])}" + (
        f"; {agreeing / asked:.0%} match (F1)" if asked else ""
    )
    good = agreeing >= SHARES["boxes"][0] * asked
    parts = []
    if picture is not None:
        height, width = picture.shape[:2]
        drawn = [
            _box(report, one, kind, width, height)
            for kind, own in zip(("fp32", "int8"), found, strict=True)
            for one in own
        ]
        image = tag("image", href=data_url(picture), width=float(width), height=float(height))
        size = {"viewBox": f"0 0 {width} {height}"}
        parts.append(
            tag("svg", image, *drawn, class_="boxes", role="img", aria_label=f"{sample.name} with boxes", **size)
        )
        key = tag("p", tag("span", "FP32", class_="key fp32"), " ", tag("span", "INT8", class_="key int8"))
        parts.append(key)
    return tag("figure", *parts, tag("p", said, class_="agree" if good else "differ"), class_="wide")


def _box(report: Report, one: Detection, kind: str, width: int, height: int) -> Markup:
    x0, y0, x1, y1 = (min(max(c, -0.1), 1.1) * side for c, side in zip(one.box, (width, height) * 2, strict=True))
    title = tag("title", f"{kind.upper()}: {class_name(report.classes, one.label)} {one.score:.2f}")
    rect = tag("rect", x=x0, y=y0, width=max(x1 - x0, 0.1), height=max(y1 - y0, 0.1))
    return tag("g", title, rect, class_=f"box {kind}")


def _maps(answer: ClassMap, sample: ShownSample) -> Markup:
    x, y = answer.classes(sample.fp32)[0], answer.classes(sample.int8)[0]
    sides = [
        (coloured(x), "FP32"),
        (coloured(y), "INT8"),
        (np.where(x == y, 235, 40).astype(np.uint8), "where they differ"),
    ]
    figures = [tag("figure", image_tag(picture, what), tag("figcaption", what)) for picture, what in sides]
    share = float(np.mean(x == y))
    said = tag("p", f"{percent(share)} of the pixels have the same class", class_="agree" if share > 0.98 else "differ")
    return tag("div", *figures, said, class_="sides")


def coloured(classes: Array) -> NDArray[np.uint8]:
    """A map of classes (H, W) in colours that are far from each other, BGR."""
    hue = (classes.astype(np.int64) * 67) % 180
    light = 110 + (classes.astype(np.int64) * 41) % 3 * 60
    image = np.stack([hue, np.where(classes == 0, 0, 170), light], axis=-1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_HSV2BGR), np.uint8)


def _pictures(report: Report, answer: Picture, sample: ShownSample) -> Markup:
    value = answer.values[0]
    x, y = sample.fp32[value], sample.int8[value]
    low, high = float(x.min()), float(x.max())
    shown = [stretched(array, low, high) for array in (x, y)]
    figures = [
        tag("figure", image_tag(picture, what), tag("figcaption", what))
        for picture, what in zip(shown, ("FP32", "INT8"), strict=True)
    ]
    snr = compare(x, y).snr_db
    return tag(
        "div", *figures, tag("p", f"{number(snr, 3)} dB", class_="agree" if snr > 25 else "differ"), class_="sides"
    )


def _numbers(report: Report, value: str, sample: ShownSample) -> Markup:
    x, y = sample.fp32[value], sample.int8[value]
    blob = report.model.net.blob_of[value]
    if x.shape != y.shape or not x.size or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return tag("figure", tag("p", f"{blob}: nothing to compare"))
    found = compare(x, y)
    caption = f"{blob}: INT8 over FP32, {number(found.snr_db, 3)} dB, cosine {found.cosine:.4f}"
    return tag("figure", scatter_drawing(x, y), tag("figcaption", caption))


def displayed(image: Array, recipe: Recipe | None) -> NDArray[np.uint8]:
    """A sample (1, C, H, W) as a picture, BGR or gray: the recipe backwards, or else stretched."""
    if recipe is None or not all(recipe.scale) or len(recipe.scale) != image.shape[1]:
        return stretched(image, float(image.min()), float(image.max()))
    column = (-1, 1, 1)
    pixels = image[0] / np.array(recipe.scale).reshape(column) + np.array(recipe.mean).reshape(column)
    if recipe.order == "rgb":
        pixels = pixels[::-1]
    return _picture(np.clip(np.nan_to_num(pixels), 0, 255))


def stretched(image: Array, low: float, high: float) -> NDArray[np.uint8]:
    """(1, C, H, W) with `low` as black and `high` as white."""
    return _picture(np.clip((np.nan_to_num(image[0]) - low) / ((high - low) or 1.0), 0, 1) * 255)


def _picture(pixels: Array) -> NDArray[np.uint8]:
    """(C, H, W) as (H, W[, 3]), brought to a size that a page can carry and that can be seen."""
    picture = pixels.round().astype(np.uint8).transpose(1, 2, 0)
    if picture.shape[2] != 3:
        picture = picture[:, :, 0]
    largest = max(picture.shape[:2])
    factor = _LARGEST / largest if largest > _LARGEST else max(1, 112 // largest)
    if factor != 1:
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
        picture = cv2.resize(np.ascontiguousarray(picture), None, fx=factor, fy=factor, interpolation=how)
    return np.ascontiguousarray(picture)


def image_tag(picture: NDArray[np.uint8], text: str) -> Markup:
    """A picture in the page itself."""
    height, width = picture.shape[:2]
    return tag("img", src=data_url(picture), alt=text, width=width, height=height)


def data_url(picture: NDArray[np.uint8]) -> str:
    """As JPEG, or as PNG where there are few pixels."""
    small = picture.shape[0] * picture.shape[1] <= 128 * 128
    name, settings = (".png", []) if small else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    data = cv2.imencode(name, picture, settings)[1].tobytes()
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def names_of_classes(text: str) -> tuple[str, ...]:
    """One name a line, in the order of the network's classes."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())
