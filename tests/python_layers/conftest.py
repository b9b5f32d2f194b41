"""User modules written on the spot."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib8.proto.text import parse_prototxt


@pytest.fixture
def write_module(tmp_path: Path) -> Callable[..., Path]:
    """Write tmp_path/NAME, made from the class's body lines or a whole text."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def param_of() -> Callable[..., Any]:
    """The LayerParameter of a Python layer named "user"."""

    def make(module: str, layer: str = "L", param_str: str = "", bottom: str = "", top: str = "out") -> Any:
        bottoms = "".join(f' bottom: "{b}"' for b in bottom.split())
        tops = "".join(f' top: "{t}"' for t in top.split())
        inputs = "".join(
            f'layer {{ name: "{b}" type: "Input" top: "{b}" input_param {{ shape {{ dim: 1 }} }} }} '
            for b in bottom.split()
        )
        return parse_prototxt(
            f'{inputs}layer {{ name: "user" type: "Python"{bottoms}{tops} python_param '
            f'{{ module: "{module}" layer: "{layer}" param_str: "{param_str}" }} }}'
        ).net.layer[-1]

    return make
