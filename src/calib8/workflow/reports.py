"""The results of judging and tuning as files, whole or not at all; those of a calibration are in `calib8.export`."""

from __future__ import annotations

import os
from pathlib import Path

from calib8.analyze.pictures import sensitivity_picture, shown_tops
from calib8.analyze.report import difference_log, mixed_json, sensitivity_csv, sensitivity_json, tuning_json
from calib8.analyze.sensitivity import Sensitivity
from calib8.export import write_calibration_files, write_files, write_set
from calib8.export.record import run_of
from calib8.workflow.calibrating import MeasureOptions, measure_histograms
from calib8.workflow.network import Network
from calib8.workflow.progress import ProgressCallback, quiet
from calib8.workflow.tuning import LayerDamage, MixedResult, TuneResult

Folder = str | os.PathLike[str]


def write_sensitivity(
    folder: Folder, name: str, measured: Sensitivity, origin: str, picture: bytes | None = None
) -> tuple[Path, ...]:
    """Write `bmnet_NAME_sensitivity.json`, `.csv` and, where there is a picture, `.png`; returns their paths.

    Args:
        origin: where the thresholds come from, as a `CalibrationResult` has it.
        picture: as `draw_sensitivity` makes it.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    base = f"bmnet_{name}_sensitivity"
    contents = {f"{base}.json": sensitivity_json(name, origin, measured), f"{base}.csv": sensitivity_csv(measured)}
    if picture is not None:
        contents[f"{base}.png"] = picture
    return write_files(folder, contents.items())


def draw_sensitivity(
    network: Network,
    name: str,
    measured: Sensitivity,
    options: MeasureOptions = MeasureOptions(),
    progress: ProgressCallback = quiet,
) -> bytes:
    """Draw the damage along the network, and values and thresholds of the worst layers, as a PNG; needs matplotlib.

    Args:
        options: over which samples the values are counted.
    """
    values = tuple(dict.fromkeys(shown_tops(measured)))
    return sensitivity_picture(name, measured, measure_histograms(network, values, options, progress))


def write_tuning(folder: Folder, name: str, network: Network, result: TuneResult) -> tuple[Path, ...]:
    """Write the four files of the calibration, `bmnet_NAME_tuning.json` and `report.log`; returns their paths.

    Beside them goes `bmnet_NAME.calib8.json`, the record of their run.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    report = tuning_json(
        name, result.search, result.metric, (result.tuned, result.held_out), result.before, result.found,
        network.of_one_sample,
    )  # fmt: skip
    beside = {f"bmnet_{name}_tuning.json": report, "report.log": difference_log(result.differences)}
    return write_calibration_files(folder, name, network.model, result.plan, beside=beside.items())


def write_layer_damage(folder: Folder, damage: LayerDamage) -> tuple[Path, ...]:
    """Write the original tool's `report.log`; returns its path.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    return write_files(folder, [("report.log", difference_log(damage.differences))])


def write_mixed(folder: Folder, name: str, network: Network, result: MixedResult) -> tuple[Path, ...]:
    """Write `bmnet_NAME_mixed.json`, `_int8_layer.txt` and `_fp32_layers.txt`; returns their paths.

    Beside them goes `bmnet_NAME_mixed.calib8.json`, the record of the run that they are for.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    base, proposal = f"bmnet_{name}", result.found
    contents = {
        f"{base}_mixed.json": mixed_json(name, result.metric, result.samples, result.max_drop, proposal),
        f"{base}_int8_layer.txt": f"{proposal.int8_layer}\n".encode(),
        f"{base}_fp32_layers.txt": "".join(f"{layer}\n" for layer in proposal.fp32_layers).encode(),
    }
    run = run_of(name, network.model, result.plan)
    return write_set(folder, f"{base}_mixed", contents.items(), name, run)
