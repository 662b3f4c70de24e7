"""The map of temperature, noise and width, on made-up and on tiny runs."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sandbox.study as st
from experiments.parity_regions import SMOKE, ParityRegions
from sandbox.errors import ConfigError
from sandbox.tasks.parity import Parity
from sandbox.train.progress import Silent

STUDY = ParityRegions(taus=(0.0, 1.0))


def taught(**n90: list[float]) -> Any:
    return SimpleNamespace(
        n90={k: st.Quantity(np.asarray([v]).T, f"n90({k})") for k, v in n90.items()}
    )


def test_the_rival_is_the_faster_one_seed_by_seed():
    inf = np.inf
    p = taught(
        ce=[10.0, inf, inf, 4.0],
        one_shot=[20.0, 30.0, inf, 2.0],
        progressive=[5.0, 10.0, inf, inf],
    )
    assert STUDY.gain(p, "progressive", 1.0).values[:, 0].tolist() == [2.0, 3.0, 1.0, 0]
    assert STUDY.gain(p, "one_shot", 1.0).values[:, 0].tolist() == [0.5, inf, 1.0, 2.0]


def test_settings_vary_noise_of_both_and_width_of_students_alone():
    settings = STUDY.settings
    assert len(settings) == 4
    for eps in (0.0, 0.1):
        pair = [settings[STUDY.named(4, eps, w)] for w in (10, 20)]
        assert pair[0].teacher_specs() == pair[1].teacher_specs()
        assert all(s.made_task.eps == eps for s in pair)
        assert pair[0].student != pair[1].student


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taus": (0.0, 4.0)}, "taus must be distinct and hold 1"),
        ({"noise": (0.1, 0.05)}, "noise must hold 2 or more entries that increase"),
        ({"setting": replace(SMOKE, task=Parity(d=16, k=4))}, "must be a NoisyParity"),
    ],
)
def test_bad_fields_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(STUDY, **changes)


@pytest.mark.slow
def test_a_tiny_map_is_trained_drawn_and_judged(tmp_path):
    task = replace(SMOKE.task, d=10, k=3)  # pyright: ignore[reportCallIssue]
    small = {"spacing": 256, "student_every": 256, "teacher": st.TwoLayer(100)}
    setting = replace(SMOKE, task=task, **small)
    study = ParityRegions(setting=setting, problems=((3, 256),), taus=(0.0, 1.0, 4.0))
    r = study.run(root=tmp_path, progress=Silent())
    report = study.report(r)
    report.write(quiet=True)
    assert [c.id for c in report.claims] == [
        *("M1.progressive", "M2.progressive", "M1.two_shot", "M2.two_shot"),
        *("M3.hot", "M4.argmax"),
    ]
    cells = report.facts["map"]["progressive"]["median_and_interval"]["k=3"]
    assert np.shape(cells) == (4, 3, 3)
    own = r.parts[study.named(3, 0.1, 10)].n90
    rival = np.minimum(own["ce"].values, own["one_shot"].values)
    with np.errstate(invalid="ignore"):
        each = rival / own["progressive"].values
    assert cells[2][1][0] == pytest.approx(np.median(np.where(each == each, each, 1)))
