"""Whatever is damaged in a finished store is named, and never used in silence."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox.errors import SandboxError, StoreError
from sandbox.store.folders import MANIFEST, RunFolder
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import folder_of
from tests.faults.damage import (
    DAMAGE,
    FILES,
    FIXES,
    OF_ANOTHER,
    STEPS,
    STUDENTS,
    TEACHER,
    each_damage,
    fill,
    folders,
    hurt,
    measured,
    say,
    uses,
)

KINDS = [
    pytest.param(kind, name, id=f"{kind} {Path(name).name}")
    for kind, names in FILES.items()
    for name in names
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the store `finished`."""
    base = tmp_path_factory.mktemp("stores")
    fill(base / "finished")
    return base


@pytest.fixture
def root(stores: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stores / "finished", tmp_path / "runs")


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_verify_names_the_file(
    stores: Path, root: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    for damage, path in each_damage(stores, root, kind, name):
        code, out, err = say(capsys, "verify", "--root", root)
        lines = [line for line in out.splitlines() if line.startswith(str(root))]
        assert code == 1 and err == "" and len(lines) == 1, damage
        assert lines[0].startswith(f"{path} ") and "5 sound, 1 with problems" in out
        words = {"missing": "is missing", "a folder": "is a folder, not a file"}
        assert words.get(damage, "") in lines[0]
        code, out, err = say(capsys, "runs", "--root", root)
        assert code in (0, 1) and err == "" and len(out.splitlines()) >= 7


@pytest.fixture(scope="module")
def expected(stores: Path) -> dict[str, Any]:
    return {name: use() for name, use in uses(stores / "finished").items()}


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_what_is_damaged_is_refused_or_made_again(
    stores: Path, root: Path, expected: dict[str, Any], kind: str, name: str
) -> None:
    for damage, path in each_damage(stores, root, kind, name):
        refused = 0
        for what, use in uses(root, kind).items():
            try:
                np.testing.assert_equal(use(), expected[what])
            except SandboxError as e:
                refused += 1
                text = str(e)
                assert isinstance(e, StoreError) and str(path) in text
                assert "\n" not in text and any(fix in text for fix in FIXES), text
        if (name, damage) == (MANIFEST, "missing"):
            assert refused == 0 and path.is_file()  # made again, to the same bits
        else:
            assert refused or (kind, name) == ("probe", "config.json")  # read by none


def test_every_bit_of_a_manifest_counts(root: Path) -> None:
    folder = RunFolder(folders(root, "probe")[0])
    whole = (folder.path / MANIFEST).read_bytes()
    assert folder.problems() == []
    for i in range(len(whole)):
        data = bytearray(whole)
        data[i] ^= 1 << i % 8
        (folder.path / MANIFEST).write_bytes(data)
        with pytest.raises(StoreError, match=MANIFEST):
            folder.check("values.safetensors")


def test_the_folder_of_another_run_is_not_used(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, twin = folders(root, "teacher")
    shutil.rmtree(own)
    shutil.copytree(twin, own)
    with pytest.raises(StoreError, match=f"{MANIFEST} is that of run {twin.name}"):
        fit(TEACHER, root=root, progress=Silent())
    assert say(capsys, "verify", "--root", root)[0] == 1
    data = (own / MANIFEST).read_text()  # as a manifest of before, which does not say
    (own / MANIFEST).write_text(
        data.replace('"run"', '"ran"').replace(' "sha256"', ' "sha"')
    )
    shutil.copytree(own, root.parent / "my copy")
    assert RunFolder(root.parent / "my copy").problems() != []


@pytest.mark.parametrize("damage", [*DAMAGE, *OF_ANOTHER])
def test_students_notice_a_damaged_teacher(
    root: Path, expected: dict[str, Any], damage: str
) -> None:
    """And train to the same bits once the teacher was made again."""
    shutil.rmtree(folders(root, "student")[0])
    path = hurt(*folders(root, "teacher"), STEPS["kept"], damage)
    with pytest.raises(StoreError) as e:
        fit(STUDENTS, root=root, progress=Silent())
    assert str(path) in str(e.value) and FIXES[0] in str(e.value)
    assert not folder_of(STUDENTS, root).complete
    if damage == "of another step":
        shutil.rmtree(folders(root, "teacher")[0])
        for what in ("fit the teacher", "fit the student"):
            np.testing.assert_equal(uses(root)[what](), expected[what])


@pytest.mark.parametrize("damage", [*DAMAGE, *OF_ANOTHER])
def test_a_probe_notices_a_damaged_checkpoint(root: Path, damage: str) -> None:
    shutil.rmtree(folders(root, "probe")[0])
    path = hurt(*folders(root, "teacher"), STEPS["kept"], damage)
    with pytest.raises(StoreError) as e:
        measured(root)
    assert str(path) in str(e.value) and FIXES[0] in str(e.value)
