"""Layers that only move data, in INT8: the codes stand where the float network has the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.layer_kit.base import Op, registry
from calib8.lowering.readings import Codes
from calib8.quantize import make_plan

IMAGE = (2, 4, 6, 4)
CASES = [
    ("Concat", "", (IMAGE, IMAGE), 1),
    ("Concat", "concat_param { axis: -1 }", ((2, 3), (2, 5)), 1),
    ("Concat", "", (IMAGE,), 1),
    ("Crop", "crop_param { axis: 2 offset: 1 offset: 2 }", (IMAGE, (1, 1, 3, 2)), 1),
    ("Dropout", "", (IMAGE,), 1),
    ("SpatialDropout", "", (IMAGE,), 1),
    ("Flatten", "flatten_param { axis: 1 end_axis: 2 }", (IMAGE,), 1),
    ("PassThrough", "pass_through_param { block_height: 2 block_width: 1 }", (IMAGE,), 1),
    ("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", (IMAGE,), 1),
    ("Permute", "permute_param { order: 3 order: 0 }", (IMAGE,), 1),
    ("Reorg", "reorg_param { stride: 2 }", (IMAGE,), 1),
    ("Reorg", "reorg_param { stride: 2 reverse: true }", (IMAGE,), 1),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 3 } }", (IMAGE,), 1),
    ("Reshape", "reshape_param { pixelshuffler: 2 }", (IMAGE,), 1),
    ("Reverse", "reverse_param { axis: 2 }", (IMAGE,), 1),
    ("ShuffleChannel", "shuffle_channel_param { group: 2 }", (IMAGE,), 1),
    ("Slice", "slice_param { axis: 1 slice_point: 1 slice_point: 3 }", (IMAGE,), 3),
    ("Slice", "slice_param { axis: 0 }", (IMAGE,), 2),
    ("Split", "", (IMAGE,), 3),
    ("Squeeze", "squeeze_param { axis: 1 }", ((3, 1, 4),), 1),
    ("Tile", "tile_param { axis: -1 tiles: 3 }", (IMAGE,), 1),
    ("Transpose", "transpose_param { dim: [0, 2, 3, 1] }", (IMAGE,), 1),
    ("Upsample", "upsample_param { scale: 2 }", (IMAGE,), 1),
    ("Upsample", "upsample_param { height: 7 width: 5 mode: NEAREST }", (IMAGE,), 1),
    ("Upsample", "upsample_param { size: 3 }", (IMAGE,), 1),
    ("Upsample", "upsample_param { scale_h: 3 scale_w: 1 }", (IMAGE,), 1),
    ("Upsample", "upsample_param { upsample_h: 12 upsample_w: 20 }", (IMAGE,), 1),
]


def network(layer_type: str, param: str, shapes, tops: int) -> str:
    lines = [
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" '
        f"input_param {{ shape {{ {' '.join(f'dim: {d}' for d in shape)} }} }} }}"
        for i, shape in enumerate(shapes)
    ]
    reads = " ".join(f'bottom: "x{i}"' for i in range(len(shapes)))
    writes = " ".join(f'top: "y{i}"' for i in range(tops))
    return "\n".join([*lines, f'layer {{ name: "l" type: "{layer_type}" {reads} {writes} {param} }}'])


@pytest.mark.parametrize(("layer_type", "param", "shapes", "tops"), CASES)
def test_codes_move_as_numbers_do(random_model, run_int8, layer_type, param, shapes, tops):
    model = random_model(network(layer_type, param, shapes, tops))
    plan = make_plan(model, dict.fromkeys(model.shapes, 2.0))
    assert plan.forms["l"] is not None
    rng = np.random.default_rng(0)
    xs = {f"x{i}": rng.integers(-128, 128, shape) for i, shape in enumerate(shapes)}
    names = [f"y{i}" for i in range(tops)]
    found = run_int8(model, plan, xs, [*map(Codes, names), *names])
    expected = run_float(model, {name: x.astype(np.float32) for name, x in xs.items()}, names)
    for name in names:
        assert np.array_equal(found[Codes(name)], expected[name]), name
        assert np.array_equal(found[name], expected[name] * np.float32(2 / 128)), name


def test_every_type_that_moves_data_is_tried():
    moving = {name for name, op in registry().items() if op.moves_data is not Op.moves_data}
    assert moving - {"Silence"} == {case[0] for case in CASES}
