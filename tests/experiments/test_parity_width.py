"""The study of widths: its rule, its numbers, and a tiny run end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.parity_width import ParityWidth, named
from sandbox.errors import ConfigError
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.progress import Silent
from tests.plotting.drawn import faults

WILD = 1e30
"""A rate at which nothing stays finite."""
TINY = ParityWidth(
    task=Parity(d=8, k=2, support=RandomSupport()),
    widths=(2, 32),
    rates=(0.05, WILD),
    claim_rate=0.05,
    n_seeds=3,
    cap=2048,
    eval_every=128,
)

WIDTHS = (10, 20, 50, 100, 200)


@pytest.fixture
def made(monkeypatch):
    """A study whose n90 are made up."""

    def make(values, cap=1_280_000):
        values = np.asarray(values, float)
        monkeypatch.setattr(ParityWidth, "n90", lambda self, r, rate: values)
        return replace(TINY, widths=WIDTHS, n_seeds=values.shape[1], cap=cap)

    return make


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(root):
    return TINY.run(root=root, progress=Silent())


@pytest.mark.parametrize(
    ("rows", "point"),
    [
        ([[5] * 10, [4] * 10, [3] * 10, [2] * 10, [1] * 10], True),
        ([[5] * 3, [4] * 3, [3] * 3, [1] * 3, [2] * 3], True),  # -.9
        ([[5] * 3, [3] * 3, [4] * 3, [1] * 3, [2] * 3], True),  # -.8
        ([[4] * 3, [5] * 3, [3] * 3, [1] * 3, [1] * 3], True),  # -.87
        ([[3] * 3, [4] * 3, [5] * 3, [2] * 3, [1] * 3], False),  # -.7
        ([[1] * 3, [2] * 3, [3] * 3, [4] * 3, [5] * 3], False),
        # The median falls, but six of ten seeds hold it up: the interval reaches on.
        ([[5] * 10, [4] * 10, [3] * 10, [2] * 10, [1] * 6 + [9] * 4], None),
    ],
)
def test_the_rule(made, rows, point):
    (c,) = made(rows).claims(None)
    few = len(rows[0]) < 5
    assert (c.id, c.point) == ("P7", point is not False)
    assert c.whole is (None if few else point is True)
    assert (c.teachers, c.students) == (len(rows[0]), 0)


@pytest.mark.long
def test_numbers_recover_a_power_law_through_censoring(made):
    rng = np.random.default_rng(1)
    widths = np.asarray(WIDTHS, float)[:, None]
    n90 = 1e6 * widths**-1.0 * np.exp(0.2 * rng.standard_normal((5, 40)))
    cap = 89_984  # of 1e5 at width 10; a multiple of the evaluations'
    found = made(np.where(n90 > cap, np.inf, n90), cap).numbers(None, 0.05)
    p, low, high = found["exponent_in_width"]
    assert low < -1 < high and high - low < 0.2 and p == pytest.approx(-1, abs=0.05)
    first = found["widths"][0]
    assert first["not_by_the_cap"] == (n90[0] > cap).sum() > 20
    assert first["median_n90"] == "inf"
    last = found["widths"][-1]
    assert last["width_x_median_n90"] == 200 * last["median_n90"]


@pytest.mark.slow
def test_n90_is_the_first_evaluation_at_the_level(result):
    for row, m in zip(TINY.n90(result, 0.05), TINY.widths, strict=True):
        metrics = result.plain[named(m, 0.05)].metrics
        for n, curve in zip(row, metrics.columns["accuracy"][:, 0], strict=True):
            reached = metrics.steps[curve >= 0.9]
            assert n == (reached[0] if len(reached) else np.inf)
    assert np.isfinite(TINY.n90(result, 0.05)[1]).all()


@pytest.mark.slow
def test_seeds_share_support_and_samples_at_every_width_and_rate(result):
    specs = [run.spec for run in result.plain.values()]
    assert len(specs) == 4
    assert len({(s.task, s.seeds, s.kind, s.split, s.segment) for s in specs}) == 1
    assert next(iter(result.plain)) == named(2, TINY.claim_rate)
    assert {s.engine_used for s in specs} == {"online_sgd"}


@pytest.mark.slow
def test_report_figure_and_a_second_run(root, result, capsys):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")}
    again = TINY.run(root=root, progress=Silent())
    assert {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")} == before
    report = TINY.report(again)
    report.write()
    data = json.loads((report.folder / "claims.json").read_text())
    assert set(data["rates"]) == {"0.05", "1e+30"}
    rows, n90 = data["rates"]["0.05"]["widths"], TINY.n90(again, 0.05)
    want = [[float(v) if np.isfinite(v) else "inf" for v in r] for r in n90]
    assert [r["n90"] for r in rows] == want
    assert len(data["runs"]) == 4 and data["wall_seconds"] > 0
    assert "median n90 by width" in capsys.readouterr().out
    left, right = report.figure.axes
    assert faults(report.figure) == []
    lines = {line.get_label(): line for line in left.get_lines()}
    assert {"learning rate 0.05", "learning rate 1e+30"} <= set(lines)
    drawn, medians = lines["learning rate 0.05"].get_ydata(), np.median(n90, 1)
    np.testing.assert_allclose(drawn, np.where(np.isfinite(medians), medians, np.nan))
    (never,) = [
        line.get_ydata()
        for line in left.get_lines()
        if line.get_marker() == "^" and len(line.get_ydata()) == 2
    ]
    assert list(never) == [TINY.cap] * 2
    assert right.get_xscale() == right.get_yscale() == "log"


@pytest.mark.slow
def test_diverged_runs_count_as_beyond_the_cap_and_are_named(result):
    assert np.isinf(TINY.n90(result, WILD)).all()
    report = TINY.report(result)
    lost = report.header()["left_out"]
    assert len(lost) == 6 and lost[0].startswith("width 2, rate 1e+30, seed 0: non-fin")
    assert "6 runs" in report.figure.get_supxlabel()


@pytest.mark.parametrize("name", ParityWidth.presets)
def test_presets(name):
    study = ParityWidth.preset(name)
    assert study.claim_rate == 0.01 and len(study.widths) >= 5
    assert all(s.engine_used == "online_sgd" for s in study.plain_runs.values())
    if name != "paper":
        assert study.n_seeds >= 10
        assert isinstance(study.task.support, RandomSupport)
        return
    assert (study.task.d, study.task.k) == (100, 6)
    assert {100, 1000, 50_000} <= set(study.widths) and study.cap == 20_000_000
    assert study.rates == (0.005, 0.01) and not study.paper_claims(None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"widths": (10,)}, "widths"),
        ({"widths": (20, 10)}, "widths"),
        ({"rates": ()}, "rates"),
        ({"rates": (0.05, 0.02)}, "rates"),
        ({"rates": (0.0, 0.05)}, "rates"),
        ({"claim_rate": 0.1}, "claim_rate"),
        ({"n_seeds": 0}, "n_seeds"),
        ({"cap": 2000}, "max_samples"),
        ({"eval_every": 100}, "eval_every"),
    ],
)
def test_bad_configs_are_refused_by_field(change, field):
    with pytest.raises(ConfigError, match=field):
        replace(TINY, **change)
