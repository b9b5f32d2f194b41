"""What `calib8 sensitivity` and `calib8 tune` begin with: a network, its thresholds, and samples to run it on."""

from __future__ import annotations

import argparse

from calib8.cli.images import images_of, shapes_of, without_bad
from calib8.cli.measuring import calibrate_options
from calib8.data import read_image_params
from calib8.errors import OptionError
from calib8.reading import exists
from calib8.workflow import (
    Arrays,
    CalibrationResult,
    Images,
    Network,
    ProgressCallback,
    calibrate,
    calibrate_given,
    open_network,
    read_calibration,
    read_thresholds,
)


def open_start(options: argparse.Namespace, progress: ProgressCallback) -> tuple[Network, CalibrationResult]:
    """Open the network, and its integers: from `--thresholds`, from the files of PATH, or measured.

    Raises:
        Calib8Error: whatever is wrong with any of them.
    """
    options.files.require()
    if options.files.is_onnx and (options.proto or options.model):
        raise OptionError(
            f"{options.files.given}: an ONNX model is the network with its weights, and has no caffemodel: leave out "
            "`proto` and `model`"
        )
    network = open_network(
        options.proto or options.files.definition, options.model or options.files.weights, start_images(options),
        shapes=shapes_of(options),
    )  # fmt: skip
    _ = network.samples  # refuses a network without any
    network = without_bad(network, options)
    return network, _calibration(options, network, progress)


def _calibration(options: argparse.Namespace, network: Network, progress: ProgressCallback) -> CalibrationResult:
    if options.thresholds is not None:
        given, origin = read_thresholds(network, options.thresholds), str(options.thresholds)
        return calibrate_given(network, given, calibrate_options(options), progress, origin=origin)
    table = options.calibration_proto or options.path / f"bmnet_{options.name}_calibration_table.pb2"
    weights = options.calibration_model or options.path / f"bmnet_{options.name}_int8.caffemodel"
    asked_for = options.calibration_proto is not None or options.calibration_model is not None
    if asked_for or (options.method is None and not options.original and exists(table)):
        return read_calibration(network, table, weights)
    return calibrate(network, calibrate_options(options).at_most(network.samples), progress)


def start_images(options: argparse.Namespace) -> Images | Arrays | None:
    """Return the images or arrays that the options name; None for those of the network's own data layer.

    Raises:
        OptionError: options that do not go together.
    """
    preprocess = read_image_params(options.image_params) if options.image_params is not None else None
    images = images_of(options, preprocess)
    if images is None and preprocess is not None:
        raise OptionError("--image_params says how images become samples; give the images, too (--data_list LIST)")
    return images
