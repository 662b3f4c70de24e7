"""The study on a tiny override, and its presets."""

import json
from dataclasses import replace

import numpy as np
import pytest

import sandbox.study as st
from experiments.parity_transformer import ParityTransformer, adam
from sandbox.distill.sources import PerSeed
from sandbox.errors import ConfigError
from sandbox.study.teachers import Teachers
from sandbox.tasks.parity import FirstSupport, Parity, RandomSupport
from sandbox.train.progress import Silent

TINY = st.Setting(
    task=Parity(d=4, k=1, support=RandomSupport()),
    teacher=st.Heads(2, layers=1, head_dim=4),
    student=st.Heads(1, layers=1, head_dim=4),
    teacher_optimizer=adam(3e-3, horizon=2048),
    student_optimizer=adam(3e-3, horizon=2048),
    budget=st.UntilLearned(limit=8192, least=2048),
    rule=st.ByGap(points=256, claim_points=256, degrees=(1,)),
    n_teachers=2,
    group=1,
    alone=True,
    spacing=256,
    student_every=256,
    batch=32,
    eval_points=256,
)
STUDY = ParityTransformer(setting=TINY)
NAMES = ["ce", "one_shot", "progressive", "two_shot"]


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_presets_are_valid(preset):
    study = ParityTransformer.preset(preset)
    s = study.setting
    specs = s.teacher_specs()
    assert len(specs) == s.n_teachers and all(p.n_seeds == 1 for p in specs)
    made_up = Teachers.made_up(s)
    students = made_up.students(study.lanes(made_up))
    assert [[x.name for x in p.strategies] for p in students] == [[n] for n in NAMES]
    for spec in (specs[0], *students):
        assert spec.engine_used == "generic" and spec.batch_size == 32
        assert spec.optimizer.lr.decay == "constant" and spec.segment >= 256
    assert s.teacher.heads > s.student.heads


def test_claims_of_the_cpu_scale_have_the_teachers_and_samples_they_need():
    s = ParityTransformer.preset("cpu").setting
    assert s.n_teachers >= 8 and s.budget.least >= 14_000 * s.batch
    assert s.rule.scale == "cpu" and s.budget.cap == 6.0


def test_paper_preset_has_the_published_numbers():
    s = ParityTransformer.preset("paper").setting
    assert (s.task.d, s.task.k, s.task.support) == (100, 6, FirstSupport())
    assert (s.teacher.heads, s.student.heads, s.batch) == (32, 4, 32)
    model = s.teacher.model(s.task).network
    assert (model.layers, model.head_dim, model.dropout) == (2, 8, 0.1)
    assert (model.vocab, model.positions, model.tied) == (2, 100, False)
    rates = [o.lr for o in (s.teacher_optimizer, s.student_optimizer)]
    assert [r.peak for r in rates] == [3e-4, 1e-4]
    # 6% of 8M steps: half way up when 8M samples are over.
    assert {r.warmup for r in rates} == {480_000 * 32}
    assert s.budget.limit == s.budget.least == 8_000_000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda: {"teacher": st.Heads(0)}, r"network\.heads"),
        (lambda: {"student": st.Heads(1, head_dim=0)}, r"network\.head_dim"),
        (lambda: {"teacher": st.Heads(1, layers=0)}, r"network\.layers"),
        (lambda: {"teacher": st.Heads(1, dropout=1.0)}, r"model\.dropout"),
        (lambda: {"budget": st.UntilLearned(least=-1)}, r"budget\.least"),
        (lambda: {"batch": 48}, "eval_every"),
        (lambda: {"eval_points": 0}, "eval_points"),
    ],
)
def test_bad_settings_are_refused_by_field(change, field):
    with pytest.raises(ConfigError, match=field):
        replace(STUDY, setting=replace(TINY, **change()))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(root):
    return STUDY.run(root=root, progress=Silent())


@pytest.mark.slow
def test_every_student_has_a_run_that_ends_when_it_learned(result):
    assert list(result.strategies) == NAMES
    assert np.isfinite(result.n90.teacher.values).all()
    for t, group in zip(result.teachers, result.students, strict=True):
        cap = int(t.caps()[0])
        assert cap >= max(6 * t.n90[0], TINY.budget.least)
        for name, student in zip(NAMES, group, strict=True):
            assert student.spec.stop.max_samples == PerSeed((cap,))
            y = student.metrics.curves(name)[0]
            assert (y[:-1] < 0.95).all()
            assert y[-1] >= 0.95 or student.outcome["samples"] == cap
        # The students of a seed start as one, and see the same inputs.
        first = [r.metrics.curves(n)[0, 0] for n, r in zip(NAMES, group, strict=True)]
        assert len(set(first)) == 1


@pytest.mark.slow
def test_claims_figure_and_result_file(result):
    report = STUDY.report(result)
    report.write(quiet=True)
    data = json.loads((report.folder / "claims.json").read_text())
    assert [c["id"] for c in data["claims"]] == ["P4.pace", "P4.ce", "P4.one_shot"]
    assert {c["scale"] for c in data["claims"]} == {"any"}
    assert data["config"]["setting"]["batch"] == 32
    n90 = result.n90
    pace = np.median(n90["progressive"].values / n90.teacher.values)
    assert data["claims"][0]["obtained"] == pytest.approx(pace)
    assert len(data["runs"]) == 2 * (1 + 4)


@pytest.mark.slow
def test_a_teacher_that_never_learns_is_counted_and_enters_no_ratio(root):
    budget = st.UntilLearned(limit=256, least=2048)
    study = replace(STUDY, setting=replace(TINY, budget=budget, n_teachers=1))
    report = study.report(study.run(root=root, progress=Silent()))
    assert "0 of 1 teachers learned" in report.title()
    assert [c.point for c in report.claims] == [None] * 3
    assert "not at .90" in report.figure.get_supxlabel()
