"""Results that were deleted are made again, and nothing else is touched."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Study

RESULT = "parity_mlp.tiny.json"


def results(study: Study) -> list[Path]:
    """What can be deleted: every run, every measurement, every published file."""
    published = [study.folder / RESULT, *(study.folder / "figures").rglob("*.*")]
    return [*sorted(study.root.glob("*/*")), *sorted(published)]


def identities(study: Study) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in study.files()}


def delete_and_rerun(study: Study, reference: Study, chosen: list[Path]) -> None:
    before = identities(study)
    for path in chosen:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = {p: before[p] for p in study.files()}
    if any(p.is_relative_to(study.root) for p in chosen):
        kept.pop(study.folder / RESULT, None)  # says how long the runs took
    study.run()
    assert study.contents() == reference.contents()
    after = identities(study)
    assert {p: after[p] for p in kept} == kept


@pytest.mark.long
def test_what_is_missing_is_made_again(reference: Study, tmp_path: Path) -> None:
    """A measurement, the students, one figure; teachers and the other figure stay."""
    study = reference.copy(tmp_path / "study")
    gone = [p for p in results(study) if p.parent.name in ("probe", "student")]
    gone += [p for p in results(study) if p.suffix == ".png"]
    assert len(gone) >= 3
    delete_and_rerun(study, reference, gone)


@pytest.mark.long
def test_a_finished_study_is_only_read(reference: Study, tmp_path: Path) -> None:
    study = reference.copy(tmp_path / "study")
    before = identities(study)
    assert study.run() == ""
    assert identities(study) == before


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_random_results_are_deleted(
    reference: Study, tmp_path: Path, injected: Callable[..., None]
) -> None:
    study = reference.copy(tmp_path / "study")
    rng, n = random.Random(4), 0
    for _ in range(12):
        found = results(study)
        chosen = rng.sample(found, rng.randint(1, len(found) - 1))
        delete_and_rerun(study, reference, chosen)
        n += len(chosen)
    injected("S4", "random results deleted", n, "made again alone, to the same bits")
