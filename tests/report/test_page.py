"""The page as text: whole, escaped, asking nobody for anything, with the figures of the result objects."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest

from calib8.report import report_html
from calib8.report.html import Markup, number, percent, tag


class Elements(HTMLParser):
    """All elements, and whether they are closed."""

    VOID = frozenset(["br", "hr", "img", "input", "meta"])

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def test_every_element_is_closed_and_every_id_is_one(elements):
    assert elements.open == []
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for name, a in elements.found if name == "a"}
    assert links <= set(ids)


def test_nothing_comes_from_anywhere_else(elements, page):
    for _, attributes in elements.found:
        for key in ("src", "href", "action", "data", "srcset"):
            assert attributes.get(key, "#").startswith(("#", "data:image/"))
        assert "style" not in attributes and not any(key.startswith("on") for key in attributes)
    assert "http:" not in re.sub(r"<script>.*?</script>", "", page, flags=re.S) and "@import" not in page


def test_the_policy_names_what_is_there(elements, page):
    policy = next(
        a["content"] for n, a in elements.found if n == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for part in re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page, flags=re.S):
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy


def test_names_are_text(page, report):
    assert "<b>digits &amp; more</b>" in page
    assert "digit &lt;" in page and "digit <" not in page
    assert report_html(report) == report_html(report)


def test_figures_are_those_of_the_results(page, report):
    for row in report.sensitivity.units:
        assert f'data-sort="{row.damage["alone"].loss!r}"' in page
    assert report.verdict.outputs[0].text in page
    for finding in report.diagnosis.findings:
        assert finding.text.split("'")[0].split("&")[0][:40] in page


def test_every_layer_has_a_page_and_a_place_in_the_drawing(elements, report):
    pages = [a["id"] for n, a in elements.found if n == "details"]
    assert pages == [f"layer-{i}" for i in range(len(report.model.net.layers))]
    nodes = [a for n, a in elements.found if n == "circle" and a.get("class", "").startswith("node")]
    assert len(nodes) == len(report.model.net.layers)
    assert sum("none" in a["class"] for a in nodes) == 2  # the data and the Softmax


def test_elements():
    assert (
        tag("p", "a < b", Markup("<br>"), class_="x", hidden=True, title=None) == '<p class="x" hidden>a &lt; b<br></p>'
    )
    assert tag("meta", name="a", content='"') == '<meta name="a" content="&quot;">'
    assert tag("p", "a\x00b") == "<p>a�b</p>"


def test_numbers_for_people():
    assert [number(v) for v in (math.nan, math.inf, -math.inf, 1.23456)] == ["", "exact", "no signal", "1.235"]
    assert [percent(v) for v in (0.0123, 0.5, math.nan)] == ["1.23%", "50.0%", ""]
