"""Options that say which images are used and how they become samples, in the place of what fills an input."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calib8.cli.options import OptionHolder, add_shape_option
from calib8.data import Preprocess
from calib8.data.preprocess import COLOR_FORMATS, RESIZE_MODES
from calib8.errors import OptionError
from calib8.graph import Shape
from calib8.workflow import Arrays, Images, Network, open_network
from calib8.workflow.samples import labels_are_in_order


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
    add_shape_option(group, "shape of an input of an ONNX model that leaves it open; can be given several times")
    add_resize_options(group, "size of a sample (default: that of the input)")
    group.add_argument("--color", choices=COLOR_FORMATS, help="order of the channels (default: bgr, gray for one)")
    group.add_argument(
        "--mean", metavar="V[,V,V]|FILE", default="",
        help="one value, one per channel in the order of --color, or a .binaryproto or .npy file (default: 0)",
    )  # fmt: skip
    group.add_argument("--scale", metavar="V[,V,V]", type=_numbers, default=(1.0,), help="factor (default: 1)")
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


def without_bad(network: Network, options: argparse.Namespace, good: int | None = None) -> Network:
    """What `--skip-bad` leaves of a network's samples.

    Args:
        good: how many are needed; None looks at all.

    Raises:
        DataError: none is left.
        OptionError: labels in the order of the images, which are not in that order any more.
    """
    if not options.skip_bad:
        return network
    kept, labels = network.without_bad_samples(good), getattr(options, "labels", None)
    if kept is not network and labels is not None and labels_are_in_order(Path(labels)):
        raise OptionError(
            f"--labels {labels} has a number for each image in order, and --skip-bad leaves images out; write "
            "`file-name number` in each line"
        )
    return kept


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


def images_of(options: argparse.Namespace, preprocess: Preprocess | None = None) -> Images | Arrays | None:
    """Return the images or arrays that the options name; None without `--images` and without a file in `--samples`.

    Args:
        preprocess: how images become samples, in the place of what the options say.

    Raises:
        OptionError: both are named.
    """
    arrays = options.arrays
    if arrays is not None and options.images is not None:
        raise OptionError(f"--images {options.images} and --samples {arrays}: both give samples; keep one of them")
    if arrays is not None:
        return Arrays(arrays, dict(options.values))
    if options.images is None:
        return None
    return Images(options.images, options.input, dict(options.values), preprocess or _preprocess(options))


def open_files(options: argparse.Namespace) -> Network:
    """Open the network that NAME and PATH mean, with the samples that the options name."""
    return open_network(options.files.definition, options.files.weights, images_of(options), shapes=shapes_of(options))


def shapes_of(options: argparse.Namespace) -> dict[str, Shape]:
    """Return the shapes that the options give to inputs.

    Raises:
        OptionError: to those of a Caffe network, which has them in its prototxt.
    """
    if options.shapes and not options.files.is_onnx:
        raise OptionError("`shapes` are for ONNX models; a Caffe network has those of its inputs in the prototxt")
    return dict(options.shapes)


def _preprocess(options: argparse.Namespace) -> Preprocess:
    scale = options.scale[0] if len(options.scale) == 1 else options.scale
    return Preprocess(
        size=options.size, resize=options.resize, short_side=options.short_side, color_format=options.color,
        mean=_mean(options.mean), scale=scale, mirror=options.mirror,
    )  # fmt: skip


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HEIGHTxWIDTH, like 224x224")
    return int(height), int(width)


def _value(text: str) -> tuple[str, tuple[float, ...]]:
    blob, equals, numbers = text.rpartition("=")
    if not (blob and equals):
        raise argparse.ArgumentTypeError(f"{text!r} gives no value; expected BLOB=V[,V], like im_info=600,800,1")
    return blob, _numbers(numbers)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, and no list of numbers with commas") from None


def _mean(text: str) -> tuple[float, ...] | str:
    if not text:
        return ()
    try:
        return _numbers(text)
    except argparse.ArgumentTypeError:
        return text
