"""Figures that can be printed: nothing cut, covered or confused, by any eyes."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.methods import Methods
from experiments.parity_curriculum import ParityCurriculum
from experiments.parity_mlp import ParityMLP
from experiments.parity_transformer import ParityTransformer
from sandbox.plotting import layout
from sandbox.plotting.style import (
    COLORS,
    DEGREE_COLORS,
    FAMILIES,
    MARKERS,
    SEQUENCE,
    sequence,
    styled,
)
from sandbox.study.figures import note
from tests.plotting.drawn import LEAST, curves, faults
from tests.plotting.made_up import made_up
from tests.plotting.vision import CONES, ciede2000, lab, least_difference

STRATEGIES = ("teacher", "ce", "one_shot", "progressive", "two_shot")
CANDIDATES = ("before", "before_last", "middle", "after", "blind", "half_rise")


def by_name(*names):
    return tuple(COLORS[name] for name in names)


TOGETHER = {
    "strategies": by_name(*STRATEGIES, "by_level", "by_node"),
    "candidates": by_name("teacher", *CANDIDATES),
    "degrees": ("#000000", *DEGREE_COLORS),
    "families": ("#000000", *FAMILIES.values()),
    "sequence": SEQUENCE,
}
"""Colours that meet in a panel."""


def rgb(color):
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


@pytest.mark.parametrize(
    ("one", "two", "published"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
        ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
        ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
        ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
        ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_difference_is_the_published_one(one, two, published):
    assert ciede2000(one, two) == pytest.approx(published, abs=5e-5)
    assert ciede2000(two, one) == pytest.approx(published, abs=5e-5)


def test_greys_look_alike_to_all_and_red_and_green_do_not():
    for cones in CONES:
        np.testing.assert_allclose(lab((1, 1, 1), cones), (100, 0, 0), atol=0.02)
    red, green = (0.75, 0.35, 0.1), (0.45, 0.5, 0.1)
    seen = {c: ciede2000(lab(red, c), lab(green, c)) for c in CONES}
    assert seen["normal"] > 3 * seen["deuteranopia"]


@pytest.mark.parametrize("group", TOGETHER)
def test_colours_that_meet_are_told_apart_by_all_eyes(group):
    for a, b in itertools.combinations(TOGETHER[group], 2):
        assert least_difference(rgb(a), rgb(b)) >= LEAST, (a, b)


def test_every_colour_shows_on_white():
    for color in {*COLORS.values(), *DEGREE_COLORS, *FAMILIES.values(), *SEQUENCE}:
        assert least_difference(rgb(color), (1, 1, 1)) > 20, color


def test_marks_of_a_panel_differ():
    for names in ((*STRATEGIES, "one_shot_hard", "by_level", "by_node"), CANDIDATES):
        marks = [MARKERS[name] for name in names]
        assert len(set(marks)) == len(marks)
    assert sequence(5) == list(SEQUENCE) and sequence(1) == [SEQUENCE[0]]


STUDIES = [
    (ParityMLP, "cpu"),
    (ParityMLP, "paper"),
    (ParityCurriculum, "cpu"),
    (ParityCurriculum, "paper"),
    (ParityCurriculum, "paper_zoom"),
    (ParityTransformer, "first"),
    (Methods, "cpu"),
]


@pytest.mark.parametrize(("study", "preset"), STUDIES)
def test_figures_of_made_up_results_can_be_printed(study, preset):
    made = study.preset(preset)
    fig = made.draw(made_up(made, preset=preset))
    assert faults(fig) == []
    assert "n = " in fig.get_supxlabel()
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert [t[:11] for t in titles] == [
        rf"$\mathbf{{{c}}}$"[:11] for c in "abcdef"[: len(titles)]
    ]


def test_curves_that_coincide_keep_a_mark_of_their_own():
    made = ParityMLP.preset("cpu")
    ax = made.draw(made_up(made)).axes[0]
    named = {line.get_label(): line for line in curves(ax)}
    ce, hard = named["CE (labels)"], named["one-shot, argmax"]
    np.testing.assert_array_equal(ce.get_ydata(), hard.get_ydata())
    assert ce.get_linewidth() > hard.get_linewidth()
    ours, theirs = (set(range(*_slice(line))) for line in (ce, hard))
    assert len(ours) >= 5 and not ours & theirs


def _slice(line):
    start, every = line.get_markevery()
    return start, len(line.get_xdata()), every


def drawn(**legend):
    with styled():
        fig = Figure(figsize=(3, 2), layout="constrained")
        ax = fig.subplots()
        ax.plot([0, 1, 2], [0, 1, 0], color="#5790fc", label="up and down")
        ax.set_title("A title")
        ax.legend(**legend)
    return fig, ax


def test_what_is_wrong_with_a_figure_is_found():
    fig, ax = drawn(loc="upper center")
    assert any("lies on a curve" in f for f in faults(fig))
    ax.set_title("A title that is by far too long for a panel so narrow, it is cut")
    assert any("is cut" in f for f in faults(fig))
    ax.plot([0, 2], [1, 1], color="#5b8df8", label="nearly the same")
    assert any("differ by" in f for f in faults(fig))
    ax.text(0.5, 0.5, "one")
    ax.text(0.5, 0.5, "two")
    assert any("'one' lies on 'two'" in f for f in faults(fig))


def test_ticks_that_are_not_shown_are_not_cut():
    fig = Figure(figsize=(4, 3), layout="constrained")
    ax = fig.add_subplot()
    ax.plot([1, 2])
    ax.inset_axes((0.5, 0.5, 0.4, 0.4)).plot([1, 2])
    ax.secondary_xaxis("top", functions=(lambda x: 2 * x, lambda x: x / 2))
    assert layout.cut(fig) == []
    ax.set_xlabel("a label that is by far too long for a figure so narrow, " * 2)
    assert layout.cut(fig) == [ax.get_xlabel()]


def test_a_legend_goes_where_nothing_is():
    fig, ax = drawn(loc="upper center")
    layout.clear(fig)
    assert faults(fig) == []
    grid = np.linspace(0, 2, 41)
    ax.plot(grid, (np.arange(41) % 2), color="k")  # all over
    low = ax.get_ylim()[0]
    layout.clear(fig)
    assert faults(fig) == [] and ax.get_ylim()[0] == low and ax.get_ylim()[1] > 1.2


def test_panels_have_letters_and_a_second_axis_has_none():
    fig = Figure()
    a, b = fig.subplots(1, 2)
    a.set_title("one", loc="left")
    other = b.twinx()
    layout.letter(fig)
    assert a.get_title(loc="left") == r"$\mathbf{a}$  one"
    assert b.get_title(loc="left").startswith(r"$\mathbf{b}$")
    assert other.get_title(loc="left") == ""
    note(fig, "")
    assert fig.get_supxlabel() == ""
