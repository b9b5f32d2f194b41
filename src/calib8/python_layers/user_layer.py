"""One Python layer of the prototxt: its class found, an instance made and run as Caffe runs it.

Caffe's order: `setup` and `reshape` when the network is built, then `reshape` and `forward` for every pass.
Source: BVLC/caffe, include/caffe/layers/python_layer.hpp; include/caffe/layer.hpp, SetUp and Forward.

The module is looked for in the model's folder, the working directory, and on sys.path (with PYTHONPATH).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import Calib8Error, NotRunError, UserLayerError
from calib8.graph import Phase, Shape
from calib8.proto import caffe_pb2
from calib8.python_layers.blob import Blob, BlobVec
from calib8.python_layers.failures import run_failure
from calib8.python_layers.isolation import World
from calib8.python_layers.layer import Layer
from calib8.python_layers.random_numbers import RandomNumbers

_log = logging.getLogger(__name__)
_may_run: ContextVar[bool] = ContextVar("whether layers of users' run", default=True)


@contextmanager
def without_running() -> Iterator[None]:
    """Let every UserClass within the block be refused, with a NotRunError, but for those that calib8 brings along."""
    token = _may_run.set(False)
    try:
        yield
    finally:
        _may_run.reset(token)


class UserClass:
    """The class that a Python layer names, imported once; `UserLayer` makes instances of it."""

    def __init__(self, param: caffe_pb2.LayerParameter, model_folder: Path, bundled: Sequence[Path] = ()) -> None:
        """Import the module of a LayerParameter.

        Args:
            param: the layer, with name, bottom, top and python_param.
            model_folder: the prototxt's folder.
            bundled: folders to look in when the module is nowhere else.

        Raises:
            UserLayerError: no such module or class, no caffe.Layer, Python 2 code, any exception while importing.
        """
        self.param = param
        self.model_folder = model_folder
        self._world = World([model_folder, Path.cwd()], bundled)
        self._bundled = [str(folder) for folder in bundled]
        self.file = ""
        self.title = f"layer {param.name!r} (Python, {param.python_param.module}.{param.python_param.layer})"
        self._check_names()
        self._check_permission()
        module = self._import()
        self.file = str(getattr(module, "__file__", None) or param.python_param.module)
        self.title = f"layer {param.name!r} (Python, {param.python_param.layer} in {self.file})"
        self.layer_class: type[Layer] = self._find_class(module)
        _log.info("layer %r: the Python layer %s runs from %s", param.name, param.python_param.layer, self.file)

    @contextmanager
    def running(self, what: str, numbers: RandomNumbers) -> Iterator[None]:
        """Run user code; whatever it raises becomes a UserLayerError that names the layer and `what`."""
        try:
            with self._world.entered(), numbers.used():
                yield
        except Calib8Error:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as why:  # noqa: BLE001 - user code may raise anything
            raise UserLayerError(f"{self.title}: {what} {run_failure(why, self._is_users)}") from None

    def _is_users(self, file: str) -> bool:
        return file == self.file or self._world.owns(file)

    def _check_names(self) -> None:
        names = self.param.python_param
        if not names.module or not names.layer:
            raise UserLayerError(f"{self.title}: python_param needs both module (a Python file) and layer (a class)")

    def _check_permission(self) -> None:
        """Within `without_running`, refuse what is not calib8's own."""
        if _may_run.get():
            return
        module = self.param.python_param.module
        if self._world.find(module.partition(".")[0]) is not None or not PathFinder.find_spec(module, self._bundled):
            raise NotRunError(
                f"{self.title}: not run, so the shapes behind it are not known; `run_python` runs the layers in Python"
            )

    def _import(self) -> Any:
        name = self.param.python_param.module
        importlib.invalidate_caches()
        with self.running(f"module {name}", RandomNumbers()):
            try:
                return self._world.import_module(name)
            except ModuleNotFoundError as why:
                if not (f"{name}.").startswith(f"{why.name}."):
                    raise  # the module is there, but one that it imports is not
                raise UserLayerError(
                    f"{self.title}: no module {name!r}: no {name.replace('.', '/')}.py in the model's folder "
                    f"{self.model_folder}, in the working directory {Path.cwd()} or on PYTHONPATH"
                ) from None

    def _find_class(self, module: ModuleType) -> type[Layer]:
        name = self.param.python_param.layer
        candidate = getattr(module, name, None)
        if isinstance(candidate, type) and issubclass(candidate, Layer):
            return candidate
        if candidate is not None:
            raise UserLayerError(f"{self.title}: {name} in {self.file} is no class derived from caffe.Layer")
        there = [n for n, x in vars(module).items() if isinstance(x, type) and issubclass(x, Layer) and x is not Layer]
        raise UserLayerError(
            f"{self.title}: {self.file} has no class {name!r}; its layers are: {', '.join(there) or 'none'}"
        )


class UserLayer:
    """An instance of the user's class with its blobs; ready to run once it is made.

    Attributes:
        top_shapes: the shapes of the tops after `setup` and the last `reshape`.
        blob_shapes: the shapes of the weights that `setup` made.
    """

    def __init__(
        self,
        user_class: UserClass,
        phase: Phase,
        bottom_shapes: Sequence[Shape] = (),
        blobs: Sequence[NDArray[np.float32]] = (),
    ) -> None:
        """Make the instance, run `setup` and `reshape`, copy the weights into what `setup` made.

        Raises:
            UserLayerError: an exception in user code, a top without a shape, weights that do not fit.
        """
        self._class = user_class
        self._numbers = RandomNumbers()
        self._calls = 0
        self._bottoms = [_blob(shape) for shape in bottom_shapes]
        self._tops = self._make_tops()
        self._layer = self._make(phase)
        self._run("setup", self._layer.setup)
        self._take_weights(blobs)
        self.reshape(bottom_shapes)
        self.blob_shapes: tuple[Shape, ...] = tuple(blob.shape for blob in self._layer.blobs)

    @property
    def instance(self) -> Layer:
        """The user's own object."""
        return self._layer

    def reshape(self, bottom_shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """Find the shapes of the tops for bottoms of these shapes.

        Raises:
            UserLayerError: an exception in user code, a top without a shape.
        """
        for blob, shape in zip(self._bottoms, bottom_shapes, strict=True):
            if blob.shape != shape:
                blob.reshape(*shape)
        self._run("reshape", self._layer.reshape)
        self._check_shapes()
        self.top_shapes: tuple[Shape, ...] = tuple(top.shape for top in self._tops)
        return self.top_shapes

    def forward(self, bottoms: Sequence[NDArray[Any]] = ()) -> list[NDArray[np.float32]]:
        """Run one pass: `reshape`, then `forward`. Returns copies of the tops.

        Raises:
            UserLayerError: an exception in user code, with the number of the pass.
        """
        self._calls += 1
        for blob, values in zip(self._bottoms, bottoms, strict=True):
            if blob.shape != values.shape:
                blob.reshape(*values.shape)
            blob.data[...] = values
        self._run(f"reshape (pass {self._calls})", self._layer.reshape)
        self._run(f"forward (pass {self._calls})", self._layer.forward)
        return [top.data.copy() for top in self._tops]

    def _make_tops(self) -> list[Blob]:
        """Make one blob per top; a top with a bottom's name is that bottom's blob, as in Caffe."""
        by_name = dict(zip(self._class.param.bottom, self._bottoms, strict=True))
        return [by_name.get(name) or Blob() for name in self._class.param.top]

    def _make(self, phase: Phase) -> Layer:
        with self._class.running("__init__", self._numbers):
            layer = self._class.layer_class(self._class.param)
        layer.layer_name, layer.model_folder = self._class.param.name, str(self._class.model_folder)
        layer.param_str = layer.param_str_ = self._class.param.python_param.param_str
        layer.phase = int(phase)  # as in Caffe
        if not isinstance(getattr(layer, "blobs", None), BlobVec):
            layer.blobs = BlobVec()  # its __init__ did not call ours
        return layer

    def _run(self, what: str, method: Callable[[list[Blob], list[Blob]], None]) -> None:
        with self._class.running(what, self._numbers):
            method(self._bottoms, self._tops)

    def _take_weights(self, blobs: Sequence[NDArray[np.float32]]) -> None:
        wanted = [b.shape for b in self._layer.blobs]
        given = [b.shape for b in blobs]
        if blobs and wanted != given:
            raise UserLayerError(
                f"{self._class.title}: the caffemodel has weights of the shapes {given}, setup made {wanted}"
            )
        for blob, values in zip(self._layer.blobs, blobs, strict=False):
            blob.data[...] = values

    def _check_shapes(self) -> None:
        for name, top in zip(self._class.param.top, self._tops, strict=True):
            if not top.has_shape:
                raise UserLayerError(
                    f"{self._class.title}: top {name!r} has no shape after setup and reshape; call "
                    "top[i].reshape(...) in one of them"
                )


def _blob(shape: Shape) -> Blob:
    blob = Blob()
    blob.reshape(*shape)
    return blob
