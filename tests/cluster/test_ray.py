"""A study on a real Ray cluster of two nodes, with a worker killed and a node lost."""

import os
import signal
from pathlib import Path

import pytest

from tests.cluster.launched import (
    check_equal,
    environment_of,
    launch,
    training,
    wait_for,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of two CPUs on the loopback."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    nodes = {"num_cpus": 2, "include_dashboard": False}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=nodes)
    made.add_node(num_cpus=2)
    made.wait_for_nodes(timeout=120)
    yield made
    made.shutdown()


def runs_under(raylet: int, root: Path) -> bool:
    """Whether a group is trained by a worker of a node."""
    mark = f"\0RAY_RAYLET_PID={raylet}\0"
    return any(mark in environment_of(f"{pid}") for _, pid in training(root))


def test_a_launched_study_is_the_study(cluster, tmp_path, monkeypatch):
    root, log = tmp_path / "apart", tmp_path / "launch.log"
    second = cluster.list_all_nodes()[1]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with launch("ray", root, log, RAY_ADDRESS=cluster.address) as process:
        try:
            _, pid = wait_for(lambda: next(training(root), None))
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: "lost after" in log.read_text())
            raylet = second.all_processes["raylet"][0].process.pid
            wait_for(lambda: runs_under(raylet, root))
            cluster.remove_node(second, allow_graceful=False)
            assert process.wait(timeout=600) == 0, log.read_text()
        finally:
            process.terminate()
            print(log.read_text())
    check_equal(root, tmp_path)
