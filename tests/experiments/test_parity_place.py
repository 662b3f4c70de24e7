"""Students by place and by a rule without labels, on made-up and on tiny runs."""

from dataclasses import replace

import numpy as np
import pytest

import sandbox.study as st
from experiments.parity_place import PLACES, SMOKE, ParityPlace, energy, found
from sandbox.errors import ConfigError
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.progress import Silent

STUDY = ParityPlace()


def test_energy_is_unbiased_and_knows_its_error():
    rng, se = np.random.default_rng(0), 0.01
    true = np.array([0.03, -0.01, 0.0, 0.02])
    draws = true + se * rng.standard_normal((20_000, 4))
    found = np.array([energy(c, np.full(4, se)) for c in draws])
    assert found[:, 0].mean() == pytest.approx((true**2).mean(), rel=0.01)
    exact = np.sqrt((4 * true**2 * se**2 + 2 * se**4).sum()) / 4
    assert found[:, 0].std() == pytest.approx(exact, rel=0.02)


def test_places_teach_at_one_problem_and_rules_at_all():
    for name, setting in STUDY.settings.items():
        lanes = STUDY.lanes(st.Teachers.made_up(setting))
        names = [lane.name for lane in lanes if not isinstance(lane, st.Capped)]
        if name == PLACES:
            assert names == ["share_0.5", "share_0.8", "share_0.951"]
        else:
            assert names == ["middle", "blind", "half_rise"]


def test_bad_fields_are_refused():
    for changes, message in (
        ({"problems": ((16, 4, 100),)}, "problems must hold multiples of 64"),
        ({"degrees": (2, 3)}, "degrees must hold 1"),
        ({"places": replace(SMOKE, rule=st.ByDrop())}, "places.rule must be ByGap"),
        ({"shares": (-0.5, 1.0)}, "shares must be positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(STUDY, **changes)


@pytest.mark.slow
def test_a_tiny_study_is_trained_drawn_and_judged(tmp_path):
    task = Parity(d=10, k=3, support=RandomSupport())
    places = replace(SMOKE, task=task, teacher=st.TwoLayer(100), n_teachers=2)
    study = ParityPlace(places=places, points=2000, problems=((10, 3, 256),))
    r = study.run(root=tmp_path, progress=Silent())
    report = study.report(r)
    report.write(quiet=True)
    assert [c.id for c in report.claims] == [
        *("PL.at.0.5", "PL.at.0.8", "PL.leak.0.8", "PL.at.0.951"),
        *("PL.leak.0.951", "LF.found.10.3", "LF.pace.10.3"),
    ]
    assert r.measured["inside"].shape == (2, 3, 2)
    part = r.parts["d=10, k=3"]
    assert found(part) == report.facts["rules"]["d=10, k=3"]["half_rise"]["found"]
    assert st.learned(part) <= 3
