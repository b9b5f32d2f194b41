"""Report the difference between INT8 and FP32 of one layer, or of every layer. See `python test.py --help`."""

import sys

from calib8.cli.tuning_tool import run_part

if __name__ == "__main__":
    sys.exit(run_part("test"))
