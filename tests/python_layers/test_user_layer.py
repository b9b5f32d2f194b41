from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib8.data import open_source, takes
from calib8.errors import UserLayerError
from calib8.graph import Phase
from calib8.python_layers import UserClass, UserLayer

WriteModule = Callable[[str, str], Path]
ParamOf = Callable[..., Any]

COUNTING = """
import caffe

class L(caffe.Layer):
    def setup(self, bottom, top):
        self.calls = []
        self.n = 0
        top[0].reshape(2, 3)
    def reshape(self, bottom, top):
        self.calls.append("reshape")
    def forward(self, bottom, top):
        self.n += 1
        top[0].data[...] = self.n * 10 + len(self.calls)
    def backward(self, top, propagate_down, bottom):
        pass
"""


def test_caffes_order_of_calls(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module("counting.py", COUNTING)
    layer = UserLayer(UserClass(param_of("counting"), tmp_path), Phase.TEST)
    assert layer.top_shapes == ((2, 3),)
    assert [layer.forward()[0][0, 0] for _ in range(2)] == [12, 23]


def test_tops_are_copies(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module("counting.py", COUNTING)
    layer = UserLayer(UserClass(param_of("counting"), tmp_path), Phase.TEST)
    (first,) = layer.forward()
    layer.forward()
    assert first[0, 0] == 12


@pytest.mark.parametrize("phase", [Phase.TEST, Phase.TRAIN])
def test_what_a_layer_can_read(tmp_path: Path, write_module: WriteModule, param_of: ParamOf, phase: int) -> None:
    write_module(
        "reads.py",
        """
        import caffe
        from caffe.proto import caffe_pb2
        import caffe.io
        class L(caffe.Layer):
            def __init__(self, p_object, *args, **kwargs):
                super(L, self).__init__(p_object, *args, **kwargs)
            def setup(self, bottom, top):
                assert self.param_str == self.param_str_ == "a=1"
                assert self.type == "Python" and len(self.blobs) == 0
                assert caffe.TEST == caffe_pb2.TEST == 1 and caffe.TRAIN == 0
                top[0].reshape(*bottom[0].shape)
                top[1].reshape(1)
            def forward(self, bottom, top):
                top[0].data[...] = bottom[0].data * 2
                top[1].data[0] = self.phase
        """,
    )
    param = param_of("reads", param_str="a=1", bottom="x", top="y z")
    layer = UserLayer(UserClass(param, tmp_path), phase, [(2, 2)])
    doubled, told = layer.forward([np.array([[1, 2], [3, 4]], np.float32)])
    assert doubled.tolist() == [[2, 4], [6, 8]]
    assert told.tolist() == [phase]


def test_in_place_tops_share_the_bottoms_blob(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module(
        "place.py",
        """
        import caffe
        class L(caffe.Layer):
            def forward(self, bottom, top):
                top[0].data[0] = 9
        """,
    )
    layer = UserLayer(UserClass(param_of("place", bottom="x", top="x"), tmp_path), Phase.TEST, [(3,)])
    values = np.array([1, 2, 3], np.float32)
    assert layer.forward([values])[0].tolist() == [9, 2, 3]
    assert values.tolist() == [1, 2, 3]


def test_the_bottoms_shape_may_change(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module(
        "follows.py",
        """
        import caffe
        class L(caffe.Layer):
            def reshape(self, bottom, top):
                top[0].reshape(*bottom[0].data.shape)
            def forward(self, bottom, top):
                top[0].data[...] = bottom[0].data
        """,
    )
    layer = UserLayer(UserClass(param_of("follows", bottom="x"), tmp_path), Phase.TEST, [(2, 2)])
    assert layer.forward([np.ones((3, 5), np.float32)])[0].shape == (3, 5)


WEIGHTS = """
import caffe
class L(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(2)
        top[0].reshape(2)
    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data
"""


def test_weights_come_from_the_caffemodel(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module("weights.py", WEIGHTS)
    user_class = UserClass(param_of("weights"), tmp_path)
    layer = UserLayer(user_class, Phase.TEST, blobs=[np.array([3, 4], np.float32)])
    assert layer.forward()[0].tolist() == [3, 4]
    with pytest.raises(UserLayerError, match=r"\[\(3,\)\].*\[\(2,\)\]"):
        UserLayer(user_class, Phase.TEST, blobs=[np.zeros(3, np.float32)])


def test_a_log_line_says_which_file_runs(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_module("counting.py", COUNTING)
    with caplog.at_level(logging.INFO, logger="calib8"):
        UserClass(param_of("counting"), tmp_path)
    assert str(path.resolve()) in caplog.text and "'user'" in caplog.text


def failure(param: Any, folder: Path) -> str:
    with pytest.raises(UserLayerError) as error:
        list(takes(open_source(param, folder), 2))
    assert "'user'" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_such_module(tmp_path: Path, param_of: ParamOf) -> None:
    message = failure(param_of("nowhere_to_be_found"), tmp_path)
    assert "nowhere_to_be_found.py" in message and str(tmp_path) in message and str(Path.cwd()) in message
    assert "no module 'pack.age'" in failure(param_of("pack.age"), tmp_path)


def test_a_module_that_imports_what_is_missing(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    path = write_module("lacks.py", "import caffe\nimport not_installed_at_all\n")
    message = failure(param_of("lacks"), tmp_path)
    assert "not_installed_at_all" in message and f"{path.resolve()}:2" in message


def test_no_such_class(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module("counting.py", COUNTING)
    message = failure(param_of("counting", "Other"), tmp_path)
    assert "'Other'" in message and "its layers are: L" in message and "counting.py" in message


@pytest.mark.parametrize("body", ["class L: pass", "L = 3", "def L(): pass"])
def test_no_caffe_layer(tmp_path: Path, write_module: WriteModule, param_of: ParamOf, body: str) -> None:
    write_module("other.py", body)
    assert "caffe.Layer" in failure(param_of("other"), tmp_path)


def test_python_param_must_name_both(tmp_path: Path, param_of: ParamOf) -> None:
    assert "python_param" in failure(param_of("", "L"), tmp_path)
    assert "python_param" in failure(param_of("m", ""), tmp_path)


@pytest.mark.parametrize(
    ("line", "python_2"),
    [
        ('print "hello"', True),
        ("print pic_name", True),
        ("print", False),
        ("exec 'a = 1'", True),
        ("raise ValueError, 'x'", True),
        ("a = 0777", True),
        ("a = `1`", True),
        ("if 1 <> 2: pass", True),
        ("a = = 1", False),
        ("a = 'print x' = 1", False),
    ],
)
def test_python_2_code_is_recognised(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, line: str, python_2: bool
) -> None:
    path = write_module("old.py", f"import caffe\n\n{line}\nclass L(caffe.Layer): pass\n")
    message = failure(param_of("old"), tmp_path)
    if line != "print":
        assert f"{path.resolve()}:3" in message
    assert ("Python 2" in message) == python_2


def test_tabs_and_spaces_are_python_2(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    path = write_module("tabs.py", "class A:\n    def f(self):\n        x = 1\n\ty = 2\n")
    message = failure(param_of("tabs"), tmp_path)
    assert "Python 2" in message and f"{path.resolve()}:4" in message


def test_python_2_names_are_hinted_at(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module("old.py", "import caffe\nfor i in xrange(3): pass\n")
    assert "Python 2" in failure(param_of("old"), tmp_path)


@pytest.mark.parametrize("method", ["__init__", "setup", "reshape", "forward"])
@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("{}['h']", "KeyError: 'h'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("assert False", "AssertionError"),
    ],
)
def test_exceptions_become_one_line(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, method: str, statement: str, text: str
) -> None:
    lines = ["import caffe", "class L(caffe.Layer):"]
    for name in ("setup", "reshape", "forward"):
        lines += [f"    def {name}(self, bottom, top):", "        top[0].reshape(1)"]
        if name == method:
            lines += [f"        {statement}"]
    if method == "__init__":
        lines += ["    def __init__(self, p):", f"        {statement}"]
    path = write_module("fails.py", "\n".join(lines))
    message = failure(param_of("fails"), tmp_path)
    number = next(i for i, line in enumerate(lines, 1) if statement in line)
    assert text in message and f"{path.resolve()}:{number}" in message and method in message


def test_the_line_in_a_helper_module_is_named(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    path = write_module("helper.py", "import numpy\ndef f():\n    return numpy.zeros(2).reshape(3)\n")
    write_module("calls.py", COUNTING.replace("self.n = 0", "import helper; helper.f()"))
    message = failure(param_of("calls"), tmp_path)
    assert f"{path.resolve()}:3" in message and "ValueError" in message


def test_forward_must_be_there(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module(
        "lazy.py", "import caffe\nclass L(caffe.Layer):\n    def setup(self, bottom, top): top[0].reshape(1)\n"
    )
    message = failure(param_of("lazy"), tmp_path)
    assert "no method `forward`" in message and "lazy.py" in message


def test_a_top_needs_a_shape_before_the_first_sample(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf
) -> None:
    write_module("shapeless.py", "import caffe\nclass L(caffe.Layer): pass\n")
    message = failure(param_of("shapeless"), tmp_path)
    assert "top 'out' has no shape" in message
    write_module("empty.py", COUNTING.replace("reshape(2, 3)", "reshape(0, 3)"))
    assert "empty shape" in failure(param_of("empty"), tmp_path)


def test_a_data_layer_may_reshape_its_tops(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    text = COUNTING.replace("top[0].data[...] =", "top[0].reshape(1, self.n); top[0].data[...] =")
    write_module("changes.py", text)
    source = open_source(param_of("changes"), tmp_path)
    assert source.shapes == {"out": (2, 3)}  # after setup
    assert [batch["out"].shape for batch in takes(source, 3)] == [(1, 1), (1, 2), (1, 3)]


def test_passes_begin_anew(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module("counting.py", COUNTING)
    source = open_source(param_of("counting"), tmp_path)
    assert (source.size, source.batch_size, source.shapes) == (None, 2, {"out": (2, 3)})
    passes = [[b["out"][:, 0].tolist() for b in takes(source, 3)] for _ in range(2)]
    assert passes == [[[12, 12], [23]]] * 2


def test_the_end_of_a_layer_that_does_not_wrap(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module("ends.py", COUNTING.replace("self.n += 1", "self.n = [1, 2, 3][self.n]"))
    with pytest.raises(UserLayerError, match=r"forward \(pass 4\) raised IndexError"):
        list(takes(open_source(param_of("ends"), tmp_path), 10))


def test_shuffling_layers_repeat_themselves(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    text = COUNTING.replace("import caffe", "import caffe, random\nimport numpy as np")
    write_module("dice.py", text.replace("self.n * 10", "random.random() + np.random.rand(2, 3)"))
    before = np.random.get_state()[1].tobytes()
    source = open_source(param_of("dice"), tmp_path)
    first, second = ([b["out"].tobytes() for b in takes(source, 4)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 2
    assert np.random.get_state()[1].tobytes() == before
