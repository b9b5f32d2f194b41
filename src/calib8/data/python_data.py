"""Python layers without bottoms: the user's own samples, or those of the bundled general_data_layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from calib8.data.faces import Batch, SampleSource
from calib8.errors import UserLayerError
from calib8.graph import Phase
from calib8.proto import caffe_pb2
from calib8.python_layers import UserClass, UserLayer

BUNDLED = Path(__file__).resolve().parent / "bundled"
"""Folder of the Python layers that calib8 brings along; a user's own file of the same name comes first."""


class PythonSource(SampleSource):
    """A SampleSource over a Python layer. It never ends: such layers begin their list again by themselves.

    A layer may reshape its tops from pass to pass (images of different sizes); `shapes` are those after setup.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, model_folder: Path, phase: Phase) -> None:
        """Import the class and set up one instance, for the shapes.

        Raises:
            UserLayerError: see UserClass and UserLayer.
            DataError: of the bundled layers.
        """
        self._class = UserClass(param, model_folder, [BUNDLED])
        self._phase = phase
        self.size = None
        self.notes = ()
        if not param.top:
            raise UserLayerError(f"{self._class.title}: has no top")
        shapes = UserLayer(self._class, phase).top_shapes
        self.shapes = dict(zip(param.top, shapes, strict=True))
        if not shapes[0] or 0 in shapes[0]:
            raise UserLayerError(
                f"{self._class.title}: top {param.top[0]!r} has the empty shape {shapes[0]} after setup"
            )
        self.batch_size = shapes[0][0]

    def batches(self) -> Iterator[Batch]:
        """Run a new instance, so that it begins with its first sample. See SampleSource."""
        layer = UserLayer(self._class, self._phase)
        while True:
            yield dict(zip(self.shapes, layer.forward(), strict=True))
