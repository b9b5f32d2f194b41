"""Where a network is cut into graphs, so that none gives too much at a time."""

from __future__ import annotations

import pytest

from calib8.lowering import build_model
from calib8.lowering.cuts import needed_layers, stretches
from calib8.proto.text import parse_prototxt

WIDE, NARROW = 4096, 256  # bytes of a value
NET = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 1, 32, 32] } } }'
LAYER = """
layer {{ name: "{0}{1}" type: "Power" bottom: "{2}" top: "{0}{1}" power_param {{ scale: 2 }} }}
"""
POOL = """
layer {{ name: "p{0}" type: "Pooling" bottom: "{1}" top: "p{0}" pooling_param {{ kernel_size: 4 stride: 4 }} }}
layer {{ name: "u{0}" type: "Upsample" bottom: "p{0}" top: "u{0}" upsample_param {{ scale: 4 }} }}
"""


def chain(*kinds):
    """w: a value of 4096 bytes; p: one of 256, and one of 4096 again."""
    text, last = NET, "x"
    for i, kind in enumerate(kinds):
        text += LAYER.format("w", i, last) if kind == "w" else POOL.format(i, last)
        last = f"{'w' if kind == 'w' else 'u'}{i}"
    return build_model(parse_prototxt(text))


def cut(model, limit, wanted):
    values = [value for value in model.shapes if value[0] in wanted]
    pairs = needed_layers(model, values)
    return [[layer.name for layer, _ in stretch] for stretch in stretches(model, pairs, values, limit)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, [["w0", "w1", "p2", "u2", "w3"]]),
        (WIDE, [["w0", "w1"], ["p2", "u2", "w3"]]),  # twice as much as wanted, and nothing narrow before
        (WIDE + 1, [["w0", "w1", "p2"], ["u2", "w3"]]),  # a narrow place between the limit and twice of it
        (2 * WIDE, [["w0", "w1", "p2"], ["u2", "w3"]]),
        (8 * WIDE, [["w0", "w1", "p2", "u2", "w3"]]),
    ],
)
def test_graphs_end_where_little_crosses(limit, expected):
    assert cut(chain("w", "w", "p", "w"), limit, "wpu") == expected


def test_graphs_end_behind_what_is_wanted_alone():
    """So that what is wanted is computed as in one graph."""
    assert cut(chain("w", "w", "p", "w"), 1, "u") == [["w0", "w1", "p2", "u2"]]
