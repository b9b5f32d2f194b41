"""Every operator, beside ONNX Runtime's own result on random input."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import defs, helper
from onnx_models import needs_a_right_reference

from calib8.onnx_in.operators import OPERATORS

RNG = np.random.default_rng(1)
OPSETS = (7, 9, 10, 11, 12, 13, 18, 21)
WITH_PADS = {"count_include_pad": 1}
IMAGE = (1, 4, 7, 9)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def one(op_type: str, *inputs: str, outputs=("y",), **attributes):
    return helper.make_node(op_type, ["x", *inputs], list(outputs), name="n", **attributes)


# What inputs behind the first were before they were inputs: the opset of the change, and the names of attributes.
ATTRIBUTES = {
    "Clip": (11, "min", "max"), "Pad": (11, "pads", "value"), "Slice": (10, "starts", "ends", "axes"),
    "Squeeze": (13, "axes"), "Unsqueeze": (13, "axes"), "Split": (13, "split"), "ReduceSum": (13, "axes"),
}  # fmt: skip


def written(name: str, constants: dict, opset: int, **attributes):
    """The node as it is in that opset, and the constants that are inputs of it; skips what the opset does not have."""
    before, *names = ATTRIBUTES.get(name, (0,))
    if opset < before:
        if len(constants) > len(names):
            pytest.skip(f"{name} has fewer inputs in opset {opset}")
        for attribute, array in zip(names, constants.values(), strict=False):
            attributes[attribute] = float(array) if array.dtype == np.float32 else array.tolist()
        constants = {}
    try:
        schema = defs.get_schema(name, opset)
    except defs.SchemaError:
        pytest.skip(f"{name} is not of opset {opset}")
    has_inputs = schema.min_input <= 1 + len(constants) <= schema.max_input
    if not has_inputs or not schema.attributes.keys() >= attributes.keys() - {"outputs"}:
        pytest.skip(f"{name} does not have these inputs, or all of {', '.join(attributes)}, in opset {opset}")
    return one(name, *constants, **attributes), constants


# What is tested, by operator: inputs' shape, constants, attributes.
CASES = {
    "Conv": [
        (IMAGE, {"w": weights(6, 4, 3, 3)}, {}),
        (IMAGE, {"w": weights(6, 2, 3, 2), "b": weights(6)}, {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]}),
        (IMAGE, {"w": weights(4, 1, 3, 3), "b": weights(4)}, {"group": 4, "pads": [1] * 4, "dilations": [1, 2]}),
        (IMAGE, {"w": weights(6, 4, 3, 3)}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        (IMAGE, {"w": weights(6, 4, 2, 4)}, {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
        (IMAGE, {"w": weights(6, 4, 3, 3)}, {"auto_pad": "VALID"}),
        ((1, 4, 9), {"w": weights(6, 4, 3)}, {"pads": [1, 1]}),
    ],
    "ConvTranspose": [
        (IMAGE, {"w": weights(4, 6, 3, 3), "b": weights(6)}, {"strides": [2, 2], "pads": [1] * 4}),
        (IMAGE, {"w": weights(4, 3, 3, 3)}, {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1], "group": 2}),
        (IMAGE, {"w": weights(4, 6, 2, 2)}, {"strides": [2, 2]}),
    ],
    "MaxPool": [
        (IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        (IMAGE, {}, {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
        (IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
        (IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1] * 4, "ceil_mode": 1}),
        (IMAGE, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ],
    "AveragePool": [
        (IMAGE, {}, {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, **WITH_PADS}),
        (IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        (IMAGE, {}, {"kernel_shape": [2, 2], "strides": [2, 2]}),
        (IMAGE, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        (IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1}),
        (IMAGE, {}, {"kernel_shape": [3, 4], "strides": [2, 3], "pads": [1] * 4, "ceil_mode": 1, **WITH_PADS}),
        (IMAGE, {}, {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], **WITH_PADS}),
    ],
    "GlobalAveragePool": [(IMAGE, {}, {})],
    "GlobalMaxPool": [(IMAGE, {}, {})],
    "Gemm": [
        ((2, 5), {"w": weights(3, 5), "b": weights(3)}, {"transB": 1}),
        ((2, 5), {"w": weights(5, 3), "b": weights(1)}, {"alpha": 0.5, "beta": 2.0}),
        ((2, 5), {"w": weights(5, 3)}, {}),
    ],
    "MatMul": [((2, 5), {"w": weights(5, 3)}, {}), ((2, 4, 5), {"w": weights(5, 3)}, {})],
    "BatchNormalization": [
        (s, {"s": weights(4), "b": weights(4), "m": weights(4), "v": np.abs(weights(4)) + 0.3}, {"epsilon": 1e-3})
        for s in (IMAGE, (2, 4))
    ],
    "InstanceNormalization": [(IMAGE, {"s": weights(4), "b": weights(4)}, {"epsilon": 1e-3})],
    "LayerNormalization": [
        ((2, 3, 4, 5), {"s": weights(5), "b": weights(5)}, {"epsilon": 1e-3}),
        ((2, 3, 4), {"s": weights(3, 4)}, {"axis": 1}),
        ((4, 5), {"s": weights(1), "b": weights(4, 5)}, {"axis": 0}),
    ],
    "LRN": [((1, 8, 3, 3), {}, {"size": 5, "alpha": 1e-2, "beta": 0.7, "bias": 2.0})],
    "LpNormalization": [(IMAGE, {}, {"axis": 1})],
    "LeakyRelu": [(IMAGE, {}, {"alpha": 0.1}), (IMAGE, {}, {})],
    "PRelu": [(IMAGE, {"s": weights(4, 1, 1)}, {}), (IMAGE, {"s": weights(1)}, {})],
    "Clip": [
        (IMAGE, {"low": number(0), "high": number(0.5)}, {}), (IMAGE, {"low": number(0)}, {}),
        (IMAGE, {"low": number(0), "high": number(6)}, {}), (IMAGE, {"low": number(-0.25)}, {}),
    ],
    "HardSigmoid": [(IMAGE, {}, {"alpha": 1 / 6, "beta": 0.5}), (IMAGE, {}, {})],
    "Gelu": [(IMAGE, {}, {}), (IMAGE, {}, {"approximate": "tanh"})],
    "Elu": [(IMAGE, {}, {"alpha": 0.5})],
    "Pow": [(IMAGE, {"p": number(2)}, {})],
    "Softmax": [((2, 5), {}, {}), (IMAGE, {}, {"axis": 1})],
    "LogSoftmax": [((2, 5), {}, {})],
    "Reshape": [(IMAGE, {"s": ints(0, -1)}, {}), (IMAGE, {"s": ints(1, 2, 2, 7, 9)}, {}), (IMAGE, {"s": ints(-1)}, {})],
    "Flatten": [(IMAGE, {}, {}), (IMAGE, {}, {"axis": 2}), (IMAGE, {}, {"axis": 0}), (IMAGE, {}, {"axis": -1})],
    "Squeeze": [((1, 4, 1, 1), {"a": ints(2, 3)}, {}), ((1, 4, 1, 1), {"a": ints(-1)}, {}), ((2, 4, 1), {}, {})],
    "Unsqueeze": [((1, 4), {"a": ints(2, 3)}, {}), ((1, 4), {"a": ints(0)}, {})],
    "Transpose": [(IMAGE, {}, {"perm": [0, 2, 3, 1]}), (IMAGE, {}, {})],
    "Concat": [((1, 2, 3), {"c": weights(1, 4, 3)}, {"axis": 1}), ((1, 2, 3), {"c": weights(1, 2, 1)}, {"axis": -1})],
    "Slice": [
        (IMAGE, {"s": ints(1), "e": ints(3), "a": ints(1)}, {}),
        (IMAGE, {"s": ints(1, 0), "e": ints(2**63 - 1, -1), "a": ints(-2, 3), "t": ints(2, 2)}, {}),
        ((2, 3, 4), {"s": ints(0, 1), "e": ints(2, 3)}, {}),
    ],
    "Gather": [
        (IMAGE, {"i": ints(2)}, {"axis": 1}), (IMAGE, {"i": np.array(-1)}, {"axis": 1}),
        (IMAGE, {"i": ints(1, 2)}, {"axis": 2}),
    ],
    "Expand": [((1, 4, 1, 1), {"s": ints(2, 4, 3, 2)}, {}), ((4, 1), {"s": ints(2, 1, 3)}, {})],
    "Tile": [((1, 4, 3), {"r": ints(1, 2, 3)}, {})],
    "Pad": [
        (IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}, {}),
        (IMAGE, {"p": ints(0, 0, 0, 1, 0, 0, -1, 0), "v": number(2)}, {}),
    ],
    "DepthToSpace": [((1, 8, 3, 2), {}, {"blocksize": 2, "mode": m}) for m in ("DCR", "CRD")],
    "SpaceToDepth": [((1, 2, 4, 6), {}, {"blocksize": 2})],
    "Cast": [(IMAGE, {}, {"to": 1})],
    "Dropout": [(IMAGE, {}, {})],
}  # fmt: skip
PLAIN = [
    "Erf",
    "Relu",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Abs",
    "Exp",
    "Neg",
    "Reciprocal",
    "Identity",
    "HardSwish",
    "Log",
    "Sqrt",
]
CASES |= {name: [(IMAGE, {}, {})] for name in PLAIN}
POSITIVE = ("Log", "Sqrt", "Reciprocal")
FLAT = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("name", "case"), FLAT, ids=[f"{name}-{i}" for name, i in FLAT])
def test_operator(name, case, opset, same_as_runtime):
    needs_a_right_reference(name, case)
    shape, constants, attributes = CASES[name][case]
    node, given = written(name, constants, opset, **attributes)
    if name == "Flatten" and opset < 11 and attributes.get("axis", 1) < 0:
        pytest.skip("no axis of Flatten is counted from the end before opset 11")
    same_as_runtime([node], {"x": shape}, constants=given, opset=opset, positive=name in POSITIVE)


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize(
    "other", [IMAGE, (1, 4, 1, 1), (4, 1, 1), (1, 1, 7, 9), (9,), (1, 4, 1, 9), (7, 1), (1,), (2, 4, 1, 1)]
)
def test_two_values_and_a_constant(name, other, same_as_runtime):
    if name not in ("Max", "Min"):
        for order in (["x", "c"], ["c", "x"]):
            c = np.abs(weights(*other)) + np.float32(0.5)
            same_as_runtime([helper.make_node(name, order, ["y"])], {"x": IMAGE}, constants={"c": c}, positive=True)
    nodes = [helper.make_node(name, ["x", "z"], ["y"])]
    same_as_runtime(nodes, {"x": IMAGE, "z": other}, positive=True)
    same_as_runtime([helper.make_node(name, ["z", "x"], ["y"])], {"x": IMAGE, "z": other}, positive=True)


@pytest.mark.parametrize("name", ["Max", "Min", "Sum", "Mean"])
def test_many_operands(name, same_as_runtime):
    inputs = {"x": IMAGE, "z": IMAGE, "u": (1, 4, 1, 1)}
    same_as_runtime([helper.make_node(name, list(inputs), ["y"])], inputs)
    same_as_runtime([helper.make_node(name, ["x"], ["y"])], {"x": IMAGE})
    if name in ("Max", "Min"):
        same_as_runtime([one(name, "c")], {"x": IMAGE}, constants={"c": number(0.2)})


def test_a_second_factor_of_blocks_of_channels_runs_in_int8(same_as_runtime):
    """Squeeze and excitation: no layer that repeats it is needed."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Mul", ["x", "p"], ["y"])]
    model = same_as_runtime(nodes, {"x": (2, 4, 5, 5)})
    assert [layer.type for layer in model.net.layers] == ["Input", "Pooling", "Reshape", "Eltwise"]


def test_a_network_of_one_image_takes_more(same_as_runtime):
    """A factor for each channel keeps the axis of images, though it is as long as an axis that is repeated."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Mul", ["x", "p"], ["y"])]
    model = same_as_runtime(nodes, {"x": (1, 4, 5, 5)})
    assert model.reshaped({"x": (3, 4, 5, 5)}).shapes["y"] == (3, 4, 5, 5)


def test_mish(same_as_runtime):
    same_as_runtime([one("Mish")], {"x": IMAGE}, opset=18)


@pytest.mark.parametrize("opset", OPSETS)
def test_split(opset, same_as_runtime):
    outputs = ("y", "z")
    node, given = written("Split", {"s": ints(1, 3)}, opset, outputs=outputs, axis=1)
    same_as_runtime([node], {"x": IMAGE}, outputs, given, opset)
    number_of = {"num_outputs": 2} if opset >= 18 else {}
    same_as_runtime([one("Split", outputs=outputs, axis=1, **number_of)], {"x": IMAGE}, outputs, opset=opset)
    if opset >= 18:  # the last part may be shorter
        same_as_runtime([one("Split", outputs=outputs, axis=2, **number_of)], {"x": IMAGE}, outputs, opset=opset)


def test_parts_that_nobody_wants_are_no_outputs(same_as_runtime):
    model = same_as_runtime([one("Split", "s", outputs=("y", "z"), axis=1)], {"x": IMAGE}, ("z",), {"s": ints(1, 3)})
    assert [layer.type for layer in model.net.layers] == ["Input", "Slice", "Silence"]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL1", "ReduceL2", "ReduceSumSquare"])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2), (1,), (3,), ()])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(name, axes, keepdims, opset, same_as_runtime, refusals):
    is_input = opset >= (13 if name == "ReduceSum" else 18)
    attributes = {} if is_input or not axes else {"axes": list(axes)}
    constants = {"a": ints(*axes)} if is_input and axes else {}
    nodes = [one(name, *constants, keepdims=keepdims, **attributes)]
    if name == "ReduceMax" and sorted(a % 4 for a in axes) != [2, 3]:
        (why,) = refusals(nodes, {"x": IMAGE}, constants=constants, opset=opset)
        assert "calib8 takes H and W of N, C, H, W" in why
    else:
        same_as_runtime(nodes, {"x": IMAGE}, constants=constants, opset=opset)


RESIZES = [
    ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, True),
    ({"mode": "nearest"}, True),
    ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"}, False),
    ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, True),
    ({"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, True),
    ({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, True),
    ({"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, True),
    ({"mode": "cubic"}, False),
]


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize(("how", "is_taken"), RESIZES)
@pytest.mark.parametrize("by_size", [False, True])
def test_resize(how, is_taken, by_size, opset, same_as_runtime, refusals):
    constants = {"s": ints(1, 4, 14, 27) if by_size else np.array([1, 1, 2, 3], np.float32)}
    if opset == 11:  # where a region has to be there, and scales, be they empty
        constants |= {"r": np.zeros(0, np.float32), "e": np.zeros(0, np.float32)}
    inputs = ["x", "r", "e"] if opset == 11 else ["x", "", ""]
    inputs = [*inputs, "s"] if by_size else [*inputs[:2], "s"]
    nodes = [helper.make_node("Resize", inputs, ["y"], **how)]
    if is_taken:
        same_as_runtime(nodes, {"x": IMAGE}, constants=constants, opset=opset)
    else:
        assert len(refusals(nodes, {"x": IMAGE}, constants=constants, opset=opset)) == 1


@pytest.mark.parametrize(("name", "opset"), [("Upsample", 7), ("Upsample", 9), ("Resize", 10)])
@pytest.mark.parametrize(("mode", "scales"), [("nearest", (1, 1, 2, 3)), ("linear", (1, 1, 2, 1.5))])
def test_resize_before_it_had_rules(name, opset, mode, scales, same_as_runtime):
    if opset == 7:
        nodes, given = [one(name, mode=mode, scales=[float(s) for s in scales])], {}
    else:
        nodes, given = [one(name, "s", mode=mode)], {"s": np.array(scales, np.float32)}
    same_as_runtime(nodes, {"x": IMAGE}, constants=given, opset=opset)


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("attributes", [{}, {"axis": 2}, {"axis": 3}, {"axis": 0}])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 1), (2, 3, 1, 1)])
def test_softmax_over_all_axes_from_one_on(name, attributes, shape, same_as_runtime):
    same_as_runtime([one(name, **attributes)], {"x": shape}, opset=11)


def test_numbers_for_each_pixel_are_refused(refusals):
    constants = {"s": weights(4), "b": weights(4), "m": weights(4), "v": np.abs(weights(4))}
    (why,) = refusals([one("BatchNormalization", *constants, spatial=0)], {"x": IMAGE}, constants=constants, opset=7)
    assert "one for each channel" in why


@pytest.mark.parametrize("scale", [(1.5, 2.0), (0.5, 0.5), (1.0, 0.7)])
@pytest.mark.parametrize("how", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
def test_linear_resize_by_any_factor(scale, how, same_as_runtime):
    nodes = [helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode=how)]
    same_as_runtime(nodes, {"x": IMAGE}, constants={"s": np.array([1, 1, *scale], np.float32)}, opset=18)


class TestOutputsThatAreOnlyNamed:
    """PaddlePaddle ends a network in an Identity, behind which a Softmax should still be one."""

    SOFTMAX, NAMED = helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("Identity", ["s"], ["y"])

    def types(self, model):
        return [layer.type for layer in model.net.layers]

    def test_the_layer_in_front_gives_it(self, same_as_runtime):
        model = same_as_runtime([self.SOFTMAX, self.NAMED], {"x": (2, 5)})
        assert self.types(model) == ["Input", "Softmax"] and model.net.outputs == ("y",)

    def test_of_several_parts(self, same_as_runtime):
        nodes = [helper.make_node("Split", ["x"], ["s", "t"], axis=1), self.NAMED]
        assert self.types(same_as_runtime(nodes, {"x": IMAGE}, ("t", "y"))) == ["Input", "Slice"]

    def test_a_value_that_is_needed_besides(self, same_as_runtime):
        again = helper.make_node("Identity", ["s"], ["z"])
        for nodes, outputs in (
            ([self.SOFTMAX, self.NAMED], ("s", "y")),
            ([self.SOFTMAX, self.NAMED, again], ("y", "z")),
            ([self.SOFTMAX, self.NAMED, helper.make_node("Relu", ["s"], ["z"])], ("y", "z")),
        ):
            assert "Split" in self.types(same_as_runtime(nodes, {"x": (2, 5)}, outputs))

    def test_the_input(self, same_as_runtime):
        assert self.types(same_as_runtime([one("Identity")], {"x": (2, 5)})) == ["Input", "Split"]


def test_every_operator_is_tested():
    elsewhere = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Mish", "Split", "Resize", "Upsample",
                 "ReduceMean", "ReduceSum", "ReduceMax", "ReduceL1", "ReduceL2", "ReduceSumSquare"}  # fmt: skip
    assert set(CASES) | elsewhere == set(OPERATORS)
