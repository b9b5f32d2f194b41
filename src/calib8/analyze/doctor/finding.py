"""`Finding`: one thing that the doctor noticed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How sure a finding is, and how much it costs."""

    PROBLEM = "problem"
    """Results will be wrong, or much worse than need be."""
    HINT = "hint"
    """Worth a look; it may be meant so."""


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        area: "preprocessing", "images", "samples" or "network".
        severity: how sure, how bad.
        subject: the layer, blob or sample that it is about, or how many layers, with a few names; "" for the whole.
        text: what was found, and what was expected.
        advice: what to do; "" where the text says all.
    """

    area: str
    severity: Severity
    subject: str
    text: str
    advice: str = ""
