"""The PCFG studies from nothing to figures and claims, at the smallest size."""

import json
from dataclasses import replace

import numpy as np
import pytest

import sandbox.study as st
from experiments.pcfg_accuracy import PcfgAccuracy, differences
from experiments.pcfg_autoregressive import PcfgAutoregressive, _parts
from experiments.pcfg_curriculum import PcfgCurriculum, best_for_others, drop
from experiments.pcfg_nonterminals import PcfgNonterminals
from sandbox.errors import ConfigError, SandboxError

OPTIMIZER = st.CosineAdam(peak=1e-2)
TINY = st.Setting(
    task=st.Strings(start=("10", "11", "12")),
    teacher=st.Heads(2, layers=1),
    student=st.Heads(1, layers=1),
    teacher_optimizer=OPTIMIZER,
    student_optimizer=OPTIMIZER,
    budget=st.Fixed(teacher=40, student=40),
    rule=st.ByDrop(),
    unit="steps",
    n_teachers=2,
    group=1,
    spacing=10,
    student_every=10,
    hold=10,
    batch=32,
    micro=32,
    eval_points=64,
)
NGRAMS = st.Ngrams(steps=(20,), strings=16, places=2, windows=(2, 3))
ACCURACY = PcfgAccuracy(setting=TINY, taus=(1.0,), every=10)
CURRICULUM = PcfgCurriculum(setting=TINY, ngrams=NGRAMS, candidates=(10, 20))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def accuracy(root):
    return ACCURACY.run(root=root)


@pytest.fixture(scope="module")
def curriculum(root):
    return CURRICULUM.run(root=root)


def written(study, r):
    """The claims of a study's report by id, and its facts, read back from its files."""
    report = study.report(r)
    report.write(quiet=True)
    assert (report.folder / "figure.png").stat().st_size > 10_000
    data = json.loads((report.folder / "claims.json").read_text())
    return {c["id"]: c for c in data["claims"]}, data


@pytest.mark.slow
def test_accuracy_learns_draws_and_claims(accuracy):
    for t in accuracy.teachers:
        loss = t.run.metrics.curves("teacher", "loss")[0]
        assert loss[-1] < loss[0]
        assert (t.steps / TINY.batch).tolist() == [0, 10, 20, 30, 40]
    ((_, y), _) = accuracy.curves("ce")
    assert y.shape == (1, 1, 5) and np.isfinite(y).all()
    assert not np.array_equal(y, accuracy.curves("one_shot")[0][1])
    claims, _ = written(ACCURACY, accuracy)
    gap = accuracy.at("one_shot").values - accuracy.at("ce").values
    assert claims["G1.one_shot_ce.end"]["obtained"] == pytest.approx(np.median(gap))
    assert all(claims["G1.one_shot_ce.half"][n] == 2 for n in ("teachers", "students"))
    assert len(claims) == 7


@pytest.mark.slow
def test_curriculum_shares_teachers_draws_and_claims(accuracy, curriculum):
    theirs = [t.run.folder.path for t in curriculum.teachers]
    assert theirs == [t.run.folder.path for t in accuracy.teachers]
    assert curriculum.measured.ngrams.steps.tolist() == [0, 20, 40]
    assert CURRICULUM.by_candidate(curriculum, 0.5).shape == (2, 2)
    claims, data = written(CURRICULUM, curriculum)
    assert list(claims)[:4] == ["G2", "G2.plateau", "G2.flat", "G3.peak"]
    assert "G4.rule" in claims and claims["G2"]["teachers"] == 2
    y = curriculum.measured.ngrams.m_robust(3)
    assert claims["G3.fall"]["obtained"] == pytest.approx(
        np.median(y[:, -1] / y.max(1))
    )
    located = [t.chosen.each[0].steepest / TINY.batch for t in curriculum.teachers]
    assert drop(curriculum, "steepest").tolist() == located
    peaks = data["measured"]["m_robust"]["3"]["peak_step"]
    assert peaks == [20 * int(row.argmax()) for row in y]
    whole = CURRICULUM.paper_claims(replace(curriculum, preset="paper"))
    assert {c.id: c.rule for c in whole}["G3.fall"].endswith("<= 0.1")


@pytest.mark.slow
def test_a_teacher_that_did_not_learn_is_left_out(curriculum, root):
    fell = [
        float(np.ptp(t.run.metrics.curves("teacher", "loss")))
        for t in curriculum.teachers
    ]
    rule = st.ByDrop(least=sum(fell) / 2)
    study = replace(CURRICULUM, setting=replace(TINY, rule=rule))
    claims, data = written(study, study.run(root=root))
    (lost,) = data["left_out"]
    assert lost.startswith(f"seed {int(np.argmin(fell))}: teacher's loss fell by")
    assert claims["G3.fall"]["teachers"] == 1
    assert claims["G4.place"]["point"] in (True, False)
    assert claims["G4.others"]["point"] is None  # there are no others
    none = replace(CURRICULUM, setting=replace(TINY, rule=st.ByDrop(least=1e3)))
    with pytest.raises(SandboxError, match=r"no teacher learned \(seed 0: .* by "):
        none.run(root=root)


def test_the_best_for_others_is_chosen_without_looking():
    y = np.asarray([[0.1, 0.9], [0.8, 0.2], [0.7, np.nan]])
    assert best_for_others(y).tolist() == [0.1, 0.2, pytest.approx(np.nan, nan_ok=True)]
    assert np.isnan(best_for_others(y[:1])).all()


@pytest.mark.slow
def test_nonterminals_are_probed_in_teachers_and_students(accuracy, root):
    sizes = {"train": 64, "test": 64, "epochs": 1, "heads": 1}
    study = PcfgNonterminals(accuracy=ACCURACY, ngrams=NGRAMS, probed=(10, 40), **sizes)
    r = study.run(root=root)
    assert r.measured.along["attention/nonterminal"].shape == (2, 2, 2)
    assert set(r.measured.students) == {"ce", "one_shot", "progressive", "two_shot"}
    assert r.students[0][0].folder.path == accuracy.students[0][0].folder.path
    claims, _ = written(study, r)
    assert all(claims["G5.students"][n] == 2 for n in ("teachers", "students"))
    assert set(claims) == {
        f"G5.{n}"
        for n in ("ngrams", "levels", "levels_gain", "levels_learned", "students")
    }
    assert claims["G5.levels_learned"]["point"] is None  # two levels are no order


@pytest.mark.slow
def test_other_settings_run(root):
    study = PcfgAutoregressive(**_parts(TINY), every=10)
    r = study.run(root=root)
    assert set(r.parts) == {"autoregressive", "grammar", "rate"}
    pace = {n: p.strategies["progressive"].source for n, p in r.parts.items()}
    assert [p.speed for p in pace.values()] == [2.0, 1.0, 1.0]
    assert [p.every for p in pace.values()] == [640, 320, 320]
    claims, data = written(study, r)
    ours = differences(r.parts["rate"], (1.0,), "G6.rate")
    assert {c.id for c in ours} < set(claims) and len(claims) == 18
    assert data["ceiling"].pop("autoregressive") is None
    assert all(0.5 < v < 1 for v in data["ceiling"].values())


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_every_study_builds_its_presets(preset):
    for study in (PcfgAccuracy, PcfgCurriculum, PcfgNonterminals, PcfgAutoregressive):
        assert study.preset(preset) == study.preset(preset)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.Strings(grammar="cfg3z"), "no grammar"),
        (lambda: st.Strings(start=("99",)), "start symbol 99"),
        (lambda: st.Strings(rate=0.0), "task.rate"),
        (lambda: st.Strings(predict="next", level=9), "task.level"),
        (lambda: st.Fixed(teacher=0), "budget.teacher"),
        (lambda: st.Heads(0), "network.heads"),
        (lambda: st.CosineAdam(peak=-1.0), "optimizer.peak"),
        (lambda: replace(TINY, hold=40), "setting.hold = 40 must be"),
    ],
)
def test_bad_settings_are_refused_before_training(make, message):
    with pytest.raises(ConfigError, match=message):
        replace(TINY, task=made) if isinstance(made := make(), st.Strings) else made


@pytest.mark.parametrize(
    ("study", "changes", "message"),
    [
        (
            CURRICULUM,
            {"candidates": (20, 10)},
            "candidates must hold 2 or more entries that increase",
        ),
        (CURRICULUM, {"candidates": (10, 15)}, "checkpoint 480"),
        (CURRICULUM, {"ngrams": st.Ngrams(steps=(25,))}, r"got \(25,\)"),
        (CURRICULUM, {"ngrams": replace(NGRAMS, windows=(2,))}, "must hold 3"),
        (
            CURRICULUM,
            {"setting": replace(TINY, task=st.Strings(predict="next"))},
            "setting.task must be masked: the n-gram probe masks tokens",
        ),
        (PcfgNonterminals(), {"probed": (25, 300)}, "probed must be multiples"),
        (PcfgNonterminals(), {"train": 100}, "must divide probe.train = 100"),
        (PcfgAutoregressive(), {"autoregressive": TINY}, "must predict next"),
        (PcfgAutoregressive(), {"speed": 0.5}, "speed = 0.5 must be at least 1"),
    ],
)
def test_bad_studies_are_refused_before_training(study, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(study, **changes)


def test_windows_of_a_probe_are_increasing():
    with pytest.raises(ConfigError, match="windows must hold 1 or more entries"):
        st.Ngrams(windows=(3, 2))


@pytest.mark.usefixtures("no_shapes")
@pytest.mark.parametrize("windows", [3, None, (1, "a"), ((1, 2),)])
def test_windows_that_are_no_numbers_are_told(windows):
    with pytest.raises(ConfigError, match="windows must be a tuple of whole numbers"):
        st.Ngrams(windows=windows)
