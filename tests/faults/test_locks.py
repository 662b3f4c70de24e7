"""Two processes on one run: one works, the other says who; the dead block nobody."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import PATIENCE, Study

SAVES = {"STUDY_SAVE_SECONDS": "0"}


def paused(study: Study) -> "subprocess.Popen[str]":
    """A process that trains the teacher and has stopped in the middle of it."""
    process = study.start("teacher", faults="open step 9 SIGSTOP 0", env=SAVES)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert process.poll() is None
    return process


def teacher_files(study: Study) -> dict[str, str]:
    return study.contents(study.root / "teacher")


@pytest.mark.long
def test_one_works_and_the_other_says_who(study: Study, reference: Study) -> None:
    with paused(study) as worker:
        before = teacher_files(study)
        err = study.run("teacher", code=75)  # to be given again
        (line,) = err.splitlines()
        assert f"is being written by process {worker.pid};" in line
        assert str(study.root / "teacher") in line
        assert teacher_files(study) == before
        worker.send_signal(signal.SIGCONT)
        worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0
    assert teacher_files(study) == teacher_files(reference)
    made = {p: p.stat().st_mtime_ns for p in study.files()}
    assert study.run("teacher") == ""  # opened, not trained
    assert {p: p.stat().st_mtime_ns for p in study.files()} == made


@pytest.mark.slow
def test_a_killed_worker_blocks_nobody(study: Study, reference: Study) -> None:
    with paused(study) as worker:
        worker.kill()
    err = study.run("teacher")
    assert "resumed at 1,792" in err  # the last state saved before the pause
    assert teacher_files(study) == teacher_files(reference)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_starts_at_the_same_moment(
    reference: Study, tmp_path: Path, injected: Callable[..., None]
) -> None:
    """Two whole studies at once, started again until both have ended well."""
    rounds, refused = 8, 0
    for i in range(rounds):
        study = Study(tmp_path / str(i), reference.program, reference.env)
        pair = [study.start(), study.start()]
        said = []
        for process in pair:
            _, err = process.communicate(timeout=PATIENCE)
            assert process.returncode in (0, 75), err
            assert process.returncode == 0 or "is being written by process" in err
            refused += process.returncode == 75
            said.append(err)
        assert any(p.returncode == 0 for p in pair)
        done = [x for e in said for x in e.splitlines() if "done in" in x]
        runs = list(reference.root.glob("*/*"))  # teachers, probe and students
        assert len(done) == len(runs), said  # once each
        assert study.run() == ""
        assert study.contents() == reference.contents()
    injected(
        "S5",
        "two processes started on one study at the same moment",
        rounds,
        f"every run trained once; {refused} named the process at work",
    )
