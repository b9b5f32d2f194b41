"""`calib8 --version`: the versions that a bug report needs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "protobuf", "lmdb", "h5py")
_OPTIONAL = {"onnxruntime-gpu", "h5py"}


def version_lines() -> Iterator[str]:
    """List calib8's version, then a line for everything that its results and its speed depend on."""
    yield f"calib8 {_version('calib8')}"
    yield f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _LIBRARIES:
        number = _version(name)
        if number or name not in _OPTIONAL:
            yield f"{name} {number or 'is not installed'}"
    compiled = find_spec("calib8.measure._counting") is not None
    yield f"counting: {'compiled' if compiled else 'numpy (there was no C compiler at installation)'}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
