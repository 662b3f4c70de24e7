"""SIGTERM, SIGUSR1 and Ctrl-C: saved in time, exit code 75, and the same bits after."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.train.signals import collected_signals
from tests.faults.conftest import PATIENCE, Study

GRACE = 25.0
"""Seconds: Slurm kills 30 s after SIGTERM, unless told otherwise."""
ALWAYS = {"STUDY_SAVE_SECONDS": "0"}
ON_SIGNAL = {"STUDY_SAVE_SECONDS": "1e9"}
"""However slow the machine is, the state is saved for a signal alone."""


def stopped(study: Study, faults: str, **env: str | None) -> tuple[str, float]:
    """Standard error of a sitting that a signal ended, and how long that took."""
    with study.start(faults=faults, env=env) as process:
        out, err = process.communicate(timeout=PATIENCE)
        now = time.monotonic()
    assert process.returncode == 75, f"{process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    sent = [e.split() for e in study.events() if e.startswith("fault")]
    took = now - float(sent[-faults.count("SIG")][2])  # the first of this sitting
    assert took < GRACE, err
    return err, took


@pytest.mark.long
def test_signals_while_training_saving_and_probing(
    study: Study, reference: Study
) -> None:
    """One study, stopped in teachers (while saving too), probe and students."""
    faults = "open step 5 SIGTERM 0;open resume 1 SIGUSR1 0"
    err, _ = stopped(study, faults, **ON_SIGNAL)
    assert "by signal SIGTERM; its state is saved in" in err.splitlines()[-1]
    assert len(list(study.root.rglob("resume-*"))) == 1
    assert study.verify().returncode == 0

    err, _ = stopped(study, "open resume 40 SIGUSR1 0", **ALWAYS)
    assert "resumed at 1,0" in err
    assert "stopped at checkpoint 13 by signal SIGUSR1" in err
    err, _ = stopped(study, "open resume 25 SIGTERM 0", **ALWAYS)
    assert "resumed at 13" in err and "student" in err and "by signal SIGTERM" in err
    assert "resumed at" in study.run()
    assert study.contents() == reference.contents()
    assert not list(study.root.rglob("resume-*"))


def test_a_command_ends_with_75_wherever_it_is() -> None:
    """Before anything is trained or after: importing, compiling, drawing."""
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        program = (
            "import signal\n"
            "from sandbox.command import guarded\n"
            "def action():\n"
            "    try:\n"
            f"        signal.raise_signal(signal.{name})\n"
            "    except BaseException:\n"
            "        pass  # as code does that the signal came through\n"
            "guarded(action)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 75, (name, done)
        (line,) = done.stderr.splitlines()
        assert "the same command goes on" in line


def test_a_signal_after_the_last_look_is_not_lost() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), collected_signals() as seen:
            assert not seen
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(ZeroDivisionError), collected_signals():
            signal.raise_signal(signal.SIGTERM)
            raise ZeroDivisionError  # whoever looked has said so already
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


COLD: dict[str, str | None] = {"JAX_COMPILATION_CACHE_DIR": None}
"""Nothing is compiled yet."""
STAGES = (
    ("", "inside study 1 {} 0.02", {}),  # importing
    ("", "inside study 1 {} 0.2", {}),
    ("", "inside study 1 {} 0.6", {}),
    ("", "os.rename config.json 1 {} 0.05", COLD),  # compiling
    ("", "open step 1 {} 0.5", COLD),
    ("", "open step 3 {} 0.01", {}),
    ("", "os.rename resume 2 {} 0", ALWAYS),
    ("", "os.rename metrics.parquet 1 {} 0", {}),
    ("", "open manifest.json 1 {} 0", {}),
    ("teacher", "open config.json 1 {} 0.3", COLD),
    ("teacher", "open values.safetensors 1 {} 0", {}),
    ("teacher", "os.rename manifest.json 1 {} 0", {}),
    ("teacher probe", "open config.json 1 {} 0.3", COLD),
    ("teacher probe", "open config.json 1 {} 1.5", COLD),
    ("teacher probe", "open metrics.parquet 1 {} 0", {}),
    ("teacher probe student", "draw figure 1 {} 0", {}),
    ("teacher probe student", "draw figure 1 {} 0.2", {}),
    ("teacher probe student", "open parity_mlp.png 1 {} 0", {}),
    ("teacher probe student", "os.rename parity_mlp.svg 1 {} 0", {}),
)
"""What is finished already, where the signal comes, and the environment."""


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_signals_at_every_stage(
    reference: Study, tmp_path: Path, injected: Callable[..., None]
) -> None:
    """Also while importing, compiling, finishing and drawing; then to the end."""
    seconds = []
    for i, (finished, fault, env) in enumerate(STAGES):
        study = Study(tmp_path / str(i), reference.program, reference.env)
        for kind in finished.split():
            shutil.copytree(reference.root / kind, study.root / kind)
        name = ("SIGTERM", "SIGUSR1")[i % 2]
        seconds.append(stopped(study, fault.format(name), **env)[1])
        study.run()
        assert study.contents() == reference.contents(), fault
        assert not list(study.folder.rglob("*.tmp"))
    injected(
        "S2",
        "SIGTERM or SIGUSR1 while importing, compiling, training, probing, drawing",
        len(STAGES),
        f"exit code 75 within {max(seconds):.1f} s, then the same bits",
    )
