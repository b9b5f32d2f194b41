"""Python: a layer that the user wrote, anywhere in a network.

y = whatever the class does: `setup` and `reshape` when the network is built, `reshape` and `forward` in every pass.
Shapes: any bottoms; the tops that `setup` and `reshape` gave a shape, and the blobs that `setup` made. A later pass
may give tops another shape, where only layers that run in Python read them.
Parameters: module, layer, param_str. Without bottoms the layer gives samples: see the package `data`.
Source: BVLC/caffe, include/caffe/layers/python_layer.hpp, lines 13-60.
Known deviations: several images may go through one instance at a time in another order than in the file, so a layer
that keeps something from pass to pass sees it in another order.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence

from calib8.graph import Array, Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, register
from calib8.layer_kit.fields import Fields
from calib8.layers.data import shapes_unknown
from calib8.python_layers import Layer, UserClass, UserLayer


class Python(Op):
    """Runs the user's class; made with the model, since only the class knows the shapes of its tops."""

    types = ("Python",)
    bottoms = (0, UNLIMITED)
    tops = (0, UNLIMITED)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        # UserClass reads the names; share_in_parallel is for training on several GPUs.
        fields.group("python_param").ignore("module", "layer", "param_str", "share_in_parallel")
        self.kind = "host" if fields.param.bottom else "source"
        self._param, self._folder, self._phase = fields.param, fields.model_folder, fields.phase
        self._instance: UserLayer | None = None
        self._has_weights = False
        self._one_pass = threading.Lock()

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if self.kind == "source":
            raise shapes_unknown(self._param.top)
        with self._one_pass:  # what is behind a layer may be lowered again while another image is here
            if self._instance is not None:
                return list(self._instance.reshape(bottoms))
            self._class = UserClass(self._param, self._folder)
            self._instance = UserLayer(self._class, self._phase, bottoms)
            return list(self._instance.top_shapes)

    def renewed(self) -> Python:
        twin = copy.copy(self)
        twin._instance, twin._has_weights, twin._one_pass = None, False, threading.Lock()
        return twin

    @property
    def instance(self) -> Layer | None:
        """The user's object, once the shapes are asked for."""
        return self._instance.instance if self._instance else None

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(self._instance.blob_shapes) if self._instance else []

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        with self._one_pass:
            return list(self._ready(call).forward(bottoms))

    def _ready(self, call: Call) -> UserLayer:
        """The instance that gave the shapes; with weights one of its own, which has them before its `reshape`."""
        if self._instance is None or (call.blobs and not self._has_weights):
            self._instance = UserLayer(self._class, self._phase, call.bottom_shapes, call.blobs)
            self._has_weights = True
        return self._instance


register(Python)
