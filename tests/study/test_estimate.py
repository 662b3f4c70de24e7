"""The estimate counts the runs that a study makes."""

import importlib
import json
from pathlib import Path

import pytest

from sandbox.study.estimate import parts, small
from sandbox.study.setting import UntilLearned
from sandbox.study.study import study_in
from sandbox.train.spec import RunSpec

RESULTS = Path(__file__).parents[2] / "paper_repro" / "results"
FILES = sorted(RESULTS.glob("[ps]*.smoke.json")) + sorted(
    RESULTS.glob("[ps]*.cpu.json")
)


def study(name: str, scale: str):
    return study_in(importlib.import_module(f"experiments.{name}")).preset(scale)


def elsewhere(path: Path) -> set[str]:
    """Runs that other result files name."""
    files = [json.loads(p.read_text()) for p in FILES if p != path]
    rows = [r for data in files for r in data.get("runs", ())]
    return {r if isinstance(r, str) else r["run"] for r in rows}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_as_many_runs_as_the_study_made(path: Path, tmp_path: Path) -> None:
    """Counted in the committed results."""
    name, scale, _ = path.name.split(".")
    data = json.loads(path.read_text())
    runs = data.get("runs", [])
    made = {r if isinstance(r, str) else r["run"] for r in runs}
    # A run of another study that had some of the strategies stands beside the study's
    # own; the estimate is that of an empty store, where one run has all.
    extra = {r for r in made if r.startswith("student/") and r in elsewhere(path)}
    found: dict[RunSpec, int] = {}
    made_by = study(name, scale)
    for part in parts(made_by, tmp_path):
        assert 0 < part.samples <= part.most
        found[part.spec] = part.missing  # problems may share their teachers
    setting = getattr(made_by, "setting", None)
    if setting is not None and setting.group == 1:  # who did not learn teaches nobody
        silent = data["teachers"]["trained"] - data["teachers"]["learned"]
        for spec in (s for s in found if s.kind == "student"):
            found[spec] -= silent
    assert sum(found.values()) in (len(made), len(made - extra))
    computed = made_by.computed
    assert made or (computed is not None and len(computed.pieces()) > 0)


def test_students_that_train_alone_are_counted_alone(tmp_path: Path) -> None:
    transformer = study("parity_transformer", "cpu")
    students = [p for p in parts(transformer, tmp_path) if p.spec.kind == "student"]
    assert [len(p.spec.strategies) for p in students] == [1] * len(students)
    assert {s.name for p in students for s in p.spec.strategies} == {
        "ce", "one_shot", "progressive", "two_shot",
    }  # fmt: skip
    budget = transformer.setting.budget
    assert isinstance(budget, UntilLearned)
    assert all(p.most >= budget.least for p in students)


def test_a_step_of_sequences_is_timed_a_micro_batch_at_a_time(tmp_path: Path) -> None:
    for part in parts(study("pcfg_accuracy", "cpu"), tmp_path):
        timed = small(part.spec)
        assert timed.segment == timed.batch_size == 16
        assert part.spec.segment >= 64
