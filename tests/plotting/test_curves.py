"""Figures carry the numbers they claim to, and the same data give the same bytes."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from sandbox.plotting.curves import (
    band,
    end_labels,
    estimates,
    log_levels,
    log_steps,
    stack_ragged,
    strips,
)
from sandbox.plotting.style import save, styled
from sandbox.theory.sample_complexity import Estimate


def curves(n=5):
    x = np.tile(np.linspace(0, 10, 11), (n, 1))
    y = np.random.default_rng(0).normal(size=(n, 11)).cumsum(1)
    return x, y


@pytest.mark.parametrize(("n", "ends"), [(12, [0.25, 0.75]), (5, [0, 1])])
def test_band_draws_the_median_inside_its_quartiles_or_extremes(n, ends):
    x, y = curves(n)
    ax = Figure().subplots()
    band(ax, x, y, label="a", color="k", points=11)
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), x[0])
    np.testing.assert_allclose(line.get_ydata(), np.median(y, 0))
    path = ax.collections[0].get_paths()[0].vertices
    low, high = np.quantile(y, ends, axis=0)
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
    at, known = within.get_data()
    np.testing.assert_array_equal(at, [1, 2, 3, 4])
    np.testing.assert_array_equal(known, [2, np.nan, np.nan, 5])
    assert [list(v) for v in beyond.get_data()] == [[2], [8]]
    bars = [p[:, 1].tolist() for p in ax.collections[0].get_segments()]
    assert bars == [[1, 4], [3, 8], [5, 5]]
    free = Figure().subplots()
    estimates(free, [1, 2, 3, 4], found, color="k")
    within, beyond = free.get_lines()
    assert np.isfinite(within.get_ydata()).sum() == 2 and not len(beyond.get_xdata())


@pytest.mark.parametrize(
    ("ends", "labels"),
    [
        ((10, 3e7), ["10", "100", "1k", "10k", "100k", "1M", "10M"]),
        ((6e4, 2.2e6), ["100k", "200k", "500k", "1M", "2M"]),
        ((0.9, 3.2), ["1", "2", "3"]),
    ],
)
def test_logarithmic_axes_have_a_few_round_labels(ends, labels):
    fig = Figure()
    ax = fig.subplots()
    log_levels(ax)
    ax.set_ylim(*ends)
    fig.draw_without_rendering()
    shown = [
        t.get_text()
        for t, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)
        if ends[0] <= y <= ends[1]
    ]
    assert set(labels) <= set(shown) and len(shown) <= 8


@pytest.mark.parametrize("ends", [(0.08, 6), (0.3, 400), (30, 110), (2e4, 3e6)])
@pytest.mark.parametrize("size", [(1.2, 1.0), (2.0, 1.2), (6.75, 4.0)])
def test_labels_of_logarithmic_axes_do_not_touch(ends, size):
    with styled():
        fig = Figure(figsize=size, layout="constrained")
        ax = fig.subplots()
        log_levels(ax)
        log_steps(ax)
        ax.set(xlim=ends, ylim=ends)
    fig.draw_without_rendering()
    for axis, side in ((ax.xaxis, 0), (ax.yaxis, 1)):
        places, labels = axis.get_majorticklocs(), axis.get_ticklabels()
        shown = [
            label.get_window_extent().get_points()[:, side]
            for x, label in zip(places, labels, strict=True)
            if ends[0] <= x <= ends[1]
        ]
        assert len(shown) > 1
        apart = 0.01 * fig.dpi  # inches
        assert all(a[1] + apart < b[0] for a, b in itertools.pairwise(shown))


def test_lines_join_neighbours_that_are_known_and_no_two_points():
    found = [Estimate(float(v), v - 0.5, v + 0.5, 5) for v in (1, 2)]
    ax = Figure().subplots()
    estimates(ax, [1, 2], found, color="k", fmt="s:")
    estimates(ax, [1, 2, 3], [*found, found[0]], color="k", fmt="s:")
    two, _, three, _ = ax.get_lines()
    assert (two.get_linestyle(), three.get_linestyle()) == ("None", ":")
    assert two.get_marker() == three.get_marker() == "s"


def test_names_at_ends_do_not_lie_on_each_other():
    with styled():
        fig = Figure(figsize=(3, 2), layout="constrained")
        ax = fig.subplots()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        end_labels(ax, 1.0, [0.5, 0.51, 0.1, 0.505], list("abcd"))
    fig.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda b: b.y0)
    assert [t.get_text() for t in ax.texts] == ["c", "a", "d", "b"]
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))
    assert [t.xy[1] for t in ax.texts][::2] == pytest.approx([0.1, 0.505])  # c, d
