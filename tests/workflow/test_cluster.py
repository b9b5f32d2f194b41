"""Histograms from worker processes: the bytes of one process, also when a worker is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from calib8 import CalibrateOptions
from calib8.errors import DataError, OptionError
from calib8.workflow import count_histograms
from calib8.workflow.cluster import NetworkFiles, _Tree, count_on_cluster, local_workers, shards

distributed = pytest.importorskip("distributed")

# Dask leaves sockets and loops to the garbage collector when a worker is killed.
pytestmark = pytest.mark.filterwarnings("default")

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
FILES = NetworkFiles(DIGITS / "deploy.prototxt", DIGITS / "custom.caffemodel")
KL = CalibrateOptions(iteration=60)
MSE = CalibrateOptions(iteration=60, method="mse")


@pytest.fixture(scope="module")
def cluster():
    """A scheduler, and two processes that work for it."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50, memory_limit=0
    ) as local:
        yield local


@pytest.mark.parametrize("options", [KL, MSE], ids=lambda o: o.method)
def test_the_bytes_of_one_process(network, cluster, options):
    seen = []
    found = count_on_cluster(network, FILES, options, cluster.scheduler_address, seen.append)
    assert found.to_bytes() == count_histograms(network, options).to_bytes()
    done = [p.done for p in seen]
    assert done == sorted(done) and done[-1] == seen[-1].total == 60 * (2 if options is KL else 1)
    assert len(done) > 4


def test_a_killed_worker_costs_its_shard_and_nothing_else(network, cluster):
    finished, killed = [], []

    def kill_once(progress):
        finished.append(progress.done)
        if len(finished) == 3:
            with distributed.Client(cluster.scheduler_address) as client:
                pids = client.run(os.getpid)
                killed.extend(list(pids.values())[:1])
                os.kill(killed[0], signal.SIGKILL)

    found = count_on_cluster(network, FILES, KL, cluster.scheduler_address, kill_once)
    assert killed and found.to_bytes() == count_histograms(network, KL).to_bytes()
    # What had been done stays done: every shard is reported once.
    assert len(finished) == 2 * len(shards(network, 60, 2)) and finished[-1] == 120
    with distributed.Client(cluster.scheduler_address) as client:
        client.wait_for_workers(2, timeout=30)
        assert killed[0] not in client.run(os.getpid).values()


def test_files_that_workers_do_not_see(cluster, tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits")
    files = NetworkFiles(tmp_path / "digits" / "deploy.prototxt", tmp_path / "digits" / "custom.caffemodel")
    here = files.opened()
    shutil.rmtree(tmp_path / "digits")
    with pytest.raises(DataError) as why:
        count_on_cluster(here, files, KL, cluster.scheduler_address)
    assert "2 of 2 workers cannot use the network" in str(why.value) and "same paths" in str(why.value)
    assert len(why.value.problems) == 2
    assert all(p.startswith("worker tcp://") and "deploy.prototxt: cannot be read" in p for p in why.value.problems)


def test_workers_that_see_another_network(network, cluster, tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits")
    prototxt = tmp_path / "digits" / "deploy.prototxt"
    prototxt.write_text(prototxt.read_text().replace("mean_value: 128", "mean_value: 127"))
    with pytest.raises(DataError, match="another network than where the command was given") as why:
        count_on_cluster(network, NetworkFiles(prototxt, FILES.caffemodel), KL, cluster.scheduler_address)
    assert "the preparation of the samples differs" in str(why.value)


def test_an_error_of_a_sample_comes_back(cluster, tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits")
    files = NetworkFiles(tmp_path / "digits" / "deploy.prototxt", FILES.caffemodel)
    text = files.prototxt.read_text()
    (tmp_path / "digits" / "list.txt").write_text("a.png 0\nbroken.png 0\n")
    image = next((DIGITS / "images").rglob("*.png"))
    shutil.copy(image, tmp_path / "digits" / "a.png")
    (tmp_path / "digits" / "broken.png").write_bytes(b"no picture")
    data = 'image_data_param { source: "list.txt" batch_size: 1 is_color: false new_height: 8 new_width: 8 }'
    begin, end = text.index("  data_param"), text.index("backend: LMDB }") + len("backend: LMDB }")
    text = (text[:begin] + data + text[end:]).replace('type: "Data"', 'type: "ImageData"')
    files.prototxt.write_text(text)
    with pytest.raises(DataError, match=r"broken\.png"):
        count_on_cluster(files.opened(), files, CalibrateOptions(iteration=2), cluster.scheduler_address)


def test_nobody_there(network):
    with pytest.raises(OptionError, match="no scheduler of Dask with workers answers there within 1 s"):
        count_on_cluster(network, FILES, KL, "tcp://127.0.0.1:9", patience=1)
    with pytest.raises(OptionError, match="`cluster` is 'local:x'"):
        local_workers("local:x")
    assert local_workers("local:12") == 12


def test_the_command(tmp_path, monkeypatch):
    """`--cluster local:2`: the same files as in one process, and nothing on stderr."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DIGITS, "digits")
    program = [sys.executable, "-c", "import sys; from calib8.cli.main import main; sys.exit(main())"]
    for name, more in (("one", []), ("two", ["--cluster", "local:2"])):
        Path(name).mkdir()
        command = ["calibrate", "digits", "digits", "-n", "20", "--no-verdict", "--output", name]
        done = subprocess.run(
            [*program, *command, "--histograms", f"{name}.hist", *more], capture_output=True, text=True, check=True
        )
        assert done.stderr == "" and done.stdout.startswith("layer ")
    made = [{p.name: p.read_bytes() for p in Path(n).iterdir()} for n in ("one", "two")]
    assert len(made[0]) >= 4 and made[0] == made[1]
    assert Path("one.hist").read_bytes() == Path("two.hist").read_bytes()


def test_shards_cover_the_samples_once(network):
    for iteration, lanes, count in ((60, 2, 8), (3, 2, 3), (5000, 1, 10)):
        parts = shards(network, iteration, lanes)
        assert len(parts) == count
        assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])] and parts[-1].stop == iteration


@pytest.mark.parametrize("count", range(1, 12))
def test_the_tree_adds_all(count):
    class Sum:
        """Notes who was merged with whom."""

        def __init__(self, leaves):
            self.leaves = leaves

        def merge(self, other):
            depths.append(len(other.leaves))
            return Sum(self.leaves + other.leaves)

    depths: list[int] = []
    tree = _Tree()
    for leaf in range(count):
        tree.add(Sum([leaf]))
    assert sorted(tree.whole().leaves) == list(range(count))
    assert len(depths) == count - 1
