"""All real prototxts: each is built without weights, or refused with its file, a line or a layer, and the reason."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest

from calib8.errors import Calib8Error
from calib8.lowering import build_model
from calib8.proto.text import read_prototxt

_SECONDS = 5.0  # of the processor: a busy machine is no failure


def outcome(path) -> str:
    """ "built" or why not; any other exception fails the test."""
    try:
        model = build_model(read_prototxt(path))
    except Calib8Error as why:
        for problem in why.problems:
            assert problem.startswith(f"{path}:"), problem
            assert re.match(r":\d+: \S|: (no layer takes part|layer ')", problem.removeprefix(str(path))), problem
            assert "Traceback" not in problem and "\n" not in problem
        return f"{len(why.problems)} problems: {why.problems[0].removeprefix(str(path))}"
    assert all(value in model.shapes for layer in model.net.layers for value in layer.tops)
    return "built"


@pytest.mark.shared
def test_every_file_is_built_or_refused(shared, capsys):
    paths = sorted((shared / "prototxts").glob("*.prototxt"))
    assert len(paths) >= 110
    found: dict[str, str] = {}
    slowest = 0.0
    for path in paths:
        start = time.process_time()
        found[path.name] = outcome(path)
        slowest = max(slowest, time.process_time() - start)
    counts = Counter("built" if what == "built" else "refused" for what in found.values())
    with capsys.disabled():
        print(f"\nreal prototxts: {dict(counts)}, slowest {slowest:.2f} s")
        for name, what in found.items():
            if what != "built":
                print(f"  {name}: {what}")
    assert slowest < _SECONDS
    assert counts["built"] > counts["refused"]
