"""`diagnose`: the doctor. Is the preprocessing right, are there enough images, which samples and layers are odd?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from calib8.analyze.doctor import Finding, Severity
from calib8.analyze.doctor.convergence import Convergence, check_convergence
from calib8.analyze.doctor.networks import check_network
from calib8.analyze.doctor.preprocessing import (
    FINALISTS,
    Fit,
    PreprocessingCheck,
    Variation,
    check_preprocessing,
    given_misfit,
)
from calib8.analyze.doctor.recipes import Recipe, guessed_recipe
from calib8.analyze.doctor.samples import check_samples
from calib8.analyze.doctor.survey import Survey, survey_images
from calib8.choices import RESIZE_MODES
from calib8.data import ArraysSource, ImagesSource, Linear, Preprocess, SampleSource, origin_of
from calib8.engine.memory import empty_arena
from calib8.errors import DataError, QuantizationError
from calib8.graph import Array
from calib8.lowering import Model
from calib8.measure.thresholds import find_threshold, method_named
from calib8.quantize import QuantPlan, make_plan, observed_values
from calib8.workflow.calibrating import CalibrateOptions
from calib8.workflow.network import Network
from calib8.workflow.progress import Progress, ProgressCallback, quiet
from calib8.workflow.samples import runs_of

_PREPROCESSED = 16
"""Samples that the preprocessing is judged by."""
_QUICK = 4
_CLOSER, _FINALISTS = 8, 3
"""Samples and recipes that the quick check looks closer at: what is wrong by a factor shows on few."""
_LEAST = 2
_IMAGE_AXES = 4
_SUSPICIOUS = {"batchnorm": 0.25, "balance": 0.5}
"""A misfit beyond this makes the quick check look closer."""


@dataclass(frozen=True)
class DiagnoseOptions(CalibrateOptions):
    """How data and network are examined; see `CalibrateOptions`, with up to 100 samples."""

    iteration: int = 100


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the doctor says.

    Attributes:
        preprocessing: the given way to prepare images against the usual ones.
        convergence: how sure thresholds are.
        samples, network: what stands out.
        survey: what it rests on.
    """

    preprocessing: PreprocessingCheck
    convergence: Convergence
    samples: tuple[Finding, ...]
    network: tuple[Finding, ...]
    survey: Survey

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, problems first."""
        every = (*self.preprocessing.findings, *self.convergence.findings, *self.samples, *self.network)
        return tuple(sorted(every, key=lambda one: one.severity is not Severity.PROBLEM))


def diagnose(
    network: Network, options: DiagnoseOptions = DiagnoseOptions(), progress: ProgressCallback = quiet
) -> Diagnosis:
    """Examine a network and the images that it is to be calibrated with.

    Raises:
        DataError, UserLayerError: the samples cannot be used.
        OptionError: an option with a value that it cannot have.
    """
    options = options.at_most(network.samples)
    preprocessing = _preprocessing(network, options, progress)
    as_written = method_named(options.one_method).like_the_original
    model, values = (
        network.of_one_sample,
        observed_values(network.model, options.concat_quantize, as_written=as_written),
    )
    survey = survey_images(
        model, runs_of(network, options.iteration), values, image_input(model) or model.inputs[0], options.bins,
        options.threads, lambda done: progress(Progress("examining images", done, options.iteration)),
    )  # fmt: skip
    convergence = check_convergence(survey, options.one_method, options.threshold)
    samples = check_samples(survey, name_of_sample(network.samples))
    return Diagnosis(
        preprocessing, convergence, samples, check_network(model, survey, _plan(model, survey, options)), survey
    )


def quick_check(network: Network, threads: int | None = None) -> tuple[Finding, ...]:
    """Look at the preprocessing alone, on a handful of samples, and closer only where it looks suspicious.

    Raises:
        DataError, UserLayerError: the samples cannot be used.
    """
    size = network.samples.size
    count = _QUICK if size is None else min(_QUICK, size)
    if _pictures_of(network) is None or count < _LEAST:
        return ()
    samples = list(runs_of(network, count))
    kind, misfit = given_misfit(network.of_one_sample, samples, threads)
    empty_arena()
    if not kind or misfit <= _SUSPICIOUS[kind]:
        return ()
    options = DiagnoseOptions(threads=threads).at_most(network.samples)
    return _preprocessing(network, options, quiet, most=_CLOSER, finalists=_FINALISTS).findings


def _preprocessing(
    network: Network,
    options: DiagnoseOptions,
    progress: ProgressCallback,
    most: int = _PREPROCESSED,
    finalists: int = FINALISTS,
) -> PreprocessingCheck:
    model = network.of_one_sample
    blob = _pictures_of(network)
    count = min(options.iteration, most)
    if blob is None or count < _LEAST:
        return PreprocessingCheck(None)
    samples = list(runs_of(network, count))
    if len(samples) < _LEAST or not all(np.isfinite(sample[blob]).all() for sample in samples):
        return PreprocessingCheck(None)
    given = _recipe(network, np.concatenate([sample[blob] for sample in samples]))
    variations = _variations(network, given, count)
    return check_preprocessing(
        model, samples, blob, given, variations, _adviser(origin_of(network.samples), given), options.threads,
        lambda done, total: progress(Progress("trying preprocessing", done, total)), finalists=finalists,
    )  # fmt: skip


def _plan(model: Model, survey: Survey, options: DiagnoseOptions) -> QuantPlan | None:
    """The integers that these images would give; None where the contract cannot express them."""
    thresholds = {v: find_threshold(h, options.one_method, options.threshold) for v, h in survey.whole.items()}
    dead = frozenset(value for value, histogram in survey.whole.items() if histogram.dead)
    try:
        return make_plan(model, thresholds, options.concat_quantize, dead)
    except QuantizationError:
        return None


def image_input(model: Model) -> str | None:
    """Find the value among the inputs that holds images, (N, 1 or 3, H, W); None where there is none."""
    shapes = {value: model.shapes[value] for value in model.inputs if model.net.is_read(value)}
    return next((v for v, s in shapes.items() if len(s) == _IMAGE_AXES and s[1] in (1, 3) and min(s[2:]) > 1), None)


def _pictures_of(network: Network) -> str | None:
    """The input that holds pictures, as far as anybody knows: arrays of one channel may be a sound, or anything."""
    model, blob = network.of_one_sample, image_input(network.of_one_sample)
    unknown = isinstance(origin_of(network.samples), ArraysSource)
    return None if blob is not None and unknown and model.shapes[blob][1] == 1 else blob


def name_of_sample(source: SampleSource) -> Callable[[int], str]:
    """Say what the samples of a source are called: by their files, where they come from files."""
    names: tuple[str, ...] = getattr(origin_of(source), "names", ())
    return lambda index: names[index] if index < len(names) else f"sample {index + 1}"


def given_recipe(network: Network) -> Recipe | None:
    """Say how pixels become samples, where the data say it; None where only the user knows."""
    linear = getattr(origin_of(network.samples), "linear", None)
    known = isinstance(linear, Linear) and all(linear.scale)
    return Recipe(linear.mean, linear.scale, linear.order) if known and linear is not None else None


def _recipe(network: Network, samples: Array) -> Recipe:
    """How the samples were made, as far as anybody knows."""
    known = given_recipe(network)
    return known if known is not None and len(known.mean) == samples.shape[1] else guessed_recipe(samples)


def _variations(network: Network, given: Recipe, count: int) -> list[Variation]:
    """The same images, brought to the input's size in other ways."""
    source = origin_of(network.samples)
    if not isinstance(source, ImagesSource):
        return []
    variations = []
    for mode in RESIZE_MODES:
        if mode != source.preprocess.resize:
            other = source.prepared_by(replace(source.preprocess, resize=mode, short_side=None))
            try:
                variations.append(
                    Variation(f"resize {mode}", given, list(runs_of(replace(network, source=other), count)))
                )
            except DataError:  # an image that cannot be cut so
                continue
    return variations


def _adviser(source: SampleSource, given: Recipe) -> Callable[[Fit], str]:
    """The options, or the fields of a prototxt, that mend a preprocessing."""
    if isinstance(source, ImagesSource):
        return lambda fit: _parameters(fit, source.preprocess)
    return lambda fit: _fields(fit, given)


def _parameters(fit: Fit, preprocess: Preprocess) -> str:
    resize = fit.what.removeprefix("resize ") or preprocess.resize
    words = [] if resize == "warp" else [f"`resize={resize}`"]
    words += [f"`color={fit.recipe.order}`"] if fit.recipe.order != "gray" else []
    words += [f"`mean={_numbers(fit.recipe.mean)}`"] if any(fit.recipe.mean) else []
    words += [f"`scale={_numbers(fit.recipe.scale)}`"] if set(fit.recipe.scale) != {1.0} else []
    return f"try {' '.join(words) or 'no `mean` and no `scale`'}"


def _fields(fit: Fit, given: Recipe) -> str:
    recipe = fit.recipe
    text = f"prepare samples as (pixel - {_numbers(recipe.mean)}) * {_numbers(recipe.scale)}, in the data layer"
    if recipe.order != given.order:
        text += ", with the channels of the images in the opposite order"
    return text


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:.6g}" for v in (values[:1] if len(set(values)) == 1 else values))
