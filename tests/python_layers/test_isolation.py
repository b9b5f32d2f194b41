from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from calib8.errors import NotRunError, UserLayerError
from calib8.graph import Phase
from calib8.python_layers import Layer, UserClass, UserLayer, without_running

WriteModule = Callable[[str, str], Path]
ParamOf = Callable[..., Any]

LAYER = """
import caffe
from utils_of_mine import NUMBER
class L(caffe.Layer):
    def setup(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        from later import OTHER
        top[0].data[0] = NUMBER * 10 + OTHER
"""


def value_of(user_class: UserClass) -> float:
    return float(UserLayer(user_class, Phase.TEST).forward()[0][0])


def test_two_models_with_modules_of_the_same_names(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf
) -> None:
    for name, number in (("one", 1), ("two", 2)):
        write_module(f"{name}/data_layer.py", LAYER)
        write_module(f"{name}/utils_of_mine.py", f"NUMBER = {number}")
        write_module(f"{name}/later.py", f"OTHER = {number}")
    path, modules = list(sys.path), dict(sys.modules)
    one, two = (UserClass(param_of("data_layer"), tmp_path / name) for name in ("one", "two"))
    assert [value_of(x) for x in (one, two, one)] == [11, 22, 11]
    assert sys.path == path
    changed = {n for n in set(modules) | set(sys.modules) if modules.get(n) is not sys.modules.get(n)}
    assert not {n for n in changed if n.partition(".")[0] in {"data_layer", "utils_of_mine", "later", "caffe"}}
    assert not list(tmp_path.rglob("__pycache__"))


INSIDE_CAFFE = """
import caffe
from caffe import io
import caffe.layers.helper
class L(caffe.Layer):
    def setup(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        from caffe.layers.later import OTHER
        top[0].data[0] = caffe.layers.helper.NUMBER * 10 + OTHER + hasattr(io, "Transformer")
"""


@pytest.mark.parametrize("package", [True, False])
def test_modules_in_a_folder_named_caffe(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, package: bool
) -> None:
    import caffe  # noqa: PLC0415

    own_layers, own_path = caffe.layers, list(caffe.__path__)
    for name, number in (("one", 1), ("two", 2)):
        if package:
            write_module(f"{name}/caffe/__init__.py", "raise RuntimeError('not this one')")
            write_module(f"{name}/caffe/layers/__init__.py", "")
        write_module(f"{name}/caffe/io.py", "raise RuntimeError('ours comes first')")
        write_module(f"{name}/caffe/layers/clustering.py", INSIDE_CAFFE)
        write_module(f"{name}/caffe/layers/helper.py", f"NUMBER = {number}")
        write_module(f"{name}/caffe/layers/later.py", f"OTHER = {number}")
    modules = dict(sys.modules)
    one, two = (UserClass(param_of("caffe.layers.clustering"), tmp_path / name) for name in ("one", "two"))
    assert [value_of(x) for x in (one, two, one)] == [12, 23, 12]
    assert caffe.layers is own_layers and list(caffe.__path__) == own_path
    assert {n for n in sys.modules if n.startswith("caffe.layers")} == {n for n in modules if n == "caffe.layers"}


def test_a_module_of_another_caffe_on_the_path(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module("fork/caffe/__init__.py", "raise RuntimeError('not this one')")
    write_module("fork/caffe/fork_layers.py", LAYER.replace("utils_of_mine", "caffe.fork_utils"))
    write_module("fork/caffe/fork_utils.py", "NUMBER = 4")
    write_module("model/later.py", "OTHER = 2")
    monkeypatch.syspath_prepend(tmp_path / "fork")
    assert value_of(UserClass(param_of("caffe.fork_layers"), tmp_path / "model")) == 42


def test_a_loaded_module_of_the_same_name_is_put_aside(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module("elsewhere/utils_of_mine.py", "NUMBER = 7")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    import utils_of_mine  # noqa: PLC0415

    write_module("model/data_layer.py", LAYER)
    write_module("model/utils_of_mine.py", "NUMBER = 1")
    write_module("model/later.py", "OTHER = 3")
    assert value_of(UserClass(param_of("data_layer"), tmp_path / "model")) == 13
    assert sys.modules.pop("utils_of_mine") is utils_of_mine


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["model", "work", "path", "bundled"], "model"),
        (["work", "path", "bundled"], "work"),
        (["path", "bundled"], "path"),
        (["bundled"], "bundled"),
    ],
)
def test_where_modules_are_looked_for(
    tmp_path: Path,
    write_module: WriteModule,
    param_of: ParamOf,
    monkeypatch: pytest.MonkeyPatch,
    folders: list[str],
    found: str,
) -> None:
    for folder in ("model", "work", "path", "bundled"):
        (tmp_path / folder).mkdir()
    for folder in folders:
        write_module(f"{folder}/my_layers.py", "import caffe\nclass L(caffe.Layer): pass\n")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path / "path")
    user_class = UserClass(param_of("my_layers"), tmp_path / "model", [tmp_path / "bundled"])
    assert Path(user_class.file) == (tmp_path / found / "my_layers.py").resolve()
    sys.modules.pop("my_layers", None)


@pytest.mark.parametrize("init", [True, False])
def test_modules_in_packages(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, monkeypatch: pytest.MonkeyPatch, init: bool
) -> None:
    write_module("ssd300/data_layer.py", LAYER.replace("from utils", "from .utils"))
    write_module("ssd300/utils_of_mine.py", "NUMBER = 4")
    write_module("later.py", "OTHER = 2")
    if init:
        write_module("ssd300/__init__.py", "")
    monkeypatch.chdir(tmp_path)
    assert value_of(UserClass(param_of("ssd300.data_layer"), tmp_path / "ssd300")) == 42
    assert "ssd300" not in sys.modules


def test_a_mere_folder_hides_no_module(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    (tmp_path / "yaml").mkdir()
    write_module("simple.py", "import caffe, yaml\nclass L(caffe.Layer): loader = yaml.SafeLoader\n")
    assert UserClass(param_of("simple"), tmp_path).layer_class.__dict__["loader"] is yaml.SafeLoader


def test_yaml_load_without_a_loader_works_inside_only(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf
) -> None:
    write_module(
        "old_yaml.py",
        """
        import caffe, yaml
        class L(caffe.Layer):
            def setup(self, bottom, top):
                top[0].reshape(yaml.load(self.param_str)['h'], len(yaml.load('[1]', Loader=yaml.FullLoader)))
        """,
    )
    layer = UserLayer(UserClass(param_of("old_yaml", param_str="{'h': 5}"), tmp_path), Phase.TEST)
    assert layer.top_shapes == ((5, 1),)
    with pytest.raises(TypeError):
        yaml.load("{}")  # type: ignore[call-arg]


def test_paths_are_restored_after_a_failure(tmp_path: Path, write_module: WriteModule, param_of: ParamOf) -> None:
    write_module("fails.py", "import sys\nsys.path.append('/nowhere')\nraise RuntimeError('no')\n")
    path = list(sys.path)
    with pytest.raises(Exception, match="RuntimeError: no"):
        UserClass(param_of("fails"), tmp_path)
    assert sys.path == path
    assert "fails" not in sys.modules


def test_import_caffe_gives_ours_even_beside_another(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf
) -> None:
    write_module("foreign/caffe/__init__.py", "Layer = object; raise RuntimeError('the foreign one')")
    write_module("model/mine.py", "import caffe\nimport caffe.io\nclass L(caffe.Layer): pass\n")
    code = f"""
import sys
from pathlib import Path
from calib8.proto.text import parse_prototxt
from calib8.python_layers import UserClass
param = parse_prototxt('layer {{ name: "u" type: "Python" top: "t" python_param {{ module: "mine" layer: "L" }} }}')
print(UserClass(param.net.layer[0], Path({str(tmp_path / "model")!r})).layer_class.__mro__[1].__module__)
print("caffe" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "foreign")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["calib8.python_layers.layer", "False"]


def test_import_caffe() -> None:
    import caffe  # noqa: PLC0415

    assert caffe.Layer is Layer
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    assert caffe.proto.caffe_pb2.Datum(channels=3).channels == 3


def test_names_of_libraries_are_never_found_in_the_folder(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf
) -> None:
    for name in ("numpy.py", "json.py", "yaml/__init__.py", "calib8.py"):
        write_module(name, "raise RuntimeError('not this one')")
    write_module(
        "mine.py", "import caffe, json, numpy, yaml\nclass L(caffe.Layer): lists = numpy.arange(3), json.dumps\n"
    )
    assert len(UserClass(param_of("mine"), tmp_path).layer_class.__dict__["lists"][0]) == 3


def test_imports_of_libraries_find_nothing_in_the_folder(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that tries whether something is installed does not find the user's file of that name."""
    write_module("site/a_library.py", "def try_it():\n    import an_extra\n    return an_extra.VALUE\n")
    write_module("model/an_extra.py", "VALUE = 5\n")
    write_module("model/mine.py", "import caffe, a_library\nclass L(caffe.Layer): call = a_library.try_it\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    user_class = UserClass(param_of("mine"), tmp_path / "model")
    with pytest.raises(ModuleNotFoundError, match="an_extra"), user_class._world.entered():
        user_class.layer_class.__dict__["call"]()
    sys.modules.pop("a_library", None)


@pytest.mark.parametrize("base", ["Exception", "BaseException"])
def test_exceptions_that_cannot_speak_and_those_that_are_none(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf, base: str
) -> None:
    write_module(
        "mine.py",
        f"""
        import caffe
        class Odd({base}):
            def __str__(self): raise ValueError
        class L(caffe.Layer):
            def setup(self, bottom, top): raise Odd
        """,
    )
    with pytest.raises(UserLayerError, match=r"setup raised Odd: \(its text cannot be made\) at .*mine.py:6"):
        UserLayer(UserClass(param_of("mine"), tmp_path), Phase.TEST)


def test_without_running_only_what_calib8_brings_along_is_made(
    tmp_path: Path, write_module: WriteModule, param_of: ParamOf
) -> None:
    write_module("mine.py", "raise RuntimeError('executed')")
    write_module("bundled/ours.py", "import caffe\nclass L(caffe.Layer): pass\n")
    with without_running():
        for name in ("mine", "nowhere", "json"):
            with pytest.raises(NotRunError, match="not run, so the shapes"):
                UserClass(param_of(name), tmp_path, [tmp_path / "bundled"])
        UserClass(param_of("ours"), tmp_path, [tmp_path / "bundled"])
        write_module("ours.py", "raise RuntimeError('executed')")  # the user's own comes first
        with pytest.raises(NotRunError):
            UserClass(param_of("ours"), tmp_path, [tmp_path / "bundled"])
