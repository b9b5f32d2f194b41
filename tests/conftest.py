"""Fixtures that all tests share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from calib8 import engine
from calib8.engine import EngineOptions
from calib8.lowering import Model, build_model
from calib8.lowering.integer import IntegerSetup
from calib8.lowering.readings import Codes, Reading
from calib8.proto.text import parse_prototxt
from calib8.quantize import QuantPlan

# A slow machine is no failure.
settings.register_profile("calib8", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calib8")

_REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to repeat the order of this run; the header that says so is not shown with -q."""
    seed = terminalreporter.config.getoption("randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(f"order of the tests: --randomly-seed={seed}")


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Give calib8's log back as it was: commands and `caffe.init_log` set its level and its handlers."""
    log = logging.getLogger("calib8")
    level, handlers, propagate = log.level, list(log.handlers), log.propagate
    yield
    log.setLevel(level)
    log.handlers[:], log.propagate = handlers, propagate


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and golden data: ../shared, or $CALIB8_SHARED; skips where it is missing."""
    folder = Path(os.environ.get("CALIB8_SHARED", _REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no real models and golden data in {folder}")
    return folder


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Model]:
    """Builds the network of a prototxt's text with random weights; variances and scale factors are > 0."""

    def build(text: str, seed: int = 0, weights: Mapping[str, Sequence[object]] | None = None) -> Model:
        rng = np.random.default_rng(seed)
        bare = build_model(parse_prototxt(text))
        blobs = {}
        for layer, op in bare.pairs:
            shapes = op.blob_shapes([bare.shapes[b] for b in layer.bottoms])
            values = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
            if layer.type == "BatchNorm":
                values[1:3] = np.abs(values[1]) + np.float32(0.5), np.ones(1, np.float32)
            if layer.type == "BN" and len(values) > 2:
                values[3] = np.abs(values[3]) + np.float32(0.5)
            blobs[layer.name] = [np.asarray(v, np.float32) for v in (weights or {}).get(layer.name, values)]
        return build_model(parse_prototxt(text), blobs)

    return build


@pytest.fixture(scope="session")
def run_int8() -> Callable[..., dict[Reading, np.ndarray]]:
    """run_int8(model, plan, inputs, observe): observed values in float32, and `Codes` values as integers.

    All layers that have a plan run in INT8, or those of `int8_layers`. Inputs are codes (what a user quantised), but
    for those of `real_inputs`.
    """

    def run(
        model: Model,
        plan: QuantPlan,
        inputs: Mapping[str, np.ndarray],
        observe: Sequence[Reading],
        *,
        int8_layers: Sequence[str] | None = None,
        real_inputs: Sequence[str] = (),
        threads: int = 1,
        **options: object,
    ) -> dict[Reading, np.ndarray]:
        plans = {name: own for name, own in plan.forms.items() if own is not None}
        chosen = frozenset(plans if int8_layers is None else int8_layers)
        quantized = frozenset(model.inputs).difference(real_inputs)
        setup = IntegerSetup(chosen, plans, plan.thresholds, quantized, **options)
        arrays = {name: np.asarray(x, np.float32) for name, x in inputs.items()}
        found = engine.run_int8(model, setup, arrays, observe, EngineOptions(threads=threads))
        return {r: x.astype(np.int64) - 128 if isinstance(r, Codes) else x for r, x in found.items()}

    return run
