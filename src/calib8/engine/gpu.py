"""Sessions on a GPU, and what is missing where there can be none.

ONNX Runtime goes on with the CPU in silence when its CUDA part cannot be loaded; here that is an error which says why.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, NotImplemented, RuntimeException

from calib8.engine.even_pads import with_even_pads
from calib8.errors import DeviceError
from calib8.graph import Array
from calib8.layers import OnnxBuilder
from calib8.proto.onnx_messages import ModelProto

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_OPTIONS = {
    "use_tf32": "0",
    # cuDNN's fallback: convolutions as matrix products. The other choices may be Winograd's or Fourier's.
    "cudnn_conv_algo_search": "DEFAULT",
    "arena_extend_strategy": "kSameAsRequested",
}
# Where cuDNN has no kernel for both at once, ONNX Runtime takes the convolution's again, this time with TF32.
_INEXACT_FUSIONS = ("ConvActivationFusion",)
_SILENT, _ERRORS_ONLY = 4, 3  # or every convolution warns that its kernel is not the fastest
_ORT_ERRORS = (RuntimeError, EPFail, Fail, NotImplemented, RuntimeException)
# Channels, kernel and groups of convolutions in which the rounding of Winograd and Fourier would show: sums up to 2^23.
_PROBES = ((32, 3, 1), (16, 5, 1), (64, 1, 1), (32, 3, 32))
_PROBE_SIZE = 16
_INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]' brings it along"
_ALONE = "uninstall both, then install onnxruntime-gpu alone (docs/gpu.md)"


@cache
def check_gpu(gpu: int) -> None:
    """Make sure that networks can run on a GPU.

    Raises:
        DeviceError: they cannot; the message names what is missing.
    """
    if _CUDA not in ort.get_available_providers():
        raise _refusal(gpu, _without_cuda())
    ort.set_default_logger_severity(_SILENT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()  # of the packages that pip has installed; says on stdout what it does not find
        _sums(gpu, _PROBES[:1])
    finally:
        ort.set_default_logger_severity(_ERRORS_ONLY)


@cache
def check_sums(gpu: int) -> None:
    """Make sure, by trying a few, that a GPU's convolutions add integers exactly, as layers in INT8 need it.

    Raises:
        DeviceError: they do not, or the GPU cannot be used.
    """
    check_gpu(gpu)
    for sums, expected in zip(_sums(gpu, _PROBES), _sums(None, _PROBES), strict=True):
        if not np.array_equal(sums, expected):
            off = np.abs(sums - expected).max()
            raise _refusal(gpu, f"its float32 convolutions do not add integers exactly (off by {off:g}); use the CPU")


def gpu_session(
    onnx: ModelProto, settings: ort.SessionOptions, gpu: int, disabled_optimizers: Sequence[str]
) -> ort.InferenceSession:
    """Open an InferenceSession on a GPU; nodes that have no CUDA kernel run on the CPU.

    Raises:
        DeviceError: the GPU cannot be used.
    """
    try:
        session = ort.InferenceSession(
            with_even_pads(onnx).SerializeToString(),
            settings,
            providers=[(_CUDA, {**_OPTIONS, "device_id": str(gpu)}), _CPU],
            disabled_optimizers=[*disabled_optimizers, *_INEXACT_FUSIONS],
            enable_fallback=0,
        )
    except _ORT_ERRORS as why:
        raise device_failure(gpu, str(why)) or _refusal(gpu, _in_one_line(str(why))) from None
    if _CUDA not in session.get_providers():
        raise _refusal(gpu, _what_cannot_be_loaded())
    return session


def device_failure(gpu: int | None, why: str) -> DeviceError | None:
    """Make the error for what ONNX Runtime says when a GPU fails; None where it speaks of something else."""
    if gpu is None:
        return None
    for pattern, reason in _FAILURES:
        match = re.search(pattern, why, re.DOTALL)
        if match:
            return _refusal(gpu, match.expand(reason))
    return None


_FAILURES = (
    (r"Invalid device ID: .*? and (\d+) \(exclusive\)", r"there is no such one; CUDA sees \1, numbered from 0"),
    (r"cuDNN is unavailable", f"cuDNN 9 cannot be loaded; {_INSTALL}"),
    (r"CUDNN Frontend", "cuDNN refuses a convolution of this network; use the CPU"),
    (r"Failed to allocate memory for requested buffer of size (\d+)", r"it has no \1 bytes of memory left"),
    (r"((?:CUDA|CUDNN|CUBLAS) failure \d+: .*?) ;", r"NVIDIA's libraries say: \1"),
)


def _sums(gpu: int | None, probes: Sequence[tuple[int, int, int]]) -> list[Array]:
    """What convolutions of integers give, on a GPU or on the CPU."""
    g, numbers = OnnxBuilder(), np.random.default_rng(0)
    inputs, outputs = {}, []
    for channels, kernel, group in probes:
        x = numbers.integers(96, 128, (1, channels, _PROBE_SIZE, _PROBE_SIZE)).astype(np.float32)
        weights = numbers.integers(96, 128, (32, channels // group, kernel, kernel)).astype(np.float32)
        name = g.input(x.shape)
        inputs[name] = x
        outputs.append((g.node("Conv", name, g.weight(weights), group=group), np.float32))
    onnx, arrays = g.model(outputs)
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.add_external_initializers(list(arrays), [ort.OrtValue.ortvalue_from_numpy(a) for a in arrays.values()])
    if gpu is None:
        session = ort.InferenceSession(onnx.SerializeToString(), settings, providers=[_CPU])
    else:
        session = gpu_session(onnx, settings, gpu, ())
    try:
        return list(session.run(None, inputs))
    except _ORT_ERRORS as why:
        raise device_failure(gpu, str(why)) or _refusal(gpu, _in_one_line(str(why))) from None


def _without_cuda() -> str:
    """This onnxruntime has no CUDA part."""
    versions = {name: _version(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    installed = " and ".join(f"{name} {number}" for name, number in versions.items() if number)
    if all(versions.values()):
        return f"{installed} are both installed and overwrite each other's files; {_ALONE}"
    return f"{installed or 'onnxruntime'} is built without CUDA; install onnxruntime-gpu in its place (docs/gpu.md)"


def _what_cannot_be_loaded() -> str:
    """The CUDA part is there and ONNX Runtime has not loaded it."""
    name = "onnxruntime_providers_{}.dll" if sys.platform == "win32" else "libonnxruntime_providers_{}.so"
    try:
        for part in ("shared", "cuda"):
            ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / name.format(part)), mode=ctypes.RTLD_GLOBAL)
    except OSError as why:
        return _missing_library(str(why))
    return f"onnxruntime-gpu {ort.__version__} does not use it, and does not say why; use the CPU"


def _missing_library(why: str) -> str:
    match = re.match(r"(\S+): cannot open shared object file", why)
    if match is None:
        return f"the CUDA part of onnxruntime cannot be loaded: {_in_one_line(why)}"
    library = match[1]
    if library.startswith("libcuda."):
        return f"there is no NVIDIA driver: {library} is missing (in a container: docker run --gpus all)"
    kit = "cuDNN" if library.startswith("libcudnn") else f"CUDA {getattr(ort, 'cuda_version', '')}".strip()
    return f"{library} of {kit} is missing; {_INSTALL}"


def _refusal(gpu: int | None, reason: str) -> DeviceError:
    return DeviceError(f"GPU {gpu} is asked for, and {reason}")


def _in_one_line(text: str) -> str:
    return " ".join(text.rpartition("Status Message: ")[2].split())


def _version(package: str) -> str:
    from importlib import metadata  # noqa: PLC0415 - it imports the mail of the standard library

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
