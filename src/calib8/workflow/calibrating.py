"""Thresholds from samples, integers from thresholds.

    samples -> histograms -> thresholds -> plan

`needed_histograms` is the first arrow, `choose_thresholds` the second; `plan_of` is the third, and the only place
where a plan is made from thresholds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from calib8.boundary import closed, closed_class
from calib8.choices import DEFAULT_BINS, DEFAULT_IMAGES, REPAIR_METHODS
from calib8.data import SampleSource, refuse_bad_samples, takes
from calib8.engine import EngineOptions
from calib8.errors import DataError, OptionError, TableError, UserLayerError
from calib8.export import read_plain_table, read_plan
from calib8.export.files import MAX_TABLE_BYTES, without_record
from calib8.lowering import Model
from calib8.measure.collect import CollectOptions, collect_histograms
from calib8.measure.histogram import BlobHistogram, check_bins
from calib8.measure.thresholds import (
    DEFAULT_METHOD,
    ORIGINAL_METHOD,
    ThresholdOptions,
    find_threshold,
    method_named,
)
from calib8.quantize import QuantPlan, make_plan, observed_values, set_thresholds, together
from calib8.reading import read_file
from calib8.repair import RepairOptions
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet

if TYPE_CHECKING:
    from calib8.repair import Repaired

_MOST_PROBLEMS = 20
_log = logging.getLogger(__name__)
Options = TypeVar("Options", bound="MeasureOptions")


@closed_class
@dataclass(frozen=True)
class MeasureOptions:
    """How values of a network are measured.

    Attributes:
        iteration: how many samples are used, the first ones.
        bins: bins of a histogram, a multiple of 128.
        two_pass: measure maxima first and count in a second pass, exactly by the formula. In one pass maxima are exact,
            too, but a value can be counted in the bin beside its own if it lies within 1/4 of a bin of the edge between
            them. Methods that have to count exactly do so whatever is set here.
        memory_opt: free every blob behind its last reader. Lower peak, somewhat slower, the same result.
        threads: None for all cores that this process may use. The number changes no result.
    """

    iteration: int = DEFAULT_IMAGES
    bins: int = DEFAULT_BINS
    two_pass: bool = False
    memory_opt: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a value that cannot be used."""
        check_bins(self.bins)
        EngineOptions(threads=self.threads)

    def at_most(self: Options, source: SampleSource) -> Options:
        """Return the same with fewer samples, if there are fewer."""
        return self if source.size is None else replace(self, iteration=min(self.iteration, source.size))


@closed_class
@dataclass(frozen=True)
class CalibrateOptions(MeasureOptions):
    """How a network is calibrated; the options of `MeasureOptions`, and:

    Attributes:
        method: how thresholds are found, one of `calib8.measure.thresholds.METHODS`. None tries several where there is
            a repair, and takes the best; where there is none, it is "kl".
        threshold: what can be set of the method.
        concat_quantize: every bottom of a Concat keeps a threshold of its own.
        repair: how much `calibrate` does to lose less in INT8, one of `calib8.repair.LEVELS`: "none" rounds as the
            contract does; "standard" takes seconds; "thorough" goes on from there and takes minutes.
        without: parts of the repair that are left out, names of `calib8.repair.PASSES`.
    """

    method: str | None = None
    threshold: ThresholdOptions = ThresholdOptions()
    concat_quantize: bool = False
    repair: str = "standard"
    without: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Raises OptionError for a value that cannot be used."""
        super().__post_init__()
        method_named(self.one_method)
        RepairOptions(self.repair, self.without)

    @property
    def one_method(self) -> str:
        """The method, where there can be only one: where nothing is repaired."""
        return self.method or DEFAULT_METHOD

    def measured(self) -> CalibrateOptions:
        """Return the same with the method that says what is measured, where several are tried."""
        usual = DEFAULT_METHOD if self.repair == "none" else REPAIR_METHODS[0]
        return replace(self, method=self.method or usual)

    def as_original(self) -> CalibrateOptions:
        """Return these options with the original tool's method, and nothing that it does not do."""
        return replace(self, method=ORIGINAL_METHOD, threshold=ThresholdOptions(), repair="none")


@closed_class
@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """A network in integers, and where they come from.

    Attributes:
        plan: the thresholds after folding, and all integers.
        thresholds: by value, in real units, as they were measured or given, before folding.
        histograms: of |x|, by value; empty for integers that were read from files.
        dead: values that were 0 in all samples, so that their thresholds mean nothing.
        origin: where the thresholds come from, in words.
        repaired: what was chosen and what it gained; None where nothing was repaired.
    """

    plan: QuantPlan
    thresholds: Mapping[str, float]
    histograms: Mapping[str, BlobHistogram] = field(default_factory=dict)
    dead: frozenset[str] = frozenset()
    origin: str = ""
    repaired: Repaired | None = None


@closed
def calibrate(
    network: Network, options: CalibrateOptions = CalibrateOptions(), progress: ProgressCallback = quiet
) -> CalibrationResult:
    """Run samples through a network, find a threshold for every value, quantise, and repair.

    Raises:
        DataError, UserLayerError: the samples cannot be used, or there are fewer.
        QuantizationError: thresholds that the integer contract cannot express; all of them.
        OptionError: an option with a value that it cannot have.
    """
    return calibrate_again(network, {}, options, progress)


def calibrate_again(
    network: Network,
    known: Mapping[str, BlobHistogram],
    options: CalibrateOptions,
    progress: ProgressCallback = quiet,
) -> CalibrationResult:
    """Calibrate as `calibrate` does, with what is known of the values; what is missing is measured.

    Args:
        known: histograms by value, as a result of the same samples has them.

    Raises:
        DataError, UserLayerError, QuantizationError, OptionError: as `calibrate`.
    """
    measured = options.measured()
    histograms = needed_histograms(network, measured, known, progress)
    if options.repair != "none":
        found = _repaired(network, histograms, options, observed_by(network, measured), progress)
        if found is not None:
            return found
    return choose_thresholds(network, histograms, measured)


def _repaired(
    network: Network,
    histograms: Mapping[str, BlobHistogram],
    options: CalibrateOptions,
    values: Sequence[str],
    progress: ProgressCallback,
) -> CalibrationResult | None:
    """Repair; None where that is not possible."""
    from calib8.workflow.repairing import repaired_plan  # noqa: PLC0415 - with all passes; many calibrations have none

    found = repaired_plan(
        network, {v: histograms[v] for v in values}, options.iteration,
        RepairOptions(options.repair, options.without, options.threads),
        concat_quantize=options.concat_quantize,
        method=(options.method, options.threshold) if options.method else None, progress=progress,
    )  # fmt: skip
    if found is None:
        return None
    plan = found.best.plan
    _tell_warnings(network, plan)
    dead = frozenset(v for v in values if histograms[v].dead)
    origin = f"{options.method or '/'.join(REPAIR_METHODS)}, {options.iteration} images, {options.repair} repair"
    return CalibrationResult(plan, plan.thresholds, histograms, dead, origin, found)


def needed_histograms(
    network: Network,
    options: CalibrateOptions,
    known: Mapping[str, BlobHistogram] = MappingProxyType({}),
    progress: ProgressCallback = quiet,
) -> Mapping[str, BlobHistogram]:
    """Measure what a method needs and is not known yet, with a warning for what looks odd.

    Methods differ in what they measure (`Method.like_the_original`): what was measured for one of them may not do for
    another.

    Returns:
        By value, what is new and all that was known.

    Raises:
        DataError, UserLayerError, OptionError: as `calibrate`.
    """
    missing = _missing(network, options, known)
    if not missing:
        return known
    two_pass = options.two_pass or method_named(options.one_method).like_the_original
    found = measure_histograms(network, missing, replace(options, two_pass=two_pass), progress)
    check_values(network, found)
    return {**known, **found}


def check_values(network: Network, histograms: Mapping[str, BlobHistogram]) -> None:
    """Warn of what looks odd in histograms.

    Raises:
        DataError: blobs without a single number; all of them.
    """
    _refuse_no_numbers(network.model, histograms)
    for value, histogram in histograms.items():
        _tell_oddities(network.model, value, histogram)


def _missing(network: Network, options: CalibrateOptions, known: Mapping[str, BlobHistogram]) -> list[str]:
    """The values that the method measures, without those whose histogram will do."""
    exact = options.two_pass or method_named(options.one_method).like_the_original
    return [v for v in observed_by(network, options) if v not in known or (exact and not known[v].exact)]


def observed_by(network: Network, options: CalibrateOptions) -> tuple[str, ...]:
    """Return the values that a method measures, in the order of their layers."""
    as_written = method_named(options.one_method).like_the_original
    return observed_values(network.model, options.concat_quantize, as_written=as_written)


def measure_histograms(
    network: Network,
    values: Sequence[str],
    options: MeasureOptions = MeasureOptions(),
    progress: ProgressCallback = quiet,
) -> dict[str, BlobHistogram]:
    """Count |x| of values over samples.

    Raises:
        DataError, UserLayerError, OptionError: as `calibrate`.
    """
    source, passes = network.samples, 2 if options.two_pass else 1
    takes(source, options.iteration)  # refuses a wrong number before anything is computed
    refuse_bad_samples(source, options.iteration)
    engine = EngineOptions(threads=options.threads, release_blobs=options.memory_opt)

    def batches() -> Iterator[Mapping[str, Any]]:
        return takes(source, options.iteration)

    def images(done: int) -> None:
        progress(Progress("calibrating", done, options.iteration * passes))

    collected = CollectOptions(options.bins, two_passes=options.two_pass, engine=engine)
    return collect_histograms(network.model, batches, values, collected, images)


@closed
def choose_thresholds(
    network: Network, histograms: Mapping[str, BlobHistogram], options: CalibrateOptions
) -> CalibrationResult:
    """Find the thresholds in histograms of all observed values, and quantise; nothing is repaired.

    Args:
        histograms: by value, as `needed_histograms` returns them for these options.

    Raises:
        OptionError: no such method, a number of bins that it cannot search, values without a histogram.
        QuantizationError: as `calibrate`.
    """
    missing = _missing(network, options, histograms)
    if missing:
        raise OptionError(
            f"method {options.one_method} lacks histograms of {len(missing)} values ({missing[0]!r} ..); "
            "needed_histograms() measures them"
        )
    measured = observed_by(network, options)
    found = {v: find_threshold(histograms[v], options.one_method, options.threshold) for v in measured}
    dead = frozenset(v for v in measured if histograms[v].dead)
    plan = plan_of(network, found, options.concat_quantize, dead)
    return CalibrationResult(plan, found, histograms, dead, f"{options.one_method}, {options.iteration} images")


@closed
def change_thresholds(
    network: Network,
    thresholds: Mapping[str, float],
    before: CalibrationResult | None = None,
    *,
    concat_quantize: bool = False,
    origin: str = "given thresholds",
) -> CalibrationResult:
    """Quantise with given thresholds, by the contract's own rounding; `calibrate_given` repairs the integers, too.

    Those that are not given stay as they were before.

    Args:
        thresholds: in real units, by layer name (meaning the layer's first top) or by blob name.
        before: None where there is none; then all values need a threshold.

    Raises:
        OptionError: names that the network does not have, or two thresholds for blobs that share one; all of them.
        TableError: blobs that have no threshold yet; all of them.
        QuantizationError: as `calibrate`.
    """
    changed = _changed(network, thresholds, before, concat_quantize, origin)
    _tell_warnings(network, changed.plan)
    return changed


def _changed(
    network: Network,
    thresholds: Mapping[str, float],
    before: CalibrationResult | None,
    concat_quantize: bool,
    origin: str,
) -> CalibrationResult:
    """Quantise as `change_thresholds` does, and tell nothing."""
    known = before or CalibrationResult(QuantPlan({}, {}), {})
    changed = set_thresholds(network.model, known.thresholds, thresholds, concat_quantize)
    dead = frozenset(v for v in known.dead if changed.get(v) == known.thresholds.get(v))
    plan = make_plan(network.model, changed, concat_quantize, dead)
    return replace(known, plan=plan, thresholds=changed, dead=dead, origin=origin, repaired=None)


@closed
def calibrate_given(
    network: Network,
    thresholds: Mapping[str, float],
    options: CalibrateOptions = CalibrateOptions(),
    progress: ProgressCallback = quiet,
    *,
    before: CalibrationResult | None = None,
    origin: str = "given thresholds",
) -> CalibrationResult:
    """Quantise with given thresholds, none of which is moved, and repair the integers.

    The repair runs samples: as many as `options.iteration` says, or all where there are fewer. Where it is "none", or
    the network has no samples that can be used, which is then logged as a warning, integers are the contract's own
    rounding, as those of `change_thresholds`.

    Args:
        thresholds, before, origin: as `change_thresholds` takes them.
        options: how much is repaired, and `concat_quantize`. Parts that move thresholds are left out.

    Raises:
        OptionError, TableError: as `change_thresholds`.
        QuantizationError: as `calibrate`.
    """
    result = _changed(network, thresholds, before, options.concat_quantize, origin)
    if options.repair != "none" and any(form is not None for form in result.plan.forms.values()):
        result = _with_repaired_integers(network, result, options, progress)
    _tell_warnings(network, result.plan)
    return result


def _with_repaired_integers(
    network: Network, result: CalibrationResult, options: CalibrateOptions, progress: ProgressCallback
) -> CalibrationResult:
    """Repair the integers of a result; the same result where that is not possible."""
    from calib8.workflow.repairing import repaired_integers  # noqa: PLC0415 - see `_repaired`

    try:
        images = options.at_most(network.samples).iteration
        takes(network.samples, images)
        refuse_bad_samples(network.samples, images)
        found = repaired_integers(
            network, result.thresholds, images, RepairOptions(options.repair, options.without, options.threads),
            concat_quantize=options.concat_quantize, dead=result.dead, progress=progress,
        )  # fmt: skip
    except (DataError, UserLayerError) as why:
        _log.warning("there are no images to repair the integers on: %s", str(why).partition("\n")[0])
        return result
    return result if found is None else replace(result, plan=found.best.plan, repaired=found)


@closed
def read_calibration(
    network: Network, table: str | os.PathLike[str], int8_model: str | os.PathLike[str] | None = None
) -> CalibrationResult:
    """Read the integers of calibration files, ours or the original's.

    Args:
        table: a calibration table in any of its three forms.
        int8_model: the integer weights; None computes them from the table's thresholds.

    Raises:
        TableError, CaffemodelError: a file cannot be read, or belongs to another network; all names that do not fit.
        QuantizationError: as `calibrate`.
    """
    plan = read_plan(network.model, table, int8_model)
    if plan.unexplained:
        raise TableError(without_record(plan, int8_model or table))
    return CalibrationResult(plan, plan.thresholds, origin=str(table))


def read_thresholds(network: Network, table: str | os.PathLike[str]) -> dict[str, float]:
    """Read the thresholds of a plain calibration table, by the names that `change_thresholds` takes.

    Raises:
        OptionError: the file cannot be read.
        TableError: it does not belong to the network.
    """
    try:
        text = read_file(table, MAX_TABLE_BYTES, OptionError).decode("utf-8")
    except UnicodeDecodeError as why:
        raise OptionError(f"{table}: cannot be read as a plain calibration table: {why}") from None
    producer = network.model.net.producer
    found = read_plain_table(text, network.model, str(table))
    # By layer, as in the file: a blob that is overwritten in place has a threshold for each of its layers.
    return {producer[v].name if producer[v].tops[0] == v else v: t for v, t in found.items()}


def plan_of(
    network: Network, thresholds: Mapping[str, float], concat_quantize: bool = False, dead: Collection[str] = ()
) -> QuantPlan:
    """Fold thresholds and compute all integers, by the contract's own rounding.

    Raises:
        TableError: values without a threshold; all of them.
        QuantizationError: as `calibrate`.
    """
    plan = make_plan(network.model, thresholds, concat_quantize, dead)
    _tell_warnings(network, plan)
    return plan


def _tell_warnings(network: Network, plan: QuantPlan) -> None:
    """Log what does not fit well."""
    lines = together(plan.warnings)
    for line in lines:
        _log.warning("%s: %s", network.model.net.source, line)
    for warning in plan.warnings:
        if warning not in lines:
            _log.info("%s: %s", network.model.net.source, warning)


def _refuse_no_numbers(model: Model, histograms: Mapping[str, BlobHistogram]) -> None:
    """Raise DataError where not a single value of a blob was a number: nothing follows from such samples."""
    found = {v: h.nans + h.infs for v, h in histograms.items() if h.samples == 0 and h.nans + h.infs}
    if found:
        problems = [
            f"blob {model.net.blob_of[v]!r}: all {count} values are NaN or infinite" for v, count in found.items()
        ]
        raise DataError(f"{model.net.source}: the samples cannot be used", problems[:_MOST_PROBLEMS])


def _tell_oddities(model: Model, value: str, histogram: BlobHistogram) -> None:
    """Log values that are no numbers, and values that are always 0."""
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
