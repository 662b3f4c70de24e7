"""Tree labels: a tiny study end to end, the order of its nodes, and its presets."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import sandbox.study as st
from experiments.parity_hierarchy import (
    ParityHierarchy,
    orders,
    ratios,
    root_down,
    root_first,
)
from sandbox.errors import ConfigError
from sandbox.probes.nodes import groups_of
from sandbox.study.teachers import Teachers
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import Parity
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from tests.plotting.drawn import faults

TINY = st.Setting(
    task=Hierarchy(d=8, depth=2, feature_complexity=2),
    teacher=st.TwoLayer(128),
    student=st.TwoLayer(16),
    teacher_optimizer=SGD(lr=LearningRate(peak=0.02)),
    budget=st.UntilLearned(limit=10_240),
    rule=st.ByNode(points=2_048),
    n_teachers=2,
    group=2,
    spacing=256,
    student_every=256,
)

STUDY = ParityHierarchy(setting=TINY)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(root):
    return STUDY.run(root=root, progress=Silent())


def test_order_of_levels_is_scipys():
    times = np.asarray([[1, 2, 3], [2, 1, 3], [3, 2, 1], [1, 1, np.inf], [4, 5, 6.0]])
    each = [stats.spearmanr([0, 1, 1], stats.rankdata(t)).statistic for t in times]
    np.testing.assert_allclose(each[:3], [0.75**0.5, 0, -(0.75**0.5)], atol=1e-12)
    assert root_down(times).value == pytest.approx(np.median(each))
    assert root_first(times) == 2  # a tie with the root is not before it
    tied = root_down(np.full((3, 3), np.inf))
    assert tied.value == 0


@pytest.mark.slow
def test_every_schedule_is_there_and_teaches_in_order(result):
    lanes = result.strategies
    hard = ["progressive", "two_shot", "by_level", "by_node", "one_shot_hard"]
    assert list(lanes) == ["ce", "one_shot", *hard]
    assert lanes["one_shot"].target.tau == 1
    assert all(lanes[n].target.tau == 0 for n in hard)
    (t,) = result.teachers
    (nodes,) = t.chosen.each
    for name, stages in (("by_level", 2), ("by_node", 3)):
        rows = zip(*[s.values for s in lanes[name].source.steps], strict=True)
        for s, row in enumerate(rows):
            found = nodes.middles(s, groups_of(2)[name], t["final"].values[s])
            assert len(row) == stages
            assert list(row) == (
                sorted(found) if None not in found else [None] * stages
            )
            if None not in row:
                assert set(row) <= set(t.run.trajectory.steps)
                assert max(row) < 3 * t.n90[s]


@pytest.mark.slow
def test_teachers_learn_node_by_node(result):
    (t,) = result.teachers
    (nodes,) = t.chosen.each
    assert t.usable.all() and nodes.accuracy.shape == (2, len(t.steps), 3)
    np.testing.assert_allclose(nodes.accuracy[:, 0], 0.5, atol=0.15)
    # All three right is what the label asks for: errors add up at most.
    assert (nodes.accuracy[:, -1] > 0.9).all()
    assert np.isfinite(nodes.times).all()
    assert (nodes.times < t.n90[:, None] * 1.5).all()
    assert nodes.gap.shape == nodes.accuracy.shape


@pytest.mark.slow
def test_argmax_of_a_perfect_final_teacher_is_the_label(result):
    (t,) = result.teachers
    steps = list(t.steps)
    finals = t["final"].values
    perfect = [t.accuracy[s, steps.index(f)] == 1 for s, f in enumerate(finals)]
    assert any(perfect)
    ce, hard = (result.curves(n)[0][1][:, 0] for n in ("ce", "one_shot_hard"))
    for s in np.flatnonzero(perfect):
        np.testing.assert_array_equal(ce[s], hard[s])


@pytest.mark.slow
def test_report_and_figure(result, capsys):
    report = STUDY.report(result)
    report.write()
    data = json.loads((report.folder / "claims.json").read_text())
    claims = {c["id"]: c for c in data["claims"]}
    assert set(claims) == {"P8.progressive", "P8.ce", "P8.one_shot"}
    n90 = result.n90
    want = np.median(n90["progressive"].values / n90.teacher.values)
    assert claims["P8.progressive"]["obtained"] == pytest.approx(want)
    extra = data["exploratory"]
    assert extra["n90_over_teacher"]["progressive"][0] == pytest.approx(want)
    assert set(extra["order_of_nodes"]) == {"learned", "leaks"}
    assert len(extra["nodes"]) == 2 * 3 and len(data["runs"]) == 2
    assert orders(result)["learned"].shape == (2, 3)
    assert set(ratios(result)) == set(result.strategies)
    assert "exploratory" in capsys.readouterr().out
    students, strips, nodes, leaks = report.figure.axes
    assert faults(report.figure) == []
    labels = {line.get_label() for line in students.get_lines()}
    assert labels >= {
        "teacher",
        "CE (labels)",
        "progressive, argmax",
        "one-shot, τ = 1",
        "4-shot (by node), argmax",
    }
    assert "3-shot" in [t.get_text() for t in strips.get_yticklabels()]
    drawn = {line.get_label() for line in nodes.get_lines()}
    assert {"root", "level 1, first", "level 1, second"} <= drawn
    assert len(leaks.get_lines()) >= 3 + 3


@pytest.mark.slow
def test_second_run_trains_and_measures_nothing(root, result):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")}
    assert len(before) == 4  # teachers, students and two measurements
    STUDY.run(root=root, progress=Silent())
    assert {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")} == before


@pytest.mark.slow
def test_teachers_that_never_learn_enter_nothing(root):
    late = replace(TINY, budget=st.UntilLearned(limit=256))
    study = replace(STUDY, setting=late)
    lost = study.run(root=root, progress=Silent())
    assert [c.point for c in study.claims(lost)] == [None] * 3
    leaks = orders(lost)["leaks"]
    assert leaks.shape == (0, 3) and root_first(leaks) == 0
    report = study.report(lost)
    assert "not at .90" in report.figure.get_supxlabel()
    assert report.facts["exploratory"]["nodes"][0]["leaks_most_at"] is None


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_presets_run_on_the_blocked_engine(preset):
    study = ParityHierarchy.preset(preset)
    assert study.tau == 0 and study.one_shot_tau == 1
    made_up = Teachers.made_up(study.setting)
    (students,) = made_up.students(study.lanes(made_up))
    assert {made_up.spec.engine_used, students.engine_used} == {"online_sgd"}


def test_cpu_and_paper_presets_have_their_numbers():
    s, p = (ParityHierarchy.preset(n).setting for n in ("cpu", "paper"))
    assert (s.task.d, s.task.n_classes, s.task.feature_complexity) == (32, 4, 5)
    assert (s.teacher.width, s.student.width, s.budget.cap) == (1000, 50, 6)
    assert s.n_teachers >= 10
    assert (p.task.d, p.task.n_classes, p.task.feature_complexity) == (100, 8, 5)
    assert (p.teacher.width, p.student.width, p.spacing) == (50_000, 1000, 100_000)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda: {"tau": -1.0}, "tau"),
        (lambda: {"one_shot_tau": -1.0}, "tau"),
        (lambda: {"setting": replace(TINY, task=Parity(d=10, k=3))}, r"setting\.task"),
        (lambda: {"setting": replace(TINY, rule=st.ByGap())}, r"setting\.rule"),
    ],
)
def test_bad_configs_are_refused_by_field(change, field):
    with pytest.raises(ConfigError, match=field):
        replace(STUDY, **change())
