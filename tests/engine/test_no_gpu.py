"""A GPU that cannot be used: one line that says what is missing, and never the CPU in silence."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import caffe
from calib8 import Calibration
from calib8.cli.main import main
from calib8.engine import EngineOptions, gpu, run_float, use_gpu
from calib8.errors import DeviceError, OptionError

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
CUDA = "CUDAExecutionProvider"
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2] } } }
layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
"""
# What onnxruntime-gpu 1.31 says, on machines without one thing or the other.
SAID = {
    'Failed to parse provider option "device_id": x.cc:71 operator() Invalid device ID: 7, must be between 0 '
    "(inclusive) and 1 (exclusive).\n": "there is no such one; CUDA sees 1, numbered from 0",
    'Failed to parse provider option "device_id": CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; '
    "hostname=h ; file=x.cc ; line=70 ; expr=cudaGetDeviceCount(&num_devices); \n": (
        "NVIDIA's libraries say: CUDA failure 100: no CUDA-capable device is detected"
    ),
    "Non-zero status code returned while running Conv node. Name:'' Status Message: cuDNN is unavailable or disabled "
    "for CUDA Execution Provider: dlopen failed for libcudnn.so": "cuDNN 9 cannot be loaded; pip install",
    "BFCArena::AllocateRawInternal(...) Failed to allocate memory for requested buffer of size 4096\n": (
        "it has no 4096 bytes of memory left"
    ),
    "CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0 ; hostname=h": "CUDNN failure 1001: CUDNN_STATUS_NOT_INI",
    "EP_FAIL : OP not supported by CUDNN Frontend with the cudnn frontend json": "cuDNN refuses a convolution",
}
LIBRARIES = {
    "libcublasLt.so.13": "libcublasLt.so.13 of CUDA 13.0 is missing; pip install 'onnxruntime-gpu",
    "libcudnn.so.9": "libcudnn.so.9 of cuDNN is missing; pip install 'onnxruntime-gpu",
    "libcuda.so.1": "there is no NVIDIA driver: libcuda.so.1 is missing",
}


@pytest.fixture
def without_cuda(monkeypatch):
    """onnxruntime as it comes from the package of that name."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.fixture
def with_cuda(monkeypatch):
    """An onnxruntime that has CUDA and no GPU: all its sessions are on the CPU."""

    class Session:
        def __init__(self, model, settings, providers, **options):
            assert providers[0][0] == CUDA and options["enable_fallback"] == 0
            for key in ("use_tf32", "cudnn_conv_algo_search", "device_id"):
                assert isinstance(providers[0][1][key], str)

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13"), raising=False)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)


@pytest.fixture
def digits(tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))
    return tmp_path / "digits"


def test_onnxruntime_without_cuda(without_cuda, monkeypatch):
    monkeypatch.setattr(gpu, "_version", {"onnxruntime": "1.32.0", "onnxruntime-gpu": ""}.get)
    with pytest.raises(
        DeviceError, match=r"GPU 2 is asked for, and onnxruntime 1\.32\.0 is built without CUDA; install"
    ):
        gpu.check_gpu(2)


def test_both_packages_at_once(without_cuda, monkeypatch):
    monkeypatch.setattr(gpu, "_version", {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}.get)
    with pytest.raises(DeviceError, match=r"onnxruntime-gpu 1\.31\.1 are both installed .*; uninstall both"):
        gpu.check_gpu(0)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_that_is_missing(library, with_cuda, monkeypatch, capsys):
    def load(name, mode):
        if "providers_cuda" in name:
            raise OSError(f"{library}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(DeviceError) as caught:
        gpu.check_gpu(0)
    assert LIBRARIES[library] in str(caught.value) and "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_a_session_on_the_cpu_is_never_taken(with_cuda, monkeypatch, random_model):
    monkeypatch.setattr(ctypes, "CDLL", lambda name, mode: None)
    with pytest.raises(DeviceError, match=r"does not use it, and does not say why"):
        run_float(random_model(NET), {"x": np.ones((1, 2), np.float32)}, options=EngineOptions(gpu=0))


@pytest.mark.parametrize("said", SAID, ids=lambda said: SAID[said][:30])
def test_what_onnxruntime_says(said):
    error = gpu.device_failure(5, said)
    assert isinstance(error, DeviceError)
    assert str(error).startswith("GPU 5 is asked for, and ") and SAID[said] in str(error) and "\n" not in str(error)
    assert gpu.device_failure(None, said) is None


def test_other_failures_are_not_the_gpu_s():
    assert gpu.device_failure(0, "indices element out of data bounds, idx=7 must be within [-3,2]") is None


def test_sums_that_are_not_exact(monkeypatch):
    found = {None: [np.array([3.0])], 0: [np.array([3.5])]}
    monkeypatch.setattr(gpu, "check_gpu", lambda number: None)
    monkeypatch.setattr(gpu, "_sums", lambda number, probes: found[number])
    with pytest.raises(DeviceError, match=r"do not add integers exactly \(off by 0\.5\); use the CPU"):
        gpu.check_sums(0)


def test_the_sums_that_are_tried_are_exact_and_large():
    """In float32 on the CPU; a form that rounds differs there."""
    for total in gpu._sums(None, gpu._PROBES):
        assert np.array_equal(total, np.rint(total)) and total.max() < 2**23
    largest = [total.max() for total in gpu._sums(None, gpu._PROBES)]
    assert max(largest) > 2**22 and min(largest) > 2**15


@pytest.mark.parametrize("option", [["--gpu"], ["--gpu", "3"], ["--gpu=3"]])
@pytest.mark.parametrize("command", ["calibrate", "sensitivity", "tune"])
def test_commands_say_it_in_one_line(command, option, digits, without_cuda, capsys):
    assert main([command, "digits", str(digits), *option]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"calib8: error: GPU {0 if option == ['--gpu'] else 3} is asked for, and onnxruntime")
    assert err.count("\n") == 1
    assert not list(digits.glob("bmnet*"))


@pytest.mark.parametrize("number", ["digits", "-1", "1.5", "9999"])
def test_numbers_that_are_none(number, digits, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", f"--gpu={number}", "digits", str(digits)])
    assert caught.value.code == 2
    assert f"{number!r} is no number of a GPU" in capsys.readouterr().err


def test_a_command_without_it_runs_on_the_cpu(digits, without_cuda, capsys):
    assert main(["calibrate", "digits", str(digits), "-n", "4", "--gpu"]) == 1
    assert main(["calibrate", "digits", str(digits), "-n", "4", "--method", "max"]) == 0
    capsys.readouterr()


def test_caffe_s_mode_is_that_of_a_calibration(digits, without_cuda):
    """As the guide has it: two calls before the calibration."""
    info = {
        "model_name": "digits",
        "in_prototxt": digits / "deploy.prototxt",
        "in_caffemodel": digits / "custom.caffemodel",
        "iteration": 4,
    }
    caffe.set_mode_gpu()
    caffe.set_device(6)
    try:
        with pytest.raises(DeviceError, match="GPU 6 is asked for"):
            Calibration(info).calc_tables()
    finally:
        caffe.set_mode_cpu()
        caffe.set_device(0)
    Calibration(info).calc_tables()


def test_options_take_the_device_in_use():
    assert EngineOptions().gpu is None and EngineOptions().integer_kernels
    use_gpu(4)
    assert EngineOptions().gpu == 4 and not EngineOptions().integer_kernels
    assert EngineOptions(gpu=None).gpu is None
    for call in (use_gpu, lambda number: EngineOptions(gpu=number)):
        with pytest.raises(OptionError, match="GPU -1: GPUs are numbered from 0"):
            call(-1)
