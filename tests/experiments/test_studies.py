"""The studies end to end on tiny overrides, down to figure, claims and result file."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments import parity_curriculum, parity_mlp
from experiments.parity_missing import missing_runs
from experiments.parity_setting import Setting, cpu, paper, smoke
from experiments.parity_teachers import student_curves
from paper_repro import parity_curriculum as curriculum_claims
from paper_repro import parity_mlp as mlp_claims
from paper_repro.parity_report import ParityReport, count_teachers
from sandbox.distill.sources import Final, NShot, PerSeed
from sandbox.distill.strategy import Loss, Strategy
from sandbox.errors import ConfigError
from sandbox.tasks.parity import FirstSupport, Parity, RandomSupport
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.spec import Stop

TINY = Setting(
    task=Parity(d=10, k=3, support=RandomSupport()),
    teacher_width=128,
    student_width=16,
    teacher_optimizer=SGD(lr=LearningRate(peak=0.02)),
    n_teachers=2,
    group=2,
    spacing=256,
    student_eval_every=256,
    teacher_limit=10_240,
    choice_points=2_048,
    claim_points=4_096,
    degrees=(1, 2),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def mlp(root):
    return parity_mlp.run(parity_mlp.Config(setting=TINY), root=root, progress=Silent())


@pytest.fixture(scope="module")
def curriculum(root, mlp):
    del mlp  # trained first, so that the teachers are shared
    names = parity_curriculum.PAPER_CANDIDATES
    config = parity_curriculum.Config(setting=TINY, candidates=names)
    return parity_curriculum.run(config, root=root, progress=Silent())


def test_teachers_learn_and_are_shared(root, mlp, curriculum):
    assert np.isfinite(mlp.n90_teacher).all()
    assert mlp.teachers[0].run.folder == curriculum.teachers[0].run.folder
    assert len(list((root / "teacher").iterdir())) == 1


def test_each_seed_has_its_own_support(mlp):
    from sandbox.train.teaching import task_key

    supports = [TINY.task.supports(task_key(s)).tolist() for s in range(4)]
    assert len({str(s) for s in supports}) > 1


def test_candidates_lie_in_the_trajectory_and_in_order(curriculum):
    t = curriculum.teachers[0]
    for c in t.chosen:
        assert c.final in t.run.trajectory.steps
        assert c.before is None or c.before < c.middle < c.final


def test_second_run_trains_nothing(root, mlp):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")}
    parity_mlp.run(parity_mlp.Config(setting=TINY), root=root, progress=Silent())
    assert {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")} == before


def test_figures_draw_what_is_stored(mlp, curriculum):
    left = parity_mlp.draw(mlp).axes[0]
    lines = {line.get_label(): line for line in left.get_lines()}
    assert {"teacher", "CE (labels)", "one-shot, τ = 1", "progressive"} <= set(lines)
    curve = lines["progressive"]
    rows = mlp.runs("progressive")[0].metrics.curves("progressive")
    y = [
        np.interp(1.0, mlp.runs("progressive")[0].metrics.steps / n, row)
        for n, row in zip(mlp.n90_teacher, rows, strict=True)
    ]
    at_one = np.interp(1.0, curve.get_xdata(), curve.get_ydata())
    assert at_one == pytest.approx(np.median(y), abs=0.03)
    teacher, spike, students = parity_curriculum.draw(curriculum).axes
    assert "n90" in teacher.get_xlabel() and spike.get_ylabel()
    assert len(students.get_lines()) >= 1


def test_claims_and_result_file(tmp_path, mlp, curriculum, capsys):
    rows = [
        (mlp, parity_mlp.draw(mlp), mlp_claims.cpu_claims(mlp)),
        (
            curriculum,
            parity_curriculum.draw(curriculum),
            curriculum_claims.correlations(curriculum)
            + curriculum_claims.cpu_students(curriculum),
        ),
    ]
    expected = (
        {"P1", "P2", "P3.ce", "P3.one_shot"},
        {"P5.middle", "P5.final", "P5.before", "P5.before_last", "P6.middle",
         "P6.before", "P6.after", "P6.blind"},
    )  # fmt: skip
    for (result, figure, claims), ids in zip(rows, expected, strict=True):
        report = ParityReport(
            study="x",
            scale="tiny",
            config=result.config,
            figure=figure,
            claims=claims,
            teachers=result.teachers,
            students=result.students,
            probe_seconds=1.0,
        )
        report.publish(figures=tmp_path, results=tmp_path)
        data = json.loads((tmp_path / "x.tiny.json").read_text())
        assert {c["id"] for c in data["claims"]} == ids
        assert data["wall_seconds"] > 0 and data["hardware"]["cores"] >= 1
        assert data["config"]["tau"] == 1.0 and data["versions"]["jax"]
        assert (tmp_path / "tiny" / "x.png").stat().st_size > 10_000
    assert "P6.blind" in capsys.readouterr().out


def test_paper_rules_evaluate_on_any_result(mlp, curriculum):
    assert {c.id for c in mlp_claims.paper_claims(mlp)} >= {"P1", "P2", "P3.ce"}
    capped = replace(
        curriculum, config=replace(curriculum.config, student_samples=2_048)
    )
    rows = {c.id: c for c in curriculum_claims.paper_students(capped)}
    assert rows["P6.middle"].holds in (True, False, None)


def test_a_teacher_that_never_learns_is_counted_and_enters_no_ratio(root):
    stuck = replace(TINY, teacher_limit=512)
    result = parity_mlp.run(
        parity_mlp.Config(setting=stuck), root=root, progress=Silent()
    )
    counts = count_teachers(result.teachers)
    assert (counts["trained"], counts["learned"]) == (2, 0)
    claims = mlp_claims.cpu_claims(result)
    assert [c.holds for c in claims] == [None] * len(claims)
    parity_mlp.draw(result)
    config = parity_curriculum.Config(setting=stuck)
    nothing = parity_curriculum.run(config, root=root, progress=Silent())
    parity_curriculum.draw(nothing)
    claims = curriculum_claims.cpu_students(nothing)
    assert [c.holds for c in claims] == [None] * len(claims)


@pytest.mark.parametrize("preset", [smoke, cpu, paper])
def test_presets_are_valid(preset):
    s = preset()
    assert s.teacher_specs()[0].engine_used == "online_sgd"
    assert all(spec.segment >= 256 for spec in s.teacher_specs())


def test_groups_are_the_largest_that_divide_the_seeds():
    sizes = {n: replace(TINY, n_teachers=n, group=5).lanes for n in (1, 3, 5, 6, 7, 10)}
    assert sizes == {1: 1, 3: 3, 5: 5, 6: 3, 7: 1, 10: 5}


def test_paper_preset_has_the_published_numbers():
    s = paper()
    assert (s.task.d, s.task.k, s.task.support) == (100, 6, FirstSupport())
    assert (s.teacher_width, s.student_width, s.spacing) == (50_000, 100, 100_000)
    assert s.teacher_optimizer.lr.peak in (0.005, 0.01)
    assert s.hold_samples == 1_000_000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"group": 0}, "setting.group"),
        ({"n_teachers": 0}, "setting.n_teachers"),
        (
            {"spacing": 100, "student_eval_every": 100, "teacher_limit": 10_000},
            "eval_every",
        ),
        ({"student_eval_every": 100}, "setting.spacing"),
        ({"hold_fraction": 0.0}, "setting.hold_fraction"),
        ({"student_cap": 0.0}, "setting.student_cap"),
        ({"progressive_cap": -1.0}, "setting.progressive_cap"),
        ({"progressive_cap": 7.0}, "setting.progressive_cap"),
        ({"student_width": 0}, "setting.student_width"),
        ({"teacher_width": 0}, "setting.teacher_width"),
        ({"teacher_limit": 0}, "setting.teacher_limit"),
        ({"teacher_limit": 300}, "setting.teacher_limit"),
        ({"student_eval_every": 0}, "setting.student_eval_every"),
        ({"teacher_factor": 2.0}, "setting.teacher_factor"),
        ({"degrees": (40,)}, "setting.degrees"),
        ({"degrees": (2,)}, "setting.degrees"),
        ({"choice_points": 1}, "setting.choice_points"),
    ],
)
def test_bad_settings_are_refused_by_field(change, field):
    with pytest.raises(ConfigError, match=field):
        replace(TINY, **change)


def test_several_students_a_teacher_share_its_run(root, mlp):
    several = replace(TINY, student_inits=3)
    config = parity_mlp.Config(setting=several, argmax_control=False)
    result = parity_mlp.run(config, root=root, progress=Silent())
    run = result.runs("ce")[0]
    assert result.teachers[0].run.folder == mlp.teachers[0].run.folder
    assert len(run.spec.strategies) == 4 * 3
    assert result.names == ["ce", "one_shot", "progressive", "two_shot"]
    y = student_curves(run, "ce")
    assert y.shape == (2, 3, len(run.metrics.steps))
    assert not np.array_equal(y[:, 0], y[:, 1])
    # The first student is the one it would have been alone.
    alone = student_curves(mlp.runs("ce")[0], "ce")[:, 0]
    n = min(alone.shape[-1], 8)
    np.testing.assert_allclose(y[:, 0, :n], alone[:, :n], atol=1e-3)
    claims = {c.id: c for c in mlp_claims.paper_claims(result)}
    assert claims["P2"].seeds == {"teachers": 2, "students": 6}
    assert claims["P1"].seeds["students"] == 0
    assert "2 teachers x 3 students, quartiles" in (
        parity_mlp.draw(result).axes[0].get_title(loc="left")
    )


def test_figures_and_reports_name_what_they_lack(root, mlp, tmp_path, capsys):
    assert missing_runs(mlp.teachers, mlp.students) == []
    assert parity_mlp.draw(mlp).get_supxlabel() == ""
    teacher = mlp.teachers[0]
    spec = teacher.students(parity_mlp.strategies(mlp.config, middle=512, hold=256))
    # One teacher never learned; of the other's students one rule found no checkpoint
    # and one lane is not finite.
    late = replace(teacher, n90=np.asarray([np.inf, teacher.n90[1]]))
    lanes = (
        Strategy(name="lost", source=NShot(steps=(PerSeed((None, None)),), hold=256)),
        Strategy(name="wild", source=Final(), loss=Loss(scale=1e30)),
        Strategy(name="ce"),
    )
    spec = replace(
        spec,
        strategies=(replace(lanes[0], loss=Loss(scale=1e30)), *lanes[1:]),
        stop=Stop(max_samples=512),
    )
    run = fit(spec, root=root, progress=Silent())
    missing = missing_runs([late], [(run,)])
    assert missing[0] == "seed 0: teacher not at .90 by 10,240 samples"
    assert any(m.startswith("seed 1 / wild: non-finite at ") for m in missing)
    assert "seed 1 / lost: no checkpoint by its rule" in missing
    result = replace(mlp, teachers=[late], students=[(run,)])
    figure = parity_mlp.draw(result)
    assert figure.get_supxlabel() == "left out: " + "; ".join(missing)
    report = ParityReport(
        study="x", scale="tiny", config=mlp.config, figure=figure, claims=[],
        teachers=[late], students=[(run,)], probe_seconds=0.0,
    )  # fmt: skip
    report.publish(figures=tmp_path, results=tmp_path)
    assert json.loads((tmp_path / "x.tiny.json").read_text())["left_out"] == missing
    printed = capsys.readouterr().out
    assert all(f"left out: {m}" in printed for m in missing)


@pytest.mark.slow
def test_progressive_students_may_have_a_shorter_run_of_their_own(root, mlp):
    setting = replace(TINY, student_cap=2.0, progressive_cap=1.25)
    config = parity_mlp.Config(setting=setting, argmax_control=False)
    result = parity_mlp.run(config, root=root, progress=Silent())
    assert [len(group) for group in result.students] == [2]
    assert result.names == ["progressive", "ce", "one_shot", "two_shot"]
    pace, rest = result.students[0]
    n90 = result.n90_teacher
    for run, multiple in ((pace, 1.25), (rest, 2.0)):
        caps = np.asarray(run.spec.stop.max_samples.values)
        assert (caps >= multiple * n90).all() and (caps < multiple * n90 + 256).all()
    # The same student as beside the others, up to its own cap.
    short = student_curves(pace, "progressive")[:, 0]
    whole = student_curves(mlp.runs("progressive")[0], "progressive")[:, 0]
    n = min(short.shape[-1], 8)
    np.testing.assert_allclose(short[:, :n], whole[:, :n], atol=1e-3)
    late = result.n_students("progressive")
    assert ((late <= 1.25 * n90[:, None] + 256) | np.isinf(late)).all()
    parity_mlp.draw(result)
