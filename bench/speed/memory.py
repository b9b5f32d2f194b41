"""Peak memory of `calib8 calibrate`: with and without --memory_opt, with 100 and with 300 images.

python bench/speed/memory.py MODEL_FOLDER IMAGES [-- further options of `calib8 calibrate`]

MODEL_FOLDER holds deploy.prototxt (with a plain Input) and custom.caffemodel. Images are repeated to get as many as
are needed. Every figure is the peak of a process of its own, the imports of all packages included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

THREADS = 2
_MEASURED = """
import json, resource, sys
from calib8.cli.main import main
code = main(sys.argv[1:])
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
sys.exit(code)
"""
_ROWS = ((100, ()), (300, ()), (100, ("--memory_opt",)), (300, ("--memory_opt",)))


def peak(folder: Path, listing: Path, images: int, options: list[str]) -> float:
    """Peak MB of one calibration."""
    with tempfile.TemporaryDirectory() as output:
        where = ["--images", str(listing), "-n", str(images), "--output", output, "--threads", str(THREADS)]
        command = [sys.executable, "-c", _MEASURED, "calibrate", "bench", str(folder), *where, *options]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(text.splitlines()[-1]))


def repeated(images: Path, count: int, listing: Path) -> Path:
    """A list of `count` paths."""
    found = sorted(p for p in images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"))
    listing.write_text("".join(f"{found[i % len(found)].resolve()}\n" for i in range(count)))
    return listing


def main() -> None:
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    extra = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    if len(own) != 2:
        print("needs a MODEL_FOLDER with a plain Input and a folder of IMAGES")
        return
    folder, images = Path(own[0]), Path(own[1])
    with tempfile.TemporaryDirectory() as scratch:
        listing = repeated(images, 300, Path(scratch) / "list.txt")
        print(f"{folder.name}, {THREADS} threads")
        for count, options in _ROWS:
            found = peak(folder, listing, count, [*extra, *options])
            print(f"{count} images {' '.join(options):<14}{found:8.0f} MB")


if __name__ == "__main__":
    main()
