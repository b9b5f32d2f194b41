"""The commands of the original auto tuning tool, as `calib8 tune` answers them; see calibration_tool/tuning."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from calib8.cli.boundary import guarded
from calib8.cli.main import main
from calib8.errors import TableError

_PARAMETERS = (
    ("model", "FP32 caffemodel"),
    ("proto", "FP32 prototxt"),
    ("calibration_model", "INT8 caffemodel to tune"),
    ("calibration_proto", "calibration table to tune, .pb2 or .prototxt"),
    ("output_path", "folder for the tuned files and report.log"),
)
_PASSED_ON = (
    ("data_list", "file with a path of an image in each line (default: the network's data layer)"),
    ("image_params", "JSON: size [h, w], padding, mirror, color_format, r_mean, g_mean, b_mean, scale"),
    ("ignore_layer_list", "layers that are left alone: names with commas, or a file with a name a line"),
)


def run_part(part: str, arguments: Sequence[str] | None = None) -> int:
    """Run one of the original's commands; options that it does not know go to `calib8 tune`.

    Args:
        part: "all", "test" or "tune".

    Returns:
        The exit code.
    """
    return guarded(Path(sys.argv[0]).name, lambda: _run(part, arguments))


def _run(part: str, arguments: Sequence[str] | None) -> int:
    options, further = _parser(part).parse_known_args(arguments)
    command = [
        "tune",
        _name(options.calibration_proto),
        str(options.proto.parent),
        "--output_path",
        str(options.output_path),
        "--search",
        "original",
    ]
    command += ["--part", part, "--held-out", "0", "--data_limit", str(options.data_limit)]
    for parameter, _ in _PARAMETERS[:-1]:
        command += [f"--{parameter}", str(getattr(options, parameter))]
    for parameter in (*(p for p, _ in _PASSED_ON), *(("layer",) if part != "all" else ())):
        if getattr(options, parameter):
            command += [f"--{parameter}", getattr(options, parameter)]
    if part == "tune" and options.difference is not None:
        command += ["--difference", repr(options.difference)]
    return main([*command, *further])


def _parser(part: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(epilog="Any option of `calib8 tune` can be given as well.", allow_abbrev=False)
    for parameter, what in _PARAMETERS:
        parser.add_argument(f"--{parameter}", type=Path, required=True, metavar="PATH", help=what)
    parser.add_argument(
        "--data_limit", type=int, default=10, metavar="N", help="how many images are used (default: 10)"
    )
    for parameter, what in _PASSED_ON:
        parser.add_argument(f"--{parameter}", help=what)
    if part != "all":
        what = "layer to tune" if part == "tune" else "layer up to which INT8 is tested (default: every layer)"
        parser.add_argument("--layer", required=part == "tune", help=what)
    if part == "tune":
        parser.add_argument("--difference", type=float, metavar="D", help="of the layer before, as test.py reports it")
    return parser


def _name(table: Path) -> str:
    """The network's name, which becomes part of the files' names."""
    from calib8.export import table_name  # noqa: PLC0415 - large, so inside of the boundary

    name = table_name(table)
    if Path(name).name != name:
        raise TableError(f"{table}: the network's name {name!r} cannot be part of a file's name")
    return name
