"""What a command imports: start-up is part of its time, and the help needs nothing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from calib8.cli.parser import SUMMARIES, build_parser

LARGE = ("numpy", "onnx", "onnxruntime", "cv2", "google.protobuf", "lmdb", "yaml", "h5py", "matplotlib", "shtab")
SCRIPT = """
import json, sys
from calib8.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps([name for name in %r if name in sys.modules]), file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    """The large libraries that a call of the command imports."""
    command = [sys.executable, "-c", SCRIPT % (LARGE,), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"], [], ["-x"]])
def test_what_needs_no_command_imports_nothing_large(arguments):
    assert imported(*arguments) == set()


def test_completion_knows_all_commands_and_plots_nothing():
    assert "matplotlib" not in imported("completion", "bash")


@pytest.mark.parametrize("command", [name for name in SUMMARIES if name not in ("completion", "doctor")])
def test_no_command_plots_or_reads_hdf5_unasked(command):
    assert imported(command, "--help").isdisjoint({"matplotlib", "h5py", "shtab"})


def test_summaries_are_those_of_the_commands():
    for name in SUMMARIES:
        parser = build_parser([name])
        actions = [a for a in parser._actions if hasattr(a, "_choices_actions")]
        shown = {a.dest: a.help for a in actions[0]._choices_actions}
        assert shown == dict(SUMMARIES), name
        assert importlib.import_module(f"calib8.cli.{name}").add_parser


def test_only_the_named_command_has_its_options():
    parser = build_parser(["-v", "check", "x"])
    commands = next(a for a in parser._actions if hasattr(a, "_choices_actions")).choices
    assert len(commands["check"]._actions) > 3 and len(commands["tune"]._actions) == 1
