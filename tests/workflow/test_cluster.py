"""Histograms from worker processes: the bytes of one process, also when a worker is killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calib8 import CalibrateOptions
from calib8.engine import use_gpu
from calib8.errors import DataError, OptionError
from calib8.workflow import NetworkFiles, count_histograms, count_on_cluster, count_to_file
from calib8.workflow.cluster import Workers, local_workers
from calib8.workflow.cluster_counting import _Tree, shards

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
    # What had been done stays done: every shard is reported once; the second pass may find one worker fewer.
    assert finished == sorted(set(finished)) and finished[-1] == 120
    assert len(finished) in (8 + len(shards(network, 0, 60, lanes)) for lanes in (1, 2))
    with distributed.Client(cluster.scheduler_address) as client:
        client.wait_for_workers(2, timeout=30)
        assert killed[0] not in client.run(os.getpid).values()


def test_files_that_workers_do_not_see(cluster, tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))
    files = NetworkFiles(tmp_path / "digits" / "deploy.prototxt", tmp_path / "digits" / "custom.caffemodel")
    here = files.opened()
    shutil.rmtree(tmp_path / "digits")
    with pytest.raises(DataError) as why:
        count_on_cluster(here, files, KL, cluster.scheduler_address)
    assert "2 of 2 workers cannot use the network" in str(why.value) and "same paths" in str(why.value)
    assert len(why.value.problems) == 2
    assert all(p.startswith("worker tcp://") and "deploy.prototxt: cannot be read" in p for p in why.value.problems)


def test_workers_that_see_another_network(network, cluster, tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))
    prototxt = tmp_path / "digits" / "deploy.prototxt"
    prototxt.write_text(prototxt.read_text().replace("mean_value: 128", "mean_value: 127"))
    with pytest.raises(DataError, match="another network than where the command was given") as why:
        count_on_cluster(network, NetworkFiles(prototxt, FILES.caffemodel), KL, cluster.scheduler_address)
    assert "the preparation of the samples differs" in str(why.value)


def test_an_error_of_a_sample_comes_back(cluster, tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))
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
    shutil.copytree(DIGITS, "digits", ignore=shutil.ignore_patterns("bmnet_*"))
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


@pytest.mark.parametrize("options", [KL, MSE], ids=lambda o: o.method)
def test_a_run_that_was_stopped_goes_on_where_it_was(network, cluster, tmp_path, options):
    """What it has counted is not counted again, on a cluster as in one process; the bytes are those of one run."""
    whole = count_histograms(network, options).to_bytes()
    total, stopped = 60 * (2 if options is KL else 1), 0
    for stop in (20, 50, *((75, 110) if options is KL else ())):
        path, seen = tmp_path / f"{stop}.hist", []

        def until(progress, stop=stop, saved=Path(f"{path}.part")):
            # Shards end in any order, and what is saved is the sum of the first ones.
            if progress.stage == "calibrating" and progress.done >= stop and saved.exists():
                raise KeyboardInterrupt

        try:
            count_on_cluster(network, FILES, options, cluster.scheduler_address, until, path=path, save_seconds=0)
        except KeyboardInterrupt:
            stopped += 1
            assert not path.exists() and Path(f"{path}.part").exists()
        else:  # on a busy machine the first shard may end last, and nothing is saved before the end
            assert path.read_bytes() == whole
            continue
        if stop == 50:  # what one has begun the other one ends
            found = count_to_file(network, options, path, progress=seen.append)
        else:
            found = count_on_cluster(network, FILES, options, cluster.scheduler_address, seen.append, path=path)
        assert found.to_bytes() == path.read_bytes() == whole
        assert not Path(f"{path}.part").exists()
        counted = [p.done for p in seen if p.stage == "calibrating"]
        assert counted == sorted(counted) and counted[-1] == total and len(counted) < total
        begun = [p for p in seen if p.stage == "comparing samples"]
        assert begun and counted[0] > begun[-1].total // 2
    assert stopped


def test_a_file_that_is_whole_is_not_counted_again(network, cluster, tmp_path):
    path, seen = tmp_path / "digits.hist", []
    few = CalibrateOptions(iteration=40, method="mse")
    count_on_cluster(network, FILES, few, cluster.scheduler_address, path=path)
    count_on_cluster(network, FILES, few, cluster.scheduler_address, seen.append, path=path)
    assert {p.stage for p in seen} == {"comparing samples"}
    found = count_on_cluster(network, FILES, MSE, cluster.scheduler_address, path=path)
    assert found.to_bytes() == count_histograms(network, MSE).to_bytes() == path.read_bytes()
    with pytest.raises(DataError, match="holds other histograms") as why:
        count_on_cluster(network, FILES, few, cluster.scheduler_address, path=path)
    assert "it holds 60 samples, and 40 are asked for" in str(why.value)


def test_samples_that_are_left_out(network, cluster):
    fewer = network.without_samples((3, 4))
    options = CalibrateOptions(iteration=20, method="mse")
    with pytest.raises(OptionError, match="leave out `gpu`"):
        use_gpu(0)
        try:
            count_on_cluster(fewer, FILES, options, cluster.scheduler_address)
        finally:
            use_gpu(None)
    files = replace(FILES, left_out=fewer.left_out)
    found = count_on_cluster(fewer, files, options, cluster.scheduler_address)
    assert found.to_bytes() == count_histograms(fewer, options).to_bytes()


PROGRAM = """
import sys
sys.modules["calib8"] = None  # as where it is not installed
from distributed.cli import dask_{0}
dask_{0}.main({1!r})
"""


@pytest.fixture
def without_calib8(tmp_path):
    """A scheduler and a worker of which neither has calib8."""
    (port,) = _free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    commands = [
        ("scheduler", ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]),
        ("worker", [address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]),
    ]
    started = []
    for kind, arguments in commands:
        started.append(
            subprocess.Popen([sys.executable, "-c", PROGRAM.format(kind, arguments)], stderr=subprocess.DEVNULL)
        )
    try:
        yield address, started
    finally:
        for process in started:
            process.kill()
            process.wait()


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_workers_without_calib8_are_named_and_a_scheduler_without_it_does(network, without_calib8, cluster):
    address, (_, worker) = without_calib8
    with pytest.raises(DataError) as why:
        count_on_cluster(network, FILES, MSE, address)
    (problem,) = why.value.problems
    assert re.fullmatch(
        r"worker tcp://127\.0\.0\.1:\d+: it has no calib8; install the same one there \(pip install\)", problem
    )
    # the scheduler alone may lack it: a worker that has calib8 comes in the place of the other one
    worker.kill()
    worker.wait()
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
    other = subprocess.Popen([*command, "--no-dashboard"], stderr=subprocess.DEVNULL)
    try:
        few = CalibrateOptions(iteration=10, method="mse")
        with distributed.Client(address) as client:
            while problem.split()[1].rstrip(":") in client.nthreads() or not client.nthreads():
                time.sleep(0.05)
        assert count_on_cluster(network, FILES, few, address).to_bytes() == count_histograms(network, few).to_bytes()
        # and where the last worker goes away, that is said
        seen = []

        def kill(progress):
            seen.append(progress)
            other.kill()

        with pytest.raises(OptionError, match="no workers any more, and none has come in 1 s; what is saved is kept"):
            count_on_cluster(network, FILES, KL, address, kill, patience=1)
        assert seen
    finally:
        other.kill()
        other.wait()


class _Client:
    """A scheduler's client that only counts workers and their tasks."""

    def __init__(self, workers, tasks=0):
        self.workers, self.tasks = workers, tasks

    def nthreads(self):
        return {f"tcp://{n}": 1 for n in range(self.workers)}

    def run(self, function, *arguments, on_error):
        return {}

    def processing(self):
        return dict.fromkeys(self.nthreads(), ("task",) * self.tasks)


class _Future:
    """A task whose result comes at the last of so many waits."""

    def __init__(self, waits):
        self.waits, self.seconds = waits, []

    def result(self, timeout):
        self.seconds.append(timeout)
        if len(self.seconds) < self.waits:
            raise TimeoutError
        return "found"


@pytest.mark.parametrize(
    ("workers", "tasks", "waits", "expected"),
    [
        (1, 1, 6, "found"),  # it is found again
        (1, 0, 3, "found"),  # a slow transfer
        (1, 0, 4, "the cluster has lost a result, and no worker finds it again"),
        (0, 0, 2, "no workers any more, and none has come in 1 s"),
    ],
)
def test_a_result_whose_worker_dies_before_it_is_fetched(workers, tasks, waits, expected):
    client, future = _Client(1, tasks), _Future(waits)
    crew = Workers(client, None, None, threads=1, patience=1.0)
    client.workers = workers
    if expected == "found":
        assert crew.result_of(future, "a shard") == "found"
        assert future.seconds == [2.0**n for n in range(waits)]
    else:
        with pytest.raises(OptionError, match=expected):
            crew.result_of(future, "a shard")


def test_shards_cover_the_samples_once(network):
    for start, stop, lanes, count in ((0, 60, 2, 8), (0, 3, 2, 3), (0, 5000, 1, 10), (7, 60, 2, 8), (59, 60, 2, 1)):
        parts = shards(network, start, stop, lanes)
        assert len(parts) == count
        assert [p.start for p in parts] == [start, *(p.stop for p in parts[:-1])] and parts[-1].stop == stop


@pytest.mark.parametrize("count", range(1, 12))
def test_the_tree_adds_all_in_any_order(count):
    class Sum:
        """Notes how much was merged."""

        def __init__(self, leaves):
            self.leaves = leaves

        def merge(self, other):
            assert self.leaves[-1] + 1 == other.leaves[0]  # neighbours
            merged.append(len(self.leaves) + len(other.leaves))
            return Sum(self.leaves + other.leaves)

    rng = np.random.default_rng(count)
    for _ in range(5):
        merged: list[int] = []
        tree = _Tree()
        there = set()
        for leaf in rng.permutation(count).tolist():
            tree.add(leaf, Sum([leaf]))
            there.add(leaf)
            assert tree.reach == next(n for n in range(count + 1) if n not in there)
            if tree.reach:
                assert tree.first().leaves == list(range(tree.reach))
        merged.clear()
        tree = _Tree()
        for leaf in range(count):
            tree.add(leaf, Sum([leaf]))
        assert tree.first().leaves == list(range(count)) and tree.reach == count
        assert len(merged) == count - 1 and sum(merged) <= 2 * count * max(1, count.bit_length())
