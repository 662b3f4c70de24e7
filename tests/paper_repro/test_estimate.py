"""The estimate counts the runs that a study makes."""

import json
from pathlib import Path

import pytest

from experiments import parity_transformer
from paper_repro.estimate import PARTS
from sandbox.train.spec import RunSpec

RESULTS = Path(__file__).parents[2] / "paper_repro" / "results"


@pytest.mark.parametrize("scale", ["smoke", "cpu"])
@pytest.mark.parametrize("study", PARTS)
def test_as_many_runs_as_the_study_made(study: str, scale: str, tmp_path: Path) -> None:
    """Counted in the committed results; those of an unlearned teacher are there too."""
    runs = json.loads((RESULTS / f"{study}.{scale}.json").read_text())["runs"]
    made = {r if isinstance(r, str) else r["run"] for r in runs}
    found: dict[RunSpec, int] = {}
    for part in PARTS[study](study, scale, tmp_path):
        assert 0 < part.samples <= part.most
        found[part.spec] = part.missing  # problems may share their teachers
    assert sum(found.values()) == len(made)


def test_students_that_train_alone_are_counted_alone(tmp_path: Path) -> None:
    parts = list(PARTS["parity_transformer"]("parity_transformer", "cpu", tmp_path))
    setting = parity_transformer.cpu().setting
    students = [p for p in parts if p.spec.kind == "student"]
    assert [len(p.spec.strategies) for p in students] == [1] * len(students)
    assert {s.name for p in students for s in p.spec.strategies} == {
        "ce", "one_shot", "progressive", "two_shot",
    }  # fmt: skip
    assert all(p.samples >= setting.student_least for p in students)
