"""How well the doctor tells right preprocessing from wrong: `python bench/doctor.py MODELS IMAGES [--only NAME ..]`.

For every network of `real_models` the right recipe is tried against all usual ones: how many fit worse, and whether
the doctor cries wolf. Then each of the wrong ones is given in its place: does the doctor say so, and what does it
propose? Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from real_models import find

from calib8.analyze.doctor.preprocessing import PreprocessingCheck, check_preprocessing
from calib8.analyze.doctor.recipes import Recipe, resampled, usual_recipes

RIGHT = {
    "squeezenet_v1.1": Recipe((104, 117, 123), (1,) * 3, "bgr"),
    "cifar10_resnet20": Recipe((125.3, 122.9, 113.8), (0.00390625,) * 3, "rgb"),
    "lenet_mnist": Recipe((0,), (1 / 256,), "gray"),
    "mobilenetv2_yolov3_nano_voc": Recipe((0,) * 3, (1 / 256,) * 3, "rgb"),
    "res10_ssd_face": Recipe((104, 177, 123), (1,) * 3, "bgr"),
    "retinaface_mnet25": Recipe((0,) * 3, (1,) * 3, "rgb"),
    "ultraface_rfb320": Recipe((127,) * 3, (1 / 128,) * 3, "rgb"),
    "mtcnn_det2": Recipe((127.5,) * 3, (1 / 128,) * 3, "rgb"),
}


def check(model: object, blob: str, samples: list, given: Recipe) -> PreprocessingCheck:
    """The doctor's word on samples that `given` has made, or was said to have made."""
    return check_preprocessing(model, [{blob: x} for x in samples], blob, given, threads=1)


def row(name: str, models: Path, images: Path, wrong_ones: int, count: int) -> str:
    """One network."""
    network, right = find(name, models, images), RIGHT[name]
    step = max(1, len(network.pool) // count)
    samples = [np.asarray(network.pool[i]) for i in range(0, step * count, step)]
    blob = network.blob
    found = check(network.model, blob, samples, right)
    said = found.findings[0].text if found.findings else "nothing"
    wrong = usual_recipes(right)
    chosen = wrong[:: max(1, len(wrong) // wrong_ones)]
    noticed, repaired = [], 0
    for recipe in chosen:
        mistaken = check(network.model, blob, [resampled(x, right, recipe) for x in samples], recipe)
        noticed.append(bool(mistaken.findings))
        repaired += bool(mistaken.findings) and mistaken.others[0].misfit <= 1.15 * found.given.misfit
    lost = sum(fit.misfit < found.given.misfit for fit in found.others)
    print(
        f"{name}: on the right one: {said}; missed: {[r.text for r, n in zip(chosen, noticed, strict=True) if not n]}",
        flush=True,
    )
    best = found.others[0]
    return (
        f"| {name} | {found.kind} | {found.given.misfit:.3f} | {best.misfit:.3f} ({best.recipe.text}) | "
        f"{found.tried - lost} of {found.tried} | {'yes' if found.findings else 'no'} | "
        f"{sum(noticed)} of {len(chosen)} | {repaired} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--only", nargs="*", default=list(RIGHT))
    parser.add_argument("--wrong", type=int, default=12, help="how many wrong ones are given, about")
    parser.add_argument("--samples", type=int, default=12, help="how many images the doctor looks at")
    options = parser.parse_args()
    print("| network | evidence | right | best other | right wins against | complains of it | noticed | mended |")
    rows = [row(name, options.models, options.images, options.wrong, options.samples) for name in options.only]
    print("\n".join(rows))


if __name__ == "__main__":
    main()
