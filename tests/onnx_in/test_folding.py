"""Constants of constants, beside ONNX Runtime: each operator that is computed here, on whole and real numbers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx_models import TOLERANCE, largest_difference, model_of, needs_a_right_reference, opened

from calib8.onnx_in.folding import FOLDS

RNG = np.random.default_rng(4)
A = RNG.integers(1, 9, (2, 3)).astype(np.int64)
B = RNG.integers(-4, 5, (3,)).astype(np.int64)
B[B == 0] = -3
REAL = RNG.standard_normal((2, 3)).astype(np.float32)
POSITIVE = np.abs(REAL) + np.float32(0.5)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def scalar(value: int) -> np.ndarray:
    return np.array(value, np.int64)


def value(array) -> dict[str, object]:
    return {"value": numpy_helper.from_array(np.asarray(array))}


# Inputs, attributes.
CASES = {
    **{name: [([A, B], {}), ([REAL, POSITIVE], {})] for name in ("Add", "Sub", "Mul", "Max", "Min")},
    "Div": [([A, B], {}), ([-A, B], {}), ([REAL, POSITIVE], {})],
    "Mod": [([A, B], {}), ([-A, np.abs(B)], {})],
    "Pow": [([A, scalar(2)], {}), ([POSITIVE, np.array(0.5, np.float32)], {})],
    **{name: [([A, B], {})] for name in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")},
    **{name: [([A > 3, B > 0], {})] for name in ("And", "Or")},
    "Not": [([A > 3], {})],
    **{name: [([REAL], {})] for name in ("Neg", "Abs", "Floor", "Ceil", "Round", "Sign", "Exp")},
    **{name: [([POSITIVE], {})] for name in ("Sqrt", "Log", "Reciprocal")},
    **{name: [([A], {}), ([REAL], {"keepdims": 0})] for name in ("ReduceProd", "ReduceMin", "ReduceMax", "ReduceMean")},
    "ReduceSum": [([A, ints(1)], {}), ([REAL, ints(0, -1)], {"keepdims": 0}), ([REAL], {"noop_with_empty_axes": 1})],
    "Shape": [([A], {}), ([REAL], {"start": 1})],
    "Size": [([A], {})],
    "Constant": [
        ([], value(A)), ([], {"value_float": 1.5}), ([], {"value_int": 3}), ([], {"value_ints": [3, 4]}),
        ([], {"value_floats": [0.5, 2.0]}),
    ],
    "ConstantOfShape": [([ints(2, 3)], {}), ([ints(2)], value(ints(7))), ([np.zeros(0, np.int64)], {})],
    "Identity": [([A], {})],
    "Dropout": [([REAL], {})],
    "Cast": [([REAL], {"to": 7}), ([A], {"to": 1}), ([A], {"to": 9})],
    "Reshape": [([A, ints(3, -1)], {}), ([A, ints(0, 1, 3)], {})],
    "Squeeze": [([A[None], ints(0)], {}), ([A[None, :, :1]], {})],
    "Unsqueeze": [([A, ints(0, -1)], {})],
    "Flatten": [([np.stack([A, A])], {"axis": 2}), ([np.stack([A, A])], {"axis": -1})],
    "Transpose": [([A], {}), ([np.stack([A, A])], {"perm": [1, 0, 2]})],
    "Concat": [([A, A], {"axis": 0}), ([A, A], {"axis": -1})],
    "Gather": [([A, ints(1, 0)], {}), ([A, scalar(-1)], {"axis": 1}), ([A, ints(1, 0).reshape(2, 1)], {"axis": 1})],
    "Slice": [
        ([A, ints(1), ints(2), ints(1)], {}), ([A, ints(-1), ints(-(2**62)), ints(1), ints(-1)], {}),
        ([A, ints(0, 0), ints(1, 2**62)], {}), ([A, ints(2), ints(0), ints(1), ints(-2)], {}),
    ],
    "Range": [([scalar(1), scalar(7), scalar(2)], {}), ([scalar(5), scalar(0), scalar(-2)], {})],
    "Expand": [([A[:, :1], ints(2, 4)], {}), ([A, ints(1)], {})],
    "Tile": [([A, ints(2, 1)], {})],
    "Where": [([A > 3, A, B], {})],
    "Split": [([A, ints(1, 2)], {"axis": 1}), ([A], {"axis": 0})],
}  # fmt: skip
FLAT = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]


@pytest.mark.parametrize(("name", "case"), FLAT, ids=[f"{name}-{i}" for name, i in FLAT])
def test_it_is_what_onnx_runtime_computes(name, case, tmp_path):
    needs_a_right_reference(name, case)
    arrays, attributes = CASES[name][case]
    constants = {f"c{i}": array for i, array in enumerate(arrays)}
    results = ["r0", "r1"] if name == "Split" else ["r0"]
    nodes = [
        helper.make_node(name, list(constants), results, **attributes),
        *(helper.make_node("Cast", [result], [f"y{i}"], to=1) for i, result in enumerate(results)),
        helper.make_node("Relu", ["x"], ["z"]),
    ]
    outputs = [*(f"y{i}" for i in range(len(results))), "z"]
    model = model_of(nodes, {"x": (1, 2)}, outputs, constants, opset=17)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    network = opened(tmp_path / "net.onnx")
    x = np.ones((1, 2), np.float32)
    assert largest_difference(tmp_path / "net.onnx", network, {"x": x}) <= TOLERANCE


def test_every_operator_is_tested():
    assert set(CASES) == set(FOLDS)


@pytest.mark.parametrize(
    ("name", "arrays", "attributes", "expected"),
    [
        ("Div", [A, scalar(0)], {}, "divides by 0"),
        ("Mod", [A, scalar(0)], {}, "divides by 0"),
        ("Range", [scalar(0), scalar(1), scalar(0)], {}, "steps of 0"),
        ("Range", [scalar(0), scalar(2**60), scalar(1)], {}, "too much memory"),
        ("Tile", [A, ints(2**20, 2**20)], {}, "too much memory"),
        ("Expand", [A, ints(2**23, 2, 3)], {}, "too much memory"),
        ("Gather", [A, ints(5)], {}, "its constants do not fit it"),
        ("Reshape", [A, ints(5)], {}, "its constants do not fit it"),
        ("Reshape", [A, ints(0, 0, 0)], {}, "its constants do not fit it"),
        ("Concat", [A, B], {"axis": 0}, "its constants do not fit it"),
        ("Cast", [A], {"to": 8}, "casts a constant to"),
        ("Cast", [A], {"to": 99}, "which ONNX does not have"),
        ("Constant", [], {"value_string": "text"}, "sets value_string"),
        ("Erf", [REAL], {}, "reads constants alone"),
        ("Add", [A, np.ones((5, 4), np.int64)], {}, "shapes do not go together"),
    ],
)
def test_what_cannot_be_computed(name, arrays, attributes, expected, refusals):
    constants = {f"c{i}": array for i, array in enumerate(arrays)}
    nodes = [
        helper.make_node(name, list(constants), ["r"], name="n", **attributes),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    (why,) = refusals(nodes, {"x": (1, 2)}, constants=constants)
    assert why.startswith(f"node 'n' ({name}): ") and expected in why
