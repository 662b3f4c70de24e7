"""Chunk lengths, stops, progress and terminals never move a bit."""

import os
import pty
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.distill.sources import Final, NShot, Progressive
from sandbox.distill.strategy import Strategy
from sandbox.errors import Interrupted
from sandbox.models.mlp import MLP
from sandbox.tasks.parity import Parity
from sandbox.train.loop import fit
from sandbox.train.progress import Bar, Lines, Progress, Silent
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from tests.faults.conftest import PATIENCE, Study
from tests.terminal import read_all

SHAPE: dict[str, Any] = dict(task=Parity(d=8, k=2), n_seeds=2, eval_points=64, block=16)
TEACHER = RunSpec(
    **SHAPE,
    kind="teacher",
    model=MLP(d=8, hidden=(8,)),
    strategies=(Strategy(name="teacher"),),
    eval_every=128,
    checkpoint_every=128,
    stop=Stop(max_samples=384),
)
STUDENTS = RunSpec(
    **SHAPE,
    kind="student",
    model=MLP(d=8, hidden=(4,)),
    strategies=(
        Strategy(name="ce"),
        Strategy(name="final", source=Final()),
        Strategy(name="progressive", source=Progressive(every=128)),
        Strategy(name="2-shot", source=NShot(steps=(128,), hold=32)),
    ),
    eval_every=256,
    checkpoint_every=256,
    stop=Stop(max_samples=1024, accuracy=0.95, factor=1.5, give_up=1024),
    teacher=TeacherRef(spec=TEACHER, final=384),
)


class Stopping:
    """A progress that stops the work at one visit."""

    def __init__(self, shown: Progress, visits: int) -> None:
        self.shown, self.left = shown, visits
        self.start, self.close = shown.start, shown.close

    def update(self, done: int, note: str) -> None:
        self.shown.update(done, note)
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def bits(run: Run) -> dict[str, str]:
    assert run.folder.problems() == []
    files = run.folder.manifest()
    return {n: e["sha256"] for n, e in files.items() if n != "provenance.json"}


SITTING = st.tuples(
    st.sampled_from([Silent, Bar, lambda: Lines(0.0)]),
    st.integers(1, 700),  # samples of a chunk
    st.integers(1, 12),  # visits until the stop
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("whole")
    fit(TEACHER, root=root, progress=Silent())
    run = fit(STUDENTS, root=root, progress=Silent())
    assert run.outcome["samples"] > 512  # long enough to be cut in many ways
    return bits(run)


@pytest.mark.long
@settings(
    max_examples=10,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)
@given(sittings=st.lists(SITTING, min_size=1, max_size=3))
def test_any_chunking_and_any_progress(
    sittings: list[tuple[type, int, int]],
    undisturbed: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    assert STUDENTS.segment == 32  # chunks can end between evaluations
    root = tmp_path_factory.mktemp("chunks")
    fit(TEACHER, root=root, progress=Silent())
    for show, chunk, visits in sittings:
        try:
            told = Stopping(show(), visits)
            fit(STUDENTS, root=root, progress=told, chunk_samples=chunk)
        except Interrupted:
            continue
    _, chunk, _ = sittings[-1]
    run = fit(STUDENTS, root=root, progress=Silent(), chunk_samples=chunk)
    assert bits(run) == undisturbed


@pytest.mark.long
def test_a_terminal_with_a_bar(study: Study, reference: Study) -> None:
    """The other processes of these tests have no terminal, and print plain lines."""
    ours, theirs = pty.openpty()
    process = study.start("teacher", stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = read_all(ours)
    assert process.wait(timeout=PATIENCE) == 0
    assert "━" in shown  # a bar was drawn
    teacher = Path("teacher")
    expected = reference.contents(reference.root / teacher)
    assert study.contents(study.root / teacher) == expected
