"""caffe.Net: a network whose blobs and weights are numpy arrays that one reads and writes.

Source: BVLC/caffe, python/caffe/pycaffe.py; python/caffe/_caffe.cpp, class_<Net>.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.boundary import closed_class
from calib8.engine import EngineOptions
from calib8.engine.session import check_device
from calib8.errors import DataError, OptionError
from calib8.graph import Phase
from calib8.lowering import Model, Step
from calib8.lowering.integer import IntegerSetup, lower_int8
from calib8.pycaffe.blob import NetBlob
from calib8.pycaffe.definition import read_definition
from calib8.pycaffe.feeds import MemoryFeed
from calib8.pycaffe.int8 import how_to_quantize, looks_real, read_int8_mode
from calib8.pycaffe.numbered import LayerCall, NumberedParts
from calib8.pycaffe.passes import ForwardPasses, settled_weights
from calib8.pycaffe.state import random_numbers
from calib8.pycaffe.training import TrainingMethods
from calib8.pycaffe.weights import (
    copy_weights,
    make_params,
    python_layer,
    read_weights,
    save_weights,
    save_weights_as_hdf5,
    share_params,
    warn_of_missing,
)
from calib8.python_layers import BlobVec
from calib8.python_layers import Layer as PythonLayer

FileName = str | os.PathLike[str]
_log = logging.getLogger(__name__)
_CHECKED_PASSES = 100
"""For how many passes an input's values are looked at; that costs a tenth of SqueezeNet's time."""


@dataclass(frozen=True)
class NetLayer:
    """A layer of a Net: the name of its type, and its weights."""

    type: str
    blobs: BlobVec


@closed_class
class Net(NumberedParts, TrainingMethods):
    """A network in one phase.

        net = caffe.Net("deploy.prototxt", caffe.TEST, weights="custom.caffemodel")
        net = caffe.Net("deploy.prototxt", "custom.caffemodel", caffe.TEST)  # the older form
        net.blobs["data"].data[...] = image
        prob = net.forward()["prob"]

    The Split layers that Caffe inserts do not exist; the `input` fields of an old prototxt are one layer, "input".
    In caffe.TRAIN a pass computes what Caffe's forward pass computes there: BatchNorm takes the statistics of the
    batch, and moves its own; Dropout drops. Samples of data layers are those of TEST, of which a warning tells.
    Recurrent layers go on in each pass with the states that the one before left.
    Accuracy and SoftmaxWithLoss are computed; other layers that only measure are left out, and the log says which.
    Layers that a caffemodel lacks are named in a warning.

    A Net is for one thread at a time, and for the process that made it: make one for each thread, and after a fork. It
    can neither be pickled nor copied.

    Args:
        network_file: the prototxt.
        phase: caffe.TEST or caffe.TRAIN; a caffemodel here, and the phase behind it, is the older form.
        level, stages: choose layers whose `include` and `exclude` rules ask for them.
        weights: a caffemodel; without one the weights are what the prototxt's fillers give.

    Attributes:
        blobs: every blob by name, in the order in which layers write them. In-place layers show their last value.
        params: the weights by layer name.
        layers: type and weights of every layer; of a Python layer, the user's own object.

    Raises:
        ModelError: the prototxt or the caffemodel cannot be used.
        DataError, UserLayerError: data layers, Python layers that cannot be used.
        DeviceError: `set_mode_gpu` was called and the GPU cannot be used.
    """

    def __init__(
        self,
        network_file: FileName,
        phase: int | FileName,
        level: int | None = None,
        stages: Collection[str] | None = None,
        weights: FileName | None = None,
    ) -> None:
        if isinstance(phase, str | os.PathLike):
            if level is None:
                raise OptionError(f"Net({network_file!r}, {phase!r}): the phase is missing; add caffe.TEST")
            weights, phase, level = phase, level, 0
        if phase not in tuple(Phase):
            raise OptionError(f"phase is {phase!r}; expected caffe.TEST (1) or caffe.TRAIN (0)")
        check_device(EngineOptions())
        self._definition = read_definition(network_file, Phase(phase), level or 0, stages or ())
        stored = read_weights(weights) if weights is not None else {}
        self.params = make_params(self._definition, stored)
        if weights is not None:
            copy_weights(self.params, stored, weights)
            warn_of_missing(self.params, stored, weights)
        model = self._definition.model
        for layer, op in zip(model.net.layers, model.ops, strict=True):
            op.join_net(random_numbers, self.params.get(layer.name, ()))
        self.blobs = OrderedDict((name, NetBlob(model.shapes[v[-1]])) for name, v in model.net.values_of_blob.items())
        for feed in self._definition.feeds.values():
            for top, values in feed.first().items():
                self.blobs[top].take(values)
        self._before: list[LayerCall] = []
        self._after: list[LayerCall] = []
        self._to_check: dict[str, int] = {}  # inputs that should come quantised, and for how many passes yet
        self._passes = ForwardPasses(model, self.blobs, self.params, self._definition.feeds)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Net cannot be pickled or copied; make another one of the same files, or net.save(...) it")

    def int8_init(
        self,
        proto_path: FileName,
        cali_model: FileName,
        cali_proto: FileName,
        int8_layer: str = "",
        *,
        accumulator_bits: int = 16,
    ) -> None:
        """Run layers in the chip's exact integers from now on, and the others in FP32.

        Blobs, inputs with `enable_quantize: 1` and outputs stay in real units, so that they compare with those of the
        FP32 net; `blob.int8` gives the integers. An input that an INT8 layer reads, whose Input layer does not set
        `enable_quantize`, takes what the user quantised: x * 128 / threshold. May be called again, for other layers.

        Args:
            proto_path: the prototxt of this net.
            cali_model: the int8 caffemodel that a calibration wrote.
            cali_proto: its calibration table, .pb2 or .prototxt.
            int8_layer: names of layers, comma-separated; "" for all that can. A BatchNorm and its Scale go together.
            accumulator_bits: 16, in which the chip adds an Eltwise's bottoms and saturates, or 32.

        Raises:
            OptionError: names that the net does not have, or a BatchNorm without its Scale; all of them.
            TableError: files of another network; all that does not fit.
            ModelError: files that cannot be read.
        """
        model = self._definition.model
        if any(op.trains for op in model.ops):
            raise OptionError(
                f"{model.net.source}: the net was opened in TRAIN, and layers with statistics of the batch or random "
                "zeros have no integers; open it with caffe.TEST"
            )
        weights = settled_weights(self.params)
        mode = read_int8_mode(
            model, weights, proto_path, cali_model, cali_proto, int8_layer, accumulator_bits=accumulator_bits
        )
        self._passes.finish()
        for name, blob in self.blobs.items():
            blob.threshold, blob.units = mode.thresholds.get(name), mode.units.get(name)
            blob.holds_codes = model.net.values_of_blob[name][-1] in mode.setup.quantized_inputs
        self._to_check = {name: _CHECKED_PASSES for name, blob in self.blobs.items() if blob.holds_codes}
        lower = partial(_lower_int8, mode.setup)
        self._passes = ForwardPasses(model, self.blobs, self.params, self._definition.feeds, lower)

    @cached_property
    def inputs(self) -> list[str]:
        """The tops of Input layers."""
        return self._definition.inputs

    @cached_property
    def outputs(self) -> list[str]:
        """The blobs that no layer reads, in alphabetical order, as in Caffe."""
        return self._definition.outputs

    @cached_property
    def layers(self) -> list[NetLayer | PythonLayer]:
        """Every layer in order."""
        model = self._definition.model
        return [
            python_layer(self._definition, layer, model.op_of[layer.name])
            or NetLayer(self._definition.params[layer.name].type, self.params.get(layer.name, BlobVec()))
            for layer, *_ in model.net.layers_by_caffe_name.values()
        ]

    @cached_property
    def layer_dict(self) -> OrderedDict[str, NetLayer | PythonLayer]:
        """`layers` by name."""
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @cached_property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """The tops of every layer by its name."""
        by_name = self._definition.model.net.layers_by_caffe_name
        return OrderedDict((name, [t for x in layers for t in x.top_blobs]) for name, layers in by_name.items())

    @cached_property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """The bottoms of every layer by its name."""
        by_name = self._definition.model.net.layers_by_caffe_name
        return OrderedDict((name, [b for x in layers for b in x.bottom_blobs]) for name, layers in by_name.items())

    @cached_property
    def _layer_names(self) -> list[str]:
        """Not public in pycaffe either, but what scripts use."""
        return list(self._definition.model.net.layers_by_caffe_name)

    @cached_property
    def _loss_weights(self) -> dict[str, float]:
        return self._definition.loss_weights

    def _run_layers(self, first: int, last: int, asked: Sequence[str]) -> None:
        """See NumberedParts."""
        begin, end = self._indices(self._layer_names[first])[0], self._indices(self._layer_names[last])[-1]
        self._passes.run(begin, end, asked)

    def forward(
        self, blobs: Iterable[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> dict[str, NDArray[np.float32]]:
        """Run the net, or the layers from `start` to `end`, on what is in the blobs.

        Args:
            blobs: names of blobs to return besides the outputs.
            start, end: names of the first and the last layer to run; None is the net's.
            kwargs: values of the inputs by name, all of them, in the blobs' shapes.

        Returns:
            Live views of the outputs (with `end`, of its tops) and of `blobs`. The next pass writes into them.

        Raises:
            OptionError: names that the net does not have, or `kwargs` that are not its inputs.
            DataError: inputs of another shape; a data layer failed.
            UserLayerError: a Python layer failed.
            UnsupportedError: blobs were reshaped so that the layers do not fit.
            DeviceError: `set_mode_gpu` was called and the GPU cannot be used.
        """
        first = 0 if start is None else self._number(start)
        last = len(self._layer_names) - 1 if end is None else self._number(end)
        outputs = self.outputs if end is None else self.top_names[end]
        names = list(dict.fromkeys([*outputs, *(blobs or ())]))
        self._check_blob_names(names)
        if kwargs:
            self._take_inputs(kwargs)
        self._forward_layers(first, last, names)
        self._warn_of_real_inputs()
        return {name: self.blobs[name].data for name in names}

    def forward_all(self, blobs: Iterable[str] | None = None, **kwargs: Any) -> dict[str, NDArray[np.float32]]:
        """Run the net over any number of images, a batch at a time; the last batch is filled up with zeros.

        Args:
            blobs: as in `forward`.
            kwargs: all images of every input, (N, ...), N the same for all.

        Returns:
            Copies of the outputs and of `blobs`, N rows each.

        Raises:
            OptionError, DataError: as `forward`; inputs of different lengths.
        """
        asked = list(blobs or ())
        self._check_input_names(kwargs)
        images = {len(values) for values in kwargs.values()}
        if len(images) != 1:
            raise DataError(f"forward_all needs inputs of one length; found {sorted(images) or 'no inputs'}")
        parts_of: dict[str, list[NDArray[np.float32]]] = {}
        for batch in self._batch(kwargs):
            for name, values in self.forward(asked, None, None, **batch).items():
                parts_of.setdefault(name, []).append(values.copy())
        count = images.pop()
        return {name: np.concatenate(parts)[:count] for name, parts in parts_of.items()}

    def reshape(self) -> None:
        """Give every blob the shape that follows from the inputs' shapes: `net.blobs[name].reshape(...)` before.

        `forward` does the same, where it is needed.

        Raises:
            UnsupportedError: layers that the shapes do not fit.
        """
        self._passes.reshape()

    def copy_from(self, trained_filename: FileName) -> None:
        """Copy the weights of a caffemodel (binary, or HDF5) by layer name; other layers are left alone on both sides.

        Raises:
            CaffemodelError: the file cannot be read, or has weights of other shapes; then nothing is copied.
        """
        copy_weights(self.params, read_weights(trained_filename), trained_filename)

    load_hdf5 = copy_from

    def share_with(self, other: Net) -> None:
        """Use the other net's weights in the layers that have the same names: what one writes, both have.

        Raises:
            CaffemodelError: weights of other shapes; then nothing is shared.
        """
        share_params(self.params, other.params)

    def save(self, filename: FileName) -> None:
        """Write all layers and their weights as a binary caffemodel, or as HDF5 where the name ends in `.h5`.

        Raises:
            OptionError: the file cannot be written.
        """
        if os.fspath(filename).endswith(".h5"):
            self.save_hdf5(filename)
        else:
            save_weights(filename, self._definition, self.params)

    def save_hdf5(self, filename: FileName) -> None:
        """Write the weights as HDF5, for which h5py is needed.

        Raises:
            OptionError: h5py is missing, or the file cannot be written.
        """
        save_weights_as_hdf5(filename, self.params)

    def set_input_arrays(self, data: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        """Give a MemoryData layer, which must be the first layer, its samples. No copy is made.

        Args:
            data: (N, C, H, W), float32, N a multiple of the layer's batch_size.
            labels: (N) or (N, 1, 1, 1), float32.

        Raises:
            DataError: the net has no such layer, or the arrays do not fit it.
        """
        feed = self._definition.feeds.get(self._layer_names[0])
        if not isinstance(feed, MemoryFeed):
            raise DataError(
                f"{self._definition.model.net.source}: set_input_arrays needs a MemoryData layer as the first layer; "
                f"the first is {self._layer_names[0]!r} ({self.layers[0].type})"
            )
        feed.set_arrays(data, labels[:, None, None, None] if labels.ndim == 1 else labels)

    def _warn_of_real_inputs(self) -> None:
        """Warn once of an input that should come quantised and does not look so: the classic silent mistake."""
        for name, passes in sorted(self._to_check.items()):
            why = looks_real(self.blobs[name].values)
            self._to_check[name] = passes - 1
            if why or passes == 1:
                del self._to_check[name]
            if why:
                net, threshold = self._definition.model.net, self.blobs[name].threshold or INT8_LEVELS
                _log.warning(
                    "%s: input %r runs in INT8 and should hold x * 128 / %.6g, but %s. %s",
                    net.source, name, threshold, why, how_to_quantize(net, name, threshold),
                )  # fmt: skip

    def _number(self, layer: str) -> int:
        """The place of a layer in `layers`."""
        self._indices(layer)  # refuses an unknown one
        return self._layer_names.index(layer)

    def _indices(self, layer: str) -> Sequence[int]:
        net = self._definition.model.net
        if layer not in net.indices_by_caffe_name:
            raise OptionError(f"{net.source}: there is no layer {layer!r} in the net")
        return net.indices_by_caffe_name[layer]

    def _check_blob_names(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.blobs]
        if unknown:
            raise OptionError(
                f"{self._definition.model.net.source}: there are no blobs {', '.join(map(repr, unknown))} in the net"
            )

    def _check_input_names(self, given: Mapping[str, Any]) -> None:
        if set(given) != set(self.inputs):
            raise OptionError(
                f"input blob arguments do not match the net's inputs: given are {sorted(given)}, the net has "
                f"{sorted(self.inputs)}"
            )

    def _take_inputs(self, given: Mapping[str, Any]) -> None:
        self._check_input_names(given)
        for name, values in given.items():
            blob = self.blobs[name]
            blob.pending = None  # an in-place layer may have left it so
            if len(values) != blob.shape[0]:
                raise DataError(f"input {name!r} has {len(values)} images, and is not batch sized ({blob.shape[0]})")
            try:
                blob.values[...] = values
            except ValueError:
                raise DataError(
                    f"input {name!r} has the shape {np.shape(values)}; the blob has {blob.shape}: reshape it first "
                    f"(net.blobs[{name!r}].reshape(...))"
                ) from None

    def _batch(self, given: Mapping[str, Any]) -> Iterator[dict[str, NDArray[Any]]]:
        first = next(iter(given))
        size = self.blobs[first].shape[0]
        for start in range(0, len(given[first]), size):
            yield {name: _filled_up(values[start : start + size], size) for name, values in given.items()}


def _lower_int8(setup: IntegerSetup, model: Model, values: Collection[str]) -> Sequence[Step]:
    return lower_int8(model, replace(setup, integer_kernels=EngineOptions().integer_kernels), values)


def _filled_up(rows: Any, count: int) -> NDArray[Any]:
    values = np.asarray(rows)
    missing = count - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) if missing else values
