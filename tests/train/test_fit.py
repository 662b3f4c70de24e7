"""The host loop on tiny runs: chunks, counters, kills, damage and refusals."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest

from sandbox.distill.sources import Final, NShot, PerSeed, Progressive, UntilSaturation
from sandbox.distill.strategy import Strategy, Target
from sandbox.errors import ConfigError, DivergenceError, Interrupted, StoreError
from sandbox.models.mlp import MLP
from sandbox.store.config import canonical, to_json
from sandbox.tasks.parity import ExplicitSupport, Parity
from sandbox.train import loop
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, Adam, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.run import Run, folder_of, open_run
from sandbox.train.spec import RunSpec, Stop, TeacherRef

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
import sandbox.train.loop as loop
from sandbox.store.config import from_json
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec

class Say:
    def start(self, title, total, done): print("from", done, flush=True)
    def update(self, done, note): print(done, flush=True)
    def close(self, note, *, finished): print("done", flush=True)

loop.SAVE_SECONDS = 0
spec = from_json(RunSpec, json.loads(sys.argv[1]), extra=BUILT_IN)
loop.fit(spec, root=pathlib.Path(sys.argv[2]), progress=Say(), chunk_samples=1)
"""


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
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)
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


# --------------------------------------------------------------------- refusals

REFUSED = {
    "k": (lambda: dict(task=Parity(d=10, k=11)), r"task\.k must lie"),
    "support": (
        lambda: dict(task=Parity(d=10, k=2, support=ExplicitSupport(indices=(3, 10)))),
        r"task\.support\.indices",
    ),
    "width": (lambda: dict(model=MLP(d=10, hidden=(0,))), r"model\.hidden"),
    "model d": (lambda: dict(model=MLP(d=9, hidden=(4,))), r"model\.d = 9 must equal"),
    "classes": (
        lambda: dict(model=MLP(d=10, hidden=(4,), n_classes=3)),
        r"model\.n_classes = 3",
    ),
    "tau": (lambda: lanes(Strategy(name="a", target=Target(tau=-1.0))), r"target\.tau"),
    "lr": (lambda: dict(optimizer=SGD(lr=LearningRate(peak=0.0))), r"lr\.peak"),
    "warmup": (lambda: dict(optimizer=SGD(lr=LearningRate(warmup=-1))), r"lr\.warmup"),
    "cosine": (
        lambda: dict(optimizer=SGD(lr=LearningRate(decay="cosine", warmup=5, total=5))),
        r"lr\.total",
    ),
    "momentum": (lambda: dict(optimizer=SGD(momentum=1.0)), r"optimizer\.momentum"),
    "b1": (lambda: dict(optimizer=Adam(b1=1.0)), r"optimizer\.b1"),
    "eps": (lambda: dict(optimizer=Adam(eps=0.0)), r"optimizer\.eps"),
    "n_seeds": (lambda: dict(n_seeds=0), "n_seeds must be"),
    "batch": (lambda: dict(batch_size=0), "batch_size must be"),
    "points": (lambda: dict(eval_points=0), "eval_points must be"),
    "block": (lambda: dict(block=0), "block must be"),
    "first_seed": (lambda: dict(first_seed=-1), "first_seed must be"),
    "no lanes": (lambda: dict(strategies=()), "strategies must hold"),
    "twins": (lambda: lanes(FINAL, FINAL), "strategy names must differ"),
    "no teacher": (lambda: dict(teacher=None), "needs a teacher; set teacher="),
    "max": (lambda: dict(stop=Stop(max_samples=0)), r"stop\.max_samples"),
    "max is no evaluation": (
        lambda: dict(stop=Stop(max_samples=1000)),
        r"stop\.max_samples = 1000 must be a multiple of eval_every = 64",
    ),
    "level": (lambda: dict(stop=Stop(max_samples=64, accuracy=1.5)), r"stop\.accuracy"),
    "factor": (lambda: dict(stop=Stop(max_samples=64, factor=0.5)), r"stop\.factor"),
    "endless": (
        lambda: dict(stop=Stop(max_samples=64, factor=float("inf"))),
        r"stop\.factor .*finite",
    ),
    "half a cap": (lambda: dict(stop=Stop(max_samples=64.5)), r"stop\.max_samples"),
    "no cap": (
        lambda: dict(stop=Stop(max_samples=PerSeed((64, None)))),
        r"stop\.max_samples",
    ),
    "give up at no level": (
        lambda: dict(stop=Stop(max_samples=64, give_up=64)),
        r"stop\.give_up = 64 needs stop\.accuracy",
    ),
    "give up at once": (lambda: gives_up(0), r"stop\.give_up .* 1\.\.1536, got 0"),
    "give up too late": (lambda: gives_up(1537), r"stop\.give_up .*, got 1537"),
    "give up halfway": (lambda: gives_up(64.0), r"stop\.give_up must be a whole"),
    "kind": (lambda: dict(kind="pupil"), "kind must be one of teacher, student, got"),
    "engine": (lambda: dict(engine="fast"), "engine must be one of auto, .*'fast'"),
    "dtype": (lambda: dict(dtype=np.float32), "dtype must be one of float32, float64"),
    "float evaluations": (
        lambda: dict(eval_every=1024.0),
        r"eval_every must be a whole number, got 1024\.0",
    ),
    "float seeds": (lambda: dict(n_seeds=2.0), "n_seeds must be a whole number"),
    "true": (lambda: dict(batch_size=True), "batch_size must be a whole number"),
    "lr inf": (
        lambda: dict(optimizer=SGD(lr=LearningRate(peak=float("inf")))),
        r"lr\.peak must be positive and finite, got inf",
    ),
    "half a warmup": (
        lambda: dict(optimizer=SGD(lr=LearningRate(warmup=0.5))),
        r"lr\.warmup",
    ),
    "eps inf": (lambda: dict(optimizer=Adam(eps=float("inf"))), r"optimizer\.eps"),
    "no ref": (lambda: dict(teacher=3), "teacher must be a TeacherRef or None, got 3"),
    "other dtype": (
        lambda: dict(dtype="float64"),
        r"teacher\.spec\.dtype = float32 must equal the students' dtype = float64",
    ),
    "eval border": (lambda: dict(eval_every=40), "eval_every = 40 must be a multiple"),
    "checkpoint border": (
        lambda: dict(checkpoint_every=120),
        "checkpoint_every = 120 must be a multiple of 16",
    ),
    "checkpoints are evaluated": (
        lambda: dict(checkpoint_every=96),
        "checkpoint_every = 96 must be a multiple of eval_every = 64",
    ),
    "hold border": (
        lambda: lanes(Strategy(name="a", source=NShot(steps=(128,), hold=100))),
        "source.hold of 'a' = 100 must be a multiple",
    ),
    "speed border": (
        lambda: lanes(Strategy(name="a", source=Progressive(every=128, speed=16.0))),
        "source.every / speed of 'a' = 8 must be a multiple",
    ),
    "step not stored": (
        lambda: lanes(Strategy(name="a", source=NShot(steps=(200,), hold=64))),
        "asks for teacher checkpoint 200, which is not in the trajectory",
    ),
    "step too late": (
        lambda: lanes(Strategy(name="a", source=NShot(steps=(2048,), hold=64))),
        "asks for teacher checkpoint 2048",
    ),
    "spacing not stored": (
        lambda: lanes(Strategy(name="a", source=Progressive(every=64))),
        "asks for teacher checkpoint 64",
    ),
    "per-seed length": (
        lambda: lanes(
            Strategy(name="a", source=NShot(steps=(128,), hold=PerSeed((64,))))
        ),
        "per-seed values must have one entry for each of n_seeds = 2",
    ),
    "blocked and batches": (
        lambda: dict(engine="online_sgd", batch_size=4),
        "online_sgd needs batch_size = 1, got 4",
    ),
    "blocked and Adam": (
        lambda: dict(engine="online_sgd", optimizer=Adam()),
        "online_sgd needs plain SGD",
    ),
    "blocked and momentum": (
        lambda: dict(engine="online_sgd", optimizer=SGD(momentum=0.5)),
        "online_sgd needs plain SGD",
    ),
    "blocked and depth": (
        lambda: dict(engine="online_sgd", model=MLP(d=10, hidden=(4, 4))),
        "online_sgd needs a two-layer ReLU network",
    ),
    "other seeds": (lambda: dict(first_seed=1), r"teacher\.spec must cover the same"),
    "other task": (lambda: dict(task=Parity(d=10, k=3)), r"teacher\.spec\.task must"),
}


def gives_up(at: Any) -> dict[str, Any]:
    return dict(stop=Stop(max_samples=1536, accuracy=0.9, give_up=at))


def lanes(*strategies: Strategy) -> dict[str, Any]:
    return dict(strategies=strategies)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_training(
    make_student: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the types that only tests check, as where the library is used.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    changes, named = REFUSED[name]
    with pytest.raises(ConfigError, match=named) as e:
        make_student(**changes())
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def test_teachers_must_keep_checkpoints(
    teacher: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match=r"teacher\.spec\.checkpoint_every"):
        TeacherRef(spec=replace(teacher, checkpoint_every=0), final=0)
    two = (Strategy(name="a"), Strategy(name="b"))
    with pytest.raises(ConfigError, match=r"teacher\.spec must train one strategy"):
        TeacherRef(spec=replace(teacher, strategies=two), final=0)
    for final in (None, 1024.0, "1024", -1):
        with pytest.raises(ConfigError, match=r"teacher\.final must be a checkpoint"):
            TeacherRef(spec=teacher, final=final)  # pyright: ignore
    with pytest.raises(ConfigError, match=r"teacher\.spec must be a RunSpec"):
        TeacherRef(spec=None, final=0)  # pyright: ignore


def test_the_engine_is_chosen_by_capability(make_student: Make) -> None:
    assert make_student().engine_used == "online_sgd"
    for changes in (
        dict(optimizer=Adam()),
        dict(batch_size=2),
        dict(model=MLP(d=10, hidden=(4, 4))),
        dict(engine="generic"),
    ):
        assert make_student(**changes).engine_used == "generic"
