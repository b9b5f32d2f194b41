"""`Calibration`, the guide's own class: from a prototxt, a caffemodel and data to the files of the BM1880 compiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from calib8.boundary import closed_class
from calib8.choices import DEFAULT_BINS, DEFAULT_IMAGES
from calib8.data import SampleSource
from calib8.errors import OptionError
from calib8.export import write_calibration_files, write_calibration_table, write_weights
from calib8.lowering import Model
from calib8.measure.histogram import BlobHistogram, check_bins
from calib8.measure.thresholds import ORIGINAL_METHOD, ThresholdOptions
from calib8.quantize import QuantPlan
from calib8.workflow import (
    CalibrateOptions,
    CalibrationResult,
    Images,
    Network,
    Progress,
    calibrate,
    calibrate_again,
    calibrate_given,
    open_network,
)


@dataclass(frozen=True)
class CalibrationInfo:
    """The guide's `calibration_info`.

    Attributes:
        model_name: name of the network in the calibration table.
        in_prototxt, in_caffemodel: the FP32 network.
        iteration: how many images are used; None for 100, or all where there are fewer.
        enable_memory_opt: free every blob behind its last reader. Lower peak, somewhat slower, the same result.
        enable_calibration_opt: one pass over the data instead of two. Maxima are exact; a value can be counted in
            the bin beside its own if it lies within 1/4 of a bin of the edge between them. The method `kl`, which has
            to give the original's thresholds, takes two passes whatever is set here.
        histogram_bin_num: bins of a histogram, a multiple of 128.
        enable_concat_quantize: every bottom of a Concat keeps its own threshold.
        math_lib_path: the original's own library; accepted, not needed.
    """

    model_name: str
    in_prototxt: str
    in_caffemodel: str
    iteration: int | None = None
    enable_memory_opt: bool = False
    enable_calibration_opt: bool = True
    histogram_bin_num: int = DEFAULT_BINS
    enable_concat_quantize: bool = False
    math_lib_path: str = ""

    @classmethod
    def read(cls, info: Mapping[str, Any]) -> CalibrationInfo:
        """Check a dictionary as users write it.

        Raises:
            OptionError: all keys that are unknown or missing, and all values that a key cannot have.
        """
        known = {f.name: f for f in fields(cls)}
        problems = [
            f"unknown key {key!r}; known are {', '.join(known)}" for key in sorted(map(str, info)) if key not in known
        ]
        problems += [f"{n} is missing" for n, f in known.items() if f.default is MISSING and n not in info]
        values: dict[str, Any] = {}
        for name, field in known.items():
            if name in info:
                try:
                    values[name] = _READERS[str(field.type)](info[name])
                except (TypeError, ValueError) as why:
                    problems.append(f"{name} is {info[name]!r}; expected {why}")
        if problems:
            raise OptionError("calibration_info cannot be used", problems)
        check_bins(int(values.get("histogram_bin_num", DEFAULT_BINS)), "histogram_bin_num")
        return cls(**values)


def _text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError("a text")
    return os.fspath(value)


def _switch(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError("0 or 1, False or True")
    return bool(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError("a whole number")
    return int(value)


def _whole_or_none(value: Any) -> int | None:
    return None if value is None else _whole(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "str": _text, "int": _whole, "int | None": _whole_or_none, "bool": _switch,
}  # fmt: skip


@closed_class
class Calibration:
    """Measures thresholds and quantises a network, as in the guide; a face of `calib8.calibrate`.

        calibration = Calibration({"model_name": "lenet", "in_prototxt": ..., "in_caffemodel": ..., "iteration": 100})
        calibration.calc_tables()
        calibration.export_model("bmnet_lenet_int8.caffemodel")
        calibration.export_calibration_pb2("bmnet_lenet_calibration_table")

    Args:
        calibration_info: the guide's dictionary; see `CalibrationInfo`.
        source: the samples, or images that become samples; None takes them from the network's own data layer.
        method: how a threshold is found, one of `calib8.measure.thresholds.METHODS`; None tries several, and takes the
            best for the network.
        threshold_options: parameters of the method.
        repair: how much is done to lose less in INT8, one of `calib8.repair.LEVELS`.
        without: parts of the repair that are left out, names of `calib8.repair.PASSES`.
        original: do what the original tool does, and nothing else: its method, and integers by the contract alone.
        threads: None takes all cores.
        progress: called with the number of images done, counting every pass.

    Attributes:
        info: the checked dictionary.

    Raises:
        OptionError: a key or a value that is not possible, or another method beside `original`.
    """

    def __init__(
        self,
        calibration_info: Mapping[str, Any],
        *,
        source: SampleSource | Images | None = None,
        method: str | None = None,
        threshold_options: ThresholdOptions = ThresholdOptions(),
        repair: str = "standard",
        without: Collection[str] = (),
        original: bool = False,
        threads: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.info = CalibrationInfo.read(calibration_info)
        self._source, self._progress = source, progress
        if original and method not in (None, ORIGINAL_METHOD):
            raise OptionError(
                f"the original tool's method is {ORIGINAL_METHOD}: it cannot be {method!r} with `original`"
            )
        options = CalibrateOptions(
            iteration=DEFAULT_IMAGES if self.info.iteration is None else self.info.iteration,
            bins=self.info.histogram_bin_num,
            two_pass=not self.info.enable_calibration_opt, memory_opt=self.info.enable_memory_opt, threads=threads,
            method=method, threshold=threshold_options, repair=repair, without=frozenset(without),
            concat_quantize=self.info.enable_concat_quantize,
        )  # fmt: skip
        self._options = options.as_original() if original else options
        self._result: CalibrationResult | None = None

    @cached_property
    def network(self) -> Network:
        """The FP32 network with its samples, read when it is first needed."""
        return open_network(self.info.in_prototxt, self.info.in_caffemodel, self._source)

    @property
    def model(self) -> Model:
        """The FP32 network."""
        return self.network.model

    @property
    def result(self) -> CalibrationResult:
        """What `calc_tables`, `find_tables` or `tune_tables` has found.

        Raises:
            OptionError: none of them was called.
        """
        if self._result is None:
            raise OptionError("nothing is quantised yet: call calc_tables() or tune_tables(thresholds) first")
        return self._result

    @property
    def plan(self) -> QuantPlan:
        """The quantised network: thresholds after folding, and all integers.

        Raises:
            OptionError: nothing is quantised yet.
        """
        return self.result.plan

    @property
    def histograms(self) -> Mapping[str, BlobHistogram]:
        """The histograms by value, after `calc_tables`."""
        return {} if self._result is None else self._result.histograms

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The measured or given thresholds by value, before folding."""
        return {} if self._result is None else self._result.thresholds

    @property
    def _fitting(self) -> CalibrateOptions:
        return self._options if self.info.iteration is not None else self._options.at_most(self.network.samples)

    def calc_tables(self) -> None:
        """Run the calibration images through the network, find the thresholds and quantise.

        Raises:
            ModelError, DataError, UserLayerError: the network or the data cannot be used.
            QuantizationError: thresholds that the integer contract cannot express; all of them.
        """
        self._result = calibrate(self.network, self._fitting, self._told)

    def find_tables(self, method: str, threshold_options: ThresholdOptions = ThresholdOptions()) -> None:
        """Find the thresholds anew, by another method, from the histograms that `calc_tables` collected.

        Runs the images again where the method needs others: `kl` measures before a ReLU, and counts in two passes; all
        other methods measure behind it.

        Raises:
            OptionError: there are no histograms, or no such method.
            QuantizationError: as `calc_tables`.
        """
        if not self.histograms:
            raise OptionError("there are no histograms yet: call calc_tables() first")
        options = replace(self._fitting, method=method, threshold=threshold_options)
        self._result = calibrate_again(self.network, self.histograms, options, self._told)

    def tune_tables(self, thresholds: Mapping[str, float]) -> None:
        """Quantise with given thresholds, which are not moved, and repair the integers, if there are images for it.

        Thresholds that are not given stay as they were measured or given before.

        Args:
            thresholds: in real units, by layer name (meaning the layer's first top) or by blob name.

        Raises:
            OptionError: names that the network does not have, or two thresholds for blobs that share one; all of them.
            TableError: blobs that have no threshold yet; all of them.
            QuantizationError: as `calc_tables`.
        """
        self._result = calibrate_given(self.network, thresholds, self._options, self._told, before=self._result)

    def export_model(self, path: str | os.PathLike[str]) -> None:
        """Write the int8 caffemodel, and the record of its run beside it.

        Raises:
            OptionError: nothing is quantised yet, or the folder cannot be written.
        """
        write_weights(path, self.info.model_name, self.model, self.plan)

    def export_calibration_pb2(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration table: `path` (plain), `path`.pb2 and `path`.prototxt.

        Raises:
            OptionError: nothing is quantised yet, or the folder cannot be written.
        """
        write_calibration_table(path, self.info.model_name, self.model, self.plan)

    export_calirabtion_pb2 = export_calibration_pb2
    """The original's spelling."""

    def export(self, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write all four files under the guide's names: all of them or none; returns their paths.

        Raises:
            OptionError: nothing is quantised yet, or the folder cannot be written.
        """
        return write_calibration_files(folder, self.info.model_name, self.model, self.plan)

    def _told(self, progress: Progress) -> None:
        self._progress(progress.done)
