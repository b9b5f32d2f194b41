"""Pieces of prototxts."""

from __future__ import annotations


def input_layer(name: str, *shape: int) -> str:
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ dim: {list(shape)} }} }} }}\n'
