"""`calib8 completion`: the scripts complete in their shells."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from calib8.cli.main import main

BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"$(complete -p calib8 | sed 's/.*-F \\([^ ]*\\).*/\\1/')" calib8 "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path, capsys):
    def make(shell):
        assert main(["completion", shell]) == 0
        path = tmp_path / f"script.{shell}"
        path.write_text(capsys.readouterr().out)
        return path

    return make


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["calib8", "ca"], {"calibrate"}),
        (["calib8", "calibrate", "--method", "m"], {"mse", "max"}),
        (["calib8", "lmdb", ""], {"create", "show", "mean"}),
        (["calib8", "lmdb", "create", "--enc"], {"--encoded"}),
        (["calib8", "export", "--format", ""], {"tpu-mlir", "onnx", "onnx-uint8", "onnx-int8", "tensorrt", "ncnn"}),
        (["calib8", "completion", ""], {"bash", "zsh", "fish"}),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_words(script, words, expected):
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", str(script("bash")), *words], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == expected
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("words", [["check"], ["calibrate", "name"], ["calibrate", "name", "path", "--images"]])
def test_bash_completes_files(script, tmp_path, words):
    (tmp_path / "deploy.prototxt").write_text("")
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", str(script("bash")), "calib8", *words, f"{tmp_path}/dep"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [f"{tmp_path}/deploy.prototxt"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_free_of_errors(script, shell):
    path = script(shell)
    assert "calibrate" in path.read_text() and "--method" in path.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} to check the script with")
    subprocess.run([shell, "-n", str(path)], check=True)


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["completion", "tcsh"])
    assert end.value.code == 2 and "zsh" in capsys.readouterr().err
