"""The study on a tiny override, its presets, and what it shares with the MLP study."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paper_repro.parity_transformer import claims

from experiments import parity_setting
from experiments.parity_mlp import Config, Result, strategies
from experiments.parity_transformer import (
    PRESETS,
    TransformerSetting,
    adam,
    cpu,
    draw,
    paper,
    run,
)
from paper_repro.parity_report import ParityReport, count_teachers
from sandbox.distill.sources import PerSeed
from sandbox.errors import ConfigError
from sandbox.models.bit_transformer import BitTransformer
from sandbox.tasks.parity import FirstSupport, Parity, RandomSupport
from sandbox.train.progress import Silent

TINY = TransformerSetting(
    task=Parity(d=4, k=1, support=RandomSupport()),
    teacher_width=8,
    student_width=4,
    head_dim=4,
    layers=1,
    teacher_optimizer=adam(3e-3, horizon=2048),
    student_optimizer=adam(3e-3, horizon=2048),
    n_teachers=2,
    spacing=256,
    student_eval_every=256,
    teacher_limit=8192,
    student_least=2048,
    choice_points=256,
    claim_points=256,
    eval_points=256,
    degrees=(1,),
)


def heads(setting: Any, width: int) -> int:
    model = setting.model(width)
    assert isinstance(model, BitTransformer)
    return model.network.heads


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_are_valid(preset) -> None:
    config = preset()
    s = config.setting
    specs = s.teacher_specs()
    assert len(specs) == s.n_teachers and all(p.n_seeds == 1 for p in specs)
    teacher, student = (
        specs[0],
        s.example_students(strategies(config, middle=0, hold=s.spacing)),
    )
    for spec in (teacher, student):
        assert spec.engine_used == "generic" and spec.batch_size == 32
        assert spec.optimizer.lr.decay == "constant" and spec.segment >= 256
    assert heads(s, s.teacher_width) > heads(s, s.student_width)


def test_claims_of_the_cpu_scale_have_the_teachers_and_samples_they_need() -> None:
    s = cpu().setting
    assert s.n_teachers >= 8 and s.student_least >= 14_000 * s.batch_size
    assert s.rule == "cpu" and s.student_cap == 6.0


def test_paper_preset_has_the_published_numbers() -> None:
    s: Any = paper().setting
    assert (s.task.d, s.task.k, s.task.support) == (100, 6, FirstSupport())
    assert (heads(s, s.teacher_width), heads(s, s.student_width)) == (32, 4)
    assert (s.layers, s.head_dim, s.dropout, s.batch_size) == (2, 8, 0.1, 32)
    model = s.model(s.teacher_width).network
    assert (model.vocab, model.positions, model.tied) == (2, 100, False)
    rates = [o.lr for o in (s.teacher_optimizer, s.student_optimizer)]
    assert [r.peak for r in rates] == [3e-4, 1e-4]
    # 6% of 8M steps: half way up when 8M samples are over.
    assert {r.warmup for r in rates} == {480_000 * 32}
    assert s.teacher_limit == s.student_least == 8_000_000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"teacher_width": 10}, "setting.teacher_width"),
        ({"student_width": 0}, "setting.student_width"),
        ({"head_dim": 0}, "setting.teacher_width"),
        ({"layers": 0}, "model.layers"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"student_least": -1}, "setting.student_least"),
        ({"batch_size": 48}, "eval_every"),
        ({"eval_points": 0}, "eval_points"),
    ],
)
def test_bad_settings_are_refused_by_field(change: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(TINY, **change)


RESULTS = Path(__file__).parents[2] / "paper_repro" / "results"


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_records_of_the_mlp_study_are_what_they_were(scale: str) -> None:
    """What the setting gained has moved no hash: the committed results' teachers."""
    from sandbox.store.config import digest
    from sandbox.train.run import identity

    runs = json.loads((RESULTS / f"parity_mlp.{scale}.json").read_text())["runs"]
    names = [r if isinstance(r, str) else r["run"] for r in runs]
    stored = {name for name in names if name.startswith("teacher/")}
    specs = parity_setting.PRESETS[scale]().teacher_specs()
    ours = [identity(spec) | {"platform": p} for spec in specs for p in ("cpu", "gpu")]
    assert stored <= {f"teacher/{digest(i)}" for i in ours} and stored


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(root: Path) -> Result:
    return run(Config(setting=TINY, argmax_control=False), root=root, progress=Silent())


@pytest.mark.slow
def test_every_student_has_a_run_that_ends_when_it_learned(result: Result) -> None:
    names = ["ce", "one_shot", "progressive", "two_shot"]
    assert result.names == names and np.isfinite(result.n90_teacher).all()
    for t, group in zip(result.teachers, result.students, strict=True):
        cap = int(t.caps()[0])
        assert cap >= max(6 * t.n90[0], TINY.student_least)
        for name, student in zip(names, group, strict=True):
            assert student.spec.stop.max_samples == PerSeed((cap,))
            y = student.metrics.curves(name)[0]
            assert (y[:-1] < 0.95).all()
            assert y[-1] >= 0.95 or student.outcome["samples"] == cap
        # The students of a seed start as one, and see the same inputs.
        first = [r.metrics.curves(n)[0, 0] for n, r in zip(names, group, strict=True)]
        assert len(set(first)) == 1


@pytest.mark.slow
def test_claims_figure_and_result_file(result: Result, tmp_path: Path) -> None:
    report = ParityReport(
        study="parity_transformer", scale="tiny", config=result.config,
        figure=draw(result), claims=claims(result), teachers=result.teachers,
        students=result.students, probe_seconds=0.0,
    )  # fmt: skip
    report.publish(figures=tmp_path, results=tmp_path)
    data = json.loads((tmp_path / "parity_transformer.tiny.json").read_text())
    assert [c["id"] for c in data["claims"]] == ["P4.pace", "P4.ce", "P4.one_shot"]
    assert data["config"]["setting"]["batch_size"] == 32
    pace = np.median(result.n_students("progressive")[:, 0] / result.n90_teacher)
    assert data["claims"][0]["obtained"] == pytest.approx(pace)
    assert len(data["runs"]) == 2 * (1 + 4)


@pytest.mark.slow
def test_a_teacher_that_never_learns_is_counted_and_enters_no_ratio(root: Path) -> None:
    stuck = replace(TINY, teacher_limit=256, n_teachers=1)
    config = Config(setting=stuck, argmax_control=False)
    result = run(config, root=root, progress=Silent())
    counts = count_teachers(result.teachers)
    assert (counts["trained"], counts["learned"]) == (1, 0)
    assert [c.holds for c in claims(result)] == [None] * 3
    assert "not at .90" in draw(result).get_supxlabel()
