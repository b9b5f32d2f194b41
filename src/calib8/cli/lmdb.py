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

_SHOWN = 20


def run(options: argparse.Namespace) -> int:
    """Run one of the commands on LMDBs.

    Returns:
        The exit code.
    """
    return {"create": create, "show": show, "mean": mean}[options.action](options)


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
