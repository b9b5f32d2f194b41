"""One ONNX graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import onnxruntime as ort

from calib8.engine.gpu import check_gpu, check_sums, gpu_session
from calib8.engine.memory import share_arena
from calib8.engine.options import EngineOptions
from calib8.engine.processor import int8_products_saturate
from calib8.graph import Array
from calib8.lowering.steps import OnnxStep
from calib8.proto.onnx_messages import ModelProto, value_info

# These put a neighbour's arithmetic into a convolution's weights or accumulator, and so round otherwise than Caffe
# does layer by layer, and otherwise from one choice of outputs to another.
_INEXACT_FUSIONS = ["ConvAddFusion", "ConvMulFusion", "ConvBNFusion", "ConvAddActivationFusion"]
_INTEGER_NODES = ("QLinearConv", "ConvInteger")
_CODE_NODES = ("QuantizeLinear", "DequantizeLinear")
# Puts a Pad into the pooling behind it, which onnxruntime up to 1.24 then refuses where the pad exceeds the window.
_BROKEN_FUSIONS = ["Pad_Fusion"]
_SILENT = 4  # what goes wrong in a run is raised
_LARGE = 1 << 20  # elements of a matrix that is not copied


_LENT: WeakKeyDictionary[ort.InferenceSession, Sequence[object]] = WeakKeyDictionary()
"""What sessions read and do not own: it has to live as long as they do."""


def open_session(step: OnnxStep, options: EngineOptions, *, alone: bool = True) -> ort.InferenceSession:
    """Open an InferenceSession over a step's graph. It copies the weights, but for those that it is lent.

    `bound_weights` are further inputs of it.

    Args:
        alone: whether its threads may wait for work by spinning: with several sessions that run in turn, those of one
            would take the cores from the next.

    Raises:
        DeviceError: see `check_device`.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.thread_count
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _SILENT
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # An arena keeps for the next run what this one has freed.
    settings.enable_cpu_mem_arena = not options.release_blobs
    if options.gpu is None and not options.release_blobs:
        share_arena(settings)
    # Threads that spin until the next run are in the way of everything else, other sessions' threads above all.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if alone else "0")
    # Or it would put a float convolution between codes into an integer one, which rounds ties otherwise.
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    has_integers = any(node.op_type in _INTEGER_NODES for node in step.onnx.graph.node)
    if not _repacks(step, options):
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if has_integers and int8_products_saturate():
        settings.add_session_config_entry("session.x64quantprecision", "1")
    bound = bound_weights(step, options)
    values = {
        name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        for name, array in step.weights.items()
        if name not in bound
    }
    settings.add_external_initializers(list(values), list(values.values()))
    without = _INEXACT_FUSIONS + _BROKEN_FUSIONS
    if options.gpu is None:
        lent = [name for name in _large_matrices(step) if options.lend_weights and name in values]
        for name in lent:  # given in this way, too, they are copied only for as long as the session is being opened
            settings.add_initializer(name, values[name])
        session = ort.InferenceSession(
            _with_inputs(step.onnx, bound).SerializeToString(), settings, providers=["CPUExecutionProvider"],
            disabled_optimizers=without,
        )  # fmt: skip
        _LENT[session] = [values[name] for name in lent]
        return session
    check_device(options)
    if any(node.op_type in _CODE_NODES for node in step.onnx.graph.node):
        check_sums(options.gpu)
    return gpu_session(step.onnx, settings, options.gpu, without)


def bound_weights(step: OnnxStep, options: EngineOptions) -> dict[str, Array]:
    """Give the weights that a session has as inputs of its graph, by name: whoever runs it binds them, where they lie.

    A product reads an input as it reads a weight, unless weights are repacked.
    """
    if not options.lend_weights or options.gpu is not None or _repacks(step, options):
        return {}
    return {name: step.weights[name] for name in _large_matrices(step)}


def _repacks(step: OnnxStep, options: EngineOptions) -> bool:
    """Tell whether weights are repacked: float kernels gain nothing measurable by it, and it takes as much again."""
    return options.repack_weights or any(node.op_type in _INTEGER_NODES for node in step.onnx.graph.node)


def _with_inputs(onnx: ModelProto, arrays: Mapping[str, Array]) -> ModelProto:
    """Make inputs of some weights of a graph."""
    if not arrays:
        return onnx
    found = ModelProto()
    found.CopyFrom(onnx)
    kept = [tensor for tensor in onnx.graph.initializer if tensor.name not in arrays]
    del found.graph.initializer[:]
    found.graph.initializer.extend(kept)
    found.graph.input.extend(value_info(name, array.dtype, array.shape) for name, array in arrays.items())
    return found


def _large_matrices(step: OnnxStep) -> list[str]:
    """Name the weights that can be lent to a session: large matrices that only products over float32 read.

    The graph's optimisation puts new weights in the place of others, of convolutions above all, sometimes under the
    same name; what was lent would then still be read. It leaves those of a Gemm alone.
    """
    readers: dict[str, set[str]] = {}
    for node in step.onnx.graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, set()).add(f"{node.op_type} {place}")
    return [
        name
        for name, array in step.weights.items()
        if array.size >= _LARGE and array.dtype == np.float32 and readers.get(name) == {"Gemm 1"}
    ]


def check_device(options: EngineOptions) -> None:
    """Make sure that the device can be used.

    Raises:
        DeviceError: a GPU is asked for and cannot be used. Nothing falls back to the CPU in silence.
    """
    if options.gpu is not None:
        check_gpu(options.gpu)
