"""Options that say which images are used and how they become samples, in the place of what fills an input."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calib8.choices import COLOR_FORMATS, RESIZE_MODES
from calib8.cli.arguments.common_options import OptionHolder, add_shape_option


def add_image_options(parser: argparse.ArgumentParser, *, with_samples: bool = True) -> None:
    """Add `--images` and what goes with it, and `--samples` where the command has none of its own."""
    group = parser.add_argument_group(
        "images", "In the place of what fills the input in the prototxt: sample = (pixels - mean) * scale."
    )
    if with_samples:
        add_samples_option(group)
    group.add_argument(
        "--images", metavar="LIST", help="a text file with a path per line, a folder of images, or one image"
    )
    group.add_argument("--input", metavar="BLOB", help="the input that takes them (default: the only one)")
    group.add_argument(
        "--value", metavar="BLOB=V[,V]", dest="values", type=_value, action="append", default=[],
        help="the numbers of another input, the same for every image, like im_info=600,800,1; can be given several "
        "times",
    )  # fmt: skip
    group.add_argument(
        "--no-record", action="store_true",
        help="take nothing from the record of an earlier command in PATH (default: what it says of images, where no "
        "option here says something else)",
    )  # fmt: skip
    group.add_argument(
        "--skip-bad", action="store_true",
        help="go on without images that cannot be used, and say how many there are; all are decoded for that before "
        "anything runs (default: name them and stop)",
    )  # fmt: skip
    add_shape_option(
        group, "shape of an input of an ONNX model that leaves it open, or has another size; can be given several times"
    )
    add_resize_options(group, "size of a sample (default: that of the input)")
    group.add_argument("--color", choices=COLOR_FORMATS, help="order of the channels (default: bgr, gray for one)")
    group.add_argument(
        "--mean", metavar="V[,V,V]|FILE", default="",
        help="one value, one per channel in the order of --color, or a .binaryproto or .npy file (default: 0)",
    )  # fmt: skip
    group.add_argument("--scale", metavar="V[,V,V]", type=numbers, default=(1.0,), help="factor (default: 1)")
    group.add_argument(
        "--mirror", type=int, choices=(-1, 0, 1), help="OpenCV's flip code: 0 upside down, 1 left to right, -1 both"
    )


def add_samples_option(parser: OptionHolder, count_help: str = "") -> None:
    """Add `--samples`: arrays in the place of images and, with `count_help`, the number of samples (`--data_limit`)."""
    files = "arrays of the inputs: an .npz, a folder with BLOB.npy or a folder BLOB of .npy files for each, or one .npy"
    names = ("--samples", "--data_limit", "--data-limit") if count_help else ("--samples",)
    metavar = "N|FILE" if count_help else "FILE"
    parser.set_defaults(arrays=None)
    parser.add_argument(
        *names, dest="samples", type=_count_or_path if count_help else Path, action=_Samples, metavar=metavar,
        help=f"{count_help}; or {files}" if count_help else files,
    )  # fmt: skip


class _Samples(argparse.Action):
    """A number of samples, or where they are; both can be given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, "arrays" if isinstance(values, Path) else self.dest, values)


def _count_or_path(text: str) -> int | Path:
    try:
        return int(text)
    except ValueError:
        return Path(text)


def add_resize_options(parser: OptionHolder, size_help: str) -> None:
    """Add `--size`, `--resize` and `--short-side` to a parser or a group of one."""
    parser.add_argument("--size", metavar="HxW", type=_size, help=size_help)
    parser.add_argument(
        "--resize", choices=RESIZE_MODES, default="warp",
        help="warp: to the size, whatever the aspect ratio; letterbox: keep it, fill up with zeros; crop: short side, "
        "then the centre (default: warp)",
    )  # fmt: skip
    parser.add_argument(
        "--short-side", metavar="N", type=int, help="with --resize crop: length of the short side before"
    )


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HEIGHTxWIDTH, like 224x224")
    return int(height), int(width)


def _value(text: str) -> tuple[str, tuple[float, ...]]:
    blob, equals, values = text.rpartition("=")
    if not (blob and equals):
        raise argparse.ArgumentTypeError(f"{text!r} gives no value; expected BLOB=V[,V], like im_info=600,800,1")
    return blob, numbers(values)


def numbers(text: str) -> tuple[float, ...]:
    """Take numbers with commas between them as an argument."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, and no list of numbers with commas") from None
