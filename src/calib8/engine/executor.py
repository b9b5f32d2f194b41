"""The steps of a lowered network, run in order over one set of inputs after another."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from calib8.engine.cache import ExecutorCache
from calib8.engine.entrance import enter
from calib8.engine.gpu import device_failure
from calib8.engine.layout import laid_out
from calib8.engine.options import EngineOptions
from calib8.engine.session import bound_weights, open_session
from calib8.errors import Calib8Error, DataError, UnsupportedError
from calib8.graph import Array, Shape
from calib8.lowering.readings import Reading, value_of
from calib8.lowering.steps import HostStep, OnnxStep, Port, Step, last_readers

Arrays = Mapping[str, Array] | Mapping[Reading, Array]
"""By name, or by what of a value they are."""
Visitor = Callable[[Reading, Array], None]
_SHAPES_KEPT, _ALWAYS_KEPT = 8, 4
_NO_TARGETS: Mapping[Reading, Array] = MappingProxyType({})


class Executor:
    """Runs steps; hands each observed value to a visitor as soon as it is there.

    The arrays that a visitor gets are the executor's own: they change with the next run. It copies what it keeps.

    Args:
        steps: what `lower_float` or `lower_int8` gives.
        observed: what the visitor wants to see; inputs can be among it.
        first: the step to begin with; those before it have run elsewhere.
        share: whether steps write over what nobody reads any more: an array is the visitor's only until it returns.

    Attributes:
        shared_bytes, own_bytes: about how much memory it takes, that of siblings too, and that of its own.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        observed: Collection[Reading],
        options: EngineOptions = EngineOptions(),
        first: int = 0,
        *,
        share: bool = False,
    ) -> None:
        self.observed = frozenset(observed)
        self._options, self._first = options, first
        mine = steps[first:]
        alone = len(mine) == 1
        self._runners = [
            _OnnxRunner(step, options, alone=alone) if isinstance(step, OnnxStep) else _HostRunner(step)
            for step in mine
        ]
        self._finished = last_readers(steps)[first:]
        self._layout = laid_out(mine, self._finished) if share else None
        self._share_memory()
        self.shared_bytes = sum(step.weight_bytes for step in mine)
        self.own_bytes = sum(step.value_bytes for step in mine)
        self._continued: ExecutorCache[Executor] = ExecutorCache(_SHAPES_KEPT, always=_ALWAYS_KEPT)

    def sibling(self) -> Executor:
        """Make an executor with buffers of its own over the same sessions: both can run at the same time."""
        twin = copy.copy(self)
        twin._runners = [runner.sibling() for runner in self._runners]
        twin._share_memory()
        twin._continued = ExecutorCache(_SHAPES_KEPT, always=_ALWAYS_KEPT)
        return twin

    def _share_memory(self) -> None:
        if self._layout is None:
            return
        buffers = self._layout.buffers()
        for runner in self._runners:
            if isinstance(runner, _OnnxRunner):
                runner.write_into(buffers)

    def run(self, inputs: Arrays, visit: Visitor, targets: Mapping[Reading, Array] = _NO_TARGETS) -> None:
        """Run one forward pass.

        Args:
            inputs: the network's input values, float32 in their shapes.
            visit: called once for every observed value, with its name and its array.
            targets: where to write observed values, instead of into arrays of the executor's own: C-contiguous
                float32, no input's memory. Not used by layers that run in Python, nor for values of another shape.

        Raises:
            Calib8Error: an input is missing or has another shape, a layer that runs in Python failed, or the GPU did.
        """
        values: dict[Reading, Array] = {}
        for reading, array in inputs.items():
            values[reading] = array
            if reading in self.observed:
                visit(reading, array)
        self._go_through(values, visit, targets)

    def _go_through(self, values: dict[Reading, Array], visit: Visitor, targets: Mapping[Reading, Array]) -> None:
        observed, finished = self.observed, self._finished
        for at, runner in enumerate(self._runners):
            produced = runner.run(values, targets)
            values.update(produced)
            for reading, array in produced.items():
                if reading in observed:
                    visit(reading, array)
            # What nobody reads any more goes, so that memory follows the widest place, not the depth.
            for reading in finished[at]:
                values.pop(reading, None)
            # The steps behind were lowered for the announced shapes; others need steps of their own.
            is_last = at + 1 == len(self._runners)
            if not is_last and isinstance(runner, _HostRunner) and runner.gave_other_shapes(produced):
                self._behind(runner, self._first + at, produced)._go_through(values, visit, targets)
                return

    def _behind(self, runner: _HostRunner, index: int, produced: Mapping[Reading, Array]) -> Executor:
        """What goes on behind a layer whose tops have unexpected shapes; kept for the next time."""
        shapes = {value_of(reading): array.shape for reading, array in produced.items()}
        return self._continued.get(
            (index, tuple(shapes.values())),
            lambda: Executor(
                runner.lower_again(shapes), self.observed, self._options, index + 1, share=self._layout is not None
            ),
        )


class _OnnxRunner:
    """One graph. Buffers of inputs and outputs are bound once and used again, which costs far less than fresh ones."""

    def __init__(self, step: OnnxStep, options: EngineOptions, *, alone: bool) -> None:
        self._step = step
        self._gpu, self._release = options.gpu, options.release_blobs
        try:
            self._lent = {name: np.ascontiguousarray(x) for name, x in bound_weights(step, options).items()}
            self._session = open_session(step, options, alone=alone)
        except Calib8Error:
            raise
        except Exception as why:  # noqa: BLE001 - ONNX Runtime's exceptions have no base of their own
            raise UnsupportedError(self._failure(str(why), "cannot be computed by ONNX Runtime")) from None
        self._set_up()

    def sibling(self) -> _OnnxRunner:
        twin = copy.copy(self)
        twin._set_up()
        return twin

    def _set_up(self) -> None:
        self._binding = self._session.io_binding()
        for name, array in self._lent.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._bound: dict[str, Array] = {}  # by name in the graph; bound memory must stay alive
        self._buffers: dict[Reading, Array] = {}

    def write_into(self, buffers: Mapping[Reading, Array]) -> None:
        """Take memory for the outputs, where some is given."""
        self._buffers = {reading: buffers[reading] for reading in self._step.outputs if reading in buffers}

    def run(self, values: Mapping[Reading, Array], targets: Mapping[Reading, Array]) -> dict[Reading, Array]:
        for port in self._step.input_ports:
            array = self._input(values, port)
            self._bind(self._binding.bind_input, port, array if port.threshold is None else self._entered(array, port))
        outputs: dict[Reading, Array] = {}
        for port in self._step.output_ports:
            target = targets.get(port.reading, self._buffers.get(port.reading))
            if target is None or target.shape != port.shape:  # behind a layer in Python it may be another
                target = np.empty(port.shape, port.dtype)
            outputs[port.reading] = target
            self._bind(self._binding.bind_output, port, outputs[port.reading])
        try:
            self._session.run_with_iobinding(self._binding)
        except RuntimeError as why:
            raise device_failure(self._gpu, str(why)) or DataError(self._failure(str(why))) from None
        if self._release:
            self._bound = {}
        else:
            self._buffers = outputs
        return outputs

    def _failure(self, why: str, what: str = "cannot take the values of its bottoms") -> str:
        """A value that a layer cannot take, such as an index outside of what it counts."""
        layers = self._step.layers
        where = f"layer {layers[0]!r}" if len(layers) == 1 else f"one of the layers {layers[0]!r} to {layers[-1]!r}"
        reason = why.partition("Status Message: ")[2].partition("\x1b")[0].strip() or why
        return f"{where} {what}: {reason}"

    def _input(self, values: Mapping[Reading, Array], port: Port) -> Array:
        if port.reading not in values:
            raise Calib8Error(f"input {value_of(port.reading)!r} is missing; its shape is {port.shape}")
        dtype = port.dtype if port.threshold is None else np.float32
        array = values[port.reading]
        if not (isinstance(array, np.ndarray) and array.dtype == dtype and array.flags.c_contiguous):
            array = np.asarray(array, dtype=dtype, order="C")  # of 0 axes, too
        if array.shape != port.shape:
            raise Calib8Error(f"{value_of(port.reading)!r} has the shape {array.shape}; expected {port.shape}")
        return array

    def _entered(self, array: Array, port: Port) -> Array:
        """The codes of an input's real numbers, in memory that is kept for the next run."""
        assert port.threshold is not None
        codes = self._bound.get(port.name)
        if codes is None:
            codes = np.empty(port.entered_shape, port.dtype)
        enter(array, port.threshold, codes, by_pixel=port.by_pixel)
        return codes

    def _bind(self, bind: Callable[..., None], port: Port, array: Array) -> None:
        if self._bound.get(port.name) is not array:
            bind(port.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            self._bound[port.name] = array


class _HostRunner:
    """One layer in Python."""

    def __init__(self, step: HostStep) -> None:
        self._step = step

    def sibling(self) -> _HostRunner:
        return self

    def gave_other_shapes(self, produced: Mapping[Reading, Array]) -> bool:
        """Tell whether the layer's tops have other shapes than it announced."""
        return tuple(array.shape for array in produced.values()) != self._step.call.top_shapes

    def lower_again(self, shapes: Mapping[str, Shape]) -> Sequence[Step]:
        """Make the steps of the whole network where this layer's tops have these shapes."""
        return self._step.lower_again(shapes)

    def run(self, values: Mapping[Reading, Array], targets: Mapping[Reading, Array]) -> dict[Reading, Array]:
        del targets  # its arrays are its own
        bottoms = [values[b] for b in self._step.bottoms]
        tops = self._step.op.run(bottoms, self._step.call)
        return dict(zip(self._step.outputs, tops, strict=True))
