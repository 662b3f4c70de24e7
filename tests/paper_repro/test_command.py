"""`python -m paper_repro`: what it starts, and when it stops."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import sandbox.study.study
from experiments.parity_mlp import ParityMLP
from experiments.sample_complexity import SampleComplexity
from paper_repro import __main__ as command
from sandbox.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be estimated (a list of names) and run (studies)."""
    found: list[Any] = []
    for name in ("print_estimate", "run_all"):

        def note(first: Any, second: Any, *_: Any) -> None:
            found.extend(second if isinstance(first, str) else [list(first)])

        monkeypatch.setattr(sandbox.study.study, name, note)
    return found


@pytest.mark.parametrize(
    ("words", "estimated"),
    [
        (["--scale", "paper"], True),
        (["--scale", "paper", "--no-estimate"], False),
        (["--scale", "cpu"], False),
    ],
)
def test_no_estimate_starts_at_once(
    asked: list[Any], words: Sequence[str], estimated: bool
) -> None:
    command.main(["parity_mlp", *words])
    names = [["parity_mlp"]] * estimated
    assert asked == [*names, ParityMLP.preset(words[1])]


def test_teachers_make_another_study(asked: list[Any]) -> None:
    command.main(["parity_mlp", "--scale", "cpu", "--teachers", "3"])
    (study,) = asked
    preset = ParityMLP.preset("cpu")
    assert preset.setting.n_teachers == 20 and study.setting.n_teachers == 3
    assert not study._is("cpu") and study.setting.task == preset.setting.task
    with pytest.raises(ConfigError, match="sample_complexity has no setting"):
        command.with_teachers(SampleComplexity.preset("smoke"), 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--teachers", "0"], "--teachers must be at least 1, got 0"),
        (["--teachers", "2", "--publish"], "without --teachers"),
        (["--time-limit", "0"], "--time-limit must lie in"),
        (["--time-limit", "nan"], "--time-limit must lie in"),
        (["--time-limit", "soon"], "--time-limit"),
        (["--estimate", "--no-estimate"], "exclude each other"),
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str], words: Sequence[str], told: str
) -> None:
    with pytest.raises(SystemExit) as e:
        command.main(["parity_mlp", *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and told in line


def test_a_time_limit_ends_with_the_work(asked: list[Any]) -> None:
    ours = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 0)
    command.main(["parity_mlp", "--time-limit", "1000"])
    assert asked and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    signal.signal(signal.SIGALRM, ours[0])
    signal.setitimer(signal.ITIMER_REAL, *ours[1])


def stopped(tmp_path: Path, code: str) -> str:
    """Standard error of a process that its time limit ends."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 75, done.stdout + done.stderr
    return done.stderr


def test_a_time_limit_stops_what_is_no_run(tmp_path: Path) -> None:
    code = "from paper_repro.__main__ import main\nmain(['parity_mlp', *{}])"
    err = stopped(tmp_path, code.format(["--time-limit", "0.01"]))
    assert err == "interrupted; the same command goes on from what is stored\n"


def test_a_time_limit_saves_a_run(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from pathlib import Path\n"
        "from sandbox.command import guarded\n"
        "from sandbox.train.resumable import compute\n"
        "from sandbox.train.signals import stop_after\n"
        "def piece():\n"
        "    stop_after(0.1)\n"
        "    time.sleep(1)\n"
        "    return {'a': 1.0}\n"
        "guarded(lambda: compute(0, dict.fromkeys('ab', piece), root=Path()))"
    )
    assert "stopped at piece 1 by signal SIGTERM; its state is saved" in stopped(
        tmp_path, code
    )
    assert list(tmp_path.rglob("resume-*"))
