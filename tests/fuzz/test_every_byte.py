"""Single bytes changed, in child processes whose death is a failure; `every_byte.py` by hand does it to all of them."""

from __future__ import annotations

import pytest
from fuzz.every_byte import cases_of, every_byte
from fuzz.run import CORPUS

# Each with a step that lets it take a second or two, most of it for the start of the process.
STEPS = {"lmdb/raw": 89, "hdf5/weights": 97, "hdf5/samples": 47, "arrays/lzma": 5}


@pytest.mark.parametrize("name", STEPS)
def test_no_byte_ends_the_process(name):
    target, _, file = name.partition("/")
    found = every_byte(target, CORPUS / target / file, step=STEPS[name])
    assert found["failures"] == [] and found["fine"] == found["cases"] > 200
    assert found["died"] == found["escaped"] == found["swollen"] == 0


def test_a_death_is_counted_and_the_rest_is_tried(tmp_path, monkeypatch):
    """With a target that ends the process for one value, raises for another, and takes memory for a third."""
    bad = tmp_path / "targets.py"
    bad.write_text(
        "import os, signal\n"
        "def bad(data, folder):\n"
        "    if data[0] == 0: os.kill(os.getpid(), signal.SIGBUS)\n"
        "    if data[0] == 1: raise ValueError('v')\n"
        "    if data[0] == 2: bytearray(b'1') * (600 << 20)\n"
        "TARGETS = {'bad': bad}\n"
    )
    monkeypatch.setenv("CALIB8_TARGETS", str(tmp_path))
    (tmp_path / "file").write_bytes(b"abc")
    found = every_byte("bad", tmp_path / "file", "all")
    assert found["cases"] == len(cases_of(b"abc", "all", 1)) == 3 * 255
    assert (found["died"], found["escaped"], found["swollen"], found["fine"]) == (1, 1, 1, 3 * 255 - 2)
    what = {one["value"]: one["what"] for one in found["failures"]}
    assert what[0] == "SIGBUS" and what[1] == "ValueError: v" and what[2].endswith("kB of memory")
