"""What is not taken: said by name, all at once; and files that nobody should trust."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import StringStringEntryProto, TensorProto, helper
from onnx_models import model_of, opened
from onnx_networks import resnet

from calib8.errors import ModelError, OnnxError, UnsupportedError
from calib8.onnx_in import read_onnx

IMAGE = (1, 4, 8, 8)
RNG = np.random.default_rng(2)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_all_unknown_operators_come_together(refusals):
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="det1"),
        helper.make_node("Det", ["a"], ["b"], name="det2"),
        helper.make_node("Gelu", ["b"], ["c"], name="g", domain="com.microsoft"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("NonMaxSuppression", ["d", "d"], ["y"], name="nms"),
        helper.make_node("ConvInteger", ["x", "w"], ["i"], name="quantised"),
        helper.make_node("Conv", ["x", "w"], ["z"], name="dynamic"),
        helper.make_node("Det", ["x"], ["unneeded"]),
    ]
    found = refusals(nodes, {"x": IMAGE, "w": (4, 4, 3, 3)}, ("y", "z", "i"))
    assert found == [
        "node 'det1' (Det) and 1 more: calib8 does not take Det",
        "node 'g' (Gelu): calib8 does not take com.microsoft.Gelu",
        "node 'nms' (NonMaxSuppression): calib8 does not take NonMaxSuppression: cut the network in front of it "
        "(onnx.utils.extract_model)",
        "node 'quantised' (ConvInteger): calib8 does not take ConvInteger: the network is quantised already; take the "
        "one in float32",
        "node 'dynamic' (Conv): its weight is computed by the network ('w'); calib8 takes a constant there",
    ]


REFUSED = [
    ("Conv", {"w": weights(4, 4, 3, 3)}, {"surprise": 1}, "sets surprise, which calib8 does not implement"),
    ("Conv", {"w": weights(4, 4, 3, 3)}, {"strides": 2}, "attribute strides is of another type"),
    ("Conv", {"w": weights(4, 4, 3, 3)}, {"strides": [0, 1]}, "expected above 0"),
    ("Conv", {"w": weights(4, 3, 3, 3)}, {}, "its weight has the shape [4, 3, 3, 3]; expected [4, 4, 3, 3]"),
    ("Conv", {"w": weights(4, 4, 3, 3)}, {"group": 3}, "not a multiple of group 3"),
    ("Conv", {"w": weights(4, 4, 3, 3).astype(np.float64)}, {}, "its weight is float64; calib8 computes in float32"),
    ("Conv", {"w": weights(4, 4, 9, 9)}, {}, "does not fit"),
    ("Conv", {"w": weights(4, 4, 3, 3)}, {"auto_pad": "SAME_UPPER", "pads": [1] * 4}, "sets both"),
    ("ConvTranspose", {"w": weights(4, 4, 3, 3)}, {"output_padding": [1, 1], "strides": [2, 2]}, "output_padding"),
    ("ConvTranspose", {"w": weights(4, 4, 3, 3)}, {"output_shape": [16, 16]}, "output_shape"),
    ("MaxPool", {}, {}, "has no kernel_shape"),
    ("MaxPool", {}, {"kernel_shape": [2, 2], "dilations": [2, 2]}, "without any"),
    ("MaxPool", {}, {"kernel_shape": [1, 1], "strides": [3, 3], "ceil_mode": 1}, "Caffe's rule"),
    ("Softmax", {}, {"axis": 4}, "axis"),
    ("Reshape", {"s": np.array([3, -1])}, {}, "cannot have the shape"),
    ("Reshape", {"s": np.array([0, 0, 0, 0, 0])}, {}, "copies axes"),
    ("Transpose", {}, {"perm": [0, 1, 1, 2]}, "does not name every axis"),
    ("Slice", {"s": np.array([3]), "e": np.array([0]), "a": np.array([2]), "t": np.array([-1])}, {}, "forward"),
    ("Slice", {"s": np.array([5]), "e": np.array([5]), "a": np.array([2])}, {}, "are none"),
    ("Gather", {"i": np.array([0, 2])}, {"axis": 1}, "not neighbours"),
    ("Pad", {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, {"mode": "reflect"}, "mode is 'reflect'"),
    ("Pad", {"p": np.array([0, 1, 0, 0, 0, 0, 0, 0])}, {}, "pads axis 1"),
    ("PRelu", {"s": weights(8)}, {}, "slope"),
    ("Clip", {"a": np.float32(1), "b": np.float32(0)}, {}, "limits"),
    ("Div", {"c": np.float32(0)}, {}, "divides by 0"),
    ("Cast", {}, {"to": 10}, "float32"),
    ("DepthToSpace", {}, {"blocksize": 3}, "multiple"),
    ("MatMul", {"w": weights(2, 8, 8)}, {}, "constant matrix"),
    ("Tile", {"r": np.array([1, 1, 2**20, 2**20])}, {}, "elements"),
    ("Range", {"a": np.array(1), "b": np.array(1)}, {}, "constants alone"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "constants", "attributes", "expected"), REFUSED)
def test_ways_to_use_operators_that_are_not_taken(name, constants, attributes, expected, refusals):
    nodes = [helper.make_node(name, ["x", *constants], ["y"], name="n", **attributes)]
    (why,) = refusals(nodes, {"x": IMAGE}, constants=constants)
    assert why.startswith(f"node 'n' ({name}): ") and expected in why


class TestGraphs:
    """What is wrong with a graph as a whole."""

    def test_values_that_nothing_writes(self, refusals):
        (why,) = refusals([helper.make_node("Relu", ["z"], ["y"])], {"x": IMAGE})
        assert "reads 'z', which no earlier node writes" in why

    def test_values_that_are_written_twice(self, refusals):
        nodes = [helper.make_node("Relu", ["x"], ["y"], name="first"), helper.make_node("Abs", ["x"], ["y"], name="n")]
        (why,) = refusals(nodes, {"x": IMAGE})
        assert "writes 'y', as an earlier node does" in why

    def test_inputs_that_are_too_large(self, refusals):
        (why,) = refusals([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 2**40, 2**40)})
        assert why.startswith("input 'x': would give the shape")

    def test_an_output_that_is_no_value(self, refusals):
        found = refusals([helper.make_node("Relu", ["x"], ["y"])], {"x": IMAGE}, ("y", "z"))
        assert found == ["output 'z' is written by no node"]

    @pytest.mark.parametrize("dims", [("n", 3, "h", 8), (-1, 3, -1, 8), ("n", 3)])
    def test_open_shapes(self, dims, tmp_path):
        path = tmp_path / "net.onnx"
        path.write_bytes(model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": dims}, ["y"]).SerializeToString())
        wanted = (2, 3, 4, 8)[: len(dims)]
        assert opened(path, {"x": wanted}).shapes["y"] == wanted
        if len(dims) == 2:
            assert opened(path).shapes["y"] == (1, 3)
            return
        with pytest.raises(UnsupportedError, match=r"input 'x': its shape is open \(1, 3, \?, 8\); say `shapes=..`"):
            opened(path)
        assert read_onnx(path, size=(5, 6)).prototxt.net.layer[0].input_param.shape[0].dim == [1, 3, 5, 8]
        assert opened(path, {"x": (1, 3, 4, 6)}).shapes["y"] == (1, 3, 4, 6)  # also another width than the model's
        for wrong, text in (((1, 2, 4, 8), "not \\[1, 2, 4, 8\\]"), ((1, 3), "not \\[1, 3\\]")):
            with pytest.raises(UnsupportedError, match=text):
                opened(path, {"x": wrong})
        with pytest.raises(UnsupportedError, match="no input 'q'"):
            opened(path, {"q": (1,)})

    def test_a_size_for_channels_last(self, tmp_path):
        path = tmp_path / "net.onnx"
        model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ("n", "h", "w", 3)}, ["y"])
        path.write_bytes(model.SerializeToString())
        assert read_onnx(path, size=(5, 6)).prototxt.net.layer[0].input_param.shape[0].dim == [1, 5, 6, 3]

    def test_a_model_that_computes_with_its_own_size(self, tmp_path):
        """It may be another one, as long as the nodes do."""
        nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], name="flat")]
        path, constants = tmp_path / "net.onnx", {"s": np.array([1, math.prod(IMAGE)])}
        path.write_bytes(model_of(nodes, {"x": IMAGE}, ["y"], constants).SerializeToString())
        with pytest.raises(UnsupportedError) as caught:
            opened(path, {"x": (*IMAGE[:2], 2, 2)})
        assert f"node 'flat' (Reshape): a value of the shape {[*IMAGE[:2], 2, 2]} cannot have" in str(
            caught.value.problems
        )

    def test_inputs_that_no_output_needs(self, tmp_path):
        model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": IMAGE, "size": (2,)}, ["y"])
        model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
        assert opened(tmp_path / "net.onnx").inputs == ("x",)

    def test_many_nodes_of_one_name(self, tmp_path):
        """Names are made in a time that grows with their number, and whatever digits are in them."""
        odd, count = "n:" + "9" * 5000, 3000
        nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=odd) for i in range(count)]
        (tmp_path / "net.onnx").write_bytes(model_of(nodes, {"v0": IMAGE}, [f"v{count}"]).SerializeToString())
        names = [layer.name for layer in read_onnx(tmp_path / "net.onnx").prototxt.net.layer]
        assert names[1:4] == [odd, f"{odd}:2", f"{odd}:3"] and len(set(names)) == count + 1

    def test_inputs_of_other_types(self, tmp_path):
        model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": IMAGE}, ["y"])
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UnsupportedError, match="input 'x': is of the type INT64; calib8 computes in float32"):
            opened(tmp_path / "net.onnx")


class TestFiles:
    """Files that nobody has checked."""

    def refused(self, path, data, kind=OnnxError):
        path.write_bytes(data)
        with pytest.raises(kind) as caught:
            read_onnx(path)
        return str(caught.value)

    def test_bytes_that_are_no_model(self, tmp_path):
        path = tmp_path / "net.onnx"
        assert "has no graph" in self.refused(path, b"")
        assert "protobuf cannot read it" in self.refused(path, b"\xff" * 100)
        with pytest.raises(OnnxError, match="cannot be read"):
            read_onnx(tmp_path / "none.onnx")

    def test_every_truncation_is_refused_or_read(self, tmp_path):
        data = resnet(17).SerializeToString()
        for length in range(0, len(data), 997):
            (tmp_path / "net.onnx").write_bytes(data[:length])
            with pytest.raises(ModelError):
                read_onnx(tmp_path / "net.onnx")

    @pytest.mark.parametrize("opset", [6, 22])
    def test_other_versions(self, opset, tmp_path):
        data = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": IMAGE}, ["y"], opset=opset).SerializeToString()
        assert f"opset {opset}; calib8 reads 7 to 21" in self.refused(tmp_path / "net.onnx", data)

    def test_functions(self, tmp_path):
        model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": IMAGE}, ["y"])
        model.functions.add(name="mine", domain="d")
        assert "functions of its own ('mine')" in self.refused(tmp_path / "net.onnx", model.SerializeToString())

    def weighted(self, **fields):
        """A convolution whose weight is changed."""
        node = helper.make_node("Conv", ["x", "w"], ["y"])
        model = model_of([node], {"x": IMAGE}, ["y"], {"w": weights(4, 4, 3, 3)})
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            tensor.ClearField(name)
            if isinstance(value, list):
                getattr(tensor, name).extend(value)
            elif value is not None:
                setattr(tensor, name, value)
        return model.SerializeToString()

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"raw_data": b"1234"}, "has 4 bytes; expected 576"),
            ({"raw_data": None}, "has 0 numbers; expected 144"),
            ({"dims": [2**40, 2**40]}, "at most"),
            ({"dims": [-1]}, "at most"),
            ({"data_type": TensorProto.STRING}, "its type is STRING"),
            ({"data_type": 99}, "its type is number 99"),
        ],
    )
    def test_weights_that_are_not_there(self, fields, expected, tmp_path):
        assert expected in self.refused(tmp_path / "net.onnx", self.weighted(**fields))

    def beside(self, location, offset="0", length="576"):
        pairs = {"location": location, "offset": offset, "length": length}
        entries = [StringStringEntryProto(key=key, value=value) for key, value in pairs.items()]
        return self.weighted(raw_data=None, data_location=TensorProto.EXTERNAL, external_data=entries)

    def test_weights_in_a_file_of_the_folder(self, tmp_path):
        numbers = weights(4, 4, 3, 3)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "w.bin").write_bytes(bytes(8) + numbers.tobytes())
        (tmp_path / "net.onnx").write_bytes(self.beside("data/w.bin", "8"))
        (found,) = read_onnx(tmp_path / "net.onnx").weights.values()
        assert np.array_equal(found[0], numbers)

    def test_tensors_that_share_the_bytes_of_a_small_file(self, tmp_path):
        """Some may; a small file must not become much memory."""
        (tmp_path / "w.bin").write_bytes(bytes(576))
        for count, is_taken in ((4, True), (5, False)):
            nodes = [helper.make_node("Conv", ["x", f"w{i}"], [f"y{i}"]) for i in range(count)]
            constants = {f"w{i}": weights(4, 4, 3, 3) for i in range(count)}
            model = model_of(nodes, {"x": IMAGE}, [f"y{i}" for i in range(count)], constants)
            for tensor in model.graph.initializer:
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value="w.bin")
            if is_taken:
                (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
                assert len(read_onnx(tmp_path / "net.onnx").weights) == count
            else:
                assert "more than 4 times" in self.refused(tmp_path / "net.onnx", model.SerializeToString())

    @pytest.mark.parametrize(
        ("location", "offset", "length", "expected"),
        [
            ("../secret", "0", "576", "expected one in the folder of the model"),
            ("/etc/passwd", "0", "576", "expected one in the folder of the model"),
            ("data/../../secret", "0", "576", "expected one in the folder of the model"),
            ("", "0", "576", "expected one in the folder of the model"),
            ("link", "0", "576", "is a link"),
            ("folder/secret", "0", "576", "is a link"),
            ("missing", "0", "576", "cannot be read"),
            ("short", "0", "576", "has 10 bytes; expected 576 from byte 0 on"),
            ("short", "-5", "576", "expected 576 bytes"),
            ("short", "0", "99999999999", "expected 576 bytes"),
            ("short", "x", "576", "are no numbers"),
        ],
    )
    def test_weights_elsewhere(self, location, offset, length, expected, tmp_path):
        (tmp_path / "secret").write_bytes(bytes(576))
        model = tmp_path / "model"
        model.mkdir()
        (model / "link").symlink_to(tmp_path / "secret")
        (model / "folder").symlink_to(tmp_path)
        (model / "short").write_bytes(bytes(10))
        assert expected in self.refused(model / "net.onnx", self.beside(location, offset, length))

    def test_constants_of_constants_have_a_budget(self, refusals):
        large = np.array([1, 2**20, 2**20])
        nodes = [
            helper.make_node("ConstantOfShape", ["s"], ["c"], name="filled"),
            helper.make_node("Add", ["x", "c"], ["y"]),
        ]
        (why,) = refusals(nodes, {"x": IMAGE}, constants={"s": large})
        assert "constants take too much memory" in why and "'filled'" in why
