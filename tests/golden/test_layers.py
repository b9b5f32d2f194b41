"""Every layer type against a real Caffe: cases with the prototxt, inputs, weights and outputs of its run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

TOLERANCE = 1e-4
"""Of the blob's largest value."""

_CARRIED = sorted((Path(__file__).parent / "layers").glob("*.npz"))


def run_case(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ours and theirs of every output of a case."""
    with np.load(path) as case:
        arrays = {key: case[key] for key in case.files}
    weights: dict[str, list[np.ndarray]] = {}
    for key in sorted(k for k in arrays if k.startswith("w/")):
        layer = key[2:].rpartition("/")[0]
        weights.setdefault(layer, []).append(arrays[key])
    inputs = {key[3:]: array for key, array in arrays.items() if key.startswith("in/")}
    theirs = {key[4:]: array for key, array in arrays.items() if key.startswith("out/")}
    model = build_model(parse_prototxt(str(arrays["prototxt"]), path.name), weights)
    ours = run_float(model, inputs, observe=list(theirs))
    return {name: (ours[name], theirs[name]) for name in theirs}


def disagreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the blob's largest value; infinite for another shape."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), 1e-30))


@pytest.mark.parametrize("path", _CARRIED, ids=lambda p: p.stem)
def test_case(path):
    for name, (ours, theirs) in run_case(path).items():
        assert disagreement(ours, theirs) <= TOLERANCE, name


@pytest.mark.shared
def test_all_cases_counted_by_type(shared, capsys):
    cases = sorted((shared / "golden" / "layers").glob("*.npz"))
    assert len(cases) >= 275
    total, agree, failures = Counter(), Counter(), []
    for path in cases:
        kind = path.stem.rpartition("_")[0]
        total[kind] += 1
        worst = max(disagreement(*pair) for pair in run_case(path).values())
        agree[kind] += worst <= TOLERANCE
        if worst > TOLERANCE:
            failures.append(f"{path.stem}: {worst:.3g}")
    with capsys.disabled():
        print(f"\nagreement with a real Caffe: {sum(agree.values())} of {sum(total.values())} cases")
        print("  ".join(f"{kind} {agree[kind]}/{n}" for kind, n in sorted(total.items())))
    assert not failures
