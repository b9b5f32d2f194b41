"""Every single byte of an input changed, one at a time, to several values: what becomes of the process.

    every_byte.py TARGET FILE [--values few|all] [--step N] [--from N]

The readers run in a child process that the system ends when a case takes 20 seconds; a death is counted, and the next
child goes on behind it. Prints one JSON object: cases, what became of them, the largest growth of memory in one case,
and the cases that failed, as {"place", "value", "what"}.
"""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SECONDS = 20
MOST_KB = 512 * 1024
"""Growth of memory in one case that is a failure."""
SHOWN = 20
_STATE = "<6q"  # case, fine, escaped, swollen, largest growth in kB, room
_CLEAR = Path("/proc/self/clear_refs")


def values_for(byte: int, which: str) -> list[int]:
    """What a byte is changed to: its neighbours, single bits, ends of ranges; or all others."""
    if which == "all":
        return [value for value in range(256) if value != byte]
    near = {byte ^ 1, byte ^ 0x10, byte ^ 0x80, (byte + 1) % 256, (byte - 1) % 256, 0, 0x7F, 0xFF}
    return sorted(near - {byte})


def cases_of(data: bytes, which: str, step: int, first: int = 0) -> list[tuple[int, int]]:
    """Places and values."""
    return [(place, value) for place in range(first, len(data), step) for value in values_for(data[place], which)]


def peak_kb() -> int:
    """The largest resident size since it was last asked to forget."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def work(name: str, file: Path, cases: Sequence[tuple[int, int]], state: mmap.mmap, report: Path) -> None:
    """A child: all cases from the one in `state` on."""
    sys.path.insert(0, os.environ.get("CALIB8_TARGETS", str(Path(__file__).parent)))  # its own test has other ones
    import targets  # noqa: PLC0415 - the parent needs none of it

    logging.disable(logging.CRITICAL)
    data = bytearray(file.read_bytes())
    folder = Path(tempfile.mkdtemp(prefix="calib8-bytes-", dir=report.parent))
    measured = os.access(_CLEAR, os.W_OK)
    targets.TARGETS[name](bytes(data), folder)  # whatever is loaded and made once
    case, *counts, _ = struct.unpack_from(_STATE, state)
    while case < len(cases):
        place, value = cases[case]
        before, data[place] = data[place], value
        struct.pack_into(_STATE, state, 0, case, *counts, 0)
        base = 0
        if measured:
            _CLEAR.write_text("5")
            base = peak_kb()
        signal.alarm(SECONDS)
        try:
            targets.TARGETS[name](bytes(data), folder)
            counts[0] += 1
        except BaseException as why:  # noqa: BLE001
            counts[1] += 1
            _note(report, place, value, f"{type(why).__name__}: {why}")
        signal.alarm(0)
        grown = peak_kb() - base if measured else 0
        counts[3] = max(counts[3], grown)
        if grown > MOST_KB:
            counts[2] += 1
            _note(report, place, value, f"{grown} kB of memory")
        data[place] = before
        case += 1
    struct.pack_into(_STATE, state, 0, case, *counts, 0)


def _note(report: Path, place: int, value: int, what: str) -> None:
    with report.open("a") as lines:
        lines.write(json.dumps({"place": place, "value": value, "what": what[:300]}) + "\n")


def run(name: str, file: Path, cases: Sequence[tuple[int, int]], command: Sequence[str]) -> dict[str, Any]:
    """All cases, in as many children as it takes."""
    with tempfile.TemporaryDirectory() as folder:
        report, shared = Path(folder) / "report", Path(folder) / "state"
        shared.write_bytes(bytes(struct.calcsize(_STATE)))
        died = 0
        while True:
            child = subprocess.run(
                [sys.executable, __file__, *command, "--child", folder], check=False, capture_output=True, text=True
            )
            case, fine, escaped, swollen, grown, _ = struct.unpack(_STATE, shared.read_bytes())
            if child.returncode == 0:
                break
            if child.returncode > 0:
                raise RuntimeError(child.stderr)
            died += 1
            _note(report, *cases[case], signal.Signals(-child.returncode).name)
            shared.write_bytes(struct.pack(_STATE, case + 1, fine, escaped, swollen, grown, 0))
        failures = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    return {
        "target": name, "file": file.name, "bytes": file.stat().st_size, "cases": len(cases), "fine": fine,
        "escaped": escaped, "died": died, "swollen": swollen, "largest growth in MB": grown // 1024,
        "failures": failures,
    }  # fmt: skip


def words(name: str, file: Path, which: str, step: int, first: int) -> Iterator[str]:
    """The command of a child."""
    yield from (name, str(file), "--values", which, "--step", str(step), "--from", str(first))


def every_byte(name: str, file: Path, which: str = "few", step: int = 1, first: int = 0) -> dict[str, Any]:
    """Change the bytes of a file for a target; returns the object that the module's text documents."""
    cases = cases_of(file.read_bytes(), which, step, first)
    return run(name, file, cases, list(words(name, file, which, step, first)))


def main() -> int:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("file", type=Path)
    parser.add_argument("--values", choices=("few", "all"), default="few")
    parser.add_argument("--step", type=int, default=1, help="every so many bytes")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first place")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        found = every_byte(options.target, options.file, options.values, options.step, options.first)
        shown = {
            **found,
            "failures": found["failures"][:SHOWN],
            "more failures": max(0, len(found["failures"]) - SHOWN),
        }
        print(json.dumps(shown, indent=1))
        return 1 if found["failures"] else 0
    cases = cases_of(options.file.read_bytes(), options.values, options.step, options.first)
    with (options.child / "state").open("r+b") as shared, mmap.mmap(shared.fileno(), 0) as state:
        work(options.target, options.file, cases, state, options.child / "report")
    return 0


if __name__ == "__main__":
    sys.exit(main())
