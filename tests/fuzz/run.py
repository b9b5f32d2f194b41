"""`make fuzz`: looks for bytes that make a reader fail. A line for each target; exit code 1 if something was found.

    run.py [--seconds N] [TARGET ..]     every target, or these, for so many seconds each
    run.py TARGET FILE ..                these files, in this process

With atheris (libFuzzer over calib8's own code) mutations follow what they reach; without it they are made blindly from
the corpus. Each target runs in a process of its own, with 2 GiB of memory and 20 seconds for an input. What was
found is left in build/fuzz/TARGET; put it into tests/fuzz/corpus/TARGET when it is mended.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
FOUND = HERE.parents[1] / "build" / "fuzz"
MEMORY_MB = 2048
SECONDS_FOR_AN_INPUT = 20
_ODD = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\x7f",
    b"\xff" * 8,
    b"nan",
    b"-1",
    b"1e999",
    b"9" * 30,
    b"[" * 50,
)


def mutations(seeds: Sequence[bytes], rng: random.Random) -> Iterator[bytes]:
    """Yield damaged inputs without an end: bytes changed, odd ones put in, parts cut, doubled, and put together."""
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            place = rng.randrange(len(data) + 1)
            match rng.randrange(6):
                case 0 if data:
                    data[min(place, len(data) - 1)] = rng.randrange(256)
                case 1:
                    odd = rng.choice(_ODD)
                    data[place : place + rng.choice((0, len(odd)))] = odd
                case 2:
                    del data[place : place + rng.choice((1, 4, 64, 4096))]
                case 3:
                    data[place:place] = data[place : place + rng.choice((1, 8, 200))]
                case 4:
                    other = rng.choice(seeds)
                    at = rng.randrange(len(other) + 1)
                    data[place : place + 64] = other[at : at + 64]
                case _ if data:
                    data[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
        yield bytes(data)


def seeds_of(name: str) -> list[bytes]:
    """The corpus of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def run_blindly(name: str, seconds: float, seed: int) -> int:
    """Mutations until the time is over; returns how many there were. What fails is kept, and raised."""
    import targets  # noqa: PLC0415 - after atheris

    end = time.monotonic() + seconds
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        for data in mutations(seeds_of(name), random.Random(seed)):
            if time.monotonic() > end:
                return count
            start = time.monotonic()
            try:
                targets.TARGETS[name](data, Path(folder))
                slow = time.monotonic() - start > SECONDS_FOR_AN_INPUT
            except BaseException:
                _keep(name, data)
                raise
            if slow:
                _keep(name, data)
                raise AssertionError(f"{name}: {time.monotonic() - start:.0f} s for one input")
            count += 1
    return count


def _keep(name: str, data: bytes) -> None:
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    (FOUND / name / f"found-{random.randrange(16**8):08x}").write_bytes(data)


def one_target(name: str, seconds: int, seed: int) -> None:
    """A process's work; never returns with atheris."""
    logging.disable(logging.CRITICAL)
    try:
        import atheris  # noqa: PLC0415
    except ImportError:
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        print(f"{name}: {run_blindly(name, seconds, seed)} cases, blindly, nothing found")
        return
    with atheris.instrument_imports(include=["calib8"]):
        import targets  # noqa: PLC0415
    folder = Path(tempfile.mkdtemp(prefix="calib8-fuzz-"))
    found = FOUND / name
    (found / "corpus").mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [sys.argv[0], str(found / "corpus"), str(CORPUS / name), f"-max_total_time={seconds}", f"-seed={seed}",
         f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SECONDS_FOR_AN_INPUT}", f"-artifact_prefix={found}/",
         "-max_len=20000", "-print_final_stats=1"],
        lambda data: targets.TARGETS[name](data, folder),
    )  # fmt: skip
    atheris.Fuzz()


def all_targets(names: Sequence[str], seconds: int, seed: int) -> int:
    """Every target in a process of its own."""
    failed = 0
    for name in names:
        command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds), "--seed", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        cases = next((x.split(":")[-1].strip() for x in last if "number_of_executed_units" in x), "")
        peak = next((x.split(":")[-1].strip() for x in last if "peak_rss_mb" in x), "")
        if done.returncode:
            failed += 1
            print(f"{name}: FAILED, see {FOUND / name}\n" + "\n".join(last[-25:]))
        else:
            print(f"{name}: {cases} cases, at most {peak} MB, nothing found" if cases else last[-1])
    return 1 if failed else 0


def main() -> int:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one", metavar="TARGET", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_target(options.one, options.seconds, options.seed)
        return 0
    names = sorted(path.name for path in CORPUS.iterdir())
    if len(options.words) > 1 and Path(options.words[1]).is_file():
        import targets  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            for file in options.words[1:]:
                targets.TARGETS[options.words[0]](Path(file).read_bytes(), Path(folder))
        return 0
    how = "coverage-guided (atheris)" if importlib.util.find_spec("atheris") else "blindly: there is no atheris"
    print(f"{len(options.words or names)} targets, {options.seconds} s each, {how}")
    return all_targets(options.words or names, options.seconds, options.seed)


if __name__ == "__main__":
    sys.exit(main())
