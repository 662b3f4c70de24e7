"""What is stopped or lost is given again, what fails is said; signals are passed on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sandbox import launchers
from sandbox.cli import main
from sandbox.errors import Interrupted, SandboxError
from sandbox.launchers import Local, carry_out, joint_code, run_command

ROOT = Path(__file__).resolve().parent.parent


class Scripted:
    """Commands are exit codes, or `lost`, one for each time that they are given."""

    every = 0.0

    def __init__(self):
        self.given, self.stopped = [], False

    def submit(self, commands):
        codes = {n: c[self.given.count(n)] for n, c in commands.items()}
        self.given += commands
        return {n: (code, object()) for n, code in codes.items()}

    def ended(self, tickets):
        return {t: None if t[0] == "lost" else int(t[0]) for t in tickets}

    def stop(self):
        self.stopped = True


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(launchers, "PAUSE", (0.0, 0.0))


def test_what_is_stopped_or_lost_is_given_again_until_it_is_done(capsys):
    launcher = Scripted()
    assert carry_out({"a": ["75", "lost", "0"], "b": ["0"]}, launcher) == {}
    assert launcher.given == ["a", "b", "a", "a"]
    said = capsys.readouterr().err
    assert "a: stopped after" in said and "a: lost after" in said


def test_what_fails_is_not_given_again_and_does_not_end_the_others(capsys):
    launcher = Scripted()
    assert carry_out({"a": ["2", "0"], "b": ["75", "0"]}, launcher) == {"a": 2}
    assert launcher.given == ["a", "b", "b"]
    assert "a: failed with code 2" in capsys.readouterr().err


def test_what_is_lost_is_not_given_again_for_ever():
    launcher = Scripted()
    given = {"a": ["75"] * 9 + ["0"], "b": ["lost"] * 9}
    failed = carry_out(given, launcher, restarts=3)
    assert failed == {"b": 75} and launcher.given.count("b") == 4


def test_a_signal_stops_what_runs():
    class Told(Scripted):
        def ended(self, tickets):
            signal.raise_signal(signal.SIGTERM)
            return {}

    launcher = Told()
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(Interrupted, match="1 of 1 groups"):
            carry_out({"a": ["0"]}, launcher)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert launcher.stopped


def test_processes_here_share_no_gpu_and_keep_their_output(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    with pytest.raises(SandboxError, match="need 6 GPUs, 4 are here"):
        Local(tmp_path, workers=3, gpus=2)
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(.3)"
    words = [sys.executable, "-c", code]
    commands = {"x/0-4": words, "x/5-9": words, "bad": [sys.executable, "-c", "1/0"]}
    assert carry_out(commands, Local(tmp_path, workers=2, gpus=2)) == {"bad": 1}
    own = {(tmp_path / f"x_{s}.log").read_text().strip() for s in ("0-4", "5-9")}
    assert own == {"4,5", "6,7"}
    assert "ZeroDivisionError" in (tmp_path / "bad.log").read_text()


def test_a_process_that_is_killed_is_lost_and_given_again(tmp_path):
    mark = tmp_path / "second"
    code = (
        "import os, pathlib, signal\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists():\n"
        "    mark.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "mark.write_text('done')"
    )
    words = [sys.executable, "-c", code]
    assert carry_out({"a": words}, Local(tmp_path, workers=1)) == {}
    assert mark.read_text() == "done"


@pytest.mark.parametrize(
    ("codes", "joint"),
    [
        ([0, 0], 0),
        ([75, 75], 75),
        ([0, 75], 75),
        ([-9, -6], None),
        ([0, None], None),
        ([2, -6], 2),  # why the other one ended
        ([1, 0], 1),
        ([-9, 1], None),  # an error for want of the other one
        ([75, -6], None),
    ],
)
def test_what_several_processes_did_together_has_one_code(codes, joint):
    assert joint_code(codes) == joint


def test_processes_of_a_group_find_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    code = (
        "import os, sys\n"
        "from sandbox.launchers import PEER, peer\n"
        "address, i, n = peer()\n"
        "assert n == 2\n"
        f"open({str(tmp_path)!r} + f'/{{i}}', 'w').write(address)\n"
        "sys.exit(3 * i)"
    )
    launcher = Local(tmp_path, workers=1, gpus=1, processes=2)
    words = [sys.executable, "-c", code]
    assert carry_out({"a": words}, launcher, restarts=0) == {"a": 3}
    found = {(tmp_path / f"{i}").read_text() for i in (0, 1)}
    (address,) = found
    assert address.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("name", "value"),
    [("SANDBOX_TOGETHER", "x"), ("SANDBOX_TOGETHER", "2"), ("SANDBOX_PEER", "junk")],
)
def test_an_odd_environment_is_one_line(name, value, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SANDBOX_TOGETHER", "2")
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    monkeypatch.setenv(name, value)
    assert main(["launch", "parity_mlp", "smoke", "--only", "0-4"]) == 2
    said = capsys.readouterr().err
    assert "unset them" in said and len(said.splitlines()) == 1


def test_only_what_trains_asks_who_began_it(monkeypatch, capsys):
    monkeypatch.setenv("SANDBOX_WORKER", "foo")
    assert main(["launch", "no_such", "smoke", "--dry-run"]) == 2
    assert "there is no study 'no_such'" in capsys.readouterr().err


SLEEPS = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_worker_passes_signals_on_and_returns_the_code(number):
    code = (
        "import sys\n"
        "from sandbox.launchers import run_command\n"
        f"print(run_command([sys.executable, '-c', {SLEEPS!r}], '.'))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        worker.send_signal(number)
        assert worker.stdout.readline() == "75\n"


def test_what_a_signal_killed_has_no_code(tmp_path):
    handlers = {s: signal.getsignal(s) for s in (15, signal.SIGUSR1, signal.SIGUSR2)}
    code = "import os; os.kill(os.getpid(), 9)"
    try:
        assert run_command([sys.executable, "-c", code], str(tmp_path)) is None
        assert run_command([sys.executable, "-c", "exit(3)"], str(tmp_path)) == 3
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_group_does_not_outlive_the_worker_that_began_it(tmp_path):
    mark = tmp_path / "told"
    inner = (
        "import os, pathlib, signal, sys, time\n"
        "from sandbox.launchers import end_with_parent\n"
        f"done = lambda *_: (pathlib.Path({str(mark)!r}).touch(), os._exit(75))\n"
        "signal.signal(signal.SIGTERM, done)\n"
        "end_with_parent()\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    outer = (
        "import sys\n"
        "from sandbox.launchers import run_command\n"
        f"run_command([sys.executable, '-c', {inner!r}], '.')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", outer],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        worker.kill()
    until = time.monotonic() + 10
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert mark.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no_such"], "there is no study 'no_such'"),
        (["no_such.py"], "there is no study 'no_such.py'"),
        (["parity_mlp"], "a preset comes first"),
        (["parity_mlp", "smoke", "--on", "cloud"], "there is no choice 'cloud'"),
        (["parity_mlp", "smoke", "--workers", "-1"], "--workers must be at least 0"),
        (["parity_mlp", "smoke", "--processes", "0"], "--processes must be at least 1"),
        (
            ["parity_mlp", "smoke", "--processes", "2", "--on", "ray"],
            "--processes and --workers are for local and slurm",
        ),
        (["parity_mlp", "smoke", "--hours", "nan"], "--hours must be at least 0.1"),
        (["parity_mlp", "smoke", "--slurm", "gpu"], "--slurm takes NAME=VALUE"),
        (["pcfg_nonterminals", "smoke", "--only", "7-9"], "there is no group '7-9'"),
        (["parity_mlp", "smoke", "--only", "7-9"], "there is no group '7-9'"),
        (["parity_mlp", "smoke", "--setting.task.k", "99"], "task.k"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_launched(
    words, says, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SANDBOX_RUNS", str(tmp_path / "runs"))
    assert main(["launch", *words]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_launched_study_is_the_study(tmp_path):
    """Two processes, one of them killed while it trains; nothing is trained twice."""
    few = ["--setting.n-teachers", "2", "--setting.group", "1"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def run(*words, root):
        command = [sys.executable, "-m", *words, *few, "--root", str(root)]
        return subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stderr=subprocess.PIPE
        )

    with run("sandbox", "launch", "parity_mlp", "smoke", "--workers", "2",
             root=tmp_path / "apart") as launch:  # fmt: skip
        resume = list[Path]()
        while launch.poll() is None and not resume:
            resume = [*(tmp_path / "apart").glob("teacher/*/config.json")]
            time.sleep(0.05)
        holder = (resume[0].parent / ".lock").read_text().strip()
        os.kill(int(holder), signal.SIGKILL)
        said = launch.communicate()[1]
    assert launch.returncode == 0, said
    assert "lost after" in said and "report: done" in said
    with run("experiments.parity_mlp", "smoke", root=tmp_path / "whole") as whole:
        assert "done" in whole.communicate()[1]

    def stored(root):
        names = ("ckpt/*.safetensors", "metrics.parquet", "outcome.json")
        return {
            str(p.relative_to(root)): p.read_bytes()
            for kind in ("teacher", "student", "probe")
            for name in names
            for p in root.glob(f"{kind}/*/{name}")
        }

    assert stored(tmp_path / "apart") == stored(tmp_path / "whole") != {}


@pytest.mark.long
def test_two_processes_train_one_wide_teacher(tmp_path):
    """The smallest that is shared; it has no time to learn."""
    wide = ["--setting.n-teachers", "1", "--setting.teacher.width", "8192"]
    # At the usual rate so wide a network is unstable, and makes much of rounding.
    wide += ["--setting.group", "1", "--setting.teacher-optimizer.lr.peak", "0.0005"]
    wide += ["--setting.budget.limit", "1280", "--setting.rule.points", "1024"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    launch = [sys.executable, "-m", "sandbox", "launch", "parity_mlp", "smoke", *wide]
    found = []
    for n in ("1", "2"):
        root = tmp_path / n
        subprocess.run(
            [*launch, "--processes", n, "--root", root], cwd=ROOT, env=env, check=True
        )
        (run,) = root.glob("teacher/*")
        assert (run / "manifest.json").exists()
        *_, last = sorted(run.glob("ckpt/step_*"))
        found.append(load_file(last))
        (log,) = (root / "launch").glob("0-0.log")
        assert "teacher: " not in log.read_text()  # that it cannot be shared
    one, two = found
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-6)
