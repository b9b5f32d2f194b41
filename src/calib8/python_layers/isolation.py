"""A world of its own for each user module: its folders, its helper modules.

Two models may each have a `data_layer.py` or a `utils.py`. Inside `World.entered()` Python finds those of this model;
outside, sys.path and sys.modules are as before. Modules that live elsewhere (numpy, say) are shared as usual.

The folders are not on sys.path: what lies in them is found by the module that was asked for, and by imports that stand
in files of these folders. Imports of calib8's and of libraries never find anything there, and a file with the name of a
library that calib8 uses (a `numpy.py`) is found by nobody.
A layer of NVIDIA's DetectNet is named `caffe.layers.detectnet.clustering`: the folders `caffe` beside the model and on
sys.path give what calib8's own package of that name does not have.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

Modules = dict[str, ModuleType]
_CALIB8_FOLDER = Path(__file__).resolve().parents[1]
_CAFFE_FOLDER = _CALIB8_FOLDER.parent / "caffe"
_caffe_modules: Modules = {}
_one_thread = threading.RLock()
_NEVER_SHADOWED = frozenset(["__main__", "calib8", "caffe"])
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


class World:
    """What a user module sees: the folders `first`, in their order, before sys.path, and `last` after it."""

    def __init__(self, first: Sequence[Path], last: Sequence[Path] = ()) -> None:
        self._first = [os.path.realpath(folder) for folder in first]
        self._last = [os.path.realpath(folder) for folder in last]
        self._modules: Modules = {}
        self._modules_in_caffe: Modules = {}
        self._origin_in_first: dict[str, str | None] = {}
        self._asked_for = ""
        self._named: set[str] = set()

    def import_module(self, name: str) -> ModuleType:
        """Import a module that was named, from the world's folders or else from sys.path; inside of `entered`."""
        self._asked_for = name
        self._named.add(name)
        try:
            return importlib.import_module(name)
        finally:
            self._asked_for = ""

    def find(self, name: str) -> ModuleSpec | None:
        """Find a module's or package's file in the first folders, by its name without dots; nothing is executed."""
        if name in _NEVER_SHADOWED or name in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(name, self._first)
        return None if spec is None or _is_librarys(name) else spec

    def _is_users(self, name: str, file: str) -> bool:
        """Whether a module may find what lies in the folders: those that lie there, and those that were asked for."""
        return self.owns(file) or (name in self._named and not Path(file).is_relative_to(_CALIB8_FOLDER))

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Answer the import system, as one of sys.meta_path."""
        if path is not None:
            return None  # a part of a package lies in that package
        if name != _top(self._asked_for) and not self._is_users(*_importer()):
            return None
        spec = self.find(name)
        # A mere folder (no __init__.py) hides no module that stands on the path.
        return spec if spec is None or spec.loader is not None or PathFinder.find_spec(name) is None else None

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
        sys.path[:] = [*path, *self._last]
        sys.meta_path.insert(0, self)
        sys.dont_write_bytecode = True  # a model's folder keeps what its owner put there
        try:
            yield
        finally:
            sys.path[:] = path
            sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
            sys.dont_write_bytecode = write_bytecode

    @contextlib.contextmanager
    def _imports(self) -> Iterator[None]:
        # Lists of the names: to ask about one may import, here or in another thread.
        shadowed = {n for n in list(sys.modules) if "." not in n and self._is_shadowed(n)}
        outside = {n: sys.modules.pop(n) for n in list(sys.modules) if _top(n) in shadowed}
        before = set(sys.modules)
        sys.modules.update(self._modules)
        folders = {*self._first, *self._last}
        try:
            yield
        finally:
            new = {_top(n) for n in list(sys.modules) if n not in before}
            own = {name for name in new if _folder(sys.modules.get(name)) in folders}
            names = [n for n in list(sys.modules) if n not in before and _top(n) in own]
            self._modules = {n: sys.modules.pop(n) for n in names}
            sys.modules.update(outside)

    @contextlib.contextmanager
    def _other_caffes(self) -> Iterator[None]:
        """Let `caffe.NAME` be a module of another folder `caffe`, where ours has none of that name."""
        package = sys.modules["caffe"]
        path, before = list(package.__path__), set(sys.modules)
        others = [os.path.join(folder or os.curdir, "caffe") for folder in (*self._first, *sys.path)]  # noqa: PTH118 - may be no path
        package.__path__[:] = [*path, *(other for other in others if os.path.realpath(other) != str(_CAFFE_FOLDER))]
        own_names = dict(vars(package))
        sys.modules.update(self._modules_in_caffe)
        vars(package).update(_children(self._modules_in_caffe))
        try:
            yield
        finally:
            new = [n for n in list(sys.modules) if n not in before and _top(n) == "caffe"]
            there = [n for n in new if not _is_own(sys.modules[n])]
            self._modules_in_caffe = {n: sys.modules.pop(n) for n in there}
            package.__path__[:] = path
            for name in _children(self._modules_in_caffe):  # an import makes a module an attribute of its package
                vars(package).pop(name, None)
                vars(package).update({name: own_names[name]} if name in own_names else {})

    def _is_shadowed(self, top: str) -> bool:
        """Whether a loaded module has the name of another file in this world's first folders."""
        if top not in self._origin_in_first:
            spec = self.find(top)
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
    import yaml  # noqa: PLC0415 - only networks with layers in Python need it

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


def _importer() -> tuple[str, str]:
    """The name and the file of the module with the import statement that is being executed."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name, file = str(frame.f_globals.get("__name__")), frame.f_code.co_filename
        # The import statement is itself Python code, in "importlib._bootstrap".
        if file != __file__ and _top(name) != "importlib" and not file.startswith("<frozen importlib"):
            return name, file
        frame = frame.f_back
    return "", ""


def _is_librarys(name: str) -> bool:
    """Whether a top-level name is that of a library that calib8 needs, or one of these."""
    spec = PathFinder.find_spec(name)
    if spec is None or ("site-packages" not in str(spec.origin) and "dist-packages" not in str(spec.origin)):
        return False  # not installed, so the usual case costs no look at what is
    from importlib import metadata  # noqa: PLC0415 - it imports the mail of the standard library

    return not _libraries().isdisjoint(map(_normal, metadata.packages_distributions().get(name, ())))


@functools.cache
def _libraries() -> frozenset[str]:
    """calib8's distribution, all that it requires, and what these require."""
    from importlib import metadata  # noqa: PLC0415 - as above

    found: set[str] = set()
    to_come = ["calib8"]
    while to_come:
        name = _normal(to_come.pop())
        if name in found:
            continue
        found.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            to_come += [m[0] for text in metadata.requires(name) or () if (m := _REQUIREMENT.match(text))]
    return frozenset(found)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


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
