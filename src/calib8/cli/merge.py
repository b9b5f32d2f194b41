"""`calib8 merge FILE FILE ..`: histograms of parts of the data become those of the whole."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.atomic import claim_folder
from calib8.cli.options import Commands, add_common_options
from calib8.errors import OptionError
from calib8.measure.histogram_file import read_histograms
from calib8.workflow import merge_histograms, write_histograms

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
    parser.set_defaults(run=run)
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="files of histograms, two or more")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="where the merged ones go")
    add_common_options(parser)


def run(options: argparse.Namespace) -> int:
    """Merge and write.

    Returns:
        The exit code.
    """
    names = [str(path) for path in options.files]
    if len(names) < 2 or len(set(names)) < len(names):
        raise OptionError("merging takes two files or more, each named once")
    with claim_folder(options.output.parent):
        sets = {name: read_histograms(name) for name in names}
        merged = merge_histograms(sets)
        write_histograms(options.output, merged)
    print(f"{options.output}: {merged.samples.size} samples of {len(names)} files")
    if not merged.exact and any(one.exact for one in sets.values()):
        print(
            "exact counts were left out: they are over different maxima. Count each part again with "
            f"--maxima {options.output} and merge the parts again; only --method kl and --two-pass need that"
        )
    return 0
