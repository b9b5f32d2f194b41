"""What a command imports: start-up is part of its time, and the help needs nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from calib8.cli.parser import SUMMARIES, build_parser

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
LARGE = ("numpy", "onnx", "onnxruntime", "cv2", "google.protobuf", "lmdb", "yaml", "h5py", "matplotlib", "shtab")
SCRIPT = """
import json, sys
from calib8.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(list(sys.modules)), file=sys.stderr)
"""


ROOMS = ("calib8.workflow", "calib8.measure", "calib8.repair", "calib8.data", "calib8.graph", "calib8.proto")
WORDS = {  # a line of each command that is wrong at its end, behind everything else that argparse looks at
    "check": ["net.prototxt", "--phase", "foo"],
    "doctor": ["net", "folder", "-n", "abc"],
    "calibrate": ["net", "folder", "-n", "abc"],
    "evaluate": ["net", "folder", "--peak", "abc"],
    "report": ["net", "folder", "--shown", "abc"],
    "thresholds": ["all.hist", "--method", "foo"],
    "merge": ["a.hist", "b.hist"],
    "sensitivity": ["net", "folder", "--anchors", "abc"],
    "tune": ["net", "folder", "--search", "foo"],
    "export": ["net", "folder", "--format", "foo"],
    "lmdb": ["create", "source", "output", "--size", "abc"],
    "completion": ["foo"],
}


def modules(*arguments: str) -> set[str]:
    """All modules that a call of the command imports."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def imported(*arguments: str) -> set[str]:
    """The large libraries that a call of the command imports."""
    return modules(*arguments).intersection(LARGE)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"], [], ["-x"]])
def test_what_needs_no_command_imports_nothing_large(arguments):
    assert imported(*arguments) == set()


def test_completion_knows_all_commands_and_imports_what_none_computes_with():
    found = modules("completion", "bash")
    assert found.intersection(LARGE) == {"shtab"} and found.isdisjoint(ROOMS)
    assert found.issuperset(f"calib8.cli.arguments.{name}" for name in SUMMARIES)


@pytest.mark.parametrize("command", SUMMARIES)
@pytest.mark.parametrize("words", [["--help"], [], ["--nonsense"], WORDS], ids=str)
def test_help_and_usage_errors_import_nothing_that_computes(command, words):
    found = modules(command, *(words[command] if words is WORDS else words))
    assert found.isdisjoint([*LARGE, *ROOMS]) and f"calib8.cli.{command}" not in found


@pytest.mark.parametrize("command", ["calibrate", "doctor", "evaluate", "export", "report", "sensitivity", "tune"])
def test_a_path_that_is_missing_is_a_usage_error_like_others(command):
    line = ["net", "--format", "onnx"] if command == "export" else ["net"]
    assert modules(command, *line).isdisjoint([*LARGE, *ROOMS])


@pytest.mark.parametrize("command", [name for name in SUMMARIES if name != "completion"])
def test_no_command_plots_or_reads_hdf5_unasked(command):
    script = (
        f"import sys, calib8.cli.{command}; print([n for n in ('matplotlib', 'h5py', 'shtab') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_calibration_without_repair_imports_no_part_of_numpy_that_it_can_do_without(tmp_path):
    """They take 3 to 4 MB each, and some of its functions import them unasked."""
    line = ["calibrate", "digits", str(DIGITS), "-n", "10", "--method", "kl", "--repair", "none"]
    found = modules(*line, "--output", str(tmp_path))
    assert "calib8.workflow.verdicts" in found and found.isdisjoint(["numpy.ma", "numpy.random", "onnx", "h5py"])


def test_summaries_are_those_of_the_commands():
    for name in SUMMARIES:
        parser = build_parser([name])
        actions = [a for a in parser._actions if hasattr(a, "_choices_actions")]
        shown = {a.dest: a.help for a in actions[0]._choices_actions}
        assert shown == dict(SUMMARIES), name
        assert importlib.import_module(f"calib8.cli.arguments.{name}").add_parser
        assert importlib.import_module(f"calib8.cli.{name}").run


def test_only_the_named_command_has_its_options():
    parser = build_parser(["-v", "check", "x"])
    commands = next(a for a in parser._actions if hasattr(a, "_choices_actions")).choices
    assert len(commands["check"]._actions) > 3 and len(commands["tune"]._actions) == 1


WATCHED = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            print("found", os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
            sys.exit(3)
sys.meta_path.insert(0, Watch())
from calib8.cli.main import main
main(["check", "nothing.prototxt"])
"""


@pytest.mark.parametrize(("own", "expected"), [({}, "4"), ({"OPENBLAS_THREAD_TIMEOUT": "20"}, "20")])
def test_threads_of_numpy_do_not_spin_from_its_import_on(own, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"} | own
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == f"found {expected}"
