"""The PCFG studies from nothing to figures and claims, at the smallest size."""

from dataclasses import replace

import numpy as np
import pytest

from experiments import (
    pcfg_accuracy,
    pcfg_autoregressive,
    pcfg_curriculum,
    pcfg_nonterminals,
)
from experiments.pcfg_setting import PRESETS, Setting
from paper_repro import pcfg_accuracy as accuracy_claims
from paper_repro import pcfg_curriculum as curriculum_claims
from paper_repro import pcfg_nonterminals as nonterminal_claims
from sandbox.errors import ConfigError
from sandbox.plotting.style import save

TINY = Setting(
    start=("10", "11", "12"),
    layers=1,
    teacher_heads=2,
    student_heads=1,
    teacher_steps=40,
    student_steps=40,
    batch=32,
    micro=32,
    lr=1e-2,
    spacing=10,
    progressive_every=10,
    progressive_speed=1.0,
    hold=10,
    n_seeds=2,
    eval_points=64,
    probe_strings=16,
    probe_places=2,
    probe_every=20,
    windows=(2, 3),
)
ACCURACY = pcfg_accuracy.Config(setting=TINY, taus=(1.0,))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def accuracy(root):
    return pcfg_accuracy.run(ACCURACY, root=root)


@pytest.fixture(scope="module")
def curriculum(root):
    config = pcfg_curriculum.Config(setting=TINY, candidates=(10, 20))
    return pcfg_curriculum.run(config, root=root)


@pytest.mark.slow
def test_accuracy_learns_draws_and_claims(accuracy, tmp_path):
    for t in accuracy.teachers:
        assert t.loss[-1] < t.loss[0]
        assert t.steps.tolist() == [0, 10, 20, 30, 40]
    y = accuracy.accuracy("ce")
    assert y.shape == (2, 5) and np.isfinite(y).all()
    assert not np.array_equal(y, accuracy.accuracy("one_shot"))
    assert save(pcfg_accuracy.draw(accuracy), tmp_path / "f")[0].stat().st_size > 10_000
    claims = {c.id: c for c in accuracy_claims.claims(accuracy)}
    gap = accuracy.accuracy("one_shot")[:, -1] - y[:, -1]
    assert claims["G1.one_shot_ce.end"].obtained == pytest.approx(np.median(gap))
    assert claims["G1.one_shot_ce.half"].seeds == {"teachers": 2, "students": 2}
    assert len(claims) == 6


@pytest.mark.slow
def test_curriculum_shares_teachers_draws_and_claims(accuracy, curriculum, tmp_path):
    theirs = [t.run.folder.path for t in curriculum.teachers]
    assert theirs == [t.run.folder.path for t in accuracy.teachers]
    assert curriculum.probed[0].steps.tolist() == [0, 20, 40]
    assert curriculum.by_candidate(0.5).shape == (2, 2)
    fig = pcfg_curriculum.draw(curriculum)
    assert save(fig, tmp_path / "f")[0].stat().st_size > 10_000
    ids = [c.id for c in curriculum_claims.phases(curriculum)]
    ids += [c.id for c in curriculum_claims.ngrams(curriculum, fall=0.5)]
    ids += [c.id for c in curriculum_claims.students(curriculum, 0.5)]
    assert ids[:4] == ["G2", "G2.plateau", "G3.peak", "G3.fall"] and "G4.rule" in ids
    y = curriculum.curve("m_robust/3/median")
    fall = curriculum_claims.ngrams(curriculum, fall=0.5)[1]
    assert fall.obtained == pytest.approx(np.median(y[:, -1] / y.max(1)), abs=1e-6)


@pytest.mark.slow
def test_nonterminals_are_probed_in_teachers_and_students(accuracy, root, tmp_path):
    config = pcfg_nonterminals.Config(
        accuracy=ACCURACY, probed=(10, 40), train=64, test=64, epochs=1, heads=1
    )
    result = pcfg_nonterminals.run(config, root=root)
    assert result.along["attention/nonterminal"].shape == (2, 2, 2)
    assert set(result.students) == {"ce", "one_shot", "progressive", "two_shot"}
    assert result.runs[0].folder.path == accuracy.students[0].folder.path
    fig = pcfg_nonterminals.draw(result)
    assert save(fig, tmp_path / "f")[0].stat().st_size > 10_000
    assert nonterminal_claims.students(result).id == "G5.students"


@pytest.mark.slow
def test_other_settings_run(root, tmp_path):
    config = pcfg_autoregressive._parts(TINY, level=1)
    result = pcfg_autoregressive.run(config, root=root)
    assert set(result.parts) == {"autoregressive", "grammar", "rate"}
    fig = pcfg_autoregressive.draw(result)
    assert save(fig, tmp_path / "f")[0].stat().st_size > 10_000


@pytest.mark.parametrize("preset", PRESETS)
def test_every_study_builds_its_presets(preset):
    for study in (
        pcfg_accuracy,
        pcfg_curriculum,
        pcfg_nonterminals,
        pcfg_autoregressive,
    ):
        assert study.PRESETS[preset]() == study.PRESETS[preset]()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grammar": "cfg3z"}, "no grammar"),
        ({"start": ("99",)}, "start symbol 99"),
        ({"hold": 7}, "setting.hold = 7 must be"),
        ({"teacher_steps": 0}, "setting.teacher_steps"),
        ({"rate": 0.0}, "task.rate"),
        ({"level": 9, "task": "next_token"}, "task.level"),
        ({"teacher_heads": 0}, "model.heads"),
        ({"lr": -1.0}, "lr"),
    ],
)
def test_bad_settings_are_refused_before_training(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)
