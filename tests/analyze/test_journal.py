"""The record of a search: torn lines, other searches, and losses that are no numbers."""

from __future__ import annotations

import json
import math
import os
import resource
import signal

import numpy as np
import pytest

from calib8.analyze.journal import Journal, digest_of
from calib8.errors import OptionError

ASKED = [{"kind": "Trial", "group": "g", "threshold": t} for t in (1.0, 0.1 + 0.2, 3.0)]
LOSSES = [0.5, 1 / 3, math.inf]


def write(path, digest="d"):
    with Journal(path, digest) as journal:
        for asked, loss in zip(ASKED, LOSSES, strict=True):
            journal.record(asked, loss, 12.5)


def test_losses_come_back_to_the_last_bit(tmp_path):
    write(tmp_path / "j")
    with Journal(tmp_path / "j", "d") as journal:
        assert (journal.recorded, journal.seconds) == (3, 12.5)
        assert journal.recall(ASKED[:1]) == LOSSES[:1]
        assert journal.recall([*ASKED[1:], {"kind": "Trial", "group": "new"}]) == LOSSES[1:]
        assert journal.recall(ASKED[:1]) == []


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_end_is_dropped_and_written_over(tmp_path, cut):
    path = tmp_path / "j"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path, "d") as journal:
        assert journal.recorded == 2
        journal.record(ASKED[2], LOSSES[2], 12.5)
    assert path.read_bytes() == whole


def test_every_prefix_of_the_file_is_good_for_something(tmp_path):
    path = tmp_path / "j"
    write(path)
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Journal(path, "d") as journal:
            assert journal.recorded == max(0, sum(end < cut for end in ends) - 1)


def test_a_record_of_another_search_is_replaced(tmp_path):
    write(tmp_path / "j", "other")
    with Journal(tmp_path / "j", "d") as journal:
        assert (journal.recorded, journal.seconds) == (0, 0.0)
    assert [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()] == [
        {"calib8 tuning": 1, "digest": "d"}
    ]


def test_another_question_than_the_recorded_one_is_an_error(tmp_path):
    write(tmp_path / "j")
    with Journal(tmp_path / "j", "d") as journal, pytest.raises(OptionError, match="delete the file"):
        journal.recall([{"kind": "Trial", "group": "other", "threshold": 1.0}])


@pytest.mark.parametrize("content", [b"\x00\xff\n", b"[1, 2]\n", b"{\n", b"\n"])
def test_a_file_that_is_no_record_is_replaced(tmp_path, content):
    (tmp_path / "j").write_bytes(content)
    with Journal(tmp_path / "j", "d") as journal:
        assert journal.recorded == 0


@pytest.mark.parametrize(
    "line",
    [b'{"loss": 1%s, "seconds": 1}' % (b"0" * 400), b'{"loss": 1, "seconds": 1%s}' % (b"0" * 400), b'{"loss": "a"}',
     b'{"loss": NaN, "seconds": 1}', b'{"seconds": 1}', b"[" * 100_000, b'{"loss": 1%s}' % (b"0" * 5000)],
)  # fmt: skip
def test_lines_that_no_search_has_written_are_cut_off(tmp_path, line):
    write(tmp_path / "j")
    with (tmp_path / "j").open("ab") as file:
        file.write(line + b"\n")
    whole = len((tmp_path / "j").read_bytes())
    with Journal(tmp_path / "j", "d") as journal:
        recorded = journal.recorded
    assert recorded > 0 and len((tmp_path / "j").read_bytes()) == whole - len(line) - 1


def test_nothing_is_written_through_links(tmp_path):
    (tmp_path / "precious").write_bytes(b"1")
    (tmp_path / "j").symlink_to("precious")
    (tmp_path / "hard").hardlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("j", "it is a link"), ("hard", "no file of its own"), ("pipe", "no file of its own")):
        with pytest.raises(OptionError, match=message), Journal(tmp_path / name, "d"):
            pass
    assert (tmp_path / "precious").read_bytes() == b"1"


def test_a_full_disk_is_said(tmp_path):
    with Journal(tmp_path / "j", "d") as journal:
        handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
        try:
            with pytest.raises(OptionError, match="cannot record its progress: File too large"):
                for _ in range(9):
                    journal.record({"kind": "Trial"}, 1.0, 1.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OptionError, match="cannot record its progress"), Journal(tmp_path / "no" / "j", "d"):
        pass


def test_the_digest_knows_weights_samples_and_facts(random_model):
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 3, 3] } } }
    layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 2 kernel_size: %d } }
    """
    samples = [{"x": np.ones((1, 2, 3, 3), np.float32)}]
    found = digest_of(random_model(text % 1), samples, "facts", 1)
    assert found == digest_of(random_model(text % 1), samples, "facts", 1)
    others = [
        digest_of(random_model(text % 1, seed=1), samples, "facts", 1),
        digest_of(random_model(text % 3), samples, "facts", 1),
        digest_of(random_model(text % 1), [{"x": np.zeros((1, 2, 3, 3), np.float32)}], "facts", 1),
        digest_of(random_model(text % 1), samples, "facts", 2),
    ]
    assert len({found, *others}) == 5
