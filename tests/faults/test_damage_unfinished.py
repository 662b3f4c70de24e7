"""Whatever is damaged in an unfinished run is found when it goes on, and told."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox.errors import Interrupted, StoreError
from sandbox.probes.offline import measure_trajectory
from sandbox.store.folders import RunFolder
from sandbox.store.trajectories import checkpoint_name
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import folder_of
from tests.faults.damage import (
    DAMAGE,
    FIXES,
    OF_ANOTHER,
    PROBE,
    STEPS,
    TEACHER,
    At,
    damages,
    flip,
    folders,
    hurt,
    interrupt,
    measured,
    other,
    say,
    uses,
)

RECORD_DAMAGE = [d for d in damages("config.json") if d != "one byte short"]
WHAT = ("fit the teacher", "measure for the probe")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`finished`, and `begun`: teachers stopped at sample 192."""
    base = tmp_path_factory.mktemp("stores")
    for spec in (TEACHER, other(TEACHER)):
        run = fit(spec, root=base / "finished", progress=Silent())
        measure_trajectory(run, PROBE, root=base / "finished", progress=Silent())
        interrupt(base / "begun", spec, 192)
    return base


@pytest.fixture
def root(stores: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stores / "finished", tmp_path / "runs")


@pytest.fixture
def begun(stores: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stores / "begun", tmp_path / "runs")


@pytest.fixture(scope="module")
def expected(stores: Path) -> dict[str, Any]:
    found = uses(stores / "finished")
    return {what: found[what]() for what in WHAT}


def resumed(root: Path, begin: int, expected: dict[str, Any]) -> None:
    at = At()
    fit(TEACHER, root=root, progress=at)
    assert at.begun == [begin]
    assert folder_of(TEACHER, root).problems() == []
    np.testing.assert_equal(
        uses(root)["fit the teacher"](), expected["fit the teacher"]
    )


@pytest.mark.parametrize("damage", [*DAMAGE, *OF_ANOTHER])
def test_a_damaged_checkpoint_is_found_when_a_run_goes_on(
    begun: Path,
    expected: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    own, twin = folders(begun, "teacher")
    whole = (own / STEPS["kept"]).read_bytes()
    path = hurt(own, twin, STEPS["kept"], damage)
    left = sorted(p.name for p in own.rglob("*") if p.name != ".lock")
    code, out, _ = say(capsys, "verify", "--root", begun)
    assert code == 1 and f"\n{path} " in f"\n{out}" and "1 with problems, 1 unf" in out
    at = At()
    with pytest.raises(StoreError) as e:
        fit(TEACHER, root=begun, progress=at)
    assert str(path) in str(e.value) and any(fix in str(e.value) for fix in FIXES)
    assert "\n" not in str(e.value) and at.begun == []
    assert left == sorted(p.name for p in own.rglob("*") if p.name != ".lock")
    if damage == "a folder":
        path.rmdir()
    path.write_bytes(whole)  # the first fix; the second follows
    if damage in ("cut", "a folder"):
        resumed(begun, 192, expected)
    elif damage == "of another step":
        shutil.rmtree(own)
        resumed(begun, 0, expected)


def resume_file(folder: Path) -> Path:
    (path,) = folder.glob("resume-*")
    return path


@pytest.mark.parametrize("damage", [*DAMAGE, "of another run"])
def test_a_damaged_saved_state_is_told_and_not_used(
    begun: Path,
    expected: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    own, twin = folders(begun, "teacher")
    path = resume_file(own)
    if damage == "of another run":  # sound in itself, and of the same shapes
        path.unlink()
        path = Path(shutil.copy(resume_file(twin), own))
    else:
        DAMAGE[damage](path)
    code, out, _ = say(capsys, "verify", "--root", begun)
    if damage != "missing":  # nothing says that there was one
        assert code == 1 and f"\n{path} " in f"\n{out}"
    if damage == "a folder":
        with pytest.raises(StoreError, match="is a folder where a file belongs; remov"):
            fit(TEACHER, root=begun, progress=Silent())
        path.rmdir()
        damage = "missing"
    resumed(begun, 0, expected)
    err = capsys.readouterr().err.splitlines()
    if damage != "missing":
        assert len(err) == 1 and str(path) in err[0] and "it is not used" in err[0]


@pytest.mark.parametrize("damage", RECORD_DAMAGE)
def test_the_record_of_an_unfinished_run_is_written_again(
    begun: Path,
    expected: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    path = hurt(*folders(begun, "teacher"), "config.json", damage)
    code, out, _ = say(capsys, "verify", "--root", begun)
    assert code == 1 and f"\n{path} " in f"\n{out}"
    if damage == "a folder":
        with pytest.raises(StoreError, match=r"config\.json is a folder where a file"):
            fit(TEACHER, root=begun, progress=Silent())
        path.rmdir()
    resumed(begun, 192, expected)


def test_checkpoints_as_a_file(begun: Path) -> None:
    folder = folders(begun, "teacher")[0] / "ckpt"
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(
        StoreError, match=r"ckpt is a file where a folder .*; remove it"
    ):
        fit(TEACHER, root=begun, progress=Silent())


def test_a_checkpoint_that_changes_while_training_is_not_committed(
    tmp_path: Path,
) -> None:
    path = folder_of(TEACHER, tmp_path).path / STEPS["kept"]
    for act, words in (
        (lambda: flip(path, 0.5), "was altered"),
        (path.unlink, "is mi"),
    ):
        with pytest.raises(StoreError, match=words) as e:
            fit(TEACHER, root=tmp_path, progress=At(192, act))
        assert str(path) in str(e.value) and FIXES[0] in str(e.value)
        assert not folder_of(TEACHER, tmp_path).complete


def test_states_that_list_no_checkpoints_are_accepted(
    begun: Path, expected: dict[str, Any]
) -> None:
    """As those of before: their checkpoints are taken as they are from then on."""
    folder = RunFolder(folders(begun, "teacher")[0])
    found = folder.load_resume()
    known = {} if found is None else found[1].pop("checkpoints")
    assert found is not None and len(known) == 4
    folder.save_resume(192, *found)
    stray = folder.path / checkpoint_name(9984)
    stray.write_bytes(b"beyond the saved state")
    interrupt(begun, TEACHER, 256)
    again = folder.load_resume()
    assert again is not None and not stray.exists()
    assert set(again[1]["checkpoints"]) == {*known, checkpoint_name(256)}
    resumed(begun, 256, expected)


@pytest.mark.parametrize("damage", ["bit of the body", "of another run"])
def test_a_damaged_half_measurement_is_made_again(
    root: Path,
    expected: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    own, twin = folders(root, "probe")
    for folder, spec in ((own, TEACHER), (twin, other(TEACHER))):
        shutil.rmtree(folder)
        run = fit(spec, root=root, progress=Silent())
        with pytest.raises(Interrupted):
            measure_trajectory(run, PROBE, root=root, progress=At(2))
    path = resume_file(own)
    if damage == "of another run":
        path.unlink()
        path = Path(shutil.copy(resume_file(twin), own))
    else:
        DAMAGE[damage](path)
    code, out, _ = say(capsys, "verify", own.name, "--root", root)
    assert code == 1 and f"\n{path} " in f"\n{out}"
    np.testing.assert_equal(measured(root), expected["measure for the probe"])
    assert str(path) in capsys.readouterr().err
