"""After a kill, an error or a Ctrl-C at any call of the system, all files are old or all are new."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("every_moment.py")


def moments(folder: Path, work: str, trouble: str, **environment: str) -> list[dict[str, Any]]:
    """What was found for each moment."""
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, folder, work, trouble], capture_output=True, text=True, check=True,
        timeout=300, env={**os.environ, **environment},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [m["moment"] for m in found] == list(range(1, len(found) + 1))
    assert found[-1]["outcome"] == "done" and found[-1]["seen"] == "new"  # beyond the last call
    return found


@pytest.mark.parametrize(("work", "least"), [("set", 60), ("database", 15)])
def test_killed_at_any_moment(tmp_path, work, least):
    found = moments(tmp_path, work, "kill")
    assert len(found) > least
    states = [m["seen"] for m in found]
    assert set(states) == {"old", "new"}
    assert states == sorted(states, reverse=True)  # one commit point: old before it, new behind it
    for moment in found:
        assert moment["after the next run"] == moment["seen"]
        assert moment["litter"] == []
        assert moment["links"] == (["b"] if work == "set" and moment["seen"] == "old" else [])


@pytest.mark.parametrize("trouble", ["EIO", "ENOSPC", "EACCES", "EIO on"])
@pytest.mark.parametrize("work", ["set", "database"])
def test_an_error_at_any_moment(tmp_path, work, trouble):
    found = moments(tmp_path, work, trouble)
    assert {m["seen"] for m in found} == {"old", "new"}
    for moment in found:
        # What is said is what is true.
        assert moment["seen"] == ("new" if moment["outcome"] == "done" else "old")
        assert moment["outcome"] == "done" or moment["outcome"].startswith("OptionError: cannot write ")
        assert moment["after the next run"] == moment["seen"]
        assert moment["litter"] == []


@pytest.mark.parametrize("work", ["set", "database"])
def test_interrupted_at_any_moment(tmp_path, work):
    found = moments(tmp_path, work, "interrupt")
    assert {m["seen"] for m in found} == {"old", "new"}
    for moment in found[:-1]:
        assert moment["outcome"].startswith("KeyboardInterrupt")
        assert moment["after the next run"] == moment["seen"]
        assert moment["litter"] == []


def test_without_links_the_next_run_finishes_what_was_begun(tmp_path):
    found = moments(tmp_path, "set", "kill", NO_LINKS="1")
    assert {m["after the next run"] for m in found} == {"old", "new"}
    for moment in found:
        assert moment["litter"] == []
        assert moment["seen"] == moment["after the next run"] or moment["after the next run"] == "new"
