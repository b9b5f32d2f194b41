"""`calib8 calibrate NAME PATH`: thresholds from data, integers from thresholds, the four files of the guide."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib8.atomic import claim_folder
from calib8.choices import DEFAULT_IMAGES
from calib8.cli.arguments.histogram_options import check_histogram_options
from calib8.cli.flags import Flags, with_flags
from calib8.cli.images import open_files, without_bad
from calib8.cli.measuring import as_one_run, settle_iteration, wanted_of
from calib8.cli.progress import ProgressLines
from calib8.cli.recording import CALIBRATE_OPTIONS, IMAGE_OPTIONS, words_of
from calib8.cli.table import aligned
from calib8.errors import Calib8Error, OptionError
from calib8.export import write_calibration_files
from calib8.export.record import MAX_RECORD_BYTES, parse_record
from calib8.lowering import Model
from calib8.measure.histogram import BlobHistogram
from calib8.measure.thresholds import DEFAULT_METHOD
from calib8.reading import read_file, require_folder
from calib8.terminal import printable
from calib8.workflow import (
    CalibrationResult,
    Network,
    calibrate,
    calibrate_given,
    quick_check,
    read_thresholds,
)
from calib8.workflow.recording import digest_or_nothing, hashed, recorded

if TYPE_CHECKING:
    from calib8.analyze.doctor import Finding
    from calib8.analyze.verdict import Verdict

_log = logging.getLogger(__name__)
_MUCH_CLIPPED = 0.01
_NO_CAFFEMODEL = "there is no caffemodel of an ONNX model; these integers are for calib8's other commands, like"
# What to try where a method clips much.
_INSTEAD = {
    "kl": "--method mse", "kl-fine": "--method mse", "percentile": "a larger --percent, or --method mse"
}  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Calibrate and write the files.

    Returns:
        The exit code.
    """
    options.files.require()
    output = options.output or options.path
    require_folder(output, OptionError, "the results would go there")
    if not os.access(output, os.W_OK):
        raise OptionError(
            f"{output}: you may not write there, where the results would go; --output names another folder"
        )
    check_histogram_options(options)
    if options.shard is not None:
        from calib8.cli.kept_histograms import count_shard  # noqa: PLC0415 - with all that speaks to a cluster

        return count_shard(options)
    samples: Mapping[str, object] | None = None
    with claim_folder(output), ProgressLines() as progress:
        network = open_files(options)
        network = without_bad(network, options, options.iteration or DEFAULT_IMAGES)
        settle_iteration(options, network)
        if options.histograms is not None or options.cluster is not None:
            from calib8.cli.kept_histograms import calibrate_kept  # noqa: PLC0415 - see above

            result, samples = calibrate_kept(network, options, progress)
            _tell_findings(quick_check(network, options.threads))
        elif options.thresholds is None:
            read, source = hashed(network)
            result = calibrate(read, wanted_of(options), progress)
            samples = source.samples(options.iteration)
            _tell_findings(quick_check(network, options.threads))
        else:
            result, samples = _calibrate_given(network, options, progress)
        progress.clear()
        paths = write_calibration_files(
            output, options.name, network.model, result.plan, _record(options, output, samples)
        )  # fmt: skip
    if result.repaired is None:
        _warn_of_clipping(network.model, result, options.method or DEFAULT_METHOD)
    print(summary(network.model, result))
    if result.repaired is not None:
        print("\n".join(result.repaired.lines()))
    print("\n".join(str(path) for path in paths))
    if options.files.is_onnx:
        print(f"{_NO_CAFFEMODEL}: {_export_of(network.model, options)}")
    if not options.no_verdict:
        _print_verdict(network, result, options)
    return 0


def _calibrate_given(
    network: Network, options: argparse.Namespace, progress: ProgressLines
) -> tuple[CalibrationResult, Mapping[str, object] | None]:
    """Calibrate with the thresholds of a table; with a description of the samples, where some were needed."""
    given, wanted = read_thresholds(network, options.thresholds), wanted_of(options)
    if network.source is None or wanted.repair == "none":
        return calibrate_given(network, given, wanted, progress), None
    read, source = hashed(network)
    result = calibrate_given(read, given, wanted, progress)
    if result.repaired is None:
        return result, None
    _tell_findings(quick_check(network, options.threads))
    return result, source.samples(options.iteration)


def _record(options: argparse.Namespace, output: Path, samples: Mapping[str, object] | None) -> dict[str, object]:
    """What the files' record says of this run."""
    if options.histograms is not None or options.cluster is not None:
        options = as_one_run(options)
    words, images = (words_of(options, names, options.flags, output) for names in (CALIBRATE_OPTIONS, IMAGE_OPTIONS))
    content = recorded(options.files.definition, options.files.weights, samples, words, images)
    if options.thresholds is not None:
        content["thresholds"] = digest_or_nothing(options.thresholds)
    if options.from_record is not None:
        _compare_samples(options.from_record, content.get("samples"))
    return content


def _compare_samples(path: Path, samples: object) -> None:
    """Say that a repeated calibration has other samples."""
    before = parse_record(read_file(path, MAX_RECORD_BYTES, OptionError), str(path)).further.get("samples")
    if not (isinstance(before, dict) and isinstance(samples, dict)):
        return
    if any(before[key] != samples[key] for key in before.keys() & samples.keys()):
        _log.warning("%s: the samples are others than those of the record, so the result may be another one", path)


def _print_verdict(network: Network, result: CalibrationResult, options: argparse.Namespace) -> None:
    """The files are there by now, so that a verdict that cannot be given is no error."""
    if network.source is None or all(own is None for own in result.plan.forms.values()):
        return
    from calib8.workflow import VerdictOptions, verdict  # noqa: PLC0415 - with all judges; --no-verdict needs none

    calibrated = 0 if options.thresholds is not None and result.repaired is None else options.iteration
    try:
        judged = verdict(network, result.plan, VerdictOptions(calibrated, threads=options.threads))
    except Calib8Error as why:
        _log.warning("no verdict: %s", why)
        return
    print(verdict_text(judged, options.flags))
    if judged.grade.value != "good" and judged.losing is None and (more := _more_repair(options)):
        print(f"  -> {more}")


def verdict_text(judged: Verdict, flags: Flags) -> str:
    """Write a line for each output, and a sentence."""
    lines = [f"INT8 against FP32, {judged.samples}:"]
    lines += [f"  {printable(', '.join(one.blobs))}: {one.text}" for one in judged.outputs]
    return "\n".join([*lines, f"{judged.grade.value}: {with_flags(judged.sentence, flags)}"])


def _more_repair(options: argparse.Namespace) -> str:
    """Say what to type for a repair that may bring INT8 nearer to FP32; "" where nothing is left to try."""
    nearer = "INT8 may come nearer to FP32"
    # Thresholds that are given are not moved, which is most of what it does.
    is_all = options.thresholds is not None or (options.repair == "thorough" and not options.original)
    thorough = "" if is_all else ", or say --repair thorough in its place"
    if options.original or options.repair == "none":
        plain = "--original" if options.original else "--repair none"
        return f"nothing was repaired: leave out {plain}{thorough}; {nearer}"
    if options.without:
        left_out = " ".join(f"--without {name}" for name in dict.fromkeys(options.without))
        return f"parts of the repair were left out: leave out {left_out}{thorough}; {nearer}"
    return "" if is_all else f"--repair thorough goes on from here, for minutes; {nearer}"


def _tell_findings(findings: Sequence[Finding]) -> None:
    """The doctor's short form: what looks wrong with the preprocessing."""
    for one in findings:
        _log.warning("%s; %s (`calib8 doctor` says more)", one.text, one.advice)


def summary(model: Model, result: CalibrationResult) -> str:
    """Write a table: every layer with its top's threshold, what it clips, the largest |x| seen, and the right shift.

    Where a layer has several tops, each row names its own: `layer: top`.
    """
    plan = result.plan
    rows = [("layer", "type", "threshold", "max|x|", "clipped", "rshift")]
    for layer in model.net.layers:
        own = plan.forms.get(layer.name)
        shift = "" if own is None or own.accumulator_shift is None else str(own.accumulator_shift)
        for top in layer.tops:
            name = layer.name if len(layer.tops) == 1 else f"{layer.name}: {model.net.blob_of[top]}"
            rows.append((name, layer.type, f"{plan.thresholds[top]:.6g}", *_seen(result, top), shift))
    return aligned(rows, right=range(2, 6))


def _seen(result: CalibrationResult, value: str) -> tuple[str, str]:
    histogram = result.histograms.get(value)
    if histogram is None:
        return "", ""  # shares the threshold of another blob
    share = _clipped(result, value)
    return f"{histogram.maximum:.6g}", "-" if share is None else f"{share:.2%}"


def _clipped(result: CalibrationResult, value: str) -> float | None:
    """The share of a value's numbers beyond the threshold; None where channels count in units before a BatchNorm."""
    histogram: BlobHistogram | None = result.histograms[value]
    if value in result.plan.channel_units:
        histogram = None if result.repaired is None else result.repaired.best.in_units.get(value)
    return None if histogram is None else histogram.beyond_threshold(result.plan.thresholds[value])


def _export_of(model: Model, options: argparse.Namespace) -> str:
    """Say how an ONNX model that was calibrated like this is exported."""
    given = options.files.given
    named = [] if options.name == given.stem else [options.name]
    words = ["calib8", "export", *named, str(given), "--format", "onnx-uint8"]
    if options.shapes or options.size:  # which the model may leave open
        for blob in model.inputs:
            words += ["--shape", f"{blob}={','.join(map(str, model.shapes[blob]))}"]
    if options.output is not None:
        words += ["--calibration", str(options.output), "--output", str(options.output)]
    return shlex.join(words)


def _warn_of_clipping(model: Model, result: CalibrationResult, method: str) -> None:
    """A search can be led astray; say so where it shows, and name what was not tried."""
    advice = _INSTEAD.get(method)
    if advice is None:
        return  # mse has weighed what clipping costs
    in_integers = [x for x in model.net.layers if result.plan.forms.get(x.name) is not None]
    quantized = {value for layer in in_integers for value in (*layer.bottoms, *layer.tops)}
    shares = {value: _clipped(result, value) or 0.0 for value in result.histograms if value in quantized}
    much = [value for value, share in shares.items() if share > _MUCH_CLIPPED]
    if not much:
        return
    worst = max(much, key=lambda value: shares[value])
    _log.warning(
        "the thresholds of %s clip more than %.0f %% of their values (%r: %.1f %%), which costs accuracy; try %s",
        "1 blob" if len(much) == 1 else f"{len(much)} blobs", 100 * _MUCH_CLIPPED, worst, 100 * shares[worst],
        advice,
    )  # fmt: skip
