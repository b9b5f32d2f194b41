"""Calibrate the network of a folder; change the numbers below to your needs. See `python calibration.py --help`."""

import argparse
import sys
from pathlib import Path

from calib8 import Calibration
from calib8.cli.boundary import guarded
from calib8.repair import LEVELS


def run_calibration(args: argparse.Namespace) -> int:
    """Read deploy.prototxt and custom.caffemodel of the model's folder, write four files beside them."""
    folder = Path(args.model_path)
    calibration_info = {
        "model_name": args.model_name,
        "in_prototxt": str(folder / "deploy.prototxt"),
        "in_caffemodel": str(folder / "custom.caffemodel"),
        "iteration": None,  # a number of images; None takes 100, or all there are
        "enable_memory_opt": args.memory_opt,
        "enable_calibration_opt": 1,
        "histogram_bin_num": 2048,
        "math_lib_path": "./lib/calibration_math.so",  # as the original wants it; calib8 needs no such file
    }
    print(calibration_info, flush=True)

    calib = Calibration(calibration_info, repair=args.repair)
    calib.calc_tables()
    calib.export(folder)  # all files or none; export_model and export_calibration_pb2 write them one after the other
    return 0


def main() -> int:
    """Run, and turn errors into exit codes: 0, 1 (a message says why), 2 (usage)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model_name", metavar="model-name", help="model name")
    parser.add_argument("model_path", metavar="model-path", help="model path")
    parser.add_argument("--memory_opt", action="store_true", help="Enable memory optimization.")
    parser.add_argument(
        "--repair",
        choices=LEVELS,
        default="standard",
        help="how much is done to lose less in INT8 (default: %(default)s)",
    )
    args = parser.parse_args()
    return guarded("calibration.py", lambda: run_calibration(args))


if __name__ == "__main__":
    sys.exit(main())
