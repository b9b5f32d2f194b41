"""A network once, in FP32 or in integers; or one layer of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from calib8.engine.executor import Executor
from calib8.engine.options import EngineOptions
from calib8.errors import OptionError
from calib8.graph import Array, Layer
from calib8.layers import Call, OnnxBuilder
from calib8.lowering.floating import lower_float
from calib8.lowering.integer import IntegerSetup, lower_int8
from calib8.lowering.model import Model
from calib8.lowering.readings import Reading, value_of
from calib8.lowering.steps import Port, Step, close_graph


def run_float(
    model: Model,
    inputs: Mapping[str, Array],
    observe: Sequence[str] | None = None,
    options: EngineOptions = EngineOptions(),
) -> dict[str, Array]:
    """Run one forward pass in FP32.

    Args:
        inputs: the network's inputs by blob name, in their shapes.
        observe: values or blobs to return; None returns the network's outputs.

    Returns:
        A copy of every observed value, in Caffe's shape.

    Raises:
        OptionError: an observed name is no value of the network.
    """
    names = tuple(model.net.outputs if observe is None else observe)
    _check(model, names)
    values = _run(lower_float(model, names), model, inputs, names, options)
    return {name: values[name] for name in names}


def run_int8(
    model: Model,
    setup: IntegerSetup,
    inputs: Mapping[str, Array],
    observe: Sequence[Reading] | None = None,
    options: EngineOptions = EngineOptions(),
) -> dict[Reading, Array]:
    """Run one forward pass with layers in the chip's integers.

    Args:
        setup: which layers, with which integers; what `integer_setup` gives.
        inputs: as `run_float`; those of `setup.quantized_inputs` as x * 128 / threshold.
        observe: values or blobs to return, or the `Codes` of a value; None returns the network's outputs.

    Returns:
        A copy of every observed value, in Caffe's shape: float32 in real units, and codes as uint8, `code + 128`.

    Raises:
        OptionError: an observed name is no value of the network.
    """
    readings = tuple(model.net.outputs if observe is None else observe)
    _check(model, [value_of(reading) for reading in readings])
    setup = replace(setup, integer_kernels=options.integer_kernels)
    return _run(lower_int8(model, setup, readings), model, inputs, readings, options)


def _check(model: Model, values: Sequence[str]) -> None:
    unknown = [value for value in values if value not in model.shapes]
    if unknown:
        raise OptionError(f"{model.net.source}: there is no blob {unknown[0]!r}")


def _run(
    steps: Sequence[Step],
    model: Model,
    inputs: Mapping[str, Array],
    observed: Sequence[Reading],
    options: EngineOptions,
) -> dict[Reading, Array]:
    values: dict[Reading, Array] = {}
    Executor(steps, observed, options).run(
        {model.value_of_input.get(blob, blob): array for blob, array in inputs.items()},
        lambda reading, array: values.__setitem__(reading, array.copy()),
    )
    return {reading: values[reading] for reading in observed}


def run_layer(
    model: Model,
    layer: Layer,
    bottoms: Sequence[Array],
    blobs: Sequence[Array],
    options: EngineOptions = EngineOptions(),
) -> list[Array]:
    """Compute one layer in FP32, with bottoms and weights of the caller's; the bottoms may have shapes of their own.

    Args:
        layer: one that has an ONNX form.
        blobs: in the shapes of the layer's own.

    Returns:
        The tops.
    """
    op = model.op_of[layer.name]
    shapes = tuple(array.shape for array in bottoms)
    tops = tuple(op.top_shapes(shapes))
    g = OnnxBuilder()
    inputs = [Port(f"bottom {i}", g.input(shape), shape) for i, shape in enumerate(shapes)]
    names = op.lower(g, Call(tuple(port.name for port in inputs), shapes, tops, tuple(blobs)))
    outputs = [Port(f"top {i}", name, shape) for i, (name, shape) in enumerate(zip(names, tops, strict=True))]
    step = close_graph(g, inputs, outputs, (layer.name,))
    values: dict[Reading, Array] = {}
    Executor([step], [port.reading for port in outputs], options).run(
        dict(zip((port.reading for port in inputs), bottoms, strict=True)),
        lambda reading, array: values.__setitem__(reading, array.copy()),
    )
    return [values[port.reading] for port in outputs]
