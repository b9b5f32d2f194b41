"""`calib8 doctor NAME PATH`: did I feed the right pictures, and enough of them?"""

from __future__ import annotations

import argparse
import json
import math
import textwrap

from calib8.analyze.doctor import Finding, Severity
from calib8.analyze.doctor.preprocessing import Fit, PreprocessingCheck
from calib8.cli.flags import with_flags
from calib8.cli.images import open_files, without_bad
from calib8.cli.measuring import calibrate_options
from calib8.cli.progress import ProgressLines
from calib8.cli.recording import entry_of, note_if_possible
from calib8.cli.table import aligned
from calib8.errors import OptionError
from calib8.reading import require_folder
from calib8.terminal import printable
from calib8.workflow import DiagnoseOptions, Diagnosis, diagnose
from calib8.workflow.recording import hashed

_OTHERS_SHOWN = 4
_WIDTH = 110


def run(options: argparse.Namespace) -> int:
    """Examine and print.

    Returns:
        The exit code.
    """
    options.files.require()
    if options.output is not None:
        require_folder(options.output, OptionError, "the record would go there")
    if options.thresholds is not None:
        raise OptionError("--thresholds are of no use here: the doctor measures how sure thresholds are")
    wanted = DiagnoseOptions(**vars(calibrate_options(options)))
    with ProgressLines() as progress:
        network = open_files(options)
        network = without_bad(network, options)
        network, source = hashed(network)
        diagnosis = diagnose(network, wanted, progress)
    text = json.dumps(as_json(options.name, diagnosis), indent=1) if options.json else as_text(options.name, diagnosis)
    print(with_flags(text, options.flags))
    found = [{k: v for k, v in finding_json(one).items() if v} for one in diagnosis.findings]
    samples = source.samples(diagnosis.survey.images)
    note_if_possible(options, "doctor", entry_of(options, options.output or options.path, samples, result=found))
    return 0


def as_text(name: str, diagnosis: Diagnosis) -> str:
    """Write the verdict of each part, then all findings."""
    problems = sum(one.severity is Severity.PROBLEM for one in diagnosis.findings)
    hints = len(diagnosis.findings) - problems
    counted = " and ".join(
        f"{number} {what}{'s' * (number != 1)}" for number, what in ((problems, "problem"), (hints, "hint")) if number
    )
    parts = [_preprocessing(diagnosis.preprocessing), _convergence(diagnosis), *map(_finding, diagnosis.findings)]
    return "\n\n".join([*parts, f"{name}, {diagnosis.survey.images} images: {counted or 'nothing to complain of'}"])


def _preprocessing(check: PreprocessingCheck) -> str:
    if check.given is None:
        return f"preprocessing: {check.sentence}"
    rows = [("preprocessing", "misfit", ""), _row(check.given, "as given")]
    rows += [_row(fit, _remark(fit)) for fit in check.others[:_OTHERS_SHOWN]]
    parts = [aligned(rows, right=(1,)), f"{check.tried} others tried, by {check.evidence}"]
    parts += [] if check.findings else [_wrapped(check.sentence)]
    return "\n".join(parts)


def _remark(fit: Fit) -> str:
    return f"{fit.gain:.2f} times as well{', the same for this evidence' if fit.alike else ''}"


def _row(fit: Fit, remark: str) -> tuple[str, str, str]:
    return (f"{fit.recipe.text}{f', {fit.what}' if fit.what else ''}", f"{fit.misfit:.3f}", remark)


def _convergence(diagnosis: Diagnosis) -> str:
    sure = diagnosis.convergence
    if math.isnan(sure.typical):
        return f"images: {sure.images}"
    word = "enough" if not sure.findings else "too few"
    rest = f"{len(sure.unsure)} of {len(sure.errors)} are not within 5 %"
    return f"images: {sure.images} are {word}; thresholds are sure within {sure.typical:.1%}, {rest}"


def _finding(one: Finding) -> str:
    subject = f"{printable(one.subject)}: " if one.subject else ""
    text = f"{one.severity.value}, {one.area}: {subject}{printable(one.text)}"
    wrapped = _wrapped(text)
    return f"{wrapped}\n  -> {one.advice}" if one.advice else wrapped


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def as_json(name: str, diagnosis: Diagnosis) -> dict[str, object]:
    """Make the object that the help documents."""
    check, sure = diagnosis.preprocessing, diagnosis.convergence
    return {
        "network": name,
        "images": diagnosis.survey.images,
        "preprocessing": {
            "evidence": check.evidence,
            "kind": check.kind,
            "given": None if check.given is None else fit_json(check.given),
            "others": [fit_json(fit) for fit in check.others],
            "tried": check.tried,
            "sentence": check.sentence,
        },
        "convergence": {
            "typical": None if math.isnan(sure.typical) else sure.typical,
            "enough": sure.enough,
            "errors": dict(sure.errors),
        },
        "findings": [finding_json(one) for one in diagnosis.findings],
    }


def fit_json(fit: Fit) -> dict[str, object]:
    """Make an object of a recipe and how well it fits; an infinite misfit is null."""
    recipe = {"order": fit.recipe.order, "mean": fit.recipe.mean, "scale": fit.recipe.scale}
    misfit = fit.misfit if math.isfinite(fit.misfit) else None
    return {
        "recipe": recipe,
        "what": fit.what,
        "misfit": misfit,
        "gain": fit.gain,
        "sure": fit.sure,
        "alike": fit.alike,
    }


def finding_json(one: Finding) -> dict[str, object]:
    """Make an object of a finding, for programs."""
    return {
        "area": one.area, "severity": one.severity.value, "subject": one.subject,
        "text": one.text, "advice": one.advice,
    }  # fmt: skip
