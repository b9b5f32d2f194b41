"""The command line of `calib8 merge`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.cli.arguments.common_options import Commands, add_common_options

_DESCRIPTION = """\
Merge files that `calib8 calibrate --histograms` has written into the file that one run over all samples would have
written, to the byte, in whatever order they are named.

Files must be of one network, one preparation of the samples, and one number of bins. Exact counts, which --method kl
needs, can be merged only where they were counted over the same maxima; the second example shows how."""

_EPILOG = """\
examples:
  calib8 merge part1.hist part2.hist --output all.hist

two machines with half of the images each, and exact counts for kl:
  calib8 calibrate net PATH -n 1000 --images list --shard 1/2 --histograms part1.hist      on one
  calib8 calibrate net PATH -n 1000 --images list --shard 2/2 --histograms part2.hist      on the other
  calib8 merge part1.hist part2.hist --output maxima.hist
  calib8 calibrate net PATH -n 1000 --images list --shard 1/2 --histograms part1.hist --maxima maxima.hist
  calib8 calibrate net PATH -n 1000 --images list --shard 2/2 --histograms part2.hist --maxima maxima.hist
  calib8 merge part1.hist part2.hist --output all.hist"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "merge", help="merge histograms of parts of the data", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="files of histograms, two or more")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="where the merged ones go")
    add_common_options(parser)
