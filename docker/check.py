"""Checks the Dockerfiles without Docker: `make docker-check`.

hadolint reads both. Then the steps of every RUN that work on Python packages run in fresh virtual environments, with
nothing at hand but the files that the Dockerfile copies: wheels are built, installed and tried out. Steps that need
root (apt-get, useradd) and the base images themselves are not checked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = ("Dockerfile_CPU", "Dockerfile_GPU")
FILES = ("_int8.caffemodel", "_calibration_table", "_calibration_table.pb2", "_calibration_table.prototxt")


@dataclass
class Stage:
    """A stage of a Dockerfile: what is copied from the checkout, as (source, target), and the parts of its RUNs."""

    copies: list[tuple[str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def read_stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile, in order."""
    stages: list[Stage] = []
    for line in _instructions(text):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            stages.append(Stage())
        elif word == "COPY":
            *sources, target = rest.split()
            stages[-1].copies += [(source, target) for source in sources]
        elif word == "RUN":
            stages[-1].commands += re.sub(r"--mount=\S+\s*", "", rest).split(" && ")
    return stages


def _instructions(text: str) -> Iterator[str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    yield from re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


def copied(source: str, target: Path) -> None:
    """Copy a tracked file, or the tracked files of a folder: what a clean checkout has."""
    names = subprocess.run(["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        place = target if (ROOT / source).is_file() else target / Path(name).relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place)


def check(dockerfile: str, folder: Path) -> None:
    """Run the package steps of a Dockerfile in `folder`, and try out what its last stage has."""
    wheels = folder / "wheels"
    wheels.mkdir()
    for number, stage in enumerate(read_stages((ROOT / "docker" / dockerfile).read_text())):
        place, image = folder / f"source{number}", folder / f"image{number}"
        place.mkdir()
        for source, target in stage.copies:
            if target.startswith("/"):
                copied(source, image / target.lstrip("/"))
            else:
                copied(source, place / (source if target == "./" else target))
        commands = [c.replace("/wheels", str(wheels)) for c in stage.commands if " pip " in c or "/wheels" in c]
        environment = _environment(folder / f"venv{number}") if commands else {}
        for command in commands:
            run(command, place, environment)
    try_out(image / "opt" / "calib8", place, environment)


def _environment(folder: Path) -> dict[str, str]:
    venv.create(folder, with_pip=True)
    return {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}


def try_out(opt: Path, workspace: Path, environment: dict[str, str]) -> None:
    """What the documentation promises of the image: `import caffe`, `calib8`, the guide's script."""
    run("python3 -c 'import caffe, calib8, onnxruntime; print(onnxruntime.__version__)'", workspace, environment)
    run("calib8 --help >/dev/null", workspace, environment)
    run("calib8 --version", workspace, environment)
    shutil.copytree(opt / "examples" / "digits", workspace / "custom")
    run(f"python3 {opt}/calibration_tool/calibration.py digits custom --memory >/dev/null", workspace, environment)
    missing = [suffix for suffix in FILES if not (workspace / "custom" / f"bmnet_digits{suffix}").is_file()]
    if missing:
        sys.exit(f"calibration.py wrote no {missing}")


def run(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Run a command in bash, loudly; end the check when it fails."""
    print(f"$ {command}", flush=True)
    code = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, check=False)
    if code.returncode:
        sys.exit(f"exit code {code.returncode}: {command}")


def main() -> None:
    """Lint, then run, both Dockerfiles or those that are named."""
    hadolint = Path(sys.executable).parent / "hadolint"
    for dockerfile in sys.argv[1:] or DOCKERFILES:
        print(f"== docker/{dockerfile}", flush=True)
        run(f"{hadolint} docker/{dockerfile}", ROOT, dict(os.environ))
        with tempfile.TemporaryDirectory() as folder:
            check(dockerfile, Path(folder))


if __name__ == "__main__":
    main()
