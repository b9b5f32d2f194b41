"""Whatever happens in a command: one line, and an exit code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calib8.atomic import write_atomically
from calib8.cli.boundary import guarded
from calib8.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
RUN = "import sys; from calib8.cli.main import main; sys.exit(main())"


def calib8(*arguments, shell="", **options):
    """A process of its own; `shell` stands behind the command."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    if shell:
        command = ["bash", "-c", f'"$0" "$@" {shell}', *command]
    return subprocess.run(
        command, capture_output=True, text=True, errors="surrogateescape", timeout=120, check=False, **options
    )


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(DIGITS, tmp_path / "net", ignore=shutil.ignore_patterns("bmnet_*")))


class OddError(Exception):
    def __str__(self) -> str:
        return "odd\n\x1b[2J text"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("no\x1b[2J images"), r"p: error: no\x1b[2J images"),
        (MemoryError("array of 8 GiB"), "p: error: there is not enough memory: array of 8 GiB"),
        (OSError(5, "Input/output error", "a\nb"), r"p: error: a\nb: Input/output error"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), "p: error: a text in another encoding than expected: 'utf-8'"),
        (RecursionError("deep"), "p: error: a defect of calib8: RecursionError: deep at test_boundary.py:"),
        (OddError(), r"p: error: a defect of calib8: OddError: odd \x1b[2J text at"),
    ],
)
def test_every_exception_is_one_line(capsys, error, line):
    def work() -> int:
        raise error

    assert guarded("p", work) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1


def test_the_exit_code_is_that_of_the_work_and_usage_is_2(capsys):
    assert guarded("p", lambda: 0) == 0
    assert guarded("p", lambda: 1) == 1
    with pytest.raises(SystemExit) as ended:
        guarded("p", lambda: sys.exit(2))
    assert ended.value.code == 2


def test_an_interrupt_says_what_was_written(capsys, tmp_path):
    def work() -> int:
        raise KeyboardInterrupt

    def work_late() -> int:
        with write_atomically(tmp_path / "a") as file:
            file.write(b"1")
        raise KeyboardInterrupt

    assert guarded("p", work) == 130
    assert capsys.readouterr().err == "p: interrupted; no file was changed\n"
    assert guarded("p", work_late) == 130
    assert capsys.readouterr().err == f"p: interrupted; written before: {tmp_path / 'a'}\n"


def test_streams_are_as_before(capsys):
    before = sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM)
    guarded("p", lambda: print("ü \x07 \udcff\n\ttab") or 0)  # type: ignore[func-returns-value]
    assert before == (sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM))
    print("still there")
    assert capsys.readouterr().out == "ü \\x07 \\udcff\n\ttab\nstill there\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(folder, closed):
    done = calib8("check", folder, shell=closed)
    assert done.returncode == (1 if ">&-" in closed.replace("2>&-", "") else 0)
    assert done.stderr in ("", "calib8: error: cannot write to stdout: it is closed\n")
    assert "Traceback" not in done.stdout + done.stderr
    # No file of the user's has become stdout.
    assert (folder / "deploy.prototxt").read_bytes() == (DIGITS / "deploy.prototxt").read_bytes()


def test_a_reader_that_goes_away(folder):
    done = calib8("check", folder, "--json", shell="| head -c 1")
    assert (done.stdout, done.stderr) == ("{", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(folder):
    done = calib8("check", folder, shell="> /dev/full")
    assert done.returncode == 1
    assert done.stderr == "calib8: error: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_the_terminal(tmp_path, encoding):
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "日本" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }'
    )
    done = calib8("check", tmp_path / "net.prototxt", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and done.stderr == ""
    assert ("日本" if encoding == "utf-8" else r"\u65e5\u672c") in done.stdout


def test_names_that_are_no_utf_8_and_names_with_control_characters(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff\x1b[2J"
    os.mkdir(folder)  # noqa: PTH102
    done = calib8("check", os.fsdecode(folder))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert r"\x1b[2J" in done.stdout


def test_a_name_of_100_kilobytes_does_not_fill_the_screen(tmp_path):
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "%s" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }' % ("a" * 100_000)
    )
    done = calib8("check", tmp_path / "net.prototxt")
    assert done.returncode == 0 and len(done.stdout) < 5000


def test_an_interrupt_in_a_finalizer_is_not_lost(capsys):
    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)  # the handler runs here, where Python swallows what it raises

    def work() -> int:
        Interrupted()
        time.sleep(30)
        return 0

    before = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    assert guarded("p", work) == 130
    assert time.monotonic() - started < 20
    assert capsys.readouterr() == ("", "p: interrupted; no file was changed\n")
    assert (sys.unraisablehook, signal.getsignal(signal.SIGINT)) == before


def test_only_interrupts_are_raised_again(capsys):
    class Odd:
        def __del__(self) -> None:
            raise OddError

    said = []
    before, sys.unraisablehook = sys.unraisablehook, said.append
    try:
        assert guarded("p", lambda: Odd() is None) == 0
    finally:
        sys.unraisablehook = before
    assert [what.exc_type for what in said] == [OddError]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_at_any_time_end_the_command_with_one_line(folder, number):
    command = [sys.executable, "-c", RUN, "calibrate", "digits", str(folder), "-n", "150", "--two-pass"]
    outcomes = set()
    for delay in (0.15, 0.4, 0.8, 1.5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if process.returncode < 0:
            continue  # before there was a handler: the system's own end
        assert "Traceback" not in err
        if process.returncode:
            assert process.returncode == 128 + number, err
            assert err.startswith("calib8: interrupted; ") and err.count("\n") == 1
        outcomes.add(process.returncode)
        assert not [p for p in folder.iterdir() if p.name.startswith(".calib8")]
    assert 128 + number in outcomes
