"""Options that several commands have."""

from __future__ import annotations

import argparse
from typing import TypeAlias

# argparse has no public names for these two.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What commands are added to."""
OptionHolder: TypeAlias = "argparse._ActionsContainer"
"""What options are added to: a parser, or a group of one."""


def add_common_options(parser: OptionHolder) -> None:
    """Add `--threads` and `--verbose` to a parser or a group of one."""
    parser.add_argument("--threads", type=int, metavar="N", help="threads to use (default: all cores)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done, changed and left out")


def add_gpu_option(parser: OptionHolder) -> None:
    """Add `--gpu`; `calib8.cli.parser` sees that the GPU is used."""
    parser.add_argument(
        "--gpu", metavar="ID", type=_gpu, nargs="?", const=0,
        help="compute on an NVIDIA GPU, number ID (0 without one); needs onnxruntime-gpu, and is an error where there "
        "is none",
    )  # fmt: skip


def _gpu(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of a GPU; write --gpu behind NAME and PATH, or --gpu=0"
        )
    return int(text)


def add_shape_option(parser: OptionHolder, help: str = "") -> None:
    """Add `--shape`."""
    parser.add_argument(
        "--shape", metavar="BLOB=N,C,H,W", dest="shapes", type=_shape, action="append", default=[],
        help=help or "shape of an input, instead of that in the prototxt or in the data; can be given several times",
    )  # fmt: skip


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    blob, equals, sizes = text.rpartition("=")
    parts = [part.strip() for part in sizes.split(",")]
    if not (blob and equals and all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; expected BLOB=N,C,H,W, like data=1,3,224,224")
    return blob, tuple(map(int, parts))
