"""Runs on a Ray cluster of two nodes, simulated on this machine, with real processes that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import ray
import ray.data
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import fastcam.dataset
from fastcam import features
from fastcam.cli import app
from fastcam.dataset.actor import check_reachable
from fastcam.dataset.attempts import ShardAttempts
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.job_arguments import make_job
from fastcam.dataset.ray_driver import RayDriver
from fastcam.dataset.records import Span
from fastcam.evaluate import datasets
from fastcam.evaluate.annotations import open_annotations
from fastcam.features import neurons
from tests.dataset.nodes import Deadly, Slow, as_kind
from tests.dataset.small import SETTINGS, contents, folder, network

pytestmark = pytest.mark.usefixtures("one_thread")
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def nodes():
    """A head node without cores, and two nodes of one core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - 15 by default: beside other tests a worker would hardly run
    from ray.cluster_utils import Cluster as Simulated

    simulated = Simulated(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    for _ in range(2):
        simulated.add_node(**NODE)
    yield simulated
    simulated.shutdown()


@pytest.fixture
def address(nodes):
    """The address of the cluster, with all nodes running."""
    while len(nodes.worker_nodes) < 2:
        nodes.add_node(**NODE)
    nodes.wait_for_nodes()
    return nodes.address


def run(source, out, model=None, **options):
    return fastcam.dataset.run(source, model or network(), out, **{**SETTINGS, **options})


def run_alone(source, out):
    """Make the maps of a slow network in this process, where it does not wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slow, "seconds", 0)
        run(source, out, as_kind(Slow))


def maps_of(path):
    """Return the committed files of a folder of maps."""
    return {name: data for name, data in contents(path).items() if name.startswith(("shards/part", "commits/part"))}


def test_a_cluster_makes_the_same_files_as_one_machine(tmp_path, address):
    """By the command line, with its summary."""
    source = folder(tmp_path / "in", 30)
    arguments = ["map", str(source), "--model", "tests.dataset.small:network", "--layer", "features", "--size", "16"]
    arguments += ["--shard-size", "4"]

    def map_to(out, *more):
        return CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / out), *more])

    assert map_to("alone").exit_code == 0
    done = map_to("out", "--ray", address)
    assert done.exit_code == 0, done.output
    assert "30 images in" in done.stdout
    assert len(fastcam.dataset.open(tmp_path / "out").commits) == 8
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert not ray.is_initialized()
    nowhere = map_to("none", "--ray", "127.0.0.1:1")
    assert nowhere.exit_code == 2
    assert nowhere.stderr.startswith("fastcam: there is no Ray cluster at '127.0.0.1:1': ")


def test_a_cluster_measures_as_one_machine_does(tmp_path, address):
    source = folder(tmp_path / "in", 10)
    lines = [f"{path.relative_to(source)},5,5,40,45" for path in sorted(source.rglob("*.jpg"))]
    (tmp_path / "boxes.csv").write_text("\n".join(["image_id,left,top,right,bottom", *lines]) + "\n")
    annotations = open_annotations(tmp_path / "boxes.csv")

    def measure(out, **more):
        measures = ["deletion", "pointing_game", "max_sensitivity"]
        options = {"deletion": {"steps": 3}, "max_sensitivity": {"samples": 2}}
        settings = {**SETTINGS, "measure_options": options, "annotations": annotations, **more}
        return datasets.run(source, network(), tmp_path / out, measures, **settings)

    measure("alone")
    assert measure("cluster", ray=address).new == 10
    assert maps_of(tmp_path / "cluster") == maps_of(tmp_path / "alone")


def test_a_cluster_makes_features_and_neurons_as_one_machine_does(tmp_path, address):
    source, settings = folder(tmp_path / "in", 10), {"shard_size": 4, "batch_size": 3}
    for name, cluster in (("alone", None), ("cluster", address)):
        made = {**settings, "preprocessing": SETTINGS["preprocessing"], "ray": cluster}
        assert features.run(source, network(), tmp_path / f"features-{name}", **made).new == 10
        assert neurons.run(source, network(), tmp_path / f"neurons-{name}", k=2, target=0, **made).new == 10
    for kind in ("features", "neurons"):
        assert maps_of(tmp_path / f"{kind}-cluster") == maps_of(tmp_path / f"{kind}-alone")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_model(tmp_path, address):
    """It is sent as the bytes of its file."""
    source, model = folder(tmp_path / "in", 8), torch.jit.trace(network(), torch.rand(2, 3, 16, 16))
    run(source, tmp_path / "alone", model)
    assert run(source, tmp_path / "cluster", model, ray=address).new == 8
    assert maps_of(tmp_path / "cluster") == maps_of(tmp_path / "alone")


def test_ray_reads_the_maps(tmp_path, address):
    run(folder(tmp_path / "in"), tmp_path / "out", target="top2")
    ray.init(address, log_to_driver=False)
    try:
        rows = ray.data.read_parquet(str(tmp_path / "out" / "shards")).take_all()
    finally:
        ray.shutdown()
    expected = fastcam.dataset.open(tmp_path / "out")
    assert {(row["image_id"], row["target"], row["map"]) for row in rows} == {
        (row["image_id"], row["target"], row["map"]) for name in expected for row in expected.rows(name)
    }
    assert len(rows) == 20


def test_a_killed_node_costs_only_the_shards_in_progress(tmp_path, nodes, address):
    source = folder(tmp_path / "in", 40)
    run_alone(source, tmp_path / "alone")
    killed = []

    def kill(progress):
        if not killed:
            killed.append(next(iter(nodes.worker_nodes)))
            nodes.remove_node(killed[0], allow_graceful=False)

    done = run(source, tmp_path / "out", as_kind(Slow), ray=address, report=kill)
    assert killed
    assert (done.done, done.new, done.failed) == (40, 40, 0)
    assert maps_of(tmp_path / "out") == maps_of(tmp_path / "alone")
    assert fastcam.dataset.verify(tmp_path / "out") == []


def test_a_run_stops_at_a_signal_and_is_resumed(tmp_path, address):
    source, out, seen = folder(tmp_path / "in", 40), tmp_path / "out", []

    def stop(progress):
        seen.append(progress.commit.span)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(fastcam.dataset.InterruptedRunError, match="the run was interrupted: committed shards are kept"):
        run(source, out, as_kind(Slow), ray=address, report=stop)
    assert not ray.is_initialized()
    before = maps_of(out)
    assert 0 < len(list((out / "commits").glob("part-*"))) < 10
    done = run(source, out, as_kind(Slow), ray=address, report=lambda progress: seen.append(progress.commit.span))
    assert 0 < done.new < 40
    assert done.done == 40
    assert_resumed(source, out, before)


@pytest.mark.slow
def test_a_run_is_resumed_after_its_driver_was_killed(tmp_path, address):
    source, out = folder(tmp_path / "in", 40), tmp_path / "out"
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.dataset.nodes", source, out, address], stderr=subprocess.PIPE, text=True
    )
    commits = out / "commits"
    while not (commits.exists() and list(commits.glob("part-*"))):
        assert driver.poll() is None, driver.stderr.read()
        time.sleep(0.05)
    driver.kill()
    driver.communicate(timeout=60)
    before = maps_of(out)
    assert 0 < len(list(commits.glob("part-*"))) < 10
    assert 0 < run(source, out, as_kind(Slow), ray=address).new < 40
    assert_resumed(source, out, before)


def assert_resumed(source, out, before):
    """Check that the files are those of one run on one machine, and that none was made twice."""
    after = maps_of(out)
    assert all(after[name] == data for name, data in before.items())
    alone = out.with_name("alone")
    run_alone(source, alone)
    assert after == maps_of(alone)


def test_an_image_that_kills_processes_is_a_row_and_the_others_have_maps(tmp_path, address):
    source = folder(tmp_path / "in", 4)
    Image.new("RGB", (60, 50), "white").save(source / "cats" / "002b.png")
    done = run(source, tmp_path / "out", as_kind(Deadly), ray=address)
    assert (done.new, done.failed) == (5, 1)
    maps = fastcam.dataset.open(tmp_path / "out")
    statuses = {name: maps.rows(name)[0]["status"] for name in maps}
    assert statuses.pop("cats/002b.png") == "the process died on this image, 2 times"
    assert set(statuses.values()) == {"ok"}
    assert not list((tmp_path / "out" / "trying").iterdir())


def test_errors_on_a_node_are_raised_in_the_driver(tmp_path, address):
    source = folder(tmp_path / "in", 4)
    with pytest.raises(RuntimeError, match=r"^node \S+: .*no_such"):
        run(source, tmp_path / "out", ray=address, target_layer="no_such")
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    small.lock = threading.Lock()  # nobody can pickle it
    with pytest.raises(RuntimeError, match="cannot be sent to the nodes"):
        run(source, tmp_path / "small", small, ray=address, method="saliency", target_layer=None)


def test_a_node_that_does_not_see_the_files_refuses(tmp_path):
    source = folder(tmp_path / "in", 4)
    jobs = []

    class Noted(Cluster):
        def run(self, job, store, report):
            jobs.append(job)
            return fastcam.dataset.Progress(0)

    run(source, tmp_path / "out", ray=Noted())
    check_reachable(jobs[0])
    (source / "cats" / "000.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"000\.jpg' does not exist: the images must be under the same path on all nodes"
    ):
        check_reachable(jobs[0])
    (tmp_path / "out" / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match="out' does not exist: the folder must be one that all nodes share"):
        check_reachable(jobs[0])


def test_invalid_addresses_and_cores():
    with pytest.raises(ValueError, match="must be host:port of the cluster, not of a Ray client"):
        Cluster("ray://here:10001")
    with pytest.raises(ValueError, match="`cores` must be a positive whole number, got 0"):
        Cluster(cores=0)
    with pytest.raises(ValueError, match="`gpus` must be a share from 0 to 1 of one GPU for each actor, got 2"):
        Cluster(gpus=2)


GPUS = """
import ray
from fastcam.dataset import Cluster

ray.init(num_cpus=4, num_gpus=2, log_to_driver=False, include_dashboard=False)
for gpus in (None, 0.5, 0.3, 0):
    print(*Cluster(cores=2, gpus=gpus)._plan_actors(ray))
"""


@pytest.mark.slow
def test_shares_of_gpus():
    """Ray counts GPUs that it is told of; nothing runs on them here."""
    done = subprocess.run([sys.executable, "-c", GPUS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "2 {'num_gpus': 1.0}",
        "4 {'num_gpus': 0.5}",
        "6 {'num_gpus': 0.3}",
        "2 {'num_cpus': 2}",
    ]


def test_no_gpus_where_some_are_asked_for(address, tmp_path):
    with pytest.raises(ValueError, match="for each actor, but no node of the cluster has a GPU"):
        run(folder(tmp_path / "in", 4), tmp_path / "out", ray=Cluster(address, gpus=0.5))


def test_several_shards_per_order_until_a_failure(tmp_path):
    job = make_job([str(tmp_path / f"{index}.jpg") for index in range(400)], network(), tmp_path / "out", shard_size=4)
    shards = [ShardAttempts(Span(4 * index, 4 * index + 4)) for index in range(100)]
    driver = RayDriver(job, None, None, 3)
    orders = list(driver._orders(shards))
    assert {len(order["spans"]) for order in orders} == {8, 4}
    spans = [span for order in orders for span in order["spans"]]
    assert spans == [[4 * index, 4 * index + 4] for index in range(100)]
    shards[5].failures, shards[7].failures, shards[7].deaths = 1, 3, {30: 2, 31: 1}
    alone = [order for order in driver._orders(shards) if len(order["spans"]) == 1]
    assert alone == [
        {"spans": [[20, 24]], "one_by_one": False, "lethal": [], "names": alone[0]["names"]},
        {"spans": [[28, 32]], "one_by_one": True, "lethal": [30], "names": alone[1]["names"]},
    ]


def test_a_shard_with_unexplained_process_deaths_is_given_up(tmp_path):
    shard = ShardAttempts(Span(0, 4))
    for _ in range(6):
        shard.add_failure(tmp_path)
    with pytest.raises(RuntimeError, match="gave up shard part-000000000-000000004 after 7 attempts"):
        shard.add_failure(tmp_path)
