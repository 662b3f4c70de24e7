"""Stores written by every version so far open in this one, and are still its runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli import main
from sandbox.errors import StoreError
from sandbox.probes.offline import measure_trajectory
from sandbox.store.config import digest, to_json
from sandbox.store.folders import MANIFEST, SCHEMA, RunFolder
from sandbox.store.trajectories import Trajectory
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import Run, folder_of, identity, open_run
from tests.golden import make_golden as golden

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
STORES = sorted(p.name for p in GOLDEN.glob("v*"))


class Never(Silent):
    """Fails where anything is trained or measured."""

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        raise AssertionError(f"{title} was begun again")


class Begun(Silent):
    """Remembers where work was begun."""

    def __init__(self) -> None:
        self.at: list[int] = []

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        self.at.append(done)


@pytest.fixture(params=STORES)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a golden store."""
    return shutil.copytree(GOLDEN / request.param / "store", tmp_path / "runs")


@pytest.fixture
def stored(request: pytest.FixtureRequest, root: Path) -> dict[str, Any]:
    name = request.node.callspec.params["root"]
    return json.loads((GOLDEN / name / "numbers.json").read_text())


def contents(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def run_folder(root: Path, kind: str) -> Path:
    (path,) = (root / kind).iterdir()
    return path


def test_there_is_one_of_this_schema_and_it_is_small() -> None:
    assert f"v{SCHEMA}" in STORES
    for name in STORES:
        files = [p for p in (GOLDEN / name).rglob("*") if p.is_file()]
        assert sum(p.stat().st_size for p in files) < 100_000


def test_every_reader_gives_the_stored_numbers(
    root: Path, stored: dict[str, Any]
) -> None:
    teacher = open_run(run_folder(root, "teacher"))
    students = open_run(run_folder(root, "student"))
    assert teacher.spec == golden.TEACHER and students.spec == golden.STUDENTS
    measured = measure_trajectory(teacher, golden.PROBE, root=root, progress=Never())
    assert golden.numbers(teacher, students, measured) == stored
    assert teacher.provenance["versions"]["sandbox"]
    one = Trajectory(teacher.folder).read(128, seed=1)
    assert one["layer_0"]["kernel"].shape == (6, 8)


def test_the_commands_open_it(
    root: Path, stored: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "3 sound, 0 with problems, 0 unfinished" in out
    assert out.count("was made before the code behind a result was stored") == 3
    assert main(["runs", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.count("finished") == 3
    for name in ("teacher", "students"):
        assert stored[name]["hash"] in out


def test_its_hashes_are_those_of_today(root: Path, stored: dict[str, Any]) -> None:
    for kind, name in (("teacher", "TEACHER"), ("student", "STUDENTS")):
        spec, path = getattr(golden, name), run_folder(root, kind)
        config = json.loads((path / "config.json").read_text())
        assert identity(spec) == config and to_json(spec) == config["spec"]
        assert digest(config) == path.name == folder_of(spec, root).path.name
        assert path.name in {v.get("hash") for v in stored.values()}


def test_fit_only_opens_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(root)
    for spec in (golden.TEACHER, golden.STUDENTS):
        run = fit(spec, root=root, progress=Never())
        assert run.metrics.steps[-1] == 192
        words = f"{run.folder.path} was made before the code behind a result was stored"
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and words in told
    assert contents(root) == before


@pytest.mark.parametrize("name", STORES)
def test_its_unfinished_run_goes_on(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(GOLDEN / name / "unfinished", tmp_path / "runs")
    assert main(["verify", "--root", str(root)]) == 0
    assert "0 with problems, 1 unfinished" in capsys.readouterr().out
    begun = Begun()
    run = fit(golden.UNFINISHED, root=root, progress=begun)
    assert begun.at == [128] and run.folder.problems() == []
    assert run.trajectory.steps == (0, 64, 128, 192)
    assert len(run.provenance["sittings"]) == 2 and run.folder.made_by() == {}
    before = (GOLDEN / name / "unfinished").glob("*/*/ckpt/*")
    for path in before:
        now = run.folder.path / "ckpt" / path.name
        assert now.read_bytes() == path.read_bytes()


def test_fields_gained_later_are_not_in_its_records(root: Path) -> None:
    """`init` of a strategy came after schema 1 was in use."""
    path = run_folder(root, "student")
    lanes = json.loads((path / "config.json").read_text())["spec"]["strategies"]
    opened = open_run(path).spec
    assert [s.init for s in opened.strategies] == [0] * 4
    assert all("init" not in lane for lane in lanes)
    *others, last = opened.strategies
    moved = replace(opened, strategies=(*others, replace(last, init=1)))
    assert to_json(moved)["strategies"][-1]["init"] == 1
    assert folder_of(moved, root).path.name != path.name


def test_manifests_that_do_not_name_their_run_are_read(root: Path) -> None:
    """As the first stores of schema 1 have them."""
    for path in root.glob(f"*/*/{MANIFEST}"):
        data = json.loads(path.read_text())
        old = {k: v for k, v in data.items() if k not in ("run", "sha256")}
        path.write_text(json.dumps(old))
        assert RunFolder(path.parent).problems() == []
    run = fit(golden.TEACHER, root=root, progress=Never())
    assert run.trajectory.steps == (0, 64, 128, 192)


def test_a_newer_store_says_what_to_do(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder(root, "teacher")
    data = json.loads((path / MANIFEST).read_text()) | {"schema": SCHEMA + 1}
    (path / MANIFEST).write_text(json.dumps(data))
    run, words = Run(RunFolder(path), golden.TEACHER), "install the newer version"
    readers = (
        lambda: open_run(path),
        lambda: fit(golden.TEACHER, root=root, progress=Never()),
        lambda: run.metrics,
        lambda: Trajectory(run.folder).read(64),
        lambda: measure_trajectory(run, golden.PROBE, root=root, progress=Never()),
    )
    for read in readers:
        with pytest.raises(StoreError, match=f"has schema {SCHEMA + 1} .*{words}") as e:
            read()
        assert str(path / MANIFEST) in str(e.value) and "\n" not in str(e.value)
    assert main(["verify", "--root", str(root)]) == 1
    assert words in capsys.readouterr().out
    assert main(["probe", str(path), "--probes", "fourier"]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
