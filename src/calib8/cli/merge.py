"""`calib8 merge FILE FILE ..`: histograms of parts of the data become those of the whole."""

from __future__ import annotations

import argparse

from calib8.atomic import claim_folder
from calib8.errors import OptionError
from calib8.measure.histogram_file import read_histograms
from calib8.workflow import merge_histograms, write_histograms


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
