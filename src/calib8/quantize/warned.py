"""What integers warn of, said once for many layers: a large network would fill a screen with the same sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CHANNELS = re.compile(r"channels? \d+(, \d+)*( and \d+ more)?")
_FEW = 3  # layers that have a line each


def together(warnings: Sequence[str]) -> list[str]:
    """Put what is said of more than a few layers into one line for all of them.

    Args:
        warnings: "layer 'conv1': the bias of channels 1, 2 and 5 more does not fit ..".
    """
    layers_of: dict[str, list[str]] = {}
    for warning in warnings:
        layer, _, text = warning.partition(": ")
        layers_of.setdefault(_without_numbers(text), []).append(layer.removeprefix("layer "))
    many = {kind: layers for kind, layers in layers_of.items() if len(layers) > _FEW}
    alone = [w for w in warnings if _without_numbers(w.partition(": ")[2]) not in many]
    return alone + [f"{len(layers)} layers ({', '.join(layers[:_FEW])}, ..): {kind}" for kind, layers in many.items()]


def _without_numbers(text: str) -> str:
    return _CHANNELS.sub("some channels", text)
