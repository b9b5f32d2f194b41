"""One layer of a prototxt, run or refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import pytest

from calib8.engine import run_float
from calib8.errors import UnsupportedError
from calib8.layers import OnnxBuilder
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt


def _prototxt(layer_type: str, shapes: Sequence[Sequence[int]], param: str, tops: int):
    inputs = "".join(
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" '
        f"input_param {{ shape {{ {' '.join(f'dim: {d}' for d in shape)} }} }} }}\n"
        for i, shape in enumerate(shapes)
    )
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(shapes)))
    names = " ".join(f'top: "y{i}"' for i in range(tops))
    return parse_prototxt(f'{inputs}layer {{ name: "l" type: "{layer_type}" {bottoms} {names} {param} }}')


@pytest.fixture(scope="session")
def run_layer():
    """run_layer(type, *bottoms, param="", blobs=(), tops=1): the top, or a list of several."""

    def run(layer_type, *bottoms, param="", blobs=(), tops=1):
        bottoms = [np.asarray(b, np.float32) for b in bottoms]
        prototxt = _prototxt(layer_type, [b.shape for b in bottoms], param, tops)
        model = build_model(prototxt, {"l": tuple(np.asarray(b, np.float32) for b in blobs)})
        names = [f"y{i}" for i in range(tops)]
        values = run_float(model, {f"x{i}": b for i, b in enumerate(bottoms)}, observe=names)
        found = [values[name] for name in names]
        return found if tops > 1 else found[0]

    return run


@pytest.fixture(scope="session")
def refusal():
    """refusal(type, *shapes, param="", tops=1): what a refused layer says of itself."""

    def refuse(layer_type, *shapes, param="", tops=1):
        with pytest.raises(UnsupportedError) as caught:
            build_model(_prototxt(layer_type, shapes, param, tops))
        (problem,) = caught.value.problems
        where, _, what = problem.partition(": ")
        assert where == f"<text>:{len(shapes) + 1}"
        assert what.startswith(f"layer 'l' ({layer_type}): ")
        return what

    return refuse


@pytest.fixture(scope="session")
def move_codes():
    """move_codes(type, bottom, param=""): the float lowering of a layer that only moves data, run on uint8."""

    def move(layer_type, bottom, param=""):
        model = build_model(_prototxt(layer_type, [bottom.shape], param, 1))
        op = model.op_of["l"]
        assert op.moves_data
        assert op.passive
        g = OnnxBuilder()
        x = g.input(bottom.shape, np.uint8)
        (y,) = op.lower(g, model.call(model.net.layer_by_name["l"], [x]))
        onnx, _ = g.model([(y, np.uint8)])
        session = ort.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {x: bottom})[0]

    return move
