"""The study of widths: its statistic against other code, and a tiny run end to end."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from experiments import parity_width
from experiments.parity_width import Config, cpu, paper, smoke
from paper_repro.parity_width import WidthReport, numbers, spearman, width_claim
from sandbox.errors import ConfigError
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.progress import Silent

WILD = 1e30
"""A rate at which nothing stays finite."""

TINY = Config(
    task=Parity(d=8, k=2, support=RandomSupport()),
    widths=(2, 32),
    rates=(0.05, WILD),
    claim_rate=0.05,
    n_seeds=3,
    cap=2048,
    eval_every=128,
)
WIDTHS = (10, 20, 50, 100, 200)


@dataclass(frozen=True)
class Made:
    """A result with made-up numbers."""

    config: Config
    values: np.ndarray

    def n90(self, rate):
        del rate
        return self.values


def made(values, cap=1_280_000):
    values = np.asarray(values, float)
    widths = WIDTHS[: len(values)]
    config = replace(TINY, widths=widths, n_seeds=values.shape[1], cap=cap)
    return Made(config, values)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(root):
    return parity_width.run(TINY, root=root, progress=Silent())


def test_spearman_is_scipys_on_the_medians():
    rng = np.random.default_rng(0)
    for _ in range(8):
        n90 = rng.integers(1, 9, (5, 7)).astype(float)  # with ties
        want = stats.spearmanr(WIDTHS, np.median(n90, 1)).statistic
        assert spearman(WIDTHS, n90).value == pytest.approx(want, abs=1e-12)


def test_spearman_of_one_swap_and_of_censored_medians():
    falls = np.asarray([50, 40, 30, 20, 10.0])
    one = np.tile(falls[:, None], (1, 4))
    assert spearman(WIDTHS, one)[:3] == (-1, -1, -1)
    swapped = one[[0, 1, 2, 4, 3]]  # 1 - 6 * 2 / (5 * 24)
    assert spearman(WIDTHS, swapped).value == pytest.approx(-0.9)
    most = one.copy()
    most[0, :3] = np.inf  # beyond the cap: still the slowest
    assert spearman(WIDTHS, most).value == -1
    most[1, :2] = np.inf  # the mean of a finite and an infinite one: ties with it
    want = stats.spearmanr(WIDTHS, [5, 5, 3, 2, 1]).statistic
    assert spearman(WIDTHS, most).value == pytest.approx(want)
    assert spearman(WIDTHS, np.full((5, 3), np.inf)).value == 0


def test_a_resample_takes_the_same_seeds_at_every_width():
    own = 10.0 ** np.arange(8)  # seeds differ far more than widths do
    n90 = own[None, :] * np.linspace(5, 4, 5)[:, None]
    assert spearman(WIDTHS, n90)[:3] == (-1, -1, -1)
    shuffled = np.stack([np.roll(row, i) for i, row in enumerate(n90)])
    assert spearman(WIDTHS, shuffled).upper > -1


@pytest.mark.parametrize(
    ("rows", "holds"),
    [
        ([[5] * 10, [4] * 10, [3] * 10, [2] * 10, [1] * 10], True),
        ([[5] * 3, [4] * 3, [3] * 3, [1] * 3, [2] * 3], True),  # -.9
        ([[5] * 3, [3] * 3, [4] * 3, [1] * 3, [2] * 3], True),  # -.8
        ([[4] * 3, [5] * 3, [3] * 3, [1] * 3, [1] * 3], True),  # -.87
        ([[3] * 3, [4] * 3, [5] * 3, [2] * 3, [1] * 3], False),  # -.7
        ([[1] * 3, [2] * 3, [3] * 3, [4] * 3, [5] * 3], False),
        # The median falls, but six of ten seeds hold it up: the interval reaches on.
        ([[5] * 10, [4] * 10, [3] * 10, [2] * 10, [1] * 6 + [9] * 4], False),
    ],
)
def test_the_rule(rows, holds):
    c = width_claim(made(rows))
    assert (c.id, c.holds) == ("P7", holds)
    assert c.seeds == {"teachers": len(rows[0]), "students": 0}


def test_numbers_recover_a_power_law_through_censoring():
    rng = np.random.default_rng(1)
    widths = np.asarray(WIDTHS, float)[:, None]
    n90 = 1e6 * widths**-1.0 * np.exp(0.2 * rng.standard_normal((5, 40)))
    cap = 89_984  # of 1e5 at width 10; a multiple of the evaluations'
    found = numbers(made(np.where(n90 > cap, np.inf, n90), cap=cap), 0.05)
    p, low, high = found["exponent_in_width"]
    assert low < -1 < high and high - low < 0.2 and p == pytest.approx(-1, abs=0.05)
    first = found["widths"][0]
    assert first["not_by_the_cap"] == (n90[0] > cap).sum() > 20
    assert first["median_n90"] == "inf"
    last = found["widths"][-1]
    assert last["width_x_median_n90"] == 200 * last["median_n90"]


@pytest.mark.slow
def test_n90_is_the_first_evaluation_at_the_level(result):
    for rate in (0.05,):
        for row, m in zip(result.n90(rate), TINY.widths, strict=True):
            metrics = result.runs[m, rate].metrics
            for n, curve in zip(
                row, metrics.columns["accuracy"][:, :, 0].T, strict=True
            ):
                reached = [
                    t for t, a in zip(metrics.steps, curve, strict=True) if a >= 0.9
                ]
                assert n == (reached[0] if reached else np.inf)
    assert np.isfinite(result.n90(0.05)[1]).all()


@pytest.mark.slow
def test_seeds_share_support_and_samples_at_every_width_and_rate(result):
    specs = [run.spec for run in result.runs.values()]
    assert len(specs) == 4
    assert len({(s.task, s.seeds, s.kind, s.split, s.segment) for s in specs}) == 1
    assert next(iter(result.runs))[1] == TINY.claim_rate  # the claim's runs come first
    assert {s.engine_used for s in specs} == {"online_sgd"}


@pytest.mark.slow
def test_report_figure_and_a_second_run(root, result, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")}
    again = parity_width.run(TINY, root=root, progress=Silent())
    assert {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")} == before
    figure = parity_width.draw(again)
    report = WidthReport(
        study="x", scale="tiny", config=TINY, figure=figure,
        claims=[width_claim(result)], probe_seconds=0.0, result=again,
    )  # fmt: skip
    report.publish(figures=tmp_path, results=tmp_path)
    data = json.loads((tmp_path / "x.tiny.json").read_text())
    assert set(data["rates"]) == {"0.05", "1e+30"}
    assert data["left_out"] == result.diverged()
    rows = data["rates"]["0.05"]["widths"]
    want = [[float(v) if np.isfinite(v) else "inf" for v in r] for r in again.n90(0.05)]
    assert [r["n90"] for r in rows] == want
    assert len(data["runs"]) == 4 and data["wall_seconds"] > 0
    assert "median n90 by width" in capsys.readouterr().out
    left, right = figure.axes
    labels = [line.get_label() for line in left.get_lines()]
    assert {"learning rate 0.05", "learning rate 1e+30"} <= set(labels)
    drawn = left.get_lines()[labels.index("learning rate 0.05")].get_ydata()
    want = np.minimum(np.median(again.n90(0.05), 1), TINY.cap)
    np.testing.assert_allclose(drawn, want)
    assert right.get_xscale() == right.get_yscale() == "log"


@pytest.mark.slow
def test_diverged_runs_count_as_beyond_the_cap_and_are_named(result):
    assert np.isinf(result.n90(WILD)).all()
    lost = result.diverged()
    assert len(lost) == 6 and lost[0].startswith("width 2, rate 1e+30, seed 0: non-fin")
    assert "6 runs" in parity_width.draw(result).get_supxlabel()


@pytest.mark.parametrize("preset", [smoke, cpu, paper])
def test_presets(preset):
    config = preset()
    assert config.claim_rate == 0.01 and len(config.widths) >= 5
    assert all(s.engine_used == "online_sgd" for s in config.specs().values())
    if preset is not paper:
        assert config.n_seeds >= 10
        assert isinstance(config.task.support, RandomSupport)


def test_paper_preset_has_the_published_numbers():
    c = paper()
    assert (c.task.d, c.task.k) == (100, 6)
    assert {100, 1000, 50_000} <= set(c.widths) and c.cap == 20_000_000
    assert c.rates == (0.005, 0.01)


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


def test_presets_do_not_import_jax():
    code = (
        "import sys\n"
        "from experiments import parity_hierarchy, parity_width\n"
        "for m in (parity_width, parity_hierarchy):\n"
        "    [make() for make in m.PRESETS.values()]\n"
        "sys.exit([m for m in ('jax', 'flax') if m in sys.modules] or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
