"""What can go wrong around the loop: other versions, strange files, errors, stops."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from sandbox.distill.sources import Final, Labels
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError, Interrupted
from sandbox.store.folders import RunFolder
from sandbox.store.trajectories import checkpoint_name
from sandbox.tasks.parity import Parity
from sandbox.train import loop, signals
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Bar, Lines, Silent
from sandbox.train.run import Run, folder_of
from sandbox.train.spec import RunSpec, Stop

STRAY = "step_000000009984.safetensors"


class Ending(Silent):
    """Sends a signal at one visit, and remembers how the work ended."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.seen, self.ends = at, [], []

    def update(self, done: int, note: str) -> None:
        self.seen.append(done)
        if done == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self, note: str, *, finished: bool = True) -> None:
        self.ends.append((note, finished))


def interrupt(spec: RunSpec, root: Path, at: int) -> RunFolder:
    ending = Ending(at)
    with pytest.raises(Interrupted):
        fit(spec, root=root, progress=ending, chunk_samples=1)
    assert ending.ends == [(f"at sample {at:,}", False)]
    return folder_of(spec, root)


def contents(run: Run) -> dict[str, str]:
    assert run.folder.problems() == []
    files = run.folder.manifest()
    return {n: e["sha256"] for n, e in files.items() if n != "provenance.json"}


# ------------------------------------------------------------------ when it stops


def stop_at(level: float, give_up: int | None) -> Stop:
    return Stop(max_samples=6400, accuracy=level, factor=2.0, give_up=give_up)


def test_seeds_give_up_where_the_curve_says(teacher: RunSpec, tmp_path: Path) -> None:
    """Read off the curve of an unlimited run: 2 n if n is in time, else the limit."""
    easy = replace(
        teacher,
        task=Parity(d=10, k=1),
        optimizer=SGD(lr=LearningRate(peak=0.01)),
        checkpoint_every=0,
        eval_every=32,
    )
    level = 0.85
    whole = fit(
        replace(easy, stop=Stop(max_samples=1600)), root=tmp_path, progress=Silent()
    )
    acc, steps = whole.metrics.curves("teacher"), whole.metrics.steps
    first = np.array([steps[np.argmax(a >= level)] for a in acc])
    low, high = int(first.min()), int(first.max())
    assert 64 < low < high < 800
    for give_up in (None, low - 32, low, high - 32, high, high + 32):
        g = np.inf if give_up is None else give_up
        expected = np.where(first <= g, 2 * first, g).max()
        spec = replace(easy, stop=stop_at(level, give_up))
        run = fit(spec, root=tmp_path / str(give_up), progress=Silent())
        assert run.outcome["samples"] == expected, give_up


@pytest.mark.long
def test_a_lane_that_never_gets_there_ends_at_the_limit(
    make_student: Callable[..., RunSpec], new_root: Callable[[str], Path]
) -> None:
    spec = make_student(stop=replace(stop_at(1.0, 320), factor=1.0))
    run = fit(spec, root=new_root("runs"), progress=Silent())
    assert run.outcome["samples"] == 320


def test_lanes_that_fail_after_the_limit_do_not_wake_their_seed(
    teacher: RunSpec, tmp_path: Path
) -> None:
    two = (Strategy(name="a"), Strategy(name="b"))
    spec = replace(teacher, strategies=two, stop=stop_at(0.8, 128))
    folder = folder_of(spec, tmp_path)
    it = loop.Training(spec, folder, tmp_path, None)
    steps = [0, 64, 128, 192]
    acc = np.full((4, 2, 2), 0.5)
    acc[1:, :, 0] = 0.9  # lane a got there at 64, lane b never
    it.state = loop.LoopState(None, t=192, steps=steps, columns={"accuracy": list(acc)})
    early, late = np.array([[-1, 100], [-1, -1]]), np.array([[-1, 150], [-1, -1]])
    np.testing.assert_array_equal(it._level_end(early), [128, 128])
    it.spec = replace(spec, stop=replace(spec.stop, factor=4.0))
    np.testing.assert_array_equal(it._level_end(early), [256, 128])
    np.testing.assert_array_equal(it._level_end(late), [128, 128])


# --------------------------------------------------------------------- resuming


def test_sittings_are_kept_and_a_changed_setup_is_told(
    make_student: Callable[..., RunSpec],
    new_root: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec, root = make_student(), new_root("runs")
    expected = contents(fit(spec, root=new_root("whole"), progress=Silent()))
    interrupt(spec, root, 128)
    interrupt(spec, root, 256)
    assert capsys.readouterr().err == ""
    real = signals.versions
    monkeypatch.setattr(signals, "versions", lambda: real() | {"jaxlib": "9.9"})
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    run = fit(spec, root=root, progress=Silent())
    (line,) = capsys.readouterr().err.splitlines()
    assert "jaxlib was" in line and "is '9.9'; xla_flags was" in line
    assert contents(run) == expected
    sittings = run.provenance["sittings"]
    assert [s["jaxlib"] for s in sittings] == [real()["jaxlib"]] * 2 + ["9.9"]
    names = {"python", "jax", "jaxlib", "xla_flags", "hostname", "platform"}
    names |= {"device", "devices"}
    assert all(s.keys() == names for s in sittings)


def test_another_kind_of_device_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = signals.join_sittings([])
    before = [{k: v for k, v in first[0].items() if k != "device"}]
    signals.join_sittings(before)  # of a version that did not store it
    assert capsys.readouterr().err == ""
    other = [SimpleNamespace(device_kind="NVIDIA H200")]
    monkeypatch.setattr(jax, "devices", lambda: other)
    both = signals.join_sittings(first)
    (line,) = capsys.readouterr().err.splitlines()
    assert "device was 'cpu', is 'NVIDIA H200'" in line
    assert [s["device"] for s in both] == ["cpu", "NVIDIA H200"]


def fewer(tensors: dict[str, Any]) -> None:
    del tensors["state/0"]


def more(tensors: dict[str, Any]) -> None:
    tensors["state/99"] = tensors["state/0"]


def other_shape(tensors: dict[str, Any]) -> None:
    tensors["state/0"] = tensors["state/0"][..., None]


def other_type(tensors: dict[str, Any]) -> None:
    tensors["state/0"] = tensors["state/0"].astype(np.float16)


def no_column(tensors: dict[str, Any]) -> None:
    del tensors["column/accuracy"]


def no_lanes(tensors: dict[str, Any]) -> None:
    del tensors["lanes/position"]


@pytest.mark.parametrize(
    "damage", [fewer, more, other_shape, other_type, no_column, no_lanes]
)
def test_a_state_of_another_engine_is_not_resumed(
    teacher: RunSpec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, Any]], None],
) -> None:
    folder = interrupt(teacher, tmp_path, 128)
    found = folder.load_resume()
    assert found is not None
    damage(found[0])
    folder.save_resume(128, *found)
    ending = Ending()
    run = fit(teacher, root=tmp_path, progress=ending)
    assert ending.seen[0] == 0 and run.folder.problems() == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "starting over" in line and str(folder.path) in line
    assert len(run.provenance["sittings"]) == 1


def test_checkpoints_beyond_the_resume_point_are_written_again(
    make_student: Callable[..., RunSpec], new_root: Callable[[str], Path]
) -> None:
    """As a kill leaves them: newer than the saved state, here also wrong."""
    spec, root = make_student(), new_root("runs")
    expected = contents(fit(spec, root=new_root("whole"), progress=Silent()))
    folder = interrupt(spec, root, 320)
    config = (folder.path / "config.json").read_bytes()
    for name in (checkpoint_name(512), checkpoint_name(1536), f"ckpt/{STRAY}"):
        (folder.path / name).write_bytes(b"stale")
    kept = (folder.path / checkpoint_name(256)).stat().st_mtime_ns
    ending = Ending()
    run = fit(spec, root=root, progress=ending)
    assert ending.seen[0] > 320 and ending.ends[0][1]
    assert contents(run) == expected  # STRAY is gone too
    assert (folder.path / checkpoint_name(256)).stat().st_mtime_ns == kept
    assert (folder.path / "config.json").read_bytes() == config


# ------------------------------------------------------------- errors and counters


def test_progress_is_closed_whatever_is_raised(
    teacher: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk on fire")

    bar, ending = Bar(), Ending()
    monkeypatch.setattr(loop, "write_atomic", fail)
    for progress in (ending, bar):
        with pytest.raises(OSError, match="fire"):
            fit(teacher, root=tmp_path, progress=progress)
    assert ending.ends == [("at sample 1,024", False)]
    assert not bar._live.is_started
    monkeypatch.undo()
    fit(teacher, root=tmp_path, progress=ending)
    assert [finished for _, finished in ending.ends] == [False, True]


def test_only_finished_work_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    for finished, said in ((True, "done in 0s"), (False, "stopped after 0s")):
        lines = Lines()
        lines.start("run", 10, 0)
        lines.close("", finished=finished)
        assert f"run: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["generic", "online_sgd"])
def test_failed_lanes_cost_nothing_after_they_failed(
    make_student: Callable[..., RunSpec],
    new_root: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    """The lane `bad` of seed 1 is made to fail at sample 100."""
    pair = (Strategy(name="ok", source=Labels()), Strategy(name="bad", source=Final()))
    spec = make_student(engine=engine, strategies=pair, stop=Stop(max_samples=256))
    real = loop.Engine.run

    def run(self: loop.Engine, state: Any, t0: int, n: int, *rest: Any) -> Any:
        state = real(self, state, t0, n, *rest)
        if t0 <= 100 < t0 + n * spec.segment:
            state = state._replace(bad=state.bad.at[1, 1].set(100))
        return state

    monkeypatch.setattr(loop.Engine, "run", run)
    m = fit(spec, root=new_root("runs"), progress=Silent()).metrics
    for name in ("student_forward", "student_backward", "teacher_forward"):
        got = m.curves("bad", name)
        np.testing.assert_array_equal(got[0], [0, 64, 128, 192, 256])
        np.testing.assert_array_equal(got[1], [0, 64, 100, 100, 100])
    np.testing.assert_array_equal(m.curves("ok", "teacher_forward"), 0)


@pytest.mark.parametrize("at", [100, 64])
def test_a_switch_off_the_segments_is_named(
    make_student: Callable[..., RunSpec],
    new_root: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    """Sample 100 is inside a segment; a switch at 64 that never passes is stuck."""

    def next_switch(self: Final, t: int, lane: object) -> int:
        return at

    monkeypatch.setattr(Final, "next_switch", next_switch)
    with pytest.raises(ConfigError, match=rf"seed 0 / one-shot \(Final.*{at}") as e:
        fit(make_student(), root=new_root("runs"), progress=Silent())
    assert "\n" not in str(e.value) and "segments of 64 samples" in str(e.value)
