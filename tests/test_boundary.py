"""Nothing leaves a public function but a Calib8Error, and what its caller's own code has raised."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml
from google.protobuf.message import DecodeError

import caffe
import calib8
from calib8 import CalibrateOptions, Calibration, Metric, SensitivityOptions, Tuner, boundary, calibrate, open_network
from calib8.boundary import closed, closed_class
from calib8.cli.boundary import guarded
from calib8.errors import Calib8Error, DataError

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"
FILES = DIGITS / "deploy.prototxt", DIGITS / "custom.caffemodel"
LIBRARYS = (
    onnxruntime.capi.onnxruntime_pybind11_state.Fail("ort\nsays"),
    cv2.error("cv2 says"),
    yaml.YAMLError("yaml says"),
    DecodeError("protobuf says"),
    KeyError("h5py says"),
    RecursionError("deep"),
)
ERRORS = (
    MemoryError("8 GiB"),
    OSError(5, "Input/output error", "f"),
    OSError(),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
)
ERRORS += LIBRARYS


def public() -> dict[str, Callable[..., Any]]:
    """Every function of the package, every own method and property of its classes, by name."""
    found: dict[str, Callable[..., Any]] = {}
    objects = {name: getattr(calib8, name) for name in calib8.__all__} | {"caffe.Net": caffe.Net}
    for name, what in objects.items():
        if not isinstance(what, type):
            found[name] = what
            continue
        for owner in what.__mro__:
            if not owner.__module__.startswith("calib8.") or owner.__name__ in _PLAIN:
                continue
            for key, member in vars(owner).items():
                if key.startswith("_") and key != "__init__":
                    continue
                if isinstance(member, cached_property):
                    found[f"{name}.{key}"] = member.func
                elif isinstance(member, property):
                    found[f"{name}.{key}"] = member.fget
                elif inspect.isfunction(member):
                    found[f"{name}.{key}"] = member
    return {name: what for name, what in found.items() if name.rpartition(".")[2] != "problems"}


_PLAIN = {"Evaluation", "LayerDamage", "MixedResult", "Progress", "NumberedParts", "TrainingMethods", "SampleSource"}
"""Results that compute nothing when they are made; parents of Net, whose methods Net's call."""
PUBLIC = public()


def failing_inside(function: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Call a closed function so that its first line raises, as if a library that it calls did."""
    # One that was raised before has the frames of that time, too.
    raising = "raise error.with_traceback(None)"
    source = f"def profile(frame, event, _):\n    if event == 'call' and frame.f_code is code:\n        {raising}"
    names: dict[str, Any] = {"error": error, "__name__": "numpy.somewhere", "code": function.__wrapped__.__code__}  # type: ignore[attr-defined]
    exec(compile(source, np.__file__, "exec"), names)

    def call(*args: Any, **kwargs: Any) -> Any:
        before = sys.getprofile()
        sys.setprofile(names["profile"])
        try:
            return function(*args, **kwargs)
        finally:
            sys.setprofile(before)

    return call


def arguments_of(function: Callable[..., Any]) -> list[Any]:
    """As many as it needs, of whatever kind."""
    needed = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return [object() for _ in needed]


def test_there_is_much_that_is_public():
    assert {"calibrate", "Calibration.calc_tables", "Calibration.network", "Tuner.tune", "caffe.Net.forward"} <= set(
        PUBLIC
    )
    assert len(PUBLIC) > 50


@pytest.mark.parametrize("name", PUBLIC)
def test_every_exception_of_a_library_becomes_one_error(name):
    function = PUBLIC[name]
    assert vars(function).get("__closed__"), f"put @closed, or @closed_class, to {name}"
    if not hasattr(function.__wrapped__, "__code__"):
        return
    for error in ERRORS:
        with pytest.raises(Calib8Error) as raised:
            failing_inside(function, error)(*arguments_of(function))
        text = str(raised.value)
        assert text.isprintable() and len(text) < 2000 and raised.value.__cause__ is error
        assert type(raised.value) is Calib8Error


def test_the_lines(monkeypatch):
    monkeypatch.setattr(boundary, "_is_of_the_caller", lambda _: False)  # as if this file were a library's

    def raising(error):
        call = failing_inside(closed(lambda path: None), error)
        with pytest.raises(Calib8Error) as raised:
            call("net\x1b.prototxt")
        return str(raised.value)

    assert raising(ERRORS[0]) == r"net\x1b.prototxt: there is not enough memory: 8 GiB"
    assert raising(ERRORS[1]) == r"net\x1b.prototxt: f: Input/output error"
    assert raising(ERRORS[3]).startswith(r"net\x1b.prototxt: a text in another encoding than expected: 'utf-8' codec")
    assert raising(LIBRARYS[0]).startswith(r"net\x1b.prototxt: a defect of calib8: Fail: ort says at __init__.py:3; ")


def test_errors_of_ours_go_through_as_they_are():
    why = DataError("no images")

    @closed
    def work() -> None:
        raise why

    with pytest.raises(DataError) as raised:
        work()
    assert raised.value is why


def test_what_the_caller_raises_is_his():
    @closed
    def work(callback: Callable[[], None]) -> None:
        callback()

    class MineError(Exception):
        pass

    def callback() -> None:
        raise MineError

    with pytest.raises(MineError):
        work(callback)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        work()  # type: ignore[call-arg]
    with pytest.raises(KeyboardInterrupt):
        work(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_a_class(monkeypatch):
    monkeypatch.setattr(boundary, "_is_of_the_caller", lambda _: False)  # as if this file were a library's

    @closed_class
    class Thing:
        def __init__(self, size: int) -> None:
            self.data = np.zeros(size)

        @property
        def first(self) -> float:
            """The first."""
            return float(np.take(self.data, 10**9))

        @cached_property
        def file(self) -> bytes:
            return Path("/").read_bytes()

        def _private(self) -> None:
            np.take(self.data, 10**9)

    with pytest.raises(Calib8Error):
        Thing(-1)
    thing = Thing(1)
    assert Thing.first.__doc__ == "The first."
    for name in ("first", "file"):
        with pytest.raises(Calib8Error):
            getattr(thing, name)
    with pytest.raises(IndexError):
        thing._private()


class TestRealWork:
    """The same with a fault within: of ONNX Runtime, of numpy, of the file system."""

    def test_a_session_that_fails(self, monkeypatch):
        network = open_network(*FILES)

        def fail(*_: Any, **__: Any) -> None:
            raise MemoryError("arena")

        monkeypatch.setattr(boundary, "_is_of_the_caller", lambda _: False)  # `fail` stands for the library
        monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
        with pytest.raises(Calib8Error, match="arena"):
            calibrate(network, CalibrateOptions(iteration=2, method="mse", repair="none"))
        calibration = Calibration(
            {"model_name": "d", "in_prototxt": str(FILES[0]), "in_caffemodel": str(FILES[1]), "iteration": 2}
        )
        with pytest.raises(Calib8Error, match="arena"):
            calibration.calc_tables()
        net = caffe.Net(str(FILES[0]), str(FILES[1]), caffe.TEST)
        with pytest.raises(Calib8Error, match="arena"):
            net.forward()

    def test_a_progress_that_ends_the_work(self):
        class StopError(Exception):
            pass

        def stop(progress: object) -> None:
            raise StopError

        with pytest.raises(StopError):
            calibrate(open_network(*FILES), CalibrateOptions(iteration=2, method="mse", repair="none"), stop)

    def test_a_metric_of_the_callers(self):
        network = open_network(*FILES)
        result = calibrate(network, CalibrateOptions(iteration=2, method="mse", repair="none"))

        def metric(fp32: object, int8: object) -> float:
            raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            calib8.sensitivity(network, result, SensitivityOptions(samples=2, metric=Metric(function=metric)))

    @pytest.mark.parametrize("wrong", [3, None, object(), b"\xff", [1]])
    def test_arguments_that_are_none(self, wrong):
        for call in (
            lambda: open_network(wrong, wrong),
            lambda: calibrate(wrong),
            lambda: Tuner(wrong, wrong),
            lambda: Calibration(wrong),
            lambda: caffe.Net(wrong, caffe.TEST),
            lambda: calib8.CalibrateOptions(iteration=wrong),
            lambda: calib8.write_format(wrong, "onnx", wrong, wrong),
            lambda: calib8.read_calibration(wrong, wrong, wrong),
        ):
            try:
                call()
            except Calib8Error as why:
                assert "\n" not in str(why) or why.problems


def test_the_commands_say_where_with_verbose(capsys, caplog):
    @closed
    def work() -> int:
        return int(np.take(np.zeros(1), 10**9))

    caplog.set_level("INFO", "calib8")
    assert guarded("p", work) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and "\np: error: a defect of calib8: IndexError: " in err
    caplog.set_level("WARNING", "calib8")
    assert guarded("p", work) == 1
    assert capsys.readouterr().err.count("\n") == 1
