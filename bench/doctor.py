"""How well the doctor tells right preprocessing from wrong: `python bench/doctor.py MODELS IMAGES [--only NAME ..]`.

For every network of `real_models` the right recipe is tried against all usual ones: how many fit worse, from how many
the evidence cannot tell it, and whether the doctor cries wolf. Then each of the wrong ones is given in its place: does
the doctor say so, does it name something that is wrong as well, or does it at least not say that this one fits best?
`--balance` looks away from BatchNorms, so that what is left can be judged on more networks. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from real_models import find

from calib8.analyze.doctor.evidence import balance_of
from calib8.analyze.doctor.preprocessing import FINALISTS, PreprocessingCheck, check_preprocessing
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


def row(name: str, models: Path, images: Path, options: argparse.Namespace) -> str:
    """One network."""
    network, right = find(name, models, images), RIGHT[name]
    count = options.samples
    step = max(1, len(network.pool) // count)
    samples = [np.asarray(network.pool[i]) for i in range(0, step * count, step)]
    blob = network.blob
    evidence = balance_of(network.model) if options.balance else None

    def check(arrays: list[Any], given: Recipe, finalists: int = FINALISTS) -> PreprocessingCheck:
        """The doctor's word on samples that `given` has made, or was said to have made."""
        return check_preprocessing(
            network.model, [{blob: x} for x in arrays], blob, given, threads=1, evidence=evidence, finalists=finalists
        )

    wrong = usual_recipes(right)
    found = check(samples, right, len(wrong))
    said = found.findings[0].text if found.findings else "nothing"
    chosen = wrong[:: max(1, len(wrong) // options.wrong)] if options.wrong else []
    noticed, unsure, repaired = [], 0, 0
    for recipe in chosen:
        mistaken = check([resampled(x, right, recipe) for x in samples], recipe)
        noticed.append(bool(mistaken.findings))
        unsure += not mistaken.findings and bool(mistaken.alike)
        repaired += bool(mistaken.findings) and mistaken.others[0].misfit <= 1.15 * found.given.misfit
    lost = sum(fit.misfit < found.given.misfit for fit in found.others)
    missed = [r.text for r, n in zip(chosen, noticed, strict=True) if not n]
    print(f"{name}: on the right one: {said}; missed: {missed}", flush=True)
    best = found.others[0]
    return (
        f"| {name} | {found.kind} | {found.given.misfit:.3f} | {best.misfit:.3f} ({best.recipe.text}) | "
        f"{found.tried - lost} of {found.tried} | {len(found.alike)} | {'yes' if found.findings else 'no'} | "
        f"{sum(noticed)} of {len(chosen)} | {unsure} | {repaired} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--only", nargs="*", default=list(RIGHT))
    parser.add_argument("--wrong", type=int, default=12, help="how many wrong ones are given, about; 0 for none")
    parser.add_argument("--samples", type=int, default=12, help="how many images the doctor looks at")
    parser.add_argument("--balance", action="store_true", help="without BatchNorms, of networks that have some, too")
    options = parser.parse_args()
    print(
        "| network | evidence | right | best other | right wins against | cannot tell it from | complains of it | "
        "noticed | else unsure | mended |"
    )
    rows = [row(name, options.models, options.images, options) for name in options.only]
    print("\n".join(rows))


if __name__ == "__main__":
    main()
