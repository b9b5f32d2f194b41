"""`calib8 lmdb create|show|mean`: LMDBs for Caffe's Data layer, without Caffe.

What `show --json` prints: {"path", "records", "raw", "encoded", "shapes": [{"shape", "records"}],
"labels": [{"label", "records"}], "channel_means", "first_keys"}; channel_means is null where records have different
numbers of channels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from calib8.atomic import claim_folder, write_atomically
from calib8.cli.images import add_resize_options
from calib8.cli.options import Commands
from calib8.cli.progress import ProgressLine
from calib8.data.files import read_lines
from calib8.data.image_records import RecordOptions, image_records, labelled_images
from calib8.data.lmdb_env import LmdbRecords
from calib8.data.lmdb_summary import LmdbSummary, mean_image, record_at, summarize
from calib8.data.lmdb_writer import check_target, write_lmdb
from calib8.data.mean import mean_bytes
from calib8.data.preprocess import Preprocess
from calib8.errors import DataError, OptionError
from calib8.graph import Shape
from calib8.reading import is_folder
from calib8.terminal import printable

_CREATE = """\
Write the images of a list, or of a folder, as an LMDB for Caffe's Data layer.

SOURCE is a text file with a line `path label` for each image, a folder of images (label 0), or a folder with a folder
of images for each class (labels 0, 1, .. in the order of their names, or of --labels). Keys and records are those of
Caffe's convert_imageset: raw pixels in BGR, or the bytes of image files with --encoded. The same images give the same
bytes. The LMDB is there when it is complete; if an image cannot be used, nothing is written."""

_CREATE_EPILOG = """\
examples:
  calib8 lmdb create photos/ calibration_lmdb --size 224x224 --shuffle 1
  calib8 lmdb create val.txt val_lmdb --size 256x256 --resize crop
  calib8 lmdb create classes/ lmdb --encoded"""

_SHOWN = 20


def add_parser(commands: Commands) -> None:
    """Add this command, and its own commands."""
    parser = commands.add_parser("lmdb", help="make and look into LMDBs", description="Make and look into LMDBs.")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_create(actions)
    _add_show(actions)
    _add_mean(actions)
    for action in actions.choices.values():
        action.add_argument("-v", "--verbose", action="store_true", help="say also what is done")


def _add_create(actions: Commands) -> None:
    parser = actions.add_parser(
        "create", help="from images", description=_CREATE, epilog=_CREATE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=create)
    parser.add_argument("source", metavar="SOURCE", type=Path, help="list of images, or folder")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the LMDB, a folder that does not exist yet")
    add_resize_options(parser, "size of all images, HEIGHTxWIDTH (default: as they are)")
    parser.add_argument("--gray", action="store_true", help="one channel instead of three")
    parser.add_argument(
        "--encoded", action="store_true",
        help="store image files instead of pixels: as they are, or as PNG if they are resized",
    )  # fmt: skip
    parser.add_argument("--shuffle", metavar="SEED", type=int, help="shuffle; the number decides the order")
    parser.add_argument("--labels", metavar="FILE", type=Path, help="names of classes, a line each, in order")
    parser.add_argument("--force", action="store_true", help="replace an LMDB that is there")


def _add_show(actions: Commands) -> None:
    parser = actions.add_parser("show", help="what is in one", description="Say what is in an LMDB of Caffe's.")
    parser.set_defaults(run=show)
    parser.add_argument("path", metavar="PATH", type=Path, help="the LMDB")
    parser.add_argument("-n", type=int, default=5, metavar="N", help="how many keys are shown (default: %(default)s)")
    parser.add_argument(
        "--image", nargs=2, metavar=("INDEX", "FILE"), help="write the image with this number, from 0, to a .png"
    )
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")


def _add_mean(actions: Commands) -> None:
    parser = actions.add_parser(
        "mean", help="the mean image", description="Write the mean of all images for transform_param.mean_file."
    )
    parser.set_defaults(run=mean)
    parser.add_argument("path", metavar="PATH", type=Path, help="the LMDB")
    parser.add_argument("output", metavar="FILE.binaryproto", type=Path, help="where it goes")


def create(options: argparse.Namespace) -> int:
    """Write an LMDB.

    Returns:
        The exit code.
    """
    check_target(options.output, force=options.force)  # before hours of work
    with claim_folder(options.output.parent):
        return _create(options)


def _create(options: argparse.Namespace) -> int:
    classes = [x for line in read_lines(options.labels, "labels") if (x := line.strip())] if options.labels else []
    labelled = labelled_images(options.source, classes)
    if options.shuffle is not None:
        labelled = labelled.shuffled(options.shuffle)
    root = options.source if is_folder(options.source) else options.source.parent
    wanted = RecordOptions(_preprocess(options), options.gray, options.encoded)
    with ProgressLine("writing", len(labelled.images)) as progress:
        write_lmdb(options.output, image_records(labelled.images, root, wanted, progress), force=options.force)
    for label, name in enumerate(labelled.classes):
        print(f"{label} {printable(name)}")
    print(f"{options.output}: {len(labelled.images)} records")
    return 0


def _preprocess(options: argparse.Namespace) -> Preprocess:
    if options.size is None and (options.resize != "warp" or options.short_side is not None):
        raise OptionError("--resize and --short-side say how images get a size: give --size, too")
    return Preprocess(size=options.size, resize=options.resize, short_side=options.short_side)


def show(options: argparse.Namespace) -> int:
    """Print what is in an LMDB, and write one of its images.

    Returns:
        The exit code.
    """
    records = LmdbRecords(options.path, "lmdb")
    if options.image is not None:
        _write_image(records, *options.image)
    with ProgressLine("reading", records.count) as progress:
        summary = summarize(records, options.n, progress)
    print(json.dumps(as_json(summary, options.path), indent=1) if options.json else as_text(summary, options.path))
    return 0


def as_json(summary: LmdbSummary, path: Path) -> dict[str, object]:
    """Make the object that the module's text documents."""
    return {
        "path": str(path),
        "records": summary.records,
        "raw": summary.records - summary.encoded,
        "encoded": summary.encoded,
        "shapes": [{"shape": shape, "records": n} for shape, n in sorted(summary.shapes.items())],
        "labels": [{"label": label, "records": n} for label, n in sorted(summary.labels.items())],
        "channel_means": summary.channel_means,
        "first_keys": summary.first_keys,
    }


def as_text(summary: LmdbSummary, path: Path) -> str:
    """Write the same for people."""
    counts = {"pixels": summary.records - summary.encoded, "image files": summary.encoded}
    shapes, labels = sorted(summary.shapes.items()), sorted(summary.labels.items())
    means = summary.channel_means
    lines = [
        f"{path}: {summary.records} records",
        f"stored as  {', '.join(f'{what} ({n})' for what, n in counts.items() if n)}",
        f"shapes     {_some([f'{_by_x(shape)} ({n})' for shape, n in shapes])}",
        f"labels     {_some([f'{label} ({n})' for label, n in labels])}",
        f"mean       {'numbers of channels differ' if means is None else ', '.join(f'{m:.4f}' for m in means)}",
    ]
    if summary.first_keys:
        lines.append(f"keys       {', '.join(map(printable, summary.first_keys))}")
    return "\n".join(lines)


def _by_x(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _write_image(records: LmdbRecords, index: str, name: str) -> None:
    if not index.isdecimal():
        raise OptionError(f"--image {index}: expected the number of a record, from 0, and a file")
    sample = record_at(records, int(index))
    if sample.pixels.dtype != np.uint8 or sample.pixels.shape[0] not in (1, 3):
        raise DataError(
            f"{records.path}: record {index} has {sample.pixels.shape[0]} channels of {sample.pixels.dtype}; "
            "only 1 or 3 channels of 8 bits make an image"
        )
    with write_atomically(name) as file:
        file.write(cv2.imencode(".png", np.ascontiguousarray(sample.pixels.transpose(1, 2, 0)))[1].tobytes())


def mean(options: argparse.Namespace) -> int:
    """Write the mean image and print the mean of each channel.

    Returns:
        The exit code.
    """
    records = LmdbRecords(options.path, "lmdb")
    with claim_folder(options.output.parent):
        with ProgressLine("reading", records.count) as progress:
            mean = mean_image(records, progress)
        with write_atomically(options.output) as file:
            file.write(mean_bytes(mean))
    channels = mean.mean(axis=(1, 2), dtype=np.float64)
    print(f"{options.output}: {_by_x(mean.shape)}, mean of each channel {', '.join(f'{m:.4f}' for m in channels)}")
    return 0
