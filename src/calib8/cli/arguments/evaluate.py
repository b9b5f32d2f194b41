"""The command line of `calib8 evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import USUAL_SAMPLES
from calib8.cli.arguments.common_options import Commands
from calib8.cli.arguments.judge_options import add_judge_options
from calib8.cli.arguments.start_options import add_start_options

_DESCRIPTION = """\
Say how much accuracy INT8 costs, on labelled samples: FP32 and INT8 side by side, with an interval for the difference.

What is measured follows from the outputs:
  classes          top-1 and top-5, against --labels or the labels of the network's data layer
  boxes            mAP at an overlap of 0.5 and over 0.5 to 0.95, as COCO's, against --boxes; of SSD's DetectionOutput,
                   and of YOLO's maps with --anchors
  maps of classes  mean intersection over union, against --maps
  pictures         PSNR and SSIM, against --pictures
  anything         a function of yours: --metric module:function

The interval is that of a paired bootstrap over the samples: where it holds 0, so few images cannot tell INT8 from FP32.
Take other samples than those of the calibration."""

_EPILOG = """\
examples:
  calib8 evaluate squeezenet models/squeezenet --images val/ --mean 104,117,123 --labels val.txt --samples 1000
  calib8 evaluate ssd models/ssd --images val/ --mean 127.5 --scale 0.00784 --boxes annotations.json --classes voc.txt
  calib8 evaluate yolo models/yolo --images val/ --color rgb --scale 0.00392 --anchors '10,13 16,30 ..' --boxes labels/
  calib8 evaluate lenet models/lenet --table a.pb2 --table b.pb2

what --json prints, one object (keys are added, never renamed or removed):
  network, samples, kind   the name, how many images, what the outputs say
  tables                   [{"table", "measures", "outputs"}]; measures are [{"measure", "unit", "fp32", "int8",
                           "difference", "low", "high", "sentence"}], outputs {"snr_db", "cosine", "top1"}"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "evaluate", help="say how much accuracy INT8 costs, on labelled data", description=_DESCRIPTION,
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_start_options(parser, samples=USUAL_SAMPLES["evaluate"], output="PATH, for the record alone")
    group = add_judge_options(parser)
    group.add_argument("--boxes", metavar="PATH", help="COCO's JSON, or a folder with YOLO's .txt or VOC's .xml files")
    group.add_argument("--maps", metavar="FOLDER", help="a PNG for each image, whose pixels are classes; 255 for none")
    group.add_argument("--pictures", metavar="FOLDER", help="the wanted picture for each image")
    group.add_argument(
        "--peak", type=float, default=255.0, metavar="V", help="largest value of a picture (default: 255)"
    )
    group.add_argument("--classes", metavar="FILE", type=Path, help="names of the network's classes, one a line")
    group.add_argument(
        "--own-classes", metavar="FILE", type=Path,
        help="names of the classes of --boxes, where YOLO's numbers are not the network's",
    )  # fmt: skip
    group = parser.add_argument_group("what runs in INT8")
    group.add_argument(
        "--table", metavar="FILE", type=Path, action="append", default=[], dest="tables",
        help="a calibration table, in the place of the files in PATH, with the int8 weights beside it, if any; "
        "of a plain one the thresholds alone; several are measured side by side",
    )  # fmt: skip
    group.add_argument("--int8-layers", metavar="LAYER[,..]", help="only these layers (default: all that can)")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
