"""A world of its own for each user module: its folders on sys.path, its helper modules.

Two models may each have a `data_layer.py` or a `utils.py`. Inside `World.entered()` Python finds those of this model;
outside, sys.path and sys.modules are as before. Modules that live elsewhere (numpy, say) are shared as usual.
A layer of NVIDIA's DetectNet is named `caffe.layers.detectnet.clustering`: the folders `caffe` beside the model and on
sys.path give what calib8's own package of that name does not have.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

Modules = dict[str, ModuleType]
_CALIB8_FOLDER = Path(__file__).resolve().parents[1]
_CAFFE_FOLDER = _CALIB8_FOLDER.parent / "caffe"
_caffe_modules: Modules = {}
_one_thread = threading.RLock()
_NEVER_SHADOWED = frozenset(["__main__", "calib8", "caffe"])


class World:
    """What a user module sees. The folders `first` come before sys.path, in their order, `last` after it."""

    def __init__(self, first: Sequence[Path], last: Sequence[Path] = ()) -> None:
        self._first = [os.path.realpath(folder) for folder in first]
        self._last = [os.path.realpath(folder) for folder in last]
        self._modules: Modules = {}
        self._modules_in_caffe: Modules = {}
        self._origin_in_first: dict[str, str | None] = {}

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run user code inside; one thread at a time, since modules and paths belong to the process."""
        with _one_thread, self._paths(), self._imports(), _caffe(), self._other_caffes(), _old_yaml_load():
            yield

    def owns(self, file: str) -> bool:
        """Tell whether a source file lies in this world's folders, and not in an environment inside them."""
        path = Path(os.path.realpath(file))
        if "site-packages" in path.parts or path.is_relative_to(_CALIB8_FOLDER):
            return False
        return any(path.is_relative_to(folder) for folder in self._first)

    @contextlib.contextmanager
    def _paths(self) -> Iterator[None]:
        path, write_bytecode = list(sys.path), sys.dont_write_bytecode
        sys.path[:] = [*self._first, *path, *self._last]
        sys.dont_write_bytecode = True  # a model's folder keeps what its owner put there
        try:
            yield
        finally:
            sys.path[:] = path
            sys.dont_write_bytecode = write_bytecode

    @contextlib.contextmanager
    def _imports(self) -> Iterator[None]:
        shadowed = {n for n in sys.modules if "." not in n and self._is_shadowed(n)}
        outside = {n: sys.modules.pop(n) for n in list(sys.modules) if _top(n) in shadowed}
        before = set(sys.modules)
        sys.modules.update(self._modules)
        folders = {*self._first, *self._last}
        try:
            yield
        finally:
            new = {_top(n) for n in sys.modules if n not in before}
            own = {name for name in new if _folder(sys.modules.get(name)) in folders}
            names = [n for n in sys.modules if n not in before and _top(n) in own]
            self._modules = {n: sys.modules.pop(n) for n in names}
            sys.modules.update(outside)

    @contextlib.contextmanager
    def _other_caffes(self) -> Iterator[None]:
        """Let `caffe.NAME` be a module of another folder `caffe`, where ours has none of that name."""
        package = sys.modules["caffe"]
        path, before = list(package.__path__), set(sys.modules)
        others = [os.path.join(folder or os.curdir, "caffe") for folder in sys.path]  # noqa: PTH118 - may be no path
        package.__path__[:] = [*path, *(other for other in others if os.path.realpath(other) != str(_CAFFE_FOLDER))]
        own_names = dict(vars(package))
        sys.modules.update(self._modules_in_caffe)
        vars(package).update(_children(self._modules_in_caffe))
        try:
            yield
        finally:
            there = [n for n in sys.modules if n not in before and _top(n) == "caffe" and not _is_own(sys.modules[n])]
            self._modules_in_caffe = {n: sys.modules.pop(n) for n in there}
            package.__path__[:] = path
            for name in _children(self._modules_in_caffe):  # an import makes a module an attribute of its package
                vars(package).pop(name, None)
                vars(package).update({name: own_names[name]} if name in own_names else {})

    def _is_shadowed(self, top: str) -> bool:
        """Whether a loaded module has the name of another file in this world's first folders."""
        if top in _NEVER_SHADOWED or top in sys.stdlib_module_names:
            return False
        if top not in self._origin_in_first:
            spec = PathFinder.find_spec(top, self._first)
            # A mere folder (no __init__.py) has no origin, and hides no module that stands later on the path.
            self._origin_in_first[top] = spec.origin if spec is not None else None
        own = self._origin_in_first[top]
        return own is not None and os.path.realpath(own) != _file(sys.modules[top])


@contextlib.contextmanager
def _caffe() -> Iterator[None]:
    """Make `import caffe` give calib8's, even where PYTHONPATH leads to another one."""
    loaded = sys.modules.get("caffe")
    if loaded is not None and _file(loaded) == str(_CAFFE_FOLDER / "__init__.py"):
        yield
        return
    outside = {n: sys.modules.pop(n) for n in list(sys.modules) if _top(n) == "caffe"}
    if not _caffe_modules:
        _load_caffe()
    sys.modules.update(_caffe_modules)
    try:
        yield
    finally:
        _caffe_modules.update({n: sys.modules.pop(n) for n in list(sys.modules) if _top(n) == "caffe"})
        sys.modules.update(outside)


def _load_caffe() -> None:
    spec = importlib.util.spec_from_file_location("caffe", _CAFFE_FOLDER / "__init__.py")
    if spec is None or spec.loader is None:
        raise AssertionError(f"{_CAFFE_FOLDER} is no package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["caffe"] = _caffe_modules["caffe"] = module
    spec.loader.exec_module(module)


@contextlib.contextmanager
def _old_yaml_load() -> Iterator[None]:
    """Let `yaml.load(text)` do without a Loader, as before PyYAML 6: the layers of Caffe's time call it so."""
    load = yaml.load

    def load_safely(stream: Any, Loader: Any = yaml.SafeLoader) -> Any:  # noqa: N803 - PyYAML's name
        return load(stream, Loader)

    yaml.load = load_safely
    try:
        yield
    finally:
        yaml.load = load


def _children(modules: Modules) -> Modules:
    """Modules right below `caffe`, by their last name."""
    return {name.partition(".")[2]: module for name, module in modules.items() if name.count(".") == 1}


def _is_own(module: ModuleType) -> bool:
    file = _file(module)
    return file is not None and Path(file).is_relative_to(_CAFFE_FOLDER)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _file(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    return os.path.realpath(file) if file else None


def _folder(module: ModuleType | None) -> str | None:
    """The folder on sys.path that a top-level module or package was found in."""
    if module is None:
        return None
    paths = list(getattr(module, "__path__", []))
    place = paths[0] if paths else _file(module)
    return str(Path(os.path.realpath(place)).parent) if place else None
