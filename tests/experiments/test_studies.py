"""The studies end to end on tiny overrides, down to figure, claims and result file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sandbox.study as st
from experiments.parity_curriculum import LABELS, ParityCurriculum
from experiments.parity_mlp import ParityMLP
from sandbox.distill.sources import Final, NShot, PerSeed
from sandbox.distill.strategy import Loss, Strategy
from sandbox.errors import ConfigError
from sandbox.store.config import digest
from sandbox.study.result import student_curves
from sandbox.tasks.parity import FirstSupport, Parity, RandomSupport
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.run import identity
from sandbox.train.spec import Stop
from sandbox.train.teaching import task_key
from tests.plotting.drawn import faults

BUDGET = st.UntilLearned(limit=10_240)
TINY = st.Setting(
    task=Parity(d=10, k=3, support=RandomSupport()),
    teacher=st.TwoLayer(128),
    student=st.TwoLayer(16),
    teacher_optimizer=SGD(lr=LearningRate(peak=0.02)),
    budget=BUDGET,
    rule=st.ByGap(points=2_048, claim_points=4_096, degrees=(1, 2)),
    n_teachers=2,
    group=2,
    spacing=256,
    student_every=256,
)
MLP = ParityMLP(setting=TINY)
CURRICULUM = ParityCurriculum(setting=TINY, candidates=tuple(LABELS))
RESULTS = Path(__file__).parents[2] / "paper_repro" / "results"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def mlp(root):
    return MLP.run(root=root, progress=Silent())


@pytest.fixture(scope="module")
def curriculum(root, mlp):
    del mlp  # trained first, so that the teachers are shared
    return CURRICULUM.run(root=root, progress=Silent())


def test_teachers_learn_and_are_shared(root, mlp, curriculum):
    assert np.isfinite(mlp.n90.teacher.values).all()
    assert mlp.teachers[0].run.folder == curriculum.teachers[0].run.folder
    assert len(list((root / "teacher").iterdir())) == 1


def test_each_seed_has_its_own_support():
    supports = [TINY.task.supports(task_key(s)).tolist() for s in range(4)]
    assert len({str(s) for s in supports}) > 1


def test_candidates_lie_in_the_trajectory_and_in_order(curriculum):
    t = curriculum.teachers[0]
    for c in t.chosen.each:
        assert c.final in t.run.trajectory.steps
        assert c.before is None or c.before < c.middle < c.final


def test_second_run_trains_nothing(root, mlp):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")}
    MLP.run(root=root, progress=Silent())
    assert {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")} == before


def test_figures_draw_what_is_stored(mlp, curriculum):
    fig = MLP.draw(mlp)
    assert faults(fig) == []
    left = fig.axes[0]
    lines = {line.get_label(): line for line in left.get_lines()}
    assert {"teacher", "CE (labels)", "one-shot, τ = 1", "progressive, τ = 1"} <= set(
        lines
    )
    curve = lines["progressive, τ = 1"]
    ((steps, rows),), n90 = mlp.curves("progressive"), mlp.n90.teacher.values[:, 0]
    y = [np.interp(1.0, steps / n, row) for n, (row,) in zip(n90, rows, strict=True)]
    at_one = np.interp(1.0, curve.get_xdata(), curve.get_ydata())
    assert at_one == pytest.approx(np.median(y), abs=0.03)
    figure = CURRICULUM.draw(curriculum)
    assert faults(figure) == []
    teacher, spike, students = figure.axes
    assert "n90" in teacher.get_xlabel() and spike.get_ylabel()
    assert len(students.get_lines()) >= 1
    assert "teacher" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_fresh_inputs_measure_every_candidate(curriculum):
    inside, outside = curriculum.measured["middle"]
    assert inside.shape == outside.shape == (2,) and (inside > outside).all()
    t = curriculum.teachers[0]
    chosen = t.chosen.measured["inside"][0][t.steps == t.chosen.each[0].middle]
    assert inside[0] != chosen[0] and inside[0] == pytest.approx(chosen[0], rel=0.3)


def test_claims_and_result_file(mlp, curriculum, capsys):
    p5 = {"P5.middle", "P5.final", "P5.before", "P5.before_last"}
    p6 = {"P6.middle", "P6.before", "P6.after", "P6.blind", "P6.half_rise"}
    rows = (
        (MLP, mlp, {"P1", "P2", "P3.ce", "P3.one_shot"}),
        (CURRICULUM, curriculum, p5 | p6),
    )
    for study, result, ids in rows:
        report = study.report(result)
        report.write()
        data = json.loads((report.folder / "claims.json").read_text())
        assert {c["id"] for c in data["claims"]} == ids
        assert data["wall_seconds"] > 0 and data["hardware"]["cores"] >= 1
        assert data["config"]["tau"] == 1.0 and data["versions"]["jax"]
        assert (report.folder / "figure.png").stat().st_size > 10_000
    assert "P6.blind" in capsys.readouterr().out


def test_shares_of_the_middle_teach_too(root, curriculum):
    study = replace(CURRICULUM, candidates=("middle",), shares=(0.5,))
    r = study.run(root=root, progress=Silent())
    (t,) = r.teachers
    (middle,), half = t.chosen.stages["middle"], t.near(0.5)
    for m, near in zip(middle, half.values, strict=True):
        assert near % t.spacing == 0 and abs(near - m / 2) <= t.spacing / 2
    assert r.strategies["share_0.5"].source.steps == (half,)
    assert np.isfinite(r.measured["share_0.5"]).all()
    assert {c.id for c in study.paper_claims(r)} >= {"P5.share_0.5", "P6.share_0.5"}
    assert len(study.draw(r).axes[2].get_lines()) == 2
    finer = replace(t, spec=replace(t.spec, checkpoints_at=(32,)))
    assert finer.near(0.001).values == (32,) * len(middle)
    assert t.near(100.0).values == t.chosen.stages["final"][0]


def test_paper_rules_evaluate_on_any_result(root, mlp):
    assert {c.id for c in MLP.paper_claims(mlp)} == {"P1", "P2", "P3.ce", "P3.one_shot"}
    capped = replace(CURRICULUM, student_samples=2_048)
    result = capped.run(root=root, progress=Silent())
    (run,) = result.runs("before")
    assert run.spec.stop.max_samples == PerSeed((2_048, 2_048))
    claims = {c.id: c for c in capped.paper_claims(result)}
    assert claims["P6.middle"].point in (True, False)
    last = student_curves(run, "before")[:, 0, -1]
    assert claims["P6.before"].obtained == pytest.approx(np.median(last))
    capped.draw(replace(result, preset="paper"))


def test_a_teacher_that_never_learns_is_counted_and_enters_no_ratio(root):
    stuck = replace(TINY, budget=st.UntilLearned(limit=512))
    for study in (replace(MLP, setting=stuck), replace(CURRICULUM, setting=stuck)):
        result = study.run(root=root, progress=Silent())
        report = study.report(result)
        assert "0 of 2 teachers learned" in report.title()
        assert report.claims and all(c.point is None for c in report.claims)


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_presets_are_valid(preset):
    for study in (ParityMLP, ParityCurriculum):
        specs = study.preset(preset).setting.teacher_specs()
        assert {spec.engine_used for spec in specs} == {"online_sgd"}
        assert all(spec.segment >= 256 for spec in specs)


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_records_are_what_they_were(scale):
    """No hash has moved: the committed results' teachers."""
    runs = json.loads((RESULTS / f"parity_mlp.{scale}.json").read_text())["runs"]
    names = [r if isinstance(r, str) else r["run"] for r in runs]
    stored = {name for name in names if name.startswith("teacher/")}
    specs = ParityMLP.preset(scale).setting.teacher_specs()
    ours = [identity(spec) | {"platform": p} for spec in specs for p in ("cpu", "gpu")]
    assert stored <= {f"teacher/{digest(i)}" for i in ours} and stored


def test_the_last_group_may_have_fewer_seeds_and_the_same_programs():
    for n, sizes in ((1, [1]), (5, [5]), (7, [5, 2]), (10, [5, 5])):
        specs = replace(TINY, n_teachers=n, group=5).teacher_specs()
        assert [s.n_seeds for s in specs] == sizes
        assert {s.shape for s in specs} == {(5, 1)}
        assert [s.padded for s in specs] == [(5, 1) if k < 5 else () for k in sizes]


def test_paper_preset_has_the_published_numbers():
    s = ParityMLP.preset("paper").setting
    assert (s.task.d, s.task.k, s.task.support) == (100, 6, FirstSupport())
    assert (s.teacher.width, s.student.width, s.spacing) == (50_000, 100, 100_000)
    assert s.teacher_optimizer.lr.peak in (0.005, 0.01)
    assert s.hold == 1_000_000
    assert ParityCurriculum.preset("paper").student_samples == 2_000_000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda: {"group": 0}, r"setting\.group"),
        (lambda: {"n_teachers": 0}, r"setting\.n_teachers"),
        (
            lambda: {
                "spacing": 100,
                "student_every": 100,
                "budget": replace(BUDGET, limit=10_000),
            },
            "eval_every",
        ),
        (lambda: {"student_every": 100}, r"setting\.spacing"),
        (lambda: {"student_every": 0}, r"setting\.student_every"),
        (lambda: {"budget": replace(BUDGET, hold_fraction=0.0)}, "hold_fraction"),
        (lambda: {"budget": replace(BUDGET, cap=0.0)}, r"budget\.cap"),
        (lambda: {"budget": replace(BUDGET, limit=0)}, r"budget\.limit"),
        (lambda: {"budget": replace(BUDGET, limit=300)}, r"budget\.limit"),
        (lambda: {"budget": replace(BUDGET, factor=2.0)}, r"budget\.factor"),
        (lambda: {"student": st.TwoLayer(0)}, r"network\.width"),
        (lambda: {"rule": st.ByGap(degrees=(40,))}, r"rule\.degrees"),
        (lambda: {"rule": st.ByGap(degrees=(2,))}, r"rule\.degrees"),
        (lambda: {"rule": st.ByGap(points=1)}, r"rule\.points"),
    ],
)
def test_bad_settings_are_refused_by_field(change, field):
    with pytest.raises(ConfigError, match=field):
        ParityMLP(setting=replace(TINY, **change()))


@pytest.mark.parametrize(
    ("study", "change", "field"),
    [
        (MLP, {"tau": -1.0}, "tau"),
        (MLP, {"progressive_cap": -1.0}, "progressive_cap"),
        (MLP, {"progressive_cap": 7.0}, "progressive_cap"),
        (CURRICULUM, {"candidates": ()}, "candidates"),
        (CURRICULUM, {"candidates": ("middle", "final")}, "candidates"),
        (CURRICULUM, {"student_samples": -1}, "student_samples"),
    ],
)
def test_bad_studies_are_refused_by_field(study, change, field):
    with pytest.raises(ConfigError, match=field):
        replace(study, **change)


@pytest.mark.slow
def test_several_students_a_teacher_share_its_run(root, mlp):
    study = ParityMLP(setting=replace(TINY, inits=3), argmax_control=False)
    result = study.run(root=root, progress=Silent())
    ((run,),) = result.students
    assert result.teachers[0].run.folder == mlp.teachers[0].run.folder
    assert len(run.spec.strategies) == 4 * 3
    assert list(result.strategies) == ["ce", "one_shot", "progressive", "two_shot"]
    y = student_curves(run, "ce")
    assert y.shape == (2, 3, len(run.metrics.steps))
    assert not np.array_equal(y[:, 0], y[:, 1])
    # The first student is the one it would have been alone.
    alone = mlp.curves("ce")[0][1][:, 0]
    n = min(alone.shape[-1], 8)
    np.testing.assert_allclose(y[:, 0, :n], alone[:, :n], atol=1e-3)
    claims = {c.id: c for c in study.paper_claims(result)}
    assert (claims["P2"].teachers, claims["P2"].students) == (2, 6)
    assert claims["P1"].students == 0
    said = study.draw(result).get_supxlabel()
    assert "n = 2 teachers x 3 students; lines: medians, bands: ranges" in said


@pytest.mark.long
def test_figures_and_reports_name_what_they_lack(root, mlp, capsys):
    assert mlp.missing() == []
    assert "eft out" not in MLP.draw(mlp).get_supxlabel()
    (teacher,) = mlp.teachers
    (spec,) = teacher.students(MLP.lanes(teacher))
    # One teacher never learned; of the other's students one rule found no checkpoint
    # and one lane is not finite.
    late = replace(
        teacher,
        n90=np.asarray([np.inf, teacher.n90[1]]),
        chosen=teacher.chosen._replace(usable=np.asarray([False, True])),
    )
    nowhere = NShot(steps=(PerSeed((None, None)),), hold=256)
    lanes = (
        Strategy(name="lost", source=nowhere, loss=Loss(scale=1e30)),
        Strategy(name="wild", source=Final(), loss=Loss(scale=1e30)),
        Strategy(name="ce"),
    )
    spec = replace(spec, strategies=lanes, stop=Stop(max_samples=512))
    run = fit(spec, root=root, progress=Silent())
    taught = st.Taught(teachers=[late], students=[(run,)], names=())
    missing = taught.missing()
    assert missing[0] == "seed 0: teacher not at .90 by 10,240 samples"
    assert any(m.startswith("seed 1 / wild: non-finite at ") for m in missing)
    assert "seed 1 / lost: no checkpoint by its rule" in missing
    result = replace(mlp, teachers=[late], students=[(run,)], parts={"": taught})
    report = MLP.report(result)
    said = report.figure.get_supxlabel().replace("\n", " ")
    assert said.endswith(". Left out: " + "; ".join(missing))
    report.write()
    data = json.loads((report.folder / "claims.json").read_text())
    assert data["left_out"] == missing
    printed = capsys.readouterr().out
    assert all(f"left out: {m}" in printed for m in missing)


@pytest.mark.slow
def test_progressive_students_may_have_a_shorter_run_of_their_own(root, mlp):
    study = ParityMLP(
        setting=replace(TINY, budget=replace(BUDGET, cap=2.0)),
        argmax_control=False,
        progressive_cap=1.25,
    )
    result = study.run(root=root, progress=Silent())
    ((rest, pace),) = result.students
    assert list(result.strategies) == ["ce", "one_shot", "two_shot", "progressive"]
    n90 = result.n90.teacher.values[:, 0]
    for run, multiple in ((pace, 1.25), (rest, 2.0)):
        caps = np.asarray(run.spec.stop.max_samples.values)
        assert (caps >= multiple * n90).all() and (caps < multiple * n90 + 256).all()
    # The same student as beside the others, up to its own cap.
    short, whole = (r.curves("progressive")[0][1][:, 0] for r in (result, mlp))
    n = min(short.shape[-1], 8)
    np.testing.assert_allclose(short[:, :n], whole[:, :n], atol=1e-3)
    late = result.n90["progressive"].values
    assert ((late <= 1.25 * n90[:, None] + 256) | np.isinf(late)).all()
    study.draw(result)
