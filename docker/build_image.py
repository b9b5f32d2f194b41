"""Builds docker/Dockerfile_CPU with buildah, without an engine, and calibrates in the image: `make docker-check`.

Without buildah, or without root's rights, it says that nothing was built and ends well: check.py has then done what can
be done. The base image comes from its registry, or, where that cannot be reached, from debootstrap: the same Debian
release with the same Python, put together here. Images and containers live in build/containers and touch no others.

The GPU image is not built: its base has no stand-in.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile_CPU"
STORAGE = ROOT / "build" / "containers"
IMAGE = "calib8-check"
DEBIAN = "trixie"
"""The release that python:3.13-slim is made of; its own Python is 3.13, too."""

TRIAL = """
test "$(id -u)" = 1000
cp -r /opt/calib8/examples/digits /workspace/
cd /workspace
python3 -c 'import caffe, calib8; print("calib8", calib8.__version__)'
calib8 --version
python3 -c 'from importlib.metadata import files; assert any(f.name == "LICENSE" for f in files("calib8"))'
calib8 --version | grep -q '^counting: compiled$'
python3 /opt/calib8/calibration_tool/calibration.py digits digits --memory
for end in int8.caffemodel calibration_table calibration_table.pb2 calibration_table.prototxt; do
  test -s "digits/bmnet_digits_$end"
done
"""
"""What must work in the image, as its own user."""


def buildah(*arguments: str | Path, check: bool = True, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run buildah over our own storage; end the check when a command fails that must not."""
    command = ["buildah", "--root", str(STORAGE / "root"), "--runroot", str(STORAGE / "run"), *map(str, arguments)]
    # chroot and vfs need nothing of the kernel; a machine where more is allowed may set both otherwise.
    environment = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs", **os.environ}
    print("$ buildah", *map(str, arguments), flush=True)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE if capture else None, check=False
    )
    if check and done.returncode:
        sys.exit(f"exit code {done.returncode}: buildah {' '.join(map(str, arguments))}")
    return done


def base_image() -> str:
    """The image that the last stage is made of."""
    return re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)[-1]


def provide_base(name: str) -> None:
    """Bring the base image into our storage, if it is not there."""
    full = f"docker.io/library/{name}"
    if buildah("inspect", "--type", "image", full, check=False, capture=True).returncode == 0:
        return
    if buildah("pull", full, check=False).returncode == 0:
        return
    if shutil.which("debootstrap") is None:
        sys.exit(f"docker/build_image.py: {name} cannot be loaded, and there is no debootstrap to stand in for it")
    print(f"{name} cannot be loaded; debootstrap puts together one like it", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        _put_together(Path(folder) / "debian", full)


def _put_together(folder: Path, name: str) -> None:
    # libpython3-dev: the image that is stood in for has Python's headers, which the compiled counting needs.
    packages = "python3,python3-venv,libpython3-dev,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", DEBIAN, folder], check=True)
    container = buildah("from", "scratch", capture=True).stdout.strip()
    buildah("add", "--quiet", container, folder, "/")
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    buildah("config", "--env", f"PATH={system}", container)
    # Debian's own Python refuses pip; in the image that is stood in for, Python is installed in /usr/local.
    buildah("run", container, "--", "python3", "-m", "venv", "/usr/local/python")
    buildah("config", "--env", f"PATH=/usr/local/python/bin:{system}", container)
    buildah("commit", "--quiet", "--rm", container, name)


def pip_settings(folder: Path) -> Iterator[str]:
    """Volumes that give pip in the build the settings of pip on this machine: its configuration and what that names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    lines, paths = ["[global]"], set()
    for key, quoted in re.findall(r"^(\S+?)=(.*)$", listed, re.MULTILINE):
        value = str(ast.literal_eval(quoted))
        lines.append(f"{key.rpartition('.')[2]} = {' '.join(value.split())}")
        # An index in a folder links to files beside it.
        paths |= {str(Path(w.removeprefix("file://")).parent) if "://" in w else w for w in value.split()}
    (folder / "pip.conf").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    yield f"{folder / 'pip.conf'}:/etc/pip.conf:ro"
    yield from (f"{path}:{path}:ro" for path in sorted(paths) if path.startswith("/") and Path(path).exists())


def build() -> None:
    """Build the image as the Dockerfile says."""
    with tempfile.TemporaryDirectory() as folder:
        volumes = [word for volume in pip_settings(Path(folder)) for word in ("--volume", volume)]
        file = DOCKERFILE.relative_to(ROOT)
        buildah("bud", "--pull-never", "--network", "host", *volumes, "--tag", IMAGE, "--file", file, ".")


def try_out() -> None:
    """Calibrate in a container of the image."""
    container = buildah("from", "--pull-never", IMAGE, capture=True).stdout.strip()
    try:
        buildah("run", container, "--", "sh", "-euc", TRIAL)
    finally:
        buildah("rm", container, check=False, capture=True)
        buildah("rmi", IMAGE, check=False, capture=True)


def main() -> None:
    """Build and try out the CPU image, or say why not."""
    if shutil.which("buildah") is None or os.geteuid() != 0:
        print("docker/Dockerfile_CPU was not built: that needs buildah, and root's rights", flush=True)
        return
    STORAGE.mkdir(parents=True, exist_ok=True)
    provide_base(base_image())
    build()
    try_out()
    print("docker/Dockerfile_CPU was built, and a calibration ran in the image", flush=True)


if __name__ == "__main__":
    main()
