"""Histograms that outlive a run: counted once, kept in a file, merged, and taken up again after an interruption.

    samples -> HistogramSet -> file;  files -> one file, the same bytes as of one run;  file -> thresholds by any method

A set holds what any method measures: fine counts of every value that one of them looks at, in one pass, and in a second
pass the exact counts that `kl` (and `two_pass`) need. Exact counts depend on the largest |x| of all samples; who counts
parts of the data apart counts them a second time, over the maxima of all parts merged.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from calib8.atomic import write_atomically
from calib8.data import Batch, ImagesSource, Preprocess, origin_of, refuse_bad_samples, takes
from calib8.data.digests import Digests, digests_of
from calib8.data.files import find_path
from calib8.engine import EngineOptions
from calib8.errors import DataError, OptionError
from calib8.lowering import Model
from calib8.measure.collect import CollectOptions, Passes
from calib8.measure.counters import Counter
from calib8.measure.histogram import AdaptiveHistogram, BlobHistogram, Histogram
from calib8.measure.histogram_file import Group, HistogramSet, Identity, States, measured_values, read_histograms
from calib8.measure.thresholds import method_named
from calib8.onnx_in import open_inputs
from calib8.proto import caffe_pb2
from calib8.proto.text import is_onnx, read_prototxt
from calib8.quantize import fold_groups
from calib8.reading import exists, read_file
from calib8.workflow.calibrating import (
    CalibrateOptions,
    CalibrationResult,
    calibrate_again,
    check_values,
    choose_thresholds,
    observed_by,
)
from calib8.workflow.network import Network, data_layer, open_network
from calib8.workflow.progress import Progress, ProgressCallback, quiet

_log = logging.getLogger(__name__)
SAVE_SECONDS = 30.0
"""An interrupted run loses no more than what was counted in this time, and one batch."""
_MAX_MEAN_BYTES = 1 << 30


@dataclass(frozen=True)
class Part:
    """Samples of a source, from `start` up to, and without, `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class CountOptions:
    """How a set of histograms is counted, beside the `CalibrateOptions`.

    Attributes:
        part: which samples; None for the first `iteration`.
        maxima: a set whose maxima exact counts are laid out for: that of all parts. None for the part's own.
        save_seconds: how often a run that goes to a file saves what it has.
    """

    part: Part | None = None
    maxima: HistogramSet | None = None
    save_seconds: float = SAVE_SECONDS


def part_of(network: Network, iteration: int, index: int, count: int) -> Part:
    """Find the samples of part `index` (1 to `count`) of the first `iteration`; parts differ by one sample at most.

    Where samples do not go through the network independently, parts end where its batches do.

    Raises:
        OptionError: there is no such part, or there are fewer samples than parts.
    """
    if not 1 <= index <= count:
        raise OptionError(f"`shard` is {index}/{count}; parts are counted from 1 to their number, like 2/4")
    step = 1 if network.model.batch_of_one() is not None else network.samples.batch_size
    pieces = -(-iteration // step)
    if pieces < count:
        raise OptionError(f"{iteration} samples cannot be divided into {count} parts; take fewer parts")
    first, last = (min(iteration, pieces * i // count * step) for i in (index - 1, index))
    return Part(first, last)


def identity_of(network: Network, options: CalibrateOptions) -> Identity:
    """Describe what histograms of a network are told by, so that nothing is merged that does not belong together."""
    model = network.model
    groups = tuple(
        Group(g.name, g.measured(as_written=False), g.measured(as_written=True))
        for g in fold_groups(model, options.concat_quantize)
    )
    inputs = tuple((blob, tuple(model.shapes[value][1:])) for blob, value in model.value_of_input.items())
    return Identity(_digest_of(model), _preparation(network), inputs, groups, options.bins, options.concat_quantize)


def count_histograms(
    network: Network,
    options: CalibrateOptions,
    counting: CountOptions = CountOptions(),
    known: HistogramSet | None = None,
    save: Callable[[HistogramSet], None] | None = None,
    progress: ProgressCallback = quiet,
) -> HistogramSet:
    """Count what the methods measure, exactly where the options' method needs it.

    Args:
        known: what was counted of the first of these samples before.
        save: is given what is counted so far, from time to time, to be taken up as `known`.

    Raises:
        DataError: the samples cannot be used, or are not those of `known`.
        UserLayerError, OptionError: as `calibrate`.
    """
    part = counting.part or Part(0, options.iteration)
    return _Here(network, options, part, counting, progress).counted(known, save)


def count_exactly(network: Network, options: CalibrateOptions, part: Part, maxima: Mapping[str, float]) -> HistogramSet:
    """Count by the formula over known maxima: the second of two passes, alone.

    Returns:
        A set with nothing but exact counts, to be added to those of other parts.

    Raises:
        DataError, UserLayerError, OptionError: as `calibrate`.
    """
    run = _Here(network, options, part, CountOptions(part), quiet)
    nothing = HistogramSet(run.identity, np.empty(0, np.uint64), {}, {})
    return run.second_pass(nothing, maxima, None)


def count_to_file(
    network: Network,
    options: CalibrateOptions,
    path: str | os.PathLike[str],
    counting: CountOptions = CountOptions(),
    progress: ProgressCallback = quiet,
) -> HistogramSet:
    """Count into a file; go on where an interrupted run was, or with what the file has, to the same bytes.

    What an interrupted run has counted stands beside the file, in `FILE.part`.

    Raises:
        DataError: the file holds something else: another network, other samples, more of them; or it is damaged.
        UserLayerError, OptionError: as `calibrate`.
    """

    def count(known: HistogramSet | None, save: Callable[[HistogramSet], None] | None) -> HistogramSet:
        return count_histograms(network, options, counting, known, save, progress)

    return count_into(path, network, options, counting, count)


def count_into(
    path: str | os.PathLike[str],
    network: Network,
    options: CalibrateOptions,
    counting: CountOptions,
    count: Callable[[HistogramSet | None, Callable[[HistogramSet], None]], HistogramSet],
) -> HistogramSet:
    """Count into a file, whoever counts; see `count_to_file`.

    Args:
        count: is given what was counted before, and what saves; as `count_histograms` has them.

    Raises:
        DataError: as `count_to_file`; whatever `count` raises.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.part")
    part = counting.part or Part(0, options.iteration)
    known = _known(network, options, part, [p for p in (partial, target) if exists(p)])

    def save(found: HistogramSet) -> None:
        write_histograms(partial, found)

    found = count(known, save)
    if found is not known or not exists(target):
        write_histograms(target, found)
    partial.unlink(missing_ok=True)
    return found


def write_histograms(path: str | os.PathLike[str], histograms: HistogramSet) -> None:
    """Write a set of histograms; the file is there whole or not at all.

    Raises:
        OptionError: the file cannot be written.
    """
    with write_atomically(path) as file:
        file.write(histograms.to_bytes())


def merge_histograms(sets: Mapping[str, HistogramSet]) -> HistogramSet:
    """Add sets: the one that one run over all samples would have given, whatever the order.

    Args:
        sets: by what they are called in messages.

    Raises:
        DataError: sets that do not belong together, or that hold the same samples; all of them.
    """
    (first_name, merged), *others = sets.items()
    for name, one in others:  # of another network they may well have the same samples
        problems = merged.identity.differences(one.identity)
        if problems:
            raise DataError(f"{first_name} and {name} cannot be merged", problems)
    _check_samples(sets)
    for name, one in others:
        try:
            merged = merged.merge(one)
        except DataError as why:
            raise DataError(f"{first_name} and {name} cannot be merged", why.problems) from None
    return merged


def calibrate_from(network: Network, histograms: HistogramSet, options: CalibrateOptions) -> CalibrationResult:
    """Find thresholds in kept histograms, and quantise; the network is not run, so nothing is repaired.

    Raises:
        DataError: they are of another network.
        OptionError: they lack what the method needs.
        QuantizationError: as `calibrate`.
    """
    found = _of_network(network, histograms, options)
    return choose_thresholds(network, found, replace(options, iteration=int(histograms.samples.size)))


def calibrate_counted(
    network: Network, histograms: HistogramSet, options: CalibrateOptions, progress: ProgressCallback = quiet
) -> CalibrationResult:
    """Calibrate as `calibrate` does, and to the same bytes, with histograms of the same samples that are counted.

    The repair runs the network over samples, here, wherever they were counted.

    Raises:
        DataError: they are of another network, or the samples cannot be used.
        OptionError, UserLayerError, QuantizationError: as `calibrate`.
    """
    found = _of_network(network, histograms, options.measured())
    return calibrate_again(network, found, replace(options, iteration=int(histograms.samples.size)), progress)


def _of_network(network: Network, histograms: HistogramSet, options: CalibrateOptions) -> Mapping[str, BlobHistogram]:
    """The histograms that the options' method needs, with a warning for what looks odd."""
    problems = histograms.identity.differences(replace(identity_of(network, options), **_not_of_a_network(histograms)))
    if problems:
        raise DataError(f"{network.model.net.source}: the histograms are of another network", problems)
    exact = options.two_pass or method_named(options.one_method).like_the_original
    found = histograms.histograms(observed_by(network, options), exact=exact)
    check_values(network, found)
    return found


def open_calibrated(
    prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str] | None, histograms: HistogramSet
) -> Network:
    """Open the network of kept histograms without its data, which need not be there.

    Raises:
        ModelError: it cannot be used; all that is wrong with it.
    """
    if is_onnx(prototxt):
        tops = open_inputs(prototxt)
    else:
        own = data_layer(read_prototxt(prototxt))
        tops = [] if own is None else list(own.top)
    known = {blob: (1, *shape) for blob, shape in histograms.identity.inputs if blob in tops}
    return open_network(prototxt, caffemodel, shapes=known)


def _not_of_a_network(histograms: HistogramSet) -> dict[str, Any]:
    """What a network that is opened without its data cannot know, and what is no matter of it."""
    return {"preparation": histograms.identity.preparation, "bins": histograms.identity.bins}


class Counting(ABC):
    """Two passes over a part of the samples, whoever runs them; what was counted before is gone on with.

    Attributes:
        part: the samples.
        identity: of what is counted.
        exact_values: the values that need the second pass.
    """

    def __init__(
        self,
        network: Network,
        options: CalibrateOptions,
        part: Part,
        counting: CountOptions,
        progress: ProgressCallback,
    ) -> None:
        self.part = part
        self._network, self._options, self._counting, self._progress = network, options, counting, progress
        self.identity = identity_of(network, options)
        self.exact_values = exact_values(self.identity, options)

    @abstractmethod
    def digests_of_first(self, count: int) -> Iterator[Digests]:
        """Read so many samples."""

    @abstractmethod
    def fine_counts(self, known: HistogramSet | None, done: int) -> Iterator[HistogramSet]:
        """Count all values of the samples behind the first `done`, which are those of `known`.

        Yields:
            From time to time, and at the end, the set of all samples from the first one up to where it is.
        """

    @abstractmethod
    def exact_counts(self, known: States, maxima: Mapping[str, float], done: int) -> Iterator[tuple[States, int]]:
        """Count the exact values over known maxima, of the samples behind the first `done`, which are in `known`.

        Yields:
            From time to time, and at the end, the states of the first samples, and how many these are.
        """

    def counted(
        self, known: HistogramSet | None = None, save: Callable[[HistogramSet], None] | None = None
    ) -> HistogramSet:
        """Count what is not known; see `count_histograms`."""
        samples, part = self._network.samples, self.part
        takes(samples, part.stop, part.start)  # refuses a wrong number before anything is computed
        if part.start == 0:
            refuse_bad_samples(samples, part.stop)
        return self._result(self._checked(known) if known is not None else None, save)

    def _checked(self, known: HistogramSet) -> HistogramSet:
        """Check that a set is of the first samples of this part, which are read once more.

        Raises:
            DataError: it is of others.
        """
        problems = known.identity.differences(self.identity)
        if problems:
            raise DataError("the histograms that are there are of something else; choose another file", problems)
        count = known.samples.size
        found: list[Digests] = []
        for digests in self.digests_of_first(count) if 0 < count <= len(self.part) else ():
            found.append(digests)
            self._progress(Progress("comparing samples", sum(map(len, found)), count))
        if not np.array_equal(_sorted(found), known.samples):
            raise DataError(
                f"the histograms that are there are of {count} samples, which are not the first of the "
                f"{len(self.part)} of this run; choose another file, or remove it"
            )
        return known

    def _result(self, known: HistogramSet | None, save: Callable[[HistogramSet], None] | None) -> HistogramSet:
        whole = self._first_pass(known, save)
        if not self.exact_values:
            return replace(whole, exact={}, unfinished=None) if whole.unfinished else whole
        maxima = self._maxima_for(whole)
        known_exactly = all(v in whole.exact and whole.exact[v].maximum == maxima[v] for v in self.exact_values)
        return whole if known_exactly and whole.unfinished is None else self.second_pass(whole, maxima, save)

    def _maxima_for(self, whole: HistogramSet) -> Mapping[str, float]:
        given = self._counting.maxima
        if given is None:
            return whole.maxima
        problems = given.identity.differences(self.identity)
        if problems:
            raise DataError("the given maxima are of something else", problems)
        if any(given.maxima[value] < largest for value, largest in whole.maxima.items()):
            raise DataError("the given maxima are not of these samples: there are larger values; merge all parts first")
        return given.maxima

    def _first_pass(self, known: HistogramSet | None, save: Callable[[HistogramSet], None] | None) -> HistogramSet:
        """Fine counts of all samples."""
        done = 0 if known is None else int(known.samples.size)
        whole = known
        for whole in self.fine_counts(known, done) if done < len(self.part) else ():
            if save is not None:
                save(replace(whole, exact={}, unfinished=(int(whole.samples.size), 0)))
        if whole is None:
            raise AssertionError("a pass yields at least one set")
        if whole is known:
            return known
        return replace(whole, exact={}, unfinished=(len(self.part), 0) if self.exact_values else None)

    def second_pass(
        self, whole: HistogramSet, maxima: Mapping[str, float], save: Callable[[HistogramSet], None] | None
    ) -> HistogramSet:
        """Count over known maxima, exactly, the values that need it."""
        done = whole.unfinished[1] if whole.unfinished and set(whole.exact) == set(self.exact_values) else 0
        done = done if all(whole.exact[v].maximum == maxima[v] for v in self.exact_values if done) else 0
        exact: States = whole.exact if done else {}
        for found, counted in self.exact_counts(exact, maxima, done) if done < len(self.part) else ():
            exact = found
            if save is not None:
                save(replace(whole, exact=exact, unfinished=(len(self.part), counted)))
        return replace(whole, exact=exact, unfinished=None)

    def tell(self, stage: str, done: int) -> None:
        """Report the samples that have been run, of those of all passes."""
        self._progress(Progress(stage, done, len(self.part) * (2 if self.exact_values else 1)))


class _Here(Counting):
    """In this process, in pieces that can be saved."""

    def digests_of_first(self, count: int) -> Iterator[Digests]:
        """Read them here."""
        for batch in takes(self._network.samples, self.part.start + count, self.part.start):
            yield digests_of(batch)

    def fine_counts(self, known: HistogramSet | None, done: int) -> Iterator[HistogramSet]:
        """Count here; see `Counting`."""
        counters = {
            value: AdaptiveHistogram(self._options.bins) if known is None else AdaptiveHistogram.of(known.fine[value])
            for value in measured_values(self.identity.groups)
        }
        found = [] if known is None else [known.samples]
        for _ in self._pieces(counters, done, 0, found):
            yield HistogramSet(self.identity, _sorted(found), _states(counters), {})

    def exact_counts(self, known: States, maxima: Mapping[str, float], done: int) -> Iterator[tuple[States, int]]:
        """Count here; see `Counting`."""
        counters = {
            value: Histogram.of(known[value]) if known else Histogram(maxima[value], self._options.bins)
            for value in self.exact_values
        }
        found: list[Digests] = []
        for _ in self._pieces(counters, done, len(self.part), found):
            yield _states(counters), done + sum(map(len, found))

    def _pieces(self, counters: Mapping[str, Counter], done: int, before: int, found: list[Digests]) -> Iterator[None]:
        """Run the samples behind the first `done`; stop between pieces, when no image is on its way.

        Args:
            before: samples of an earlier pass, for the progress.
            found: takes the digests of the samples.
        """
        options, part = self._options, self.part

        def images(count: int) -> None:
            self.tell("calibrating", before + done + count)

        def noted(batches: Iterable[Batch]) -> Iterator[Batch]:
            for batch in batches:
                found.append(digests_of(batch))
                yield batch

        engine = EngineOptions(threads=options.threads, release_blobs=options.memory_opt)
        batches = noted(takes(self._network.samples, part.stop, part.start + done))
        with Passes(self._network.model, tuple(counters), CollectOptions(options.bins, engine=engine), images) as run:
            for piece in _pieces_of(batches, self._counting.save_seconds):
                run.over(piece, counters)
                yield


def exact_values(identity: Identity, options: CalibrateOptions) -> tuple[str, ...]:
    """Return the values that are counted exactly, in a second pass; none for methods that do without."""
    if options.two_pass:
        return measured_values(identity.groups)
    wanted = method_named(options.one_method).like_the_original
    return tuple(group.written for group in identity.groups) if wanted else ()


def _known(network: Network, options: CalibrateOptions, part: Part, paths: list[Path]) -> HistogramSet | None:
    """What was counted before: by an interrupted run, else by one that came to its end."""
    for path in paths:
        found = read_histograms(path)
        problems = found.identity.differences(identity_of(network, options))
        if found.samples.size > len(part):
            problems.append(f"it holds {found.samples.size} samples, and {len(part)} are asked for")
        if problems:
            raise DataError(f"{path}: holds other histograms; choose another file, or remove this one", problems)
        _log.info("%s: goes on behind %d samples", path, found.samples.size)
        return found
    return None


def _check_samples(sets: Mapping[str, HistogramSet]) -> None:
    problems = []
    for (a, one), (b, other) in combinations(sets.items(), 2):
        both = one.shares_samples_with(other)
        if both and both == min(one.samples.size, other.samples.size):
            problems.append(f"all samples of one of {a} and {b} are in the other")
        elif both:
            _log.warning("%s and %s have %d samples in common, which count twice", a, b, both)
    if problems:
        raise DataError("files that hold the same samples are not merged", problems)


def _pieces_of(batches: Iterator[Batch], seconds: float) -> Iterator[Iterator[Batch]]:
    """All batches, in pieces that take about so long."""
    for first in batches:
        yield _piece(first, batches, time.monotonic() + seconds)


def _piece(first: Batch, batches: Iterator[Batch], end: float) -> Iterator[Batch]:
    yield first
    while time.monotonic() < end and (batch := next(batches, None)) is not None:
        yield batch


def _states(counters: Mapping[str, AdaptiveHistogram] | Mapping[str, Histogram]) -> States:
    return {value: counter.state() for value, counter in counters.items()}


def _sorted(found: list[Digests]) -> Digests:
    return np.sort(np.concatenate([np.empty(0, np.uint64), *found]))


def _digest_of(model: Model) -> str:
    """Of layers, parameters and weights; of what gives the samples only the names of its tops."""
    digest = hashlib.sha256()
    for layer, op in model.pairs:
        if op.kind == "source":
            digest.update(repr(("source", layer.tops)).encode())
            continue
        digest.update(repr((layer.name, layer.type, layer.bottoms, layer.tops)).encode())
        digest.update(layer.param.SerializeToString(deterministic=True))
        for blob in layer.blobs:
            digest.update(repr((blob.shape, blob.dtype.str)).encode())
            digest.update(np.ascontiguousarray(blob).data)
    return digest.hexdigest()


def _preparation(network: Network) -> str:
    """How pixels become samples, in words that do not depend on where files lie."""
    source = None if network.source is None else origin_of(network.source)
    if isinstance(source, ImagesSource):
        return _words(source.preprocess)
    layers = (layer for layer, op in network.model.pairs if op.kind == "source")
    texts = [_transformation(layer.param, Path(network.model.net.source).parent) for layer in layers]
    return "; ".join(text for text in texts if text)


def _transformation(param: caffe_pb2.LayerParameter, folder: Path) -> str:
    """The transform_param in a line; a mean by its content."""
    transform = caffe_pb2.TransformationParameter()
    transform.CopyFrom(param.transform_param)
    if transform.mean_file:
        transform.mean_file = _digest_of_file(find_path(transform.mean_file, [folder]))
    return " ".join(str(transform).split())


def _words(preprocess: Preprocess) -> str:
    given = {f.name: getattr(preprocess, f.name) for f in fields(preprocess)}
    if isinstance(preprocess.mean, str | os.PathLike):
        given["mean"] = _digest_of_file(preprocess.mean)
    return ", ".join(f"{name}={value}" for name, value in given.items())


def _digest_of_file(path: str | os.PathLike[str]) -> str:
    return f"sha256:{hashlib.sha256(read_file(path, _MAX_MEAN_BYTES, DataError)).hexdigest()}"
