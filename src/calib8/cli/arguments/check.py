"""The command line of `calib8 check`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import PHASES
from calib8.cli.arguments.common_options import Commands, add_shape_option

_DESCRIPTION = """\
Say what is in a network and whether calib8 can use it. Run this first.

Prints a row for every layer: what it reads and writes, the shape of its tops, how many parameters it has, how many
multiply-adds one forward pass takes, and whether it will run in INT8 or in FP32, and why. Below it stand notes (what
was upgraded, left out or not read) and all problems, each with file and line; of more than 100, --json has all. With
problems the exit code is 1.

Nothing is executed: of layers in Python, and of what is behind them, --run-python finds the shapes.

Without CAFFEMODEL only the structure is checked; with it, also that every layer finds its weights. PROTOTXT may be a
folder with deploy.prototxt and, perhaps, custom.caffemodel. Or it is an ONNX model, which holds its weights: the rows
are the layers that its operators become, and the problems are all operators that none computes."""

_EPILOG = """\
examples:
  calib8 check models/lenet
  calib8 check deploy.prototxt weights.caffemodel
  calib8 check train_val.prototxt --shape data=1,3,224,224
  calib8 check net.onnx
  calib8 check deploy.prototxt --json | python -c "import json,sys; print(json.load(sys.stdin)['totals'])"

The shapes of a data layer follow from its data. Where these are not at hand, give the shapes with --shape.

what --json prints, one object (keys are added, never renamed or removed):
  prototxt, caffemodel   the files; caffemodel is null when only the structure was checked, and for an ONNX model,
                         which stands in prototxt
  phase                  "TRAIN" or "TEST"
  usable                 whether there are no problems
  name                   the network's name in the prototxt
  inputs, outputs        [{"blob", "shape"}]
  layers                 [{"name", "type", "line", "bottoms", "tops", "bottom_shapes", "top_shapes", "parameters",
                         "multiply_adds", "precision", "reason"}] in the order of execution; a shape is a list of
                         numbers; shape, parameters and multiply_adds are null where a problem hides them; line is 0
                         for an Input layer made of an old `input` field, and in ONNX models; precision is "INT8",
                         "FP32" or null
  totals                 {"layers", "parameters", "multiply_adds", "int8_layers", "fp32_layers",
                         "int8_multiply_adds"}
  problems, notes        lists of sentences
  not_run                the same: layers in Python, see --run-python; usable says nothing of what is behind them"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "check", help="say what is in a network, and what is wrong with it", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "prototxt", metavar="PROTOTXT", type=Path, help="the network's definition, or its folder; or an ONNX model"
    )
    parser.add_argument("caffemodel", metavar="CAFFEMODEL", type=Path, nargs="?", help="its weights")
    add_shape_option(parser)
    parser.add_argument(
        "--phase", type=str.lower, choices=PHASES, default="test", help="which layers take part (default: test)"
    )
    parser.add_argument(
        "--run-python", action="store_true",
        help="execute the modules of layers in Python that PROTOTXT names, to learn their shapes; without it nothing "
        "that belongs to the network is executed",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object instead of the table")
    parser.add_argument("-v", "--verbose", action="store_true", help="say also what is done")
