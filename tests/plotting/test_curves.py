"""Figures carry the numbers they claim to, and the same data give the same bytes."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sandbox.plotting.curves import band, estimates, stack_ragged, strips
from sandbox.plotting.style import save, styled
from sandbox.theory.sample_complexity import Estimate


def curves():
    x = np.tile(np.linspace(0, 10, 11), (5, 1))
    y = np.random.default_rng(0).normal(size=(5, 11)).cumsum(1)
    return x, y


def test_band_draws_the_median_inside_its_quartiles():
    x, y = curves()
    ax = Figure().subplots()
    band(ax, x, y, label="a", color="k", points=11)
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), x[0])
    np.testing.assert_allclose(line.get_ydata(), np.median(y, 0))
    path = ax.collections[0].get_paths()[0].vertices
    low, high = np.quantile(y, [0.25, 0.75], axis=0)
    assert path[:, 1].min() == pytest.approx(low.min())
    assert path[:, 1].max() == pytest.approx(high.max())


def test_band_stops_when_seeds_have_ended():
    x = stack_ragged([np.arange(3.0), np.arange(3.0), np.arange(11.0)])
    ax = Figure().subplots()
    band(ax, x, np.where(np.isnan(x), np.nan, 1.0), label="a", color="k", points=11)
    assert ax.get_lines()[0].get_xdata()[-1] == 2.0


def test_band_without_any_record_draws_nothing():
    ax = Figure().subplots()
    band(ax, np.zeros((2, 3)), np.full((2, 3), np.nan), label="a", color="k")
    assert not ax.get_lines()


def test_strips_count_what_never_happened():
    ax = Figure().subplots()
    rows = [np.array([1.0, 2.0, np.inf]), np.array([np.nan, np.inf, np.inf])]
    strips(ax, rows, labels=["a", "b"], colors=["r", "b"], cap=9.0)
    assert [t.get_text() for t in ax.texts] == ["1", "2"]
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert sorted(dots[0].get_xdata()) == [1.0, 2.0]


def test_same_figure_same_bytes(tmp_path):
    def draw(stem):
        with styled():
            fig = Figure()
            x, y = curves()
            band(fig.subplots(), x, y, label="a", color="k")
        return [p.read_bytes() for p in save(fig, tmp_path / stem)]

    assert draw("one") == draw("two")


def test_estimates_end_at_their_cap_and_what_does_not_exist_is_left_out():
    nan, inf = np.nan, np.inf
    found = [
        Estimate(2.0, 1.0, 4.0, 5),
        Estimate(inf, 3.0, inf, 5),
        Estimate(nan, nan, nan, 0),
        Estimate(5.0, nan, nan, 1),
    ]
    ax = Figure().subplots()
    estimates(ax, [1, 2, 3, 4], found, color="k", cap=8)
    within, beyond = ax.get_lines()
    assert [list(v) for v in within.get_data()] == [[1, 4], [2, 5]]
    assert [list(v) for v in beyond.get_data()] == [[2], [8]]
    bars = [p[:, 1].tolist() for p in ax.collections[0].get_segments()]
    assert bars == [[1, 4], [3, 8], [5, 5]]
    free = Figure().subplots()
    estimates(free, [1, 2, 3, 4], found, color="k")
    within, beyond = free.get_lines()
    assert len(within.get_xdata()) == 2 and not len(beyond.get_xdata())
