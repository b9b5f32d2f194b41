"""The command line of `calib8 lmdb create|show|mean`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.cli.arguments.common_options import Commands
from calib8.cli.arguments.image_options import add_resize_options

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


def add_parser(commands: Commands) -> None:
    """Add this command, and its own commands."""
    parser = commands.add_parser("lmdb", help="make and look into LMDBs", description="Make and look into LMDBs.")
    actions = parser.add_subparsers(dest="action", title="commands", metavar="COMMAND", required=True)
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
    parser.add_argument("path", metavar="PATH", type=Path, help="the LMDB")
    parser.add_argument("output", metavar="FILE.binaryproto", type=Path, help="where it goes")
