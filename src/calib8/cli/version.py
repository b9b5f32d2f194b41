"""`calib8 --version`: the versions that a bug report needs."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from calib8.calibrate.counting import COMPILED

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "protobuf", "lmdb", "h5py")
_OPTIONAL = {"onnxruntime-gpu", "h5py"}


class VersionAction(argparse.Action):
    """Prints the versions and ends the program."""

    def __init__(self, option_strings: Any, dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Called by argparse when the option is given."""
        print("\n".join(version_lines()))
        parser.exit()


def version_lines() -> Iterator[str]:
    """calib8's version, then a line for everything that its results and its speed depend on."""
    yield f"calib8 {_version('calib8')}"
    yield f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _LIBRARIES:
        found = _version(name)
        if found or name not in _OPTIONAL:
            yield f"{name} {found or 'is not installed'}"
    yield f"counting: {'compiled' if COMPILED else 'numpy (there was no C compiler at installation)'}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
