"""Tries out an installed calib8, outside of the checkout: `python try_wheel.py EXAMPLE_FOLDER`, see `make wheel-check`.

EXAMPLE_FOLDER is copied to a scratch folder and calibrated there, by the installed command.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import files, version
from pathlib import Path

import caffe
import calib8

_SHIPPED = (
    "calib8/py.typed", "calib8/proto/caffe.proto", "calib8/proto/caffe_pb2.pyi", "calib8/proto/LICENSE.caffe",
    "calib8/report/page/page.css", "calib8/report/page/vendor/sortable.min.js",
    "calib8/report/page/vendor/LICENSE.sortable",
    "caffe/__init__.py", f"calib8-{calib8.__version__}.dist-info/licenses/LICENSE",
)  # fmt: skip
_MADE = ("_int8.caffemodel", "_calibration_table", "_calibration_table.pb2", "_calibration_table.prototxt")


def check_installation() -> None:
    """Check that what is imported is what was installed, with all its files and one version."""
    place = Path(sysconfig.get_path("purelib"))
    platform_place = Path(sysconfig.get_path("platlib"))
    for module in (calib8, caffe):
        if Path(module.__file__).parent.parent not in (place, platform_place):
            sys.exit(f"{module.__name__} comes from {module.__file__}, not from the wheel in {place}")
    if version("calib8") != calib8.__version__:
        sys.exit(f"the metadata say {version('calib8')}, calib8.__version__ is {calib8.__version__}")
    shipped = {str(file) for file in files("calib8") or ()}
    missing = [name for name in _SHIPPED if name not in shipped]
    if missing:
        sys.exit(f"the wheel lacks {', '.join(missing)}")


def calibrate(example: Path, scratch: Path) -> None:
    """Calibrate the example in a folder that has nothing of the checkout."""
    shutil.copytree(example, scratch / "digits", ignore=shutil.ignore_patterns("bmnet_*"))
    command = Path(sysconfig.get_path("scripts")) / "calib8"
    for arguments in (["--version"], ["calibrate", "digits", "digits", "-n", "150"]):
        print("$ calib8", *arguments, flush=True)
        subprocess.run([command, *arguments], cwd=scratch, check=True)
    missing = [end for end in _MADE if not (scratch / "digits" / f"bmnet_digits{end}").is_file()]
    if missing:
        sys.exit(f"calib8 calibrate wrote no {', '.join(missing)}")


def main() -> None:
    """Run both checks; end with an error at the first that fails."""
    check_installation()
    with tempfile.TemporaryDirectory() as scratch:
        calibrate(Path(sys.argv[1]).resolve(), Path(scratch))


if __name__ == "__main__":
    main()
