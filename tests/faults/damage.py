"""A tiny store, ways to damage a file of it, and ways to read it."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox.cli import main
from sandbox.distill.sources import Final, Progressive
from sandbox.distill.strategy import Strategy
from sandbox.errors import Interrupted
from sandbox.probes.alignment import AlignmentProbe
from sandbox.probes.offline import measure_trajectory
from sandbox.store.folders import MANIFEST
from sandbox.store.trajectories import checkpoint_name, flatten
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import folder_of, open_run
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from tests.golden import make_golden as golden

TEACHER = replace(golden.TEACHER, stop=Stop(max_samples=256))
STUDENTS = replace(
    golden.STUDENTS,
    strategies=(
        Strategy(name="final", source=Final()),
        Strategy(name="progressive", source=Progressive(every=64)),
    ),
    engine="generic",
    checkpoint_every=64,
    stop=Stop(max_samples=192),
    teacher=TeacherRef(spec=TEACHER, final=256),
)
PROBE = AlignmentProbe(TEACHER.task)
OTHER = 7  # first seed of other runs, of the same shapes
STEPS = {name: checkpoint_name(t) for name, t in (("kept", 64), ("next", 128))}
FIXES = ("delete the run folder to make it again", "remove it", "put it back")


class At(Silent):
    """Does something when a sample is reached, and remembers where work was begun."""

    def __init__(self, at: int = -1, act: Callable[[], None] | None = None) -> None:
        self.at, self.begun = at, []
        self.act = act or (lambda: os.kill(os.getpid(), signal.SIGTERM))

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        self.begun.append(done)

    def update(self, done: int, note: str) -> None:
        if done == self.at:
            self.act()


def other(spec: RunSpec) -> RunSpec:
    if spec.teacher is None:
        return replace(spec, first_seed=OTHER)
    teacher = replace(spec.teacher, spec=other(spec.teacher.spec))
    return replace(spec, first_seed=OTHER, teacher=teacher)


def fill(root: Path) -> None:
    """Teacher, students and measurement, and the same of another seed."""
    for change in (lambda spec: spec, other):
        run = fit(change(TEACHER), root=root, progress=Silent())
        fit(change(STUDENTS), root=root, progress=Silent())
        measure_trajectory(run, PROBE, root=root, progress=Silent())


def interrupt(root: Path, spec: RunSpec, at: int) -> Path:
    with pytest.raises(Interrupted):
        fit(spec, root=root, progress=At(at))
    return folder_of(spec, root).path


def measured(root: Path) -> dict[str, np.ndarray]:
    run = fit(TEACHER, root=root, progress=Silent())
    return measure_trajectory(run, PROBE, root=root, progress=Silent()).values


def folders(root: Path, kind: str) -> tuple[Path, Path]:
    """The folder of a kind, and that of the other seed."""
    if kind == "probe":
        own = folder_of(TEACHER, root).path.name
        found = list((root / kind).iterdir())
        found.sort(key=lambda p: own not in (p / "config.json").read_text())
        return found[0], found[1]
    spec = TEACHER if kind == "teacher" else STUDENTS
    return folder_of(spec, root).path, folder_of(other(spec), root).path


# ------------------------------------------------------------------------ the damage


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(at * len(data)), len(data) - 1)] ^= 1
    path.write_bytes(data)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": lambda p: os.truncate(p, p.stat().st_size // 2),
    "one byte short": lambda p: os.truncate(p, p.stat().st_size - 1),
    "empty": lambda p: os.truncate(p, 0),
    "bit of the header": lambda p: flip(p, 0.02),
    "bit of the body": lambda p: flip(p, 0.8),
    "last bit": lambda p: flip(p, 1.0),
    "missing": Path.unlink,
    "a folder": as_folder,
}
OF_ANOTHER = ("of another run", "of another step")


def hurt(folder: Path, twin: Path, name: str, damage: str) -> Path:
    """Damages a file of a folder; `twin` is the folder of another seed."""
    path = folder / name
    if damage == "of another run":
        shutil.copy(twin / name, path)
    elif damage == "of another step":
        shutil.copy(folder / STEPS["next"], path)
    else:
        DAMAGE[damage](path)
    return path


FILES = {
    "teacher": (
        "config.json",
        "provenance.json",
        "outcome.json",
        "metrics.parquet",
        STEPS["kept"],
        MANIFEST,
    ),
    "student": (
        "config.json",
        "provenance.json",
        "outcome.json",
        "metrics.parquet",
        STEPS["kept"],
        MANIFEST,
    ),
    "probe": ("config.json", "provenance.json", "values.safetensors", MANIFEST),
}


def damages(name: str) -> list[str]:
    found = [*DAMAGE, *OF_ANOTHER]
    if name == MANIFEST:
        found.remove("one byte short")  # its last newline, which says nothing
    if not name.startswith("ckpt"):
        found.remove("of another step")
    if name in ("outcome.json", "values.safetensors"):  # the same bytes, or as likely
        found.remove("of another run")
    return found


RECORD_DAMAGE = [d for d in damages("config.json") if d != "one byte short"]


def each_damage(stores: Path, root: Path, kind: str, name: str) -> Iterator[Any]:
    """One after the other, each on a store that is whole but for it."""
    own, twin = folders(root, kind)
    for damage in damages(name):
        yield damage, hurt(own, twin, name, damage)
        shutil.rmtree(own)
        shutil.copytree(stores / "finished" / own.relative_to(root), own)


def say(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    return code, *capsys.readouterr()


def uses(root: Path, kind: str = "") -> dict[str, Callable[[], Any]]:
    """Every way to read the store, or what a folder holds, and what is compared."""

    def arrays(spec: RunSpec) -> dict[str, np.ndarray]:
        run = fit(spec, root=root, progress=Silent())
        return {
            **run.metrics.columns,
            **flatten(run.trajectory.read(64)),
            **flatten(run.trajectory.read(128)),
        }

    def texts(spec: RunSpec) -> list[Any]:
        run = open_run(folder_of(spec, root).path)
        assert run.provenance["versions"]
        return [run.spec, run.outcome]

    found = {
        "fit the teacher": lambda: arrays(TEACHER),
        "open the teacher": lambda: texts(TEACHER),
        "fit the student": lambda: arrays(STUDENTS),
        "open the student": lambda: texts(STUDENTS),
        "measure for the probe": lambda: measured(root),
    }
    return {what: use for what, use in found.items() if what.endswith(kind)}
