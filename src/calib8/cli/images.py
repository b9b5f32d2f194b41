"""A network with the images that the options name."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.cli.arguments.image_options import numbers
from calib8.data import Preprocess
from calib8.errors import OptionError
from calib8.graph import Shape
from calib8.workflow import Arrays, Images, Network, open_network
from calib8.workflow.samples import labels_are_in_order


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


def _mean(text: str) -> tuple[float, ...] | str:
    if not text:
        return ()
    try:
        return numbers(text)
    except argparse.ArgumentTypeError:
        return text
