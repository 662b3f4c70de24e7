"""The host loop on tiny runs: chunks, counters, kills and damage."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox.distill.sources import Final, NShot, Progressive, UntilSaturation
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError, DivergenceError, Interrupted, StoreError
from sandbox.models.mlp import MLP
from sandbox.store.config import canonical, to_json
from sandbox.store.trajectories import flatten
from sandbox.tasks.parity import Parity
from sandbox.train import resumable
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.run import Run, folder_of, open_run
from sandbox.train.spec import RunSpec, Stop, TeacherRef, log_spaced

ENGINES = ("generic", "online_sgd")
Make = Callable[..., RunSpec]
Roots = Callable[[str], Path]
FINAL = Strategy(name="a", source=Final())


def train(spec: RunSpec, root: Path, **kw: Any) -> Run:
    return fit(spec, root=root, progress=Silent(), **kw)


def contents(run: Run) -> dict[str, str]:
    """Name -> sha256 of all that is reproducible: everything but the provenance."""
    assert run.folder.problems() == []
    files = run.folder.manifest()
    return {n: e["sha256"] for n, e in files.items() if n != "provenance.json"}


class Watcher(Silent):
    """Calls back at every visit of the host."""

    def __init__(self, seen: Callable[[int], None]) -> None:
        self.seen = seen

    def update(self, done: int, note: str) -> None:
        self.seen(done)


# ------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("engine", ENGINES)
def test_chunks_and_interruptions_change_nothing(
    make_student: Make, new_root: Roots, engine: str
) -> None:
    """Small chunks, one chunk, and a SIGTERM every few visits: the same files."""
    spec = make_student(engine=engine)
    assert spec.segment == 64
    visits: list[int] = []
    root = new_root("small")
    one = fit(spec, root=root, progress=Watcher(visits.append), chunk_samples=1)
    assert visits == list(range(0, 1537, 64))
    expected = contents(one)
    assert sum(n.startswith("ckpt/") for n in expected) == 7
    assert contents(train(spec, new_root("big"), chunk_samples=10**9)) == expected

    root, stops = new_root("stopped"), iter((128, 192, 704, 1536))
    target = next(stops)

    def interrupt(done: int) -> None:
        nonlocal target
        if done == target:
            target = next(stops, -1)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    for at in (128, 192, 704, 1536):
        with pytest.raises(Interrupted, match=rf"sample {at:,} by signal SIGTERM"):
            fit(spec, root=root, progress=Watcher(interrupt))
        assert not folder_of(spec, root).complete
        assert len(list(folder_of(spec, root).path.glob("resume-*"))) == 1
        assert signal.getsignal(signal.SIGTERM) == before
    run = train(spec, root)
    assert contents(run) == expected
    assert not list(run.folder.path.glob("resume-*"))


KILLED = """
import json, pathlib, sys
from sandbox.train import loop, resumable
from sandbox.store.config import from_json
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec

class Say:
    def start(self, title, total, done, unit): print("from", done, flush=True)
    def update(self, done, note): print(done, flush=True)
    def close(self, note, *, finished): print("done", flush=True)

resumable.SAVE_SECONDS = 0
spec = from_json(RunSpec, json.loads(sys.argv[1]), extra=BUILT_IN)
loop.fit(spec, root=pathlib.Path(sys.argv[2]), progress=Say(), chunk_samples=1)
"""


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bits(
    make_student: Make, new_root: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at random moments, then the rest: checkpoints and metrics are equal."""
    spec = make_student(stop=Stop(max_samples=64 * 120))
    expected = contents(train(spec, new_root("whole")))
    root = new_root("killed")
    rng = random.Random(1)
    marks = [64 * rng.randrange(i, i + 20) for i in (5, 50)]
    args = [sys.executable, "-c", KILLED, canonical(to_json(spec)), str(root)]
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    starts = []
    for mark in marks:
        with subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=here) as p:
            assert p.stdout is not None
            starts.append(int(p.stdout.readline().split()[1]))
            for line in p.stdout:
                if int(line) >= mark:
                    break
            p.kill()
        assert p.returncode == -signal.SIGKILL
    assert starts[0] == 0 and all(
        s >= m - 64 for s, m in zip(starts[1:], marks[:-1], strict=True)
    )  # what was stored was not trained again
    monkeypatch.setattr(resumable, "SAVE_SECONDS", 0)
    seen: list[int] = []
    run = fit(spec, root=root, progress=Watcher(seen.append))
    assert seen[0] >= marks[-1]
    assert contents(run) == expected


def test_a_damaged_resume_file_is_ignored(make_student: Make, new_root: Roots) -> None:
    spec = make_student()
    expected = contents(train(spec, new_root("whole")))
    root = new_root("hurt")

    def interrupt(done: int) -> None:
        if done == 640:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        fit(spec, root=root, progress=Watcher(interrupt), chunk_samples=1)
    (saved,) = folder_of(spec, root).path.glob("resume-*")
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    seen: list[int] = []
    run = fit(spec, root=root, progress=Watcher(seen.append))
    assert seen[0] == 0 and contents(run) == expected


def test_a_finished_run_is_only_opened(make_student: Make, new_root: Roots) -> None:
    spec = make_student()
    root = new_root("runs")
    first = train(spec, root)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}

    def fail(done: int) -> None:
        raise AssertionError("a finished run was visited")

    second = fit(spec, root=root, progress=Watcher(fail))
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    opened = open_run(first.folder.path)
    assert opened.spec == spec
    for run in (second, opened):
        np.testing.assert_array_equal(
            run.metrics.curves("ce"), first.metrics.curves("ce")
        )
    assert first.outcome["samples"] == 1536 and first.outcome["failed"] == []
    assert {"jax", "numpy"} <= set(first.provenance["versions"])


def test_counters_and_teachers_in_the_metrics(
    make_student: Make, new_root: Roots
) -> None:
    """Costs are analytic; the teacher in use is the schedule's answer; loss falls."""
    spec = make_student()
    run = train(spec, new_root("runs"))
    m = run.metrics
    np.testing.assert_array_equal(m.steps, np.arange(0, 1537, 64))
    assert m.seeds == (0, 1) and m.strategies == tuple(s.name for s in spec.strategies)
    for s in spec.strategies:
        seen = np.stack([m.steps, m.steps * (s.name != "2-shot")])
        for name in ("student_forward", "student_backward"):
            np.testing.assert_array_equal(m.curves(s.name, name), seen)
        cost = m.curves(s.name, "teacher_forward")
        np.testing.assert_array_equal(cost, seen * (s.name != "ce"))
    last = np.maximum(m.steps - 1, 0)
    expected = [min(-(-(t + 1) // 128) * 128, 1024) for t in last]
    np.testing.assert_array_equal(m.curves("progressive", "teacher_step")[1], expected)
    expected = [256 if t < 192 else 1024 for t in last]
    np.testing.assert_array_equal(m.curves("2-shot", "teacher_step")[0], expected)
    np.testing.assert_array_equal(m.curves("one-shot", "teacher_step"), 1024)
    np.testing.assert_array_equal(m.curves("ce", "teacher_step"), -1)
    steps = m.curves("saturation", "teacher_step")
    assert (np.diff(steps) >= 0).all() and (steps[:, 0] == 128).all()
    assert (steps[:, -1] > 128).all()
    assert [(a["seed"], a["strategy"]) for a in run.outcome["absent"]] == [
        (1, "2-shot")
    ]
    assert np.isnan(m.curves("2-shot")[1]).all()
    assert not np.isnan(m.curves("2-shot")[0]).any()
    loss = m.curves("ce", "train_loss")
    assert np.isnan(loss[:, 0]).all() and (loss[:, -1] < loss[:, 1]).all()
    with pytest.raises(StoreError, match="'other' / 'accuracy'"):
        m.curves("other")


@pytest.mark.parametrize("engine", ENGINES)
def test_one_checkpoint_trajectories_are_one_shot(
    make_student: Make, new_root: Roots, teacher: RunSpec, engine: str
) -> None:
    """Every schedule over a trajectory whose only checkpoint is final, bit for bit."""
    root = new_root("runs")
    only = TeacherRef(spec=teacher, final=128)
    sources = (
        Final(),
        Progressive(every=128),
        NShot(steps=(128,), hold=128),
        UntilSaturation(every=128, limit=64),
    )
    curves, params = [], []
    for source in sources:
        one = (Strategy(name="a", source=source),)
        spec = make_student(
            engine=engine, teacher=only, strategies=one, stop=Stop(max_samples=512)
        )
        run = train(spec, root)
        curves.append(run.metrics.curves("a"))
        params.append(run.trajectory.read(512)["layer_0"]["kernel"])
    for c, p in zip(curves[1:], params[1:], strict=True):
        np.testing.assert_array_equal(c, curves[0])
        np.testing.assert_array_equal(p, params[0])


def test_stops_when_a_level_is_reached(teacher: RunSpec, tmp_path: Path) -> None:
    """The rule read off the recorded curve: factor times the first evaluation there."""
    easy = replace(teacher, task=Parity(d=10, k=1), checkpoint_every=0)
    stop = Stop(max_samples=64 * 100, accuracy=0.8, factor=2.0)
    run = train(replace(easy, stop=stop), tmp_path)
    acc, steps = run.metrics.curves("teacher"), run.metrics.steps
    first = np.array([steps[np.argmax(a >= 0.8)] for a in acc])
    assert (acc.max(1) >= 0.8).all() and run.outcome["samples"] < 6400
    assert run.outcome["samples"] == 64 * np.ceil(2 * first.max() / 64)


# ----------------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_named(
    make_student: Make, new_root: Roots, teacher: RunSpec, damage: str
) -> None:
    root = new_root("runs")
    path = folder_of(teacher, root).path / "ckpt" / "step_000000000256.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-10])
    elif damage == "flipped":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(StoreError, match="step_000000000256"):
        train(make_student(), root)


def test_students_of_an_untrained_teacher(make_student: Make, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a finished run"):
        train(make_student(), tmp_path)


def test_a_teacher_that_stopped_early(
    make_student: Make, teacher: RunSpec, tmp_path: Path
) -> None:
    """The record promises a checkpoint that the run never reached: named at once."""
    easy = Parity(d=10, k=1)
    early = replace(teacher, task=easy, stop=Stop(max_samples=6400, accuracy=0.6))
    run = train(early, tmp_path)
    assert run.trajectory.steps[-1] < 6400
    spec = make_student(
        task=easy, strategies=(FINAL,), teacher=TeacherRef(spec=early, final=6400)
    )
    message = rf"'a' asks .* 6400, but .* at {run.trajectory.steps[-1]}\."
    with pytest.raises(StoreError, match=message):
        train(spec, tmp_path)


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_is_named_and_the_last_state_kept(
    teacher: RunSpec, tmp_path: Path, engine: str
) -> None:
    wild = SGD(lr=LearningRate(peak=1e30))
    spec = replace(teacher, optimizer=wild, engine=engine)
    for _ in range(2):  # also when the stored run is opened again
        with pytest.raises(DivergenceError, match=r"seed \d / teacher at sample \d+"):
            train(spec, tmp_path)
    run = open_run(folder_of(spec, tmp_path).path)
    assert len(run.outcome["failed"]) == 2 and run.outcome["samples"] == 64
    assert all(0 <= f["sample"] < 64 for f in run.outcome["failed"])
    for leaf in run.trajectory.read(0)["layer_0"].values():
        assert np.isfinite(leaf).all()
    assert np.isnan(run.metrics.curves("teacher")[:, -1]).all()


def test_checkpoints_at_listed_samples(tmp_path: Path) -> None:
    listed = log_spaced(64, 1024, 5, every=64)
    assert listed == (64, 128, 256, 512, 1024)
    assert log_spaced(64, 512, 50, every=64) == tuple(range(64, 513, 64))
    spec = RunSpec(
        kind="teacher",
        task=Parity(d=8, k=2),
        model=MLP(d=8, hidden=(4,)),
        strategies=(Strategy(name="teacher"),),
        stop=Stop(max_samples=1024),
        eval_every=64,
        eval_points=64,
        checkpoints_at=listed,
    )
    run = fit(spec, root=tmp_path, progress=Silent())
    assert run.trajectory.steps == listed
    both = fit(
        replace(spec, eval_every=512, checkpoint_every=512, checkpoints_at=(64,)),
        root=tmp_path,
        progress=Silent(),
    )
    assert both.metrics.steps.tolist() == [0, 64, 512, 1024]
    assert both.trajectory.steps == (0, 64, 512, 1024)
    for step in (64, 512):
        a, b = (flatten(r.trajectory.read(step)) for r in (run, both))
        assert all(np.array_equal(a[name], b[name]) for name in a)
    teacher = TeacherRef(spec=spec, final=1024)
    shots = Strategy(name="shots", source=NShot(steps=(128, 256), hold=64))
    student = replace(
        spec, kind="student", strategies=(shots,), teacher=teacher, checkpoints_at=()
    )
    assert fit(student, root=tmp_path, progress=Silent()).metrics.steps[-1] == 1024
    words = (
        r"checkpoint 192, which is not in the trajectory \(64, 128, 256, 512, 1024\)"
    )
    with pytest.raises(ConfigError, match=words):
        other = replace(shots, source=NShot(steps=(192,), hold=64))
        replace(student, strategies=(other,))
    for wrong in ((65,), (128, 64), (2048,)):
        with pytest.raises(ConfigError, match=r"checkpoints_at .*must"):
            replace(spec, checkpoints_at=wrong)
    with pytest.raises(ConfigError, match="log_spaced needs"):
        log_spaced(0, 10, 5, every=1)
