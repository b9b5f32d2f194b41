"""`Calibration`, the guide's own class: from a prototxt, a caffemodel and data to the files of the BM1880 compiler."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from calib8.calibrate.collect import CollectOptions, collect_histograms
from calib8.calibrate.histogram import DEFAULT_BINS, BlobHistogram, check_bins
from calib8.calibrate.thresholds import DEFAULT_METHOD, ThresholdOptions, find_threshold
from calib8.data import DATA_TYPES, SampleSource, open_source, takes
from calib8.engine import EngineOptions
from calib8.errors import DataError, OptionError
from calib8.export import write_calibration_files, write_calibration_table, write_int8_model
from calib8.graph import Shape
from calib8.graph.build import TEST
from calib8.graph.phase import layers_taking_part
from calib8.lowering import Model, build_model
from calib8.proto.caffe_pb2 import LayerParameter
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import Prototxt, read_prototxt
from calib8.quantize import QuantPlan, make_plan, observed_values, set_thresholds

_log = logging.getLogger(__name__)
DATA_LAYER = "data"
"""Name of the layer whose samples are used; the guide asks for it."""


@dataclass(frozen=True)
class CalibrationInfo:
    """The guide's `calibration_info`.

    Attributes:
        model_name: name of the network in the calibration table.
        in_prototxt, in_caffemodel: the FP32 network.
        iteration: how many images are used.
        enable_memory_opt: free every blob behind its last reader. Lower peak, somewhat slower, the same result.
        enable_calibration_opt: one pass over the data instead of two. Maxima are exact; a value can be counted in
            the bin beside its own if it lies within 1/4 of a bin of the edge between them.
        histogram_bin_num: bins of a histogram, a multiple of 128.
        enable_concat_quantize: every bottom of a Concat keeps its own threshold.
        math_lib_path: the original's own library; accepted, not needed.
    """

    model_name: str
    in_prototxt: str
    in_caffemodel: str
    iteration: int = 10
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
        check_bins(int(values.get("histogram_bin_num", DEFAULT_BINS)))
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


_READERS: dict[str, Callable[[Any], Any]] = {"str": _text, "int": _whole, "bool": _switch}


class Calibration:
    """Measures thresholds and quantises a network, as in the guide.

        calibration = Calibration({"model_name": "lenet", "in_prototxt": ..., "in_caffemodel": ..., "iteration": 100})
        calibration.calc_tables()
        calibration.export_model("bmnet_lenet_int8.caffemodel")
        calibration.export_calibration_pb2("bmnet_lenet_calibration_table")

    Args:
        calibration_info: the guide's dictionary; see `CalibrationInfo`.
        source: the samples; None takes them from the network's own data layer.
        method: how a threshold is found, one of `calib8.calibrate.thresholds.METHODS`.
        threshold_options: parameters of the method.
        threads: None takes all cores.
        progress: called with the number of images done, counting every pass.

    Attributes:
        info: the checked dictionary.
        histograms: by value, after `calc_tables`.
        thresholds: measured or given thresholds by value, before folding.
        plan: thresholds after folding and all integers.

    Raises:
        OptionError: a key or a value that is not possible.
    """

    def __init__(
        self,
        calibration_info: Mapping[str, Any],
        *,
        source: SampleSource | None = None,
        method: str = DEFAULT_METHOD,
        threshold_options: ThresholdOptions = ThresholdOptions(),
        threads: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.info = CalibrationInfo.read(calibration_info)
        self._source, self._progress = source, progress
        self._method, self._threshold_options = method, threshold_options
        self._engine = EngineOptions(threads=threads, release_blobs=self.info.enable_memory_opt)
        self._loaded: tuple[Prototxt, Model] | None = None
        self.histograms: Mapping[str, BlobHistogram] = {}
        self.thresholds: Mapping[str, float] = {}
        self._dead: frozenset[str] = frozenset()
        self._plan: QuantPlan | None = None

    @property
    def model(self) -> Model:
        """The FP32 network."""
        return self._load()[1]

    @property
    def plan(self) -> QuantPlan:
        """The quantised network.

        Raises:
            OptionError: neither `calc_tables` nor `tune_tables` was called.
        """
        if self._plan is None:
            raise OptionError("nothing is quantised yet: call calc_tables() or tune_tables(thresholds) first")
        return self._plan

    def calc_tables(self) -> None:
        """Run the calibration images through the network, find the thresholds and quantise.

        Raises:
            ModelError, DataError, UserLayerError: the network or the data cannot be used.
            QuantizationError: thresholds that the integer contract cannot express; all of them.
        """
        prototxt, model = self._load()
        source = self._source_of(prototxt)
        takes(source, self.info.iteration)  # refuses a wrong number before anything is computed
        options = CollectOptions(
            bins=self.info.histogram_bin_num,
            two_passes=not self.info.enable_calibration_opt,
            engine=self._engine,
        )
        self.histograms = collect_histograms(
            model, self._batches(source), observed_values(model, self.info.enable_concat_quantize),
            options, self._progress,
        )  # fmt: skip
        for value, histogram in self.histograms.items():
            _log_oddities(model, value, histogram)
        self.find_tables(self._method, self._threshold_options)

    def find_tables(self, method: str, threshold_options: ThresholdOptions = ThresholdOptions()) -> None:
        """Find the thresholds anew, by another method, from the histograms that `calc_tables` collected.

        Raises:
            OptionError: there are no histograms, or no such method.
            QuantizationError: as `calc_tables`.
        """
        if not self.histograms:
            raise OptionError("there are no histograms yet: call calc_tables() first")
        self._dead = frozenset(value for value, histogram in self.histograms.items() if histogram.dead)
        found = {v: find_threshold(h, method, threshold_options) for v, h in self.histograms.items()}
        self._quantize(found)

    def tune_tables(self, thresholds: Mapping[str, float]) -> None:
        """Quantise with given thresholds; those that are not given stay as they were measured or given before.

        Args:
            thresholds: in real units, by layer name (meaning the layer's first top) or by blob name.

        Raises:
            OptionError: names that the network does not have, or two thresholds for blobs that share one; all of them.
            TableError: blobs that have no threshold yet; all of them.
            QuantizationError: as `calc_tables`.
        """
        changed = set_thresholds(self.model, self.thresholds, thresholds, self.info.enable_concat_quantize)
        self._dead = frozenset(v for v in self._dead if changed.get(v) == self.thresholds.get(v))
        self._quantize(changed)

    def export_model(self, path: str | os.PathLike[str]) -> None:
        """Write the int8 caffemodel.

        Raises:
            OptionError: nothing is quantised yet, or the folder cannot be written.
        """
        write_int8_model(path, self.model, self.plan)

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

    def _quantize(self, thresholds: Mapping[str, float]) -> None:
        self._plan = make_plan(self.model, thresholds, self.info.enable_concat_quantize, self._dead)
        self.thresholds = thresholds
        for warning in self._plan.warnings:
            _log.warning("%s: %s", self.info.in_prototxt, warning)

    def _load(self) -> tuple[Prototxt, Model]:
        if self._loaded is None:
            prototxt = read_prototxt(self.info.in_prototxt)
            shapes: Mapping[str, Shape] = {}
            own = data_layer(prototxt) if self._source is None else None
            if own is not None:
                self._source = open_source(own, Path(prototxt.source).parent)
            if self._source is not None:
                shapes = self._source.shapes
                for note in self._source.notes:
                    _log.info("%s: %s", self.info.in_prototxt, note)
            model = build_model(prototxt, read_caffemodel(self.info.in_caffemodel), shapes)
            if prototxt.unknown_fields:
                unknown = ", ".join(prototxt.unknown_fields)
                _log.warning("%s: unknown fields, not read: %s", self.info.in_prototxt, unknown)
            for note in model.notes:
                _log.info("%s: %s", self.info.in_prototxt, note)
            self._loaded = prototxt, model
        return self._loaded

    def _source_of(self, prototxt: Prototxt) -> SampleSource:
        if self._source is None:
            raise DataError(
                f"{prototxt.source}: the network has no data layer that gives samples (its inputs are plain Input "
                "layers); give images (--images LIST), or name a Data or Python layer 'data' as the guide says"
            )
        return self._source

    def _batches(self, source: SampleSource) -> Callable[[], Iterator[Mapping[str, Any]]]:
        return lambda: takes(source, self.info.iteration)


def data_layer(prototxt: Prototxt) -> LayerParameter | None:
    """The network's own data layer in the TEST phase: the one named "data", or else the first that gives samples."""
    present = layers_taking_part(prototxt.net, TEST).values()
    found = [p for p in present if p.type in DATA_TYPES and not p.bottom]
    named = [p for p in found if p.name == DATA_LAYER]
    return (named + found)[0] if found else None


def _log_oddities(model: Model, value: str, histogram: BlobHistogram) -> None:
    net = model.net
    blob = net.blob_of[value]
    what = f"blob {blob!r}" if blob == value else f"blob {blob!r}, as layer {net.producer[value].name!r} leaves it,"
    if histogram.nans or histogram.infs:
        _log.warning(
            "%s has %d NaN and %d infinite values; they take no part in its threshold",
            what, histogram.nans, histogram.infs,
        )  # fmt: skip
    unread = value in model.inputs and not net.is_read(value)  # labels of 0, where there are none
    if histogram.dead and not unread:
        _log.warning("%s is dead: all its values are 0; its threshold has no meaning", what)
