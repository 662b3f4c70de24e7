"""What can be read from a finished run, by whom, and what it looks like."""

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

import sandbox as sb
from sandbox.distill.strategy import replicas
from sandbox.errors import SandboxError, StoreError
from sandbox.plotting.style import apart
from sandbox.store.files import read_json, write_json
from sandbox.store.folders import MANIFEST
from sandbox.train.run import Run, folder_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teacher: sb.RunSpec) -> Run:
    """Students of two seeds, of which one has no teacher."""
    root = tmp_path_factory.mktemp("runs")
    sb.fit(teacher, root=root, progress=sb.Silent())
    final = sb.PerSeed((1024, None))
    spec = replace(
        teacher,
        kind="student",
        strategies=replicas((sb.ce(), sb.one_shot(), sb.one_shot(0.0, "mine")), 2),
        teacher=sb.TeacherRef(spec=teacher, final=final),
        stop=sb.Stop(max_samples=512),
    )
    return sb.fit(spec, root=str(root), progress=sb.Silent())


def test_axes_come_in_one_order(run: Run) -> None:
    """Seeds, lanes, evaluations: whatever is asked for."""
    n_lanes, n_evals = len(run.spec.strategies), 512 // 64 + 1
    assert run.steps.shape == (n_evals,)
    assert {v.shape for v in run.metrics.columns.values()} == {(2, n_lanes, n_evals)}
    lane = [s.name for s in run.spec.strategies].index("one_shot")
    curves = run.curves("one_shot", "teacher_step")
    np.testing.assert_array_equal(curves, run.metrics.columns["teacher_step"][:, lane])
    np.testing.assert_array_equal(curves, [[1024] * n_evals, [-2] * n_evals])
    for leaf in jax.tree.leaves(run.trajectory[512]):
        assert leaf.shape[:2] == (2, n_lanes)
    probe = sb.AlignmentProbe(run.spec.task)
    assert run.teacher is not None
    found = sb.measure(run.teacher, probe, steps=(0, 512, 1024), progress=sb.Silent())
    assert {v.shape[:2] for v in found.values.values()} == {(2, 3)}
    assert len(list((run.root / "probe").iterdir())) == 1


def test_the_trajectory_is_read_by_its_steps(run: Run) -> None:
    assert run.teacher is not None and run.teacher.teacher is None
    trajectory = run.teacher.trajectory
    assert list(trajectory) == list(range(0, 1025, 128)) and len(trajectory) == 9
    same = jax.tree.map(np.array_equal, trajectory[128], trajectory.read(128))
    assert all(jax.tree.leaves(same))
    with pytest.raises(StoreError, match="checkpoint step 100 is not"):
        trajectory[100]


def test_rows_say_what_the_curves_say(run: Run) -> None:
    rows = run.table().to_pylist()
    assert len(rows) == 2 * 6 * len(run.steps)
    mine = [r for r in rows if r["seed"] == 0 and r["strategy"] == "mine#1"]
    assert [r["step"] for r in mine] == run.steps.tolist()
    np.testing.assert_array_equal(
        [r["loss"] for r in mine], run.curves("mine#1", "loss")[0]
    )
    part = replace(run, lanes=("ce",))
    assert {r["strategy"] for r in part.table().to_pylist()} == {"ce"}


def test_pandas_is_asked_for_by_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("pandas") is not None:
        assert len(run.to_pandas()) == len(run.table())
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr("sandbox.store.metrics.find_spec", lambda name: None)
    with pytest.raises(SandboxError, match=r"pip install pandas\); table\(\) gives"):
        run.to_pandas()


@pytest.mark.parametrize("way", ["hash", "kind", "folder", "text"])
def test_a_run_is_opened_by_what_it_is_called(
    run: Run, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run.folder.path
    names: dict[str, str | Path] = {
        "hash": path.name[:6],
        "kind": f"student/{path.name[:1]}",
        "folder": path,
        "text": str(path),
    }
    monkeypatch.setenv("SANDBOX_RUNS", str(run.root))
    found = sb.open(names[way])
    assert found.spec == run.spec and found.folder.path == path
    with pytest.raises(StoreError, match="no run folder and no run under"):
        sb.open("zz", root=run.root)


def test_the_teacher_is_that_of_its_own_store(
    run: Run, tmp_path: Path, new_root: Callable[[str], Path]
) -> None:
    lost = Run(folder_of(run.spec, tmp_path), run.spec)
    lost.folder.prepare()
    assert "not finished" in repr(lost)
    with pytest.raises(StoreError, match="not a finished run"):
        lost.teacher  # noqa: B018
    # Another platform's students have that platform's teacher.
    root = new_root("gpu")
    old = folder_of(run.teacher.spec, root).path  # pyright: ignore
    config = read_json(run.folder.path / "config.json") | {"platform": "gpu"}
    there = folder_of(run.spec, root, platform="gpu")
    there.prepare()
    write_json(there.path / "config.json", config)
    there.commit({"kind": "student"})
    found = Run(there, run.spec)
    with pytest.raises(StoreError, match="not a finished run"):
        found.teacher  # noqa: B018
    new = folder_of(run.teacher.spec, root, platform="gpu").path  # pyright: ignore
    old.rename(new)
    (new / MANIFEST).unlink()
    folder_of(run.teacher.spec, root, platform="gpu").commit({})  # pyright: ignore
    assert found.teacher is not None and found.teacher.folder.path == new


def test_its_picture(run: Run) -> None:
    """One line a strategy, initialisations pooled, and chance."""
    figure = run.plot()
    (ax,) = figure.axes
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    assert {"CE (labels)", "one-shot", "mine"} <= lines.keys()
    colors = [lines[n].get_color() for n in ("CE (labels)", "one-shot", "mine")]
    assert len(set(colors)) == 3
    pooled = np.concatenate([run.curves(n) for n in ("ce", "ce#1")])
    pooled = pooled[~np.isnan(pooled).any(1)]
    drawn = np.interp(512, *lines["CE (labels)"].get_data())
    assert drawn == pytest.approx(np.median(pooled[:, -1]))
    level = [line for line in ax.get_lines() if set(line.get_ydata()) == {0.5}]  # pyright: ignore
    assert len(level) == 1  # chance
    png = figure._repr_png_()  # pyright: ignore
    assert png.startswith(b"\x89PNG") and len(png) > 10_000


def test_many_lanes_of_ones_own_are_told_apart() -> None:
    names = ["ce", *map(str, range(12)), "progressive"]
    styles = apart(names)
    assert list(styles) == names
    assert len({tuple(sorted(s.items())) for s in styles.values()}) == len(names)


def test_what_it_shows_of_itself(run: Run) -> None:
    text = repr(run)
    assert text.startswith(f"<student {run.folder.path.name[:8]}: ce, one_shot, mine")
    assert "seeds 0-1; 512 samples" in text and "Parity(d=10, k=2" in text
    assert "MLP(d=10, hidden=(16,)" in text
    last = run.curves("mine")[:, -1]
    assert f"mine {last[~np.isnan(last)][0]:.3g}" in text
    broken = Run(replace(run.folder, path=run.folder.path / "none"), run.spec)
    assert "not finished" in repr(broken)
