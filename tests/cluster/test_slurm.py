"""A study on a real Slurm, with a task killed, a node lost, and SIGUSR1."""

import os
import signal
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cluster.launched import (
    check_equal,
    environment_of,
    kill_all,
    launch,
    start,
    training,
    wait_for,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def job_of(pid: int) -> tuple[str, str]:
    """Job and node of a process."""
    words = environment_of(f"{pid}").split("\0")
    env = {name: value for name, _, value in (w.partition("=") for w in words)}
    return env.get("SLURM_JOB_ID", ""), env.get("SLURMD_NODENAME", "")


def test_two_nodes_train_one_wide_teacher(tmp_path):
    """The smallest that is shared; it has no time to learn."""
    wide = ("--setting.n-teachers", "1", "--setting.teacher.width", "8192")
    # At the usual rate so wide a network is unstable, and makes much of rounding.
    wide += ("--setting.group", "1", "--setting.teacher-optimizer.lr.peak", "0.0005")
    wide += ("--setting.budget.limit", "1280", "--setting.rule.points", "1024")
    words = ("sandbox", "launch", "parity_mlp", "smoke", *wide, "--cpus", "1")
    found = []
    for more in (("--on", "slurm", "--processes", "2"), ()):
        root, log = tmp_path / f"{len(more)}", tmp_path / f"{len(more)}.log"
        process = start(*words, *more, root=root, log=log)
        assert process.wait(timeout=600) == 0, log.read_text()
        *_, last = sorted(root.glob("teacher/*/ckpt/step_*"))
        found.append(load_file(last))
    two, one = found
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-6)
    said = [p.read_text() for p in (tmp_path / "4" / "launch").glob("*_log.out")]
    assert len(said) == 3  # two processes, and the report


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
