"""The page: one file, with its style and scripts in it, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from calib8.report.contents import Report
from calib8.report.html import Markup, tag
from calib8.report.sections import (
    SECTIONS,
    doctor_section,
    layers_section,
    network_section,
    next_section,
    record_section,
    samples_section,
    table_section,
    verdict_section,
)

_SCRIPTS = ("vendor/sortable.min.js", "vendor/sortable.a11y.min.js", "page.js")


def report_html(report: Report) -> bytes:
    """The page as UTF-8; the same report gives the same bytes."""
    style, scripts = _part("page.css"), [_part(name) for name in _SCRIPTS]
    head = tag(
        "head", tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, scripts)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"), tag("title", f"{report.name} in INT8"),
        tag("style", Markup(style)),
    )  # fmt: skip
    links = [tag("a", text, href=f"#{name}") for name, text in SECTIONS]
    header = tag("header", tag("h1", tag("b", report.name), " in INT8"), tag("nav", *links, aria_label="sections"))
    main = tag(
        "main", verdict_section(report), network_section(report), table_section(report), samples_section(report),
        doctor_section(report), next_section(report), record_section(report), layers_section(report),
    )  # fmt: skip
    body = tag("body", header, main, *(tag("script", Markup(script)) for script in scripts))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n".encode()


def _policy(style: str, scripts: list[str]) -> str:
    """Pictures from the page itself, this style, these scripts; nothing from anywhere, nothing sent to anywhere."""
    allowed = " ".join(_digest(script) for script in scripts)
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {allowed}; base-uri 'none'; "
        "form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    return files("calib8.report").joinpath("page", *name.split("/")).read_text(encoding="utf-8").strip()
