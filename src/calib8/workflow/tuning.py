"""`tune`: better thresholds by search, and which layers had better stay in FP32."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import ClassVar

from calib8.analyze.bench import Runner, Setting
from calib8.analyze.candidates import candidates_of, method_thresholds, original_targets
from calib8.analyze.experiment import Experiment
from calib8.analyze.journal import Journal, digest_of
from calib8.analyze.judges import Judge, compared_values, score_difference
from calib8.analyze.mixed import MixedPrecision, propose_mixed_precision
from calib8.analyze.search import Search, SearchOptions, candidate_search, original_search
from calib8.analyze.trials import Trials
from calib8.analyze.tuning import Status, TuningResult, Watch, layer_differences, losses_of, run_search
from calib8.atomic import make_folder
from calib8.boundary import closed, closed_class
from calib8.choices import DEFAULT_BINS, SEARCHES, USUAL_SAMPLES
from calib8.data import SampleSource
from calib8.errors import DataError, OptionError
from calib8.lowering import Model
from calib8.measure.histogram import BlobHistogram
from calib8.quantize import QuantPlan, observed_values, settled
from calib8.workflow.calibrating import CalibrationResult, MeasureOptions, measure_histograms
from calib8.workflow.cluster import Workers
from calib8.workflow.cluster_trials import experiment_options, runner_of
from calib8.workflow.judging import JudgeOptions, Metric, judge_of, samples_to_judge
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet

_log = logging.getLogger(__name__)
_HELD_OUT_PER_TUNED = 3
"""They run only to confirm what has been found, so they cost little; and few of them would confirm by chance."""


@closed_class
@dataclass(frozen=True)
class TuneOptions(JudgeOptions):
    """How thresholds are tuned; the options of `JudgeOptions`, and:

    Attributes:
        samples: how many images thresholds are tried on; None for `usual_samples`.
        held_out: how many further images decide about what was found on the others, 0 for none; None for three times
            `samples` or, of few images, a third.
        search: "candidates": the best threshold method for the whole network; then for every threshold, in the order
            of the damage that its layers do, what all methods find, and values around the best: first with only the
            layers in INT8 that the threshold touches, then in the whole network; again while it pays. "original": that
            of the BM1880's auto tuning tool: for every layer in order, threshold * 1.01^n until three trials in a row
            do not improve, then * 0.99^n. "none": keep the thresholds, for `Tuner.mixed_precision`.
        at: where "original" judges: "layer" or "outputs"; None for the layer, or, with another metric than
            "difference", the outputs.
        minutes: stop then, with the best so far; None for no limit.
        ignored: names of layers whose thresholds stay.
        layer: tune this layer alone, by the original's search; "" for all.
        difference: of `layer` before tuning, where it is known.
        record: a file that the search is recorded in, so that it goes on from there when it was killed; None for none.
        iteration, bins: of the histograms that "candidates" begins with, as far as the calibration has none.

    Raises:
        OptionError: values that are not possible; all of them.
    """

    usual_samples: ClassVar[int] = USUAL_SAMPLES["tune"]
    held_out: int | None = None
    search: str = "candidates"
    at: str | None = None
    minutes: float | None = None
    ignored: Collection[str] = frozenset()
    layer: str = ""
    difference: float | None = None
    record: str | os.PathLike[str] | None = None
    iteration: int = 10
    bins: int = DEFAULT_BINS

    def problems(self) -> list[str]:
        """Say what is wrong, a sentence each."""
        problems = super().problems()
        if self.search not in SEARCHES:
            problems.append(f"`search` is {self.search!r}; expected one of {', '.join(SEARCHES)}")
        if self.at not in (None, "layer", "outputs"):
            problems.append(f"`at` is {self.at!r}; expected layer or outputs")
        if self.minutes is not None and not self.minutes > 0:
            problems.append(f"`minutes` is {self.minutes}; it must be above 0")
        if self.held_out is not None and self.held_out < 0:
            problems.append(f"`held_out` is {self.held_out}; it must be 0 or more")
        if self.difference is not None and not (math.isfinite(self.difference) and self.difference >= 0):
            problems.append(f"`difference` is {self.difference}; it must be a number, 0 or more")
        if self.difference is not None and not self.layer:
            problems.append("`difference` is that of a layer; say which one (`layer=..`)")
        return problems

    @property
    def as_original(self) -> bool:
        """Whether the original's search is asked for."""
        return self.search == "original" or bool(self.layer)

    @property
    def at_layer(self) -> bool:
        """Whether the original's search judges at each layer's own top."""
        return (self.at or ("layer" if self.metric.is_difference else "outputs")) == "layer"


@closed_class
@dataclass(frozen=True)
class DropOptions:
    """What a network may lose, for mixed precision.

    Attributes:
        max_drop: most that the metric may say over all samples with the proposed layers in FP32.
        metric: what may drop.

    Raises:
        OptionError: a drop below 0.
    """

    max_drop: float
    metric: Metric = Metric("top1")

    def __post_init__(self) -> None:
        """Raises OptionError."""
        if not self.max_drop >= 0:
            raise OptionError(f"`max_drop` is {self.max_drop}; it must be 0 or more")


@closed_class
@dataclass(frozen=True, eq=False)
class TuneResult:
    """What a search has found.

    Attributes:
        calibration: with the thresholds that were accepted.
        before: the plan that the search began with.
        found: what was accepted, the losses before and after, and whether the search came to its end.
        differences: by layer, the loss with all layers up to it in INT8, after tuning.
        search, metric: their names.
        tuned, held_out: how many samples.
    """

    calibration: CalibrationResult
    before: QuantPlan
    found: TuningResult
    differences: Mapping[str, float]
    search: str
    metric: str
    tuned: int
    held_out: int

    @property
    def plan(self) -> QuantPlan:
        """The tuned network in integers."""
        return self.found.plan


@dataclass(frozen=True)
class LayerDamage:
    """How far INT8 is from FP32 behind each layer.

    Attributes:
        differences: by layer, the loss with all layers up to it in INT8, as the original's test says it.
        whole: the loss of the whole network in INT8; None where only one layer was asked for.
        metric: the metric's name.
    """

    differences: Mapping[str, float]
    whole: float | None
    metric: str


@dataclass(frozen=True)
class MixedResult:
    """A proposal, and what it was made for.

    Attributes:
        found: the layers to keep in FP32, and what each of them buys.
        metric: the metric's name.
        samples: number of runs.
        max_drop: what may drop.
        plan: the integers that it was measured with.
    """

    found: MixedPrecision
    metric: str
    samples: int
    max_drop: float
    plan: QuantPlan


@closed
def tune(
    network: Network,
    calibration: CalibrationResult,
    options: TuneOptions = TuneOptions(),
    progress: ProgressCallback = quiet,
    workers: Workers | None = None,
) -> TuneResult:
    """Search thresholds with which the network in INT8 comes closer to the one in FP32.

    Args:
        workers: that run the trials, of `connected` for this network; None for this process.

    Raises:
        QuantizationError: nothing of the network runs in INT8.
        DataError, UserLayerError: the samples or labels cannot be used, or there are fewer samples.
        OptionError: no such metric or layer, or a record of the search that cannot be used.
    """
    return Tuner(network, calibration, options, workers=workers).tune(progress)


@closed_class
class Tuner:
    """A calibrated network, its samples and its metrics, made ready to be tuned: what can be refused was refused.

    Args:
        drop: what may be lost, for `mixed_precision`.
        workers: that run the trials, of `connected` for this network; None for this process.

    Raises:
        QuantizationError, DataError, UserLayerError, OptionError: as `tune`.
    """

    def __init__(
        self,
        network: Network,
        calibration: CalibrationResult,
        options: TuneOptions = TuneOptions(),
        drop: DropOptions | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._workers = workers
        self._network, self._calibration, self._options, self._drop = network, calibration, options, drop
        self._model = network.of_one_sample
        _check_layers(self._model, [*options.ignored, options.layer])
        tuned, held_out = _counts(network.samples, options)
        self._samples = samples_to_judge(network, calibration.plan, tuned + held_out)
        runs = len(self._samples.inputs)
        self._tuned, self._held_out = split_samples(runs, round(runs * held_out / (tuned + held_out)))
        self._judge = self._judge_of(options.metric)
        self._drop_judge = None if drop is None else self._judge_of(drop.metric)
        self._experiment = self._experiment_of_both()
        self._plan = _settled(self._model, calibration)
        if options.layer:
            _ = self._targets  # refuses a layer that has no threshold

    def tune(self, progress: ProgressCallback = quiet) -> TuneResult:
        """Search better thresholds.

        Raises:
            OptionError: the search is "none", or its record cannot be used; whatever a metric of the user's raises.
        """
        with self._trials() as trials:
            found = self._searched(trials, progress)
            differences = found.differences or layer_differences(trials, self._targets)
        origin = f"{self._search_name}, from {self._calibration.origin}"
        calibration = replace(self._calibration, plan=found.plan, thresholds=found.plan.thresholds, origin=origin)
        return TuneResult(
            calibration, self._plan, found, differences, self._search_name, self._judge.name,
            len(self._tuned), len(self._held_out),
        )  # fmt: skip

    def layer_damage(self, progress: ProgressCallback = quiet) -> LayerDamage:
        """Measure the loss behind every layer, or behind the one of the options, with all layers up to it in INT8."""
        with self._trials() as trials:
            differences = layer_differences(trials, self._targets, _watch("testing", self._model, progress))
            whole = None if self._options.layer else losses_of(trials).tuned
        return LayerDamage(differences, whole, self._judge.name)

    def mixed_precision(self, plan: QuantPlan | None = None, progress: ProgressCallback = quiet) -> MixedResult:
        """Propose few layers to keep in FP32, so that no more is lost over all samples than what may be.

        Args:
            plan: None for that of the calibration.

        Raises:
            OptionError: the tuner was not told what may drop.
        """
        if self._drop is None or self._drop_judge is None:
            raise OptionError("mixed precision needs to know what may drop: give the Tuner DropOptions")
        compared, judge, plan = compared_values(self._model), self._drop_judge, plan or self._plan
        with self._runner(Setting(plan, judge, self._experiment.outputs, compared)) as runner:
            found = propose_mixed_precision(
                self._experiment, plan, judge, self._drop.max_drop, compared,
                lambda done, steps, what: progress(Progress("mixed precision", done, steps, what)), runner,
            )  # fmt: skip
        return MixedResult(found, self._drop_judge.name, len(self._samples.inputs), self._drop.max_drop, plan)

    @property
    def images(self) -> int:
        """How many images it was given, to tune on and held out."""
        return self._samples.images

    @property
    def _search_name(self) -> str:
        return "original, one layer" if self._options.layer else self._options.search

    def _judge_of(self, metric: Metric) -> Judge:
        if metric.is_difference and not self._options.as_original:
            return score_difference(self._model)
        return judge_of(metric, self._model, self._samples, compared_values(self._model))

    def _experiment_of_both(self) -> Experiment:
        wanted = self._judge.values
        if self._drop_judge is not None:
            wanted = (*wanted, *self._drop_judge.values, *compared_values(self._model))
        options = experiment_options(self._options, self._workers)
        return Experiment(self._model, self._samples.inputs, tuple(dict.fromkeys(wanted)), options)

    def _runner(self, setting: Setting) -> AbstractContextManager[Runner | None]:
        order = (*self._tuned, *self._held_out)
        return runner_of(self._workers, self._experiment, setting, self._samples.images, order, self._options)

    @contextmanager
    def _trials(self) -> Iterator[Trials]:
        at_layer = self._options.at_layer
        with self._runner(Setting(self._plan, self._judge, self._experiment.outputs, at_layer=at_layer)) as runner:
            yield self._trials_by(runner)

    def _trials_by(self, runner: Runner | None) -> Trials:
        return Trials(
            self._experiment, self._plan, self._judge, self._tuned, self._held_out, self._options.at_layer, runner
        )  # fmt: skip

    @cached_property
    def _targets(self) -> list[tuple[str, str]]:
        """The layers that the original's search goes through, each with the group of its top."""
        targets, layer = original_targets(self._trials_by(None), self._options.ignored), self._options.layer
        chosen = [target for target in targets if layer in ("", target[0])]
        if layer and not chosen:
            having = ", ".join(name for name, _ in targets)
            raise OptionError(f"layer {layer!r} has no threshold to tune; those that have: {having}")
        return chosen

    def _searched(self, trials: Trials, progress: ProgressCallback) -> TuningResult:
        histograms: Mapping[str, BlobHistogram] = self._calibration.histograms
        if self._options.as_original:
            search = original_search(self._targets, trials.thresholds, self._options.difference)
        elif self._options.search == "candidates":
            histograms = {**histograms, **self._measured(set(histograms), progress)}
            methods = method_thresholds(trials, histograms, self._options.ignored)
            searched = SearchOptions(held_out=bool(self._held_out))
            search = candidate_search(candidates_of(methods), trials.thresholds, searched, methods)
        else:
            raise OptionError("`search` is none, which leaves nothing to tune")
        return self._answered(search, trials, histograms, progress)

    def _measured(self, known: Collection[str], progress: ProgressCallback) -> Mapping[str, BlobHistogram]:
        """What methods look at, before the ReLU and behind it, as far as the calibration has not measured it."""
        measured = MeasureOptions(self._options.iteration, self._options.bins, threads=self._options.threads)
        model, concat = self._network.model, self._plan.enable_concat_quantize
        both = (observed_values(model, concat, as_written=way) for way in (True, False))
        missing = [value for value in dict.fromkeys(chain(*both)) if value not in known]
        if not missing:
            return {}
        return measure_histograms(self._network, missing, measured.at_most(self._network.samples), progress)

    def _answered(
        self, search: Search, trials: Trials, histograms: Mapping[str, BlobHistogram], progress: ProgressCallback
    ) -> TuningResult:
        options, watch = self._options, _watch("tuning", self._model, progress)
        seconds = math.inf if options.minutes is None else 60 * options.minutes
        if options.record is None:
            return run_search(search, trials, None, seconds, watch)
        with Journal(_in_a_folder(Path(options.record)), self._digest(histograms)) as journal:
            if journal.recorded:
                _log.warning("%s: goes on behind %d trials of an earlier run", options.record, journal.recorded)
            return run_search(search, trials, journal, seconds, watch)

    def _digest(self, histograms: Mapping[str, BlobHistogram]) -> str:
        """A name for everything that the losses of a search depend on."""
        options = self._options
        return digest_of(
            self._model, self._samples.inputs, self._search_name, self._judge.key, options.at_layer,
            options.difference, sorted(options.ignored), self._tuned, self._held_out,
            sorted(self._plan.thresholds.items()), [(v, h.counts.tobytes(), h.width) for v, h in histograms.items()],
        )  # fmt: skip


def split_samples(total: int, held_out: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose the numbers of the samples to tune on and those to hold out, the latter spread evenly over all of them."""
    chosen = {(2 * i + 1) * total // (2 * held_out) for i in range(held_out)}
    return tuple(i for i in range(total) if i not in chosen), tuple(sorted(chosen))


def _counts(source: SampleSource, options: TuneOptions) -> tuple[int, int]:
    """Images to tune on and to hold out, as far as the data go."""
    tuned, size = options.samples or options.usual_samples, source.size
    held_out = _HELD_OUT_PER_TUNED * tuned if options.held_out is None else options.held_out
    if size is None or tuned + held_out <= size:
        return tuned, held_out
    if options.held_out is not None:
        raise DataError(f"{tuned} images to tune on and {held_out} held out are more than the {size} that there are")
    tuned = min(tuned, size - size // 3)
    _log.info("of %d images, %d are held out", size, size - tuned)
    return tuned, size - tuned


def _check_layers(model: Model, names: Collection[str]) -> None:
    unknown = [name for name in names if name and name not in model.net.layer_by_name]
    if unknown:
        raise OptionError(f"{model.net.source}: there is no layer {unknown[0]!r}")


def _settled(model: Model, calibration: CalibrationResult) -> QuantPlan:
    """The plan to begin with, and a word on integers that do not follow from its thresholds."""
    plan = settled(model, calibration.plan)
    if plan.given:
        _log.warning(
            "%s: the integers of %d layers (%r ..) are not those that follow from its thresholds; they are kept, but "
            "where a new threshold of the layer is accepted: there they are rounded anew",
            calibration.origin, len(plan.given), next(iter(plan.given)),
        )  # fmt: skip
    return plan


def _in_a_folder(path: Path) -> Path:
    """The path, whose folder is there."""
    make_folder(path.parent)
    return path


def _watch(stage: str, model: Model, progress: ProgressCallback) -> Watch:
    producer = model.net.producer

    def show(status: Status) -> None:
        what = status.what
        if what in producer and what not in model.net.layer_by_name:
            what = producer[what].name  # a value that a layer in place overwrites has no name of the user's
        if status.threshold is not None:
            what += f" at {status.threshold:.6g}"
        best = "" if status.change is None else f"best so far {status.change:+.1%}, "
        progress(Progress(stage, status.done, status.steps, f"{best}trying {what}"))

    return show
