"""Tune one layer, given its difference before. See `python tune.py --help`."""

import sys

from calib8.cli.tuning_tool import run_part

if __name__ == "__main__":
    sys.exit(run_part("tune"))
