"""`calib8 tune NAME PATH`: thresholds that bring INT8 closer to FP32, and layers that had better stay in FP32."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from calib8.analyze.answers import values_of_classes
from calib8.analyze.report import difference_log
from calib8.atomic import claim_folder, make_folder, write_together
from calib8.cli.cluster import workers_of
from calib8.cli.judging import metrics_of
from calib8.cli.progress import ProgressLines
from calib8.cli.recording import entry_of, note, source_of
from calib8.cli.start import open_start, start_images
from calib8.cli.table import aligned
from calib8.errors import OptionError
from calib8.export.record import run_of
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.reading import exists, is_file, is_folder, read_file
from calib8.workflow import (
    DropOptions,
    LayerDamage,
    MixedResult,
    Network,
    TuneOptions,
    Tuner,
    TuneResult,
    write_layer_damage,
    write_mixed,
    write_tuning,
)
from calib8.workflow.recording import hashed

_log = logging.getLogger(__name__)

_MAX_LIST_BYTES = 2**24


def run(options: argparse.Namespace) -> int:
    """Tune, write and print.

    Returns:
        The exit code.
    """
    wanted, drop = _checked(options)
    output = options.output or options.path / "tuned"
    if exists(output) and not is_folder(output):
        raise OptionError(f"{output}: cannot be made a folder for the results: it is a file")
    if options.output is None and output.is_symlink():  # in a folder from elsewhere it may lead anywhere
        raise OptionError(f"{output}: is a link, which is not followed; name the folder for the results with --output")
    with ExitStack() as stack, ProgressLines() as progress:
        network, calibration = open_start(options, progress)
        if drop is not None and options.drop_metric is None and drop.metric.name == "top1":
            _require_classes(options, network)
        workers = stack.enter_context(workers_of(options, network, start_images(options)))
        network, source = hashed(network)
        tuner = Tuner(network, calibration, wanted, drop, workers)
        samples = source.samples(tuner.images)
        make_folder(output)
        stack.enter_context(claim_folder(output))
        if options.part == "test":
            damage = tuner.layer_damage(progress)
            with write_together():
                write_layer_damage(output, damage)
                _note(options, output, "tune --part test", network, calibration.plan, calibration.origin, samples)
            _print_damage(damage)
            return 0
        plan = None
        if options.part == "tune" or options.search != "none":
            result = tuner.tune(progress)
            progress.clear()
            plan = result.plan
            with write_together():
                written = write_tuning(output, options.name, network, result)
                _note(options, output, "tune", network, plan, calibration.origin, samples)
            _print_tuning(result, network, options, written)
        if drop is not None:
            mixed = tuner.mixed_precision(plan, progress)
            progress.clear()
            with write_together():
                paths = write_mixed(output, options.name, network, mixed)
                _note(options, output, "tune --max-drop", network, mixed.plan, calibration.origin, samples)
            _print_proposal(mixed)
            print("\n".join(map(str, paths)))
    return 0


def _checked(options: argparse.Namespace) -> tuple[TuneOptions, DropOptions | None]:
    """The options of the library.

    Raises:
        OptionError: all that is wrong with them.
    """
    problems = _unfit(options)
    wanted, drop = None, None
    try:
        wanted = _tune_options(options)
    except OptionError as why:
        problems += why.problems
    try:
        drop = None if options.max_drop is None else DropOptions(options.max_drop)
    except OptionError as why:
        problems += why.problems
    if problems or wanted is None:
        raise OptionError("calib8 tune cannot be run like this", problems)
    names = [options.metric, *([] if drop is None else [_drop_metric(options)])]
    metrics = metrics_of(options, *names)
    return replace(wanted, metric=metrics[0]), None if drop is None else replace(drop, metric=metrics[1])


def _unfit(options: argparse.Namespace) -> list[str]:
    """Options that do not go together."""
    problems = []
    if options.drop_metric is not None and options.max_drop is None:
        problems.append("--drop-metric belongs to --max-drop")
    if options.search == "none" and options.max_drop is None and options.part == "all":
        problems.append("--search none leaves nothing to do; give --max-drop, or choose a search")
    if options.part == "tune" and not options.layer:
        problems.append("--part tune needs --layer")
    if options.part == "all" and (options.layer or options.difference is not None):
        problems.append("--layer and --difference belong to --part test and --part tune")
    return problems


def _tune_options(options: argparse.Namespace) -> TuneOptions:
    return TuneOptions(
        samples=options.samples, threads=options.threads, budget=options.budget, held_out=options.held_out,
        search=options.search if options.part == "all" else "original", at=options.at, minutes=options.minutes,
        ignored=_ignored(options), layer=options.layer, difference=options.difference,
        record=(options.output or options.path / "tuned") / f"bmnet_{options.name}_tuning.progress",
        iteration=options.iteration, bins=options.bins,
    )  # fmt: skip


def _drop_metric(options: argparse.Namespace) -> str:
    """What may drop by --max-drop."""
    if options.drop_metric is not None:
        return str(options.drop_metric)
    return "top1" if options.metric in ("difference", "yolo") else str(options.metric)


def _require_classes(options: argparse.Namespace, network: Network) -> None:
    """Top-1 is what may drop if nothing is said; of boxes it is nonsense. Who has labels has classes, too."""
    if options.metric == "top1" or options.labels is not None or values_of_classes(network.model):
        return
    raise OptionError(
        f"--max-drop: {options.files.definition}: no output holds classes, so that top-1 says nothing; say what may"
        " drop: --drop-metric difference, or a function of yours; or --drop-metric top1, if they are classes"
    )


def _ignored(options: argparse.Namespace) -> frozenset[str]:
    text = options.ignore_layer_list
    try:
        if text and is_file(text):
            text = read_file(text, _MAX_LIST_BYTES, OptionError, "--ignore_layer_list").decode("utf-8")
    except UnicodeDecodeError as why:
        raise OptionError(f"--ignore_layer_list {options.ignore_layer_list}: cannot be read: {why}") from None
    return frozenset(name for line in text.splitlines() for part in line.split(",") if (name := part.strip()))


def _note(
    options: argparse.Namespace,
    output: Path,
    command: str,
    network: Network,
    plan: QuantPlan,
    origin: str,
    samples: dict[str, object],
) -> None:
    """Write into the record what was done; `origin` is where the search began."""
    run = run_of(options.name, network.model, plan)
    entry = entry_of(options, output, samples, thresholds=source_of(origin, output), run=run)
    note(options, output, command, entry)


def _print_damage(damage: LayerDamage) -> None:
    print(difference_log(damage.differences).decode(), end="")
    if damage.whole is not None:
        print(f"whole network, {damage.metric}: {damage.whole:.9g}")


def _print_tuning(result: TuneResult, network: Network, options: argparse.Namespace, paths: Sequence[Path]) -> None:
    """Print what changed."""
    found = result.found
    print(aligned(_changes(result.before, found.plan, network.of_one_sample), right=(1, 2, 3)))
    print(f"\n{found.trials} trials, {len(found.accepted)} accepted; {result.metric}:")
    print(_compared("tuned", result.tuned, found.before.tuned, found.after.tuned))
    if found.before.held_out is not None and found.after.held_out is not None:
        print(_compared("held out", result.held_out, found.before.held_out, found.after.held_out))
    if found.after.tuned > found.before.tuned:
        _log.warning(
            "the network as a whole has become worse: this search looks at single layers; --search candidates "
            "accepts nothing that makes it worse"
        )
    if not found.finished:
        print(f"stopped after {options.minutes:g} minutes; the same command with more --minutes goes on from here")
    print("\n".join(map(str, paths)))


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


def _print_proposal(mixed: MixedResult) -> None:
    found, allowed = mixed.found, f"{mixed.max_drop:g} allowed"
    print(f"\nmixed precision, {mixed.metric}: {found.drop_before:.6g} with everything in INT8, {allowed}")
    if not found.kept:
        print("nothing has to stay in FP32")
        return
    rows: list[Sequence[str]] = [("kept in FP32", "buys")]
    rows += [(kept.unit.name, f"{kept.buys:.6g}") for kept in found.kept]
    print(aligned(rows, right=(1,)))
    print(f"{found.drop_after:.6g} with these in FP32" + ("" if found.int8_layers else ": nothing is left in INT8"))
