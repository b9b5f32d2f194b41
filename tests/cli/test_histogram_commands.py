"""`calib8 calibrate --histograms`, `calib8 thresholds` and `calib8 merge`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from calib8.cli.main import main

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrated(*options):
    return main(["calibrate", "digits", "digits", "-n", "24", "--no-verdict", *options])


def refused(arguments, capsys):
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_parts_become_the_file_of_one_run(folder, capsys):
    assert calibrated("--histograms", "all.hist") == 0
    for exact in ((), ("--maxima", "m.hist")):
        for index in (1, 2):
            assert calibrated("--histograms", f"{index}.hist", "--shard", f"{index}/2", *exact) == 0
        assert main(["merge", "2.hist", "1.hist", "-o", "m.hist"]) == 0
    out = capsys.readouterr().out
    assert "2.hist: 12 samples, 13 to 24 of 24\n" in out and "m.hist: 24 samples of 2 files" in out
    assert (folder / "m.hist").read_bytes() == (folder / "all.hist").read_bytes()
    assert not list(folder.glob("*.part"))


def test_merged_exact_counts_over_own_maxima_are_said_to_be_missing(folder, capsys):
    for count, name in (("10", "a.hist"), ("24", "b.hist")):
        assert main(["calibrate", "digits", "digits", "-n", count, "--histograms", name, "--no-verdict"]) == 0
    assert "all samples of one of a.hist and b.hist" in refused(["merge", "a.hist", "b.hist", "-o", "x"], capsys)
    prototxt = folder / "digits" / "deploy.prototxt"
    prototxt.write_text(prototxt.read_text().replace("calibration_lmdb", "evaluation_lmdb"))
    assert calibrated("--histograms", "c.hist") == 0
    assert main(["merge", "a.hist", "c.hist", "-o", "x"]) == 0
    assert "--maxima x and merge the parts again" in capsys.readouterr().out
    assert main(["thresholds", "x"]) == 0
    assert "kl needs exact counts, which the file does not have" in capsys.readouterr().out
    told = refused(["thresholds", "x", "digits", "digits", "--method", "kl"], capsys)
    assert "kl and --two-pass need them" in told and "(--maxima FILE)" in told.replace("`", "")


def test_the_same_files_as_without_histograms(folder, capsys):
    as_it_is = ("--method", "mse", "--repair", "none")
    for name in ("plain", "kept", "again", "later"):
        (folder / name).mkdir()
    assert calibrated("--output", "plain", *as_it_is) == 0
    expected = capsys.readouterr().out
    assert calibrated("--output", "kept", *as_it_is, "--histograms", "x.hist") == 0
    assert capsys.readouterr().out.replace("kept/", "plain/") == expected
    assert calibrated("--output", "again", *as_it_is, "--histograms", "x.hist") == 0
    shutil.rmtree("digits/calibration_lmdb")
    assert main(["thresholds", "x.hist", "digits", "digits", "--method", "mse", "--output", "later"]) == 0
    made = [files_in(folder / name) for name in ("plain", "kept", "again", "later")]
    assert len(made[0]) >= 4 and made[0] == made[1] == made[2] == made[3]


def files_in(folder):
    paths = [*folder.glob("*_int8.caffemodel"), *folder.glob("*_calibration_table*")]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("options", [(), ("--method", "percentile"), ("--method", "kl")])
def test_kept_histograms_are_repaired_as_others_are(folder, capsys, options):
    """The default is the default wherever it is counted: the same files, the same words."""
    for name in ("plain", "kept"):
        (folder / name).mkdir()
    assert calibrated("--output", "plain", *options) == 0
    expected = capsys.readouterr().out
    assert calibrated("--output", "kept", *options, "--histograms", "x.hist") == 0
    assert capsys.readouterr().out.replace("kept/", "plain/") == expected
    assert "chosen: " in expected and files_in(folder / "kept") == files_in(folder / "plain")


def test_the_table(folder, capsys):
    assert calibrated("--histograms", "x.hist") == 0
    capsys.readouterr()
    assert main(["thresholds", "x.hist", "--method", "max", "--method", "kl"]) == 0
    first, header, *rows = capsys.readouterr().out.splitlines()
    assert first == "24 samples, 2048 bins" and header.split() == ["blob", "max|x|", "max", "kl"]
    data = next(row.split() for row in rows if row.startswith("data "))
    assert data[1] == data[2]  # the threshold of `max` is the largest value
    assert [row[:15] for row in rows[-3:]] == ["clipped, mean  ", "SNR in dB, mean", "SNR in dB, leas"]


def test_refusals(folder, capsys):
    assert "say --histograms FILE" in refused(["calibrate", "d", "digits", "--shard", "1/2"], capsys).replace("`", "")
    assert "say --shard I/N" in refused(
        ["calibrate", "d", "digits", "--histograms", "x", "--maxima", "y"], capsys
    ).replace("`", "")
    assert "two files or more" in refused(["merge", "x", "-o", "y"], capsys)
    assert "x: cannot be read" in refused(["thresholds", "x"], capsys)
    Path("x").write_bytes(b"something else")
    assert "x: no file of histograms" in refused(["thresholds", "x"], capsys)
    Path("x").unlink()
    assert calibrated("--histograms", "x") == 0
    with pytest.raises(SystemExit):
        main(["thresholds", "x", "digits"])
    assert "required: PATH" in capsys.readouterr().err
    assert "one --method" in refused(["thresholds", "x", "digits", "digits"], capsys)
    with pytest.raises(SystemExit):
        calibrated("--histograms", "x", "--shard", "one")
    assert "expected I/N" in capsys.readouterr().err
