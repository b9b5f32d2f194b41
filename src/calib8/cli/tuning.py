"""The work of `calib8 tune`: searches, their results as files, and mixed precision."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from calib8.analyze.candidates import candidates_of, method_thresholds, original_targets
from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.analyze.journal import Journal, digest_of
from calib8.analyze.judges import Judge, compared_values, score_difference
from calib8.analyze.mixed import MixedPrecision, propose_mixed_precision
from calib8.analyze.report import difference_log, mixed_json, tuning_json
from calib8.analyze.search import Search, SearchOptions, candidate_search, original_search
from calib8.analyze.trials import Trials
from calib8.analyze.tuning import Losses, Status, TuningResult, Watch, layer_differences, run_search
from calib8.atomic import write_atomically, write_together
from calib8.cli.judging import make_judge
from calib8.cli.progress import ProgressLine
from calib8.cli.start import Start, given_integers
from calib8.cli.table import aligned
from calib8.errors import DataError, OptionError
from calib8.export import write_calibration_files
from calib8.lowering import Model
from calib8.quantize import QuantPlan

_log = logging.getLogger(__name__)
_HELD_OUT_PER_TUNED = 3
"""They run only to confirm what has been found, so they cost little; and few of them would confirm by chance."""


class TuneRun:
    """One call of the command.

    Args:
        ignored: layers whose thresholds stay.
    """

    def __init__(self, options: argparse.Namespace, start: Start, ignored: Collection[str]) -> None:
        unknown = [name for name in [*ignored, options.layer] if name and name not in start.model.net.layer_by_name]
        if unknown:
            raise OptionError(f"{start.prototxt.source}: there is no layer {unknown[0]!r}")
        self._options, self._start, self._ignored = options, start, ignored
        self._at = options.at or ("layer" if options.metric == "difference" else "outputs")
        tuned, held_out = _counts(options, start)
        self._samples = start.samples(tuned + held_out)
        runs = len(self._samples.inputs)
        self._tuned, self._held_out = split_samples(runs, round(runs * held_out / (tuned + held_out)))
        self._judge = self._make_judge(options.metric)
        self._drop = None if options.max_drop is None else self._make_judge(drop_metric(options))
        self._compared = compared_values(start.model)
        wanted = (*self._judge.values, *(() if self._drop is None else (*self._drop.values, *self._compared)))
        settings = ExperimentOptions(options.threads, options.budget << 20)
        outputs = tuple(dict.fromkeys(wanted))
        self._experiment = Experiment(start.model, self._samples.inputs, outputs, settings)
        self._plan = given_integers(start)

    def everything(self) -> int:
        """The search, and mixed precision if it is asked for."""
        _make_folder(self._options.output)
        plan = self._plan
        if self._options.search != "none":
            plan = self._search()
        if self._drop is not None:
            self._propose(plan, self._drop)
        return 0

    def test(self) -> int:
        """The difference of INT8 up to one layer, or of all layers."""
        trials = self._trials()
        targets = self._targets(trials)
        _make_folder(self._options.output)
        with ProgressLine("testing", None) as progress:
            found = layer_differences(trials, targets, _shown(progress, self._start.model))
        self._write({"report.log": difference_log(found)})
        print(difference_log(found).decode(), end="")
        if not self._options.layer:
            whole = run_search(iter_nothing(), trials).before
            print(f"whole network, {self._judge.name}: {whole.tuned:.9g}")
        return 0

    def one_layer(self) -> int:
        """The original's search for one layer."""
        trials = self._trials()
        search = original_search(self._targets(trials), trials.thresholds, self._options.difference)
        _make_folder(self._options.output)
        self._finish(self._answer(search, trials, "original, one layer"), trials, "original, one layer")
        return 0

    def _make_judge(self, metric: str) -> Judge:
        model = self._start.model
        original = self._options.search == "original" or self._options.part != "all"
        if metric == "difference" and not original:
            return score_difference(model)
        return make_judge(metric, self._options, model, self._samples, compared_values(model))

    def _trials(self) -> Trials:
        return Trials(self._experiment, self._plan, self._judge, self._tuned, self._held_out, self._at == "layer")

    def _targets(self, trials: Trials) -> list[tuple[str, str]]:
        targets = original_targets(trials, self._ignored)
        if not self._options.layer:
            return targets
        chosen = [target for target in targets if target[0] == self._options.layer]
        if not chosen:
            raise OptionError(f"layer {self._options.layer!r} has no threshold to tune; those that have: " + ", ".join(
                name for name, _ in targets
            ))  # fmt: skip
        return chosen

    def _search(self) -> QuantPlan:
        trials = self._trials()
        if self._options.search == "original":
            search = original_search(self._targets(trials), trials.thresholds)
        else:
            methods = method_thresholds(trials, self._start.histograms, self._ignored)
            options = SearchOptions(held_out=bool(self._held_out))
            search = candidate_search(candidates_of(methods), trials.thresholds, options, methods)
        found = self._answer(search, trials, self._options.search)
        self._finish(found, trials, self._options.search)
        return found.plan

    def _answer(self, search: Search, trials: Trials, name: str) -> TuningResult:
        facts = (
            name, self._judge.key, self._at, self._options.difference, sorted(self._ignored),
            self._tuned, self._held_out, sorted(self._plan.thresholds.items()),
            [(v, h.counts.tobytes(), h.width) for v, h in self._start.histograms.items()],
        )  # fmt: skip
        digest = digest_of(self._start.model, self._samples.inputs, *facts)
        path = self._options.output / f"bmnet_{self._options.name}_tuning.progress"
        seconds = math.inf if self._options.minutes is None else 60 * self._options.minutes
        with Journal(path, digest) as journal, ProgressLine("tuning", None) as progress:
            if journal.recorded:
                _log.warning("%s: goes on behind %d trials of an earlier run", path, journal.recorded)
            return run_search(search, trials, journal, seconds, _shown(progress, self._start.model))

    def _finish(self, found: TuningResult, trials: Trials, name: str) -> None:
        """Write the files and print what changed."""
        options, model = self._options, self._start.model
        differences = found.differences or layer_differences(trials, self._targets(trials))
        counts = len(self._tuned), len(self._held_out)
        report = tuning_json(options.name, name, self._judge.name, counts, self._plan, found, model)
        with write_together():
            paths = write_calibration_files(options.output, options.name, self._start.whole, found.plan)
            others = self._write(
                {f"bmnet_{options.name}_tuning.json": report, "report.log": difference_log(differences)}
            )
        print(aligned(_changes(self._plan, found.plan, model), right=(1, 2, 3)))
        print(f"\n{found.trials} trials, {len(found.accepted)} accepted; {self._judge.name}:")
        print(_compared("tuned", len(self._tuned), found.before.tuned, found.after.tuned))
        if found.before.held_out is not None and found.after.held_out is not None:
            print(_compared("held out", len(self._held_out), found.before.held_out, found.after.held_out))
        if _is_worse(found.before, found.after):
            _log.warning(
                "the network as a whole has become worse: this search looks at single layers; --search candidates "
                "accepts nothing that makes it worse"
            )
        if not found.finished:
            print(f"stopped after {options.minutes:g} minutes; the same command with more --minutes goes on from here")
        print("\n".join(map(str, (*paths, *others))))

    def _propose(self, plan: QuantPlan, judge: Judge) -> None:
        options = self._options
        with ProgressLine("mixed precision", None) as progress:
            found = propose_mixed_precision(
                self._experiment, plan, judge, options.max_drop, self._compared,
                lambda done, steps, what: progress(done, what, steps),
            )  # fmt: skip
        base = f"bmnet_{options.name}"
        report = mixed_json(options.name, judge.name, len(self._samples.inputs), options.max_drop, found)
        with write_together():
            paths = self._write({
                f"{base}_mixed.json": report,
                f"{base}_int8_layer.txt": f"{found.int8_layer}\n".encode(),
                f"{base}_fp32_layers.txt": "".join(f"{name}\n" for name in found.fp32_layers).encode(),
            })  # fmt: skip
        _print_proposal(found, judge.name, options.max_drop)
        print("\n".join(map(str, paths)))

    def _write(self, contents: dict[str, bytes]) -> list[Path]:
        paths = [self._options.output / name for name in contents]
        for path, data in zip(paths, contents.values(), strict=True):
            with write_atomically(path) as file:
                file.write(data)
        return paths


def iter_nothing() -> Search:
    """A search that wants nothing."""
    yield from ()


def split_samples(total: int, held_out: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the samples to tune on and of those to hold out, the latter spread evenly over all of them."""
    chosen = {(2 * i + 1) * total // (2 * held_out) for i in range(held_out)}
    return tuple(i for i in range(total) if i not in chosen), tuple(sorted(chosen))


def _counts(options: argparse.Namespace, start: Start) -> tuple[int, int]:
    """Images to tune on and to hold out, as far as the data go."""
    tuned = options.samples
    held_out = _HELD_OUT_PER_TUNED * tuned if options.held_out is None else options.held_out
    size = start.source.size
    if tuned < 1:
        raise OptionError(f"--samples is {tuned}; it must be at least 1")
    if size is None or tuned + held_out <= size:
        return tuned, held_out
    if options.held_out is not None:
        raise DataError(f"{tuned} images to tune on and {held_out} held out are more than the {size} that there are")
    tuned = min(tuned, size - size // 3)
    _log.info("of %d images, %d are held out", size, size - tuned)
    return tuned, size - tuned


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise OptionError(f"{path}: cannot be made a folder for the results: {why.strerror or why}") from None


def drop_metric(options: argparse.Namespace) -> str:
    """What may drop by --max-drop."""
    if options.drop_metric is not None:
        return str(options.drop_metric)
    return "top1" if options.metric in ("difference", "yolo") else str(options.metric)


def _shown(progress: ProgressLine, model: Model) -> Watch:
    producer = model.net.producer

    def show(status: Status) -> None:
        what = status.what
        if what in producer and what not in model.net.layer_by_name:
            what = producer[what].name  # a value that a layer in place overwrites has no name of the user's
        if status.threshold is not None:
            what += f" at {status.threshold:.6g}"
        best = "" if status.change is None else f"best so far {status.change:+.1%}, "
        progress(status.done, f"{best}trying {what}", status.steps)

    return show


def _changes(before: QuantPlan, after: QuantPlan, model: Model) -> list[tuple[str, str, str, str]]:
    rows = [("layer", "threshold", "tuned", "change")]
    for layer in model.net.layers:
        for top in layer.tops:
            old, new = before.thresholds[top], after.thresholds[top]
            if old != new:
                rows.append((layer.name, f"{old:.6g}", f"{new:.6g}", f"{new / old - 1:+.1%}"))
    return rows


def _compared(what: str, samples: int, before: float, after: float) -> str:
    change = f" ({after / before - 1:+.1%})" if before else ""
    return f"  on {samples} images {what}: {before:.6g} -> {after:.6g}{change}"


def _is_worse(before: Losses, after: Losses) -> bool:
    return after.tuned > before.tuned


def _print_proposal(found: MixedPrecision, metric: str, allowed: float) -> None:
    print(f"\nmixed precision, {metric}: {found.drop_before:.6g} with everything in INT8, {allowed:g} allowed")
    if not found.kept:
        print("nothing has to stay in FP32")
        return
    rows: list[Sequence[str]] = [("kept in FP32", "buys")]
    rows += [(kept.unit.name, f"{kept.buys:.6g}") for kept in found.kept]
    print(aligned(rows, right=(1,)))
    print(f"{found.drop_after:.6g} with these in FP32" + ("" if found.int8_layers else ": nothing is left in INT8"))
