"""Tune every layer in order. See `python main.py --help`."""

import sys

from calib8.cli.tuning_tool import run_part

if __name__ == "__main__":
    sys.exit(run_part("all"))
