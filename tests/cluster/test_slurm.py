"""A study on a real Slurm, with a task killed, a node lost, and SIGUSR1."""

import os
import signal
import subprocess

import pytest

from tests.cluster.launched import (
    check_equal,
    environment_of,
    kill_all,
    launch,
    training,
    wait_for,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def job_of(pid: int) -> tuple[str, str]:
    """Job and node of a process."""
    words = environment_of(f"{pid}").split("\0")
    env = {name: value for name, _, value in (w.partition("=") for w in words)}
    return env.get("SLURM_JOB_ID", ""), env.get("SLURMD_NODENAME", "")


def test_a_launched_study_is_the_study(tmp_path):
    root, log = tmp_path / "apart", tmp_path / "launch.log"
    with launch("slurm", root, log) as process:
        try:
            # A task is killed.
            _, pid = wait_for(lambda: next(training(root), None))
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: "lost after" in log.read_text())
            # Another is told that its time is over, as Slurm does.
            _, pid = wait_for(lambda: next(training(root), None))
            subprocess.run(["scancel", "--signal=USR1", job_of(pid)[0]], check=True)
            wait_for(lambda: "stopped after" in log.read_text())
            # A node dies, and what ran there.
            wait_for(lambda: "n2" in {job_of(pid)[1] for _, pid in training(root)})
            kill_all("LOOPBACK_NODE=n2")
            kill_all("SLURMD_NODENAME=n2")
            assert process.wait(timeout=600) == 0, log.read_text()
        finally:
            process.terminate()
            print(log.read_text())
    query = ["sinfo", "-h", "-n", "n2", "-o", "%T"]
    assert subprocess.check_output(query, text=True).startswith("down")
    check_equal(root, tmp_path)
