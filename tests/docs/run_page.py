"""Runs the steps of one page, in order and in one process: `python run_page.py < steps.json`, in a scratch folder.

Steps are lists: ["command", text], ["python", text, place], ["prototxt", text, place], ["file", name, text]. For each
one a line of JSON is printed: {"code": exit code, "output": stdout and stderr}. It ends at the first Python block that
raises. One process, because starting Python and its libraries takes longer than most examples.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from calib8.cli.main import main
from calib8.errors import Calib8Error
from calib8.export import formats
from calib8.proto.text import parse_prototxt

_SHELL_CHARACTERS = frozenset("|&;<>$*?~`#(){}")


def run_command(text: str) -> tuple[int, str]:
    """`calib8 ...` in this process, anything else in bash; exit code and output."""
    if text.startswith("calib8 ") and not _SHELL_CHARACTERS & set(text):
        return _captured(lambda: main(shlex.split(text)[1:]))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, env=environment, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def _captured(run: Any) -> tuple[int, str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - whatever an example raises is its result
            traceback.print_exc()
            code = 1
    return code or 0, output.getvalue()


def _read_prototxt(text: str, place: str) -> tuple[int, str]:
    try:
        unknown = parse_prototxt(text, place).unknown_fields
    except Calib8Error as why:
        return 1, str(why)
    return int(bool(unknown)), f"unknown fields: {unknown}"


def run_step(step: list[str], namespace: dict[str, Any]) -> tuple[int, str]:
    """One step; exit code and output."""
    kind, *rest = step
    if kind == "command":
        return run_command(rest[0])
    if kind == "python":
        return _captured(lambda: exec(compile(rest[0], rest[1], "exec"), namespace))
    if kind == "prototxt":
        return _read_prototxt(*rest)
    path = Path(rest[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rest[1], encoding="utf-8")
    return 0, ""


if __name__ == "__main__":
    formats.int8_products_saturate = lambda: False  # type: ignore[assignment]  # pages show what most processors print
    sys.path.insert(0, "")  # as for a reader who types `python` in this folder
    names: dict[str, Any] = {"__name__": "__main__"}
    for one in json.load(sys.stdin):
        found, printed = run_step(one, names)
        print(json.dumps({"code": found, "output": printed}), flush=True)
        if found and one[0] != "command":
            break
