"""Accuracy on PCFG strings: teacher, CE, one-shot, progressive and 2-shot students.

    python -m experiments.pcfg_accuracy smoke
    python -m experiments.pcfg_accuracy cpu --setting.n-teachers 5
    python -m experiments.pcfg_accuracy --help

Reproduces Figure 1 (right) of arXiv 2410.05464 as curves over training. A BERT teacher
with many heads learns masked tokens; a student with few heads learns from labels (CE),
from the final teacher (one-shot), from its successive checkpoints (progressive), or
from the one where its loss falls fastest and then the final one (2-shot). All students
of a seed see the same masked strings and start from the same weights.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from math import prod
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments.published import PCFG_ACCURACY
from sandbox.distill.sources import Progressive
from sandbox.distill.strategy import replicas
from sandbox.errors import require
from sandbox.plotting.curves import band
from sandbox.plotting.style import MARKERS, color_of
from sandbox.store.bounds import AtLeast
from sandbox.tasks.bayes_context import accuracy_ceiling
from sandbox.tasks.channel import Channel
from sandbox.tasks.masking import MaskedLM

SMOKE = st.Setting(
    task=st.Strings(start=("10", "11", "12")),
    teacher=st.Heads(4, layers=1),
    student=st.Heads(1, layers=1),
    teacher_optimizer=st.CosineAdam(),
    student_optimizer=st.CosineAdam(),
    budget=st.Fixed(teacher=600, student=600),
    rule=st.ByDrop(),
    n_teachers=2,
    group=1,
    spacing=25,
    student_every=25,
    hold=150,
    unit="steps",
    batch=32,
    micro=16,
    eval_points=512,
)
LEVEL_13 = replace(
    SMOKE,
    task=st.Strings(),
    teacher=st.Heads(8),
    student=st.Heads(2),
    budget=st.Fixed(teacher=4000, student=1000),
    n_teachers=5,
    spacing=50,
    student_every=50,
    hold=300,
    batch=64,
    eval_points=1024,
)
"""The phenomenon on fewer strings (2,176), which teachers may remember."""
CPU = replace(
    LEVEL_13,
    task=st.Strings(start=("16", "17", "18")),
    budget=st.Fixed(teacher=8000, student=3000),
    hold=900,
    batch=32,
)
"""The phenomenon on a laptop: cfg3b from level 16, 8 heads to 2, five seeds.

There are 5e8 strings of at most 81 tokens, too many to remember. Length and size of the
students were chosen on labels alone, on a seed that is not among the five: two heads
need 1,200 steps or more to leave the plateau, and have done so by 3,000.
"""
PAPER = replace(
    SMOKE,
    task=st.Strings(start=("22",)),
    teacher=st.Heads(32, layers=4, dropout=0.1, compute="bfloat16"),
    student=st.Heads(8, layers=4, dropout=0.1, compute="bfloat16"),
    teacher_optimizer=st.CosineAdam(peak=5e-3),
    student_optimizer=st.CosineAdam(peak=5e-3),
    budget=st.Fixed(teacher=2000, student=2000),
    n_teachers=1,
    spacing=100,
    student_every=100,
    hold=500,
    batch=512,
    micro=64,
    eval_points=1024,
)
"""The published setting: whole cfg3b strings, 4 layers, 32 heads to 8.

As released: batch 512, learning rate 5e-3, 2,000 steps of fresh strings (the released
data set has as many), dropout .1, checkpoints every 100 steps (released: 200 to 1,000).
"""

TAUGHT = ("one_shot", "progressive", "two_shot")
PAIRS = (
    ("two_shot", "ce", "2-shot beats CE", "higher"),
    ("one_shot", "ce", "one-shot beats CE", ".77 / .745 at 2k"),
    ("progressive", "one_shot", "progressive beats one-shot", ".80 / .77 at 2k"),
)
"""Claims with the accuracies that the paper shows at the end of 2,000 steps."""
CEILING_STRINGS = 512
REACHED = 0.65
"""Accuracy to which steps are counted."""


def lane_name(strategy: str, tau: float) -> str:
    """How a lane is called: `one_shot`, and with the argmax `one_shot_hard`."""
    if tau == 1 or strategy == "ce":
        return strategy
    return f"{strategy}_hard" if tau == 0 else f"{strategy}_tau{tau:g}"


def pace(t: st.Teachers) -> Progressive:
    """Every fourth checkpoint, and all of them in a student's steps."""
    budget = t.setting.budget
    assert isinstance(budget, st.Fixed)
    speed = budget.teacher / budget.student
    return Progressive(every=4 * t.spacing, speed=speed)


def level(s: st.Setting) -> str:
    """A short title, e.g. `cfg3b from level 13`."""
    assert isinstance(s.task, st.Strings)
    return f"{s.task.grammar} from level {s.task.start[0]}"


class PcfgAccuracy(st.Study):
    """Figure 1 (right) of arXiv 2410.05464.

    Attributes:
      setting: strings, teachers and students.
      taus: teacher temperatures of the taught students; 0 is the argmax.
      inits: initialisations of CE students, and of one-shot ones at the first
        temperature; other strategies have one.
      every: steps between the checkpoints that progressive students use.
      speed: how much faster than the teacher they go through them.
    """

    setting: st.Setting = SMOKE
    taus: tuple[float, ...] = (1.0, 0.0)
    inits: Annotated[int, AtLeast(1)] = 1
    every: int = 50
    speed: float = 1.0

    presets = {
        "smoke": st.preset("Level 10, one layer, two seeds."),
        "cpu": st.preset(
            "cfg3b from level 16, two layers, 8 heads to 2, five seeds.",
            setting=CPU,
            taus=(1.0,),
            inits=4,
            every=200,
            speed=4.0,
        ),
        "paper": st.preset(
            "Whole cfg3b strings, four layers, 32 heads to 8, argmax of the teacher.",
            setting=PAPER,
            every=200,
            taus=(0.0,),
        ),
    }
    since = {"any": "2026-11-22 34f99eb", "G1.one_shot_ce.steps": "2026-11-28 30c3d14"}

    def check(self) -> None:
        words = f"taus must be distinct temperatures, e.g. (1.0, 0.0), got {self.taus}."
        require(0 < len(self.taus) == len(set(self.taus)), words)
        budget = self.setting.budget
        if isinstance(budget, st.Fixed):
            least = budget.teacher / budget.student
            require(
                self.speed >= least,
                f"speed = {self.speed} must be at least {least:g} = budget.teacher /"
                " budget.student, or a progressive student never sees the final"
                " teacher.",
            )

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        first = self.taus[0]
        alike = st.ce(), st.one_shot(first, lane_name("one_shot", first))
        out: list[st.Lane] = [*replicas(alike, self.inits)]
        every, speed = t.setting.samples(self.every), self.speed
        for tau in self.taus:
            one, pace, two = (lane_name(name, tau) for name in TAUGHT)
            if tau != first:
                out.append(st.one_shot(tau, one))
            out.append(st.progressive(every, tau, speed=speed, name=pace))
            out.append(st.two_shot(t["middle"], t.hold, tau, name=two))
        return out

    def measure(self, r: st.Result) -> float | None:
        """Accuracy of the exact predictor on masked strings; None for next tokens."""
        return ceiling(r.setting)

    def figure(self, r: st.Result) -> Figure:
        """Accuracy over training by temperature, and paired differences.

        First panels: top-1 accuracy at scored tokens of strings that no one was trained
        on, by temperature of the teacher. Last: differences within a seed. Lines are
        medians over seeds (and initialisations), bands quartiles (extremes of fewer
        than ten). Stars, at the published size alone: published runs, each of its own
        length.
        """
        fig, axes = st.panels(1, len(self.taus) + 1, squeeze=False)
        for ax, tau in zip(axes[0], self.taus, strict=False):
            draw_curves(ax, r, tau, r.measured)
            if r.preset == "paper":
                st.published(ax, PCFG_ACCURACY, PCFG_ACCURACY, unit=1000)
        _draw_differences(axes[0, -1], r, self.taus[0])
        st.note(fig, f"{about(r.setting)}; {st.counts_text(r)}")
        return fig

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        yield from differences(r, self.taus, "G1")
        one = lane_name("one_shot", self.taus[0])
        ratio = r.reach(REACHED)["ce"] / r.reach(REACHED)[one]
        words = f"one-shot reaches accuracy {REACHED:g} sooner than CE"
        yield st.above("G1.one_shot_ce.steps", ratio, 1.0, words)

    def facts(self, r: st.Result) -> dict[str, Any]:
        return {"accuracy": table(r), "ceiling": r.measured, "strings": strings(r)}


def ceiling(s: st.Setting) -> float | None:
    """Accuracy of the exact predictor on masked strings; None for next tokens."""
    task = s.made_task
    if not isinstance(task, MaskedLM):
        return None
    channel = Channel(rate=task.rate, mask=task.mask, random=task.random)
    drawn = task.arrays, jax.random.key(0), CEILING_STRINGS
    return accuracy_ceiling(*drawn, channel, hidden=task.hidden).accuracy


def about(s: st.Setting) -> str:
    """The strings, and who teaches whom."""
    assert isinstance(s.teacher, st.Heads) and isinstance(s.student, st.Heads)
    return f"{s}: {s.teacher.heads} heads teach {s.student.heads}"


def strings(r: st.Taught) -> float:
    """Derivations of all strings: at most so many are distinct.

    Where they are few a network can remember them all, and its evaluation strings too.
    """
    grammar = r.setting.made_task.grammar

    @cache
    def below(symbol: str) -> int:
        rules = (rule for rule in grammar.rules if rule.left == symbol)
        found = sum(prod(below(s) for s in rule.right) for rule in rules)
        return found or 1  # a terminal has no rules

    return float(sum(below(s) for s in grammar.start))


def differences(r: st.Taught, taus: tuple[float, ...], name: str) -> Iterator[st.Claim]:
    """Paired differences at half and at all of the steps, for every temperature."""
    for tau in taus:
        suffix = "" if tau == 1 else ".hard" if tau == 0 else f".tau{tau:g}"
        for first, second, statement, expected in PAIRS:
            a, b = lane_name(first, tau), lane_name(second, tau)
            for when, words, share in (("half", "half", 0.5), ("end", "all", 1.0)):
                id, gap = f"{first}_{second}.{when}", r.at(a, share) - r.at(b, share)
                words = f"{statement} after {words} of the steps"
                shown = expected if when == "end" and name == "G1" else "higher"
                yield st.positive(f"{name}.{id}{suffix}", gap, words, paper=shown)


def table(r: st.Taught) -> dict[str, dict[str, np.ndarray]]:
    """Accuracy of every lane at 1/4, 1/2, 3/4 and all of the steps, `(T, I)` each."""
    shares = {name: [0.25, 0.5, 0.75, 1.0] for name in r.strategies}
    shares["teacher"] = [1.0]
    return {
        name: {f"{q:g}": r.at(name, q).values.astype(float).round(4) for q in each}
        for name, each in shares.items()
    }


def draw_curves(ax: Axes, r: st.Taught, tau: float, exact: float | None) -> None:
    """Draws the teacher's and every strategy's accuracy at one temperature."""
    names = [lane_name(n, tau) for n in ("ce", *TAUGHT)]
    st.accuracy(ax, r, names, label=lambda name: st.brief(r.label(name)))
    if exact is not None:
        ax.axhline(exact, color="0.4", lw=0.8, ls="--", label="exact predictor")
    style = {"color": color_of("two_shot"), "lw": 0.8, "ls": ":"}
    ax.axvline(r.setting.hold, label="end of 2-shot's first stage", **style)
    words = "argmax" if tau == 0 else f"τ = {tau:g}"
    ax.set_title(f"Taught at {words}")


def _draw_differences(ax: Axes, r: st.Result, tau: float) -> None:
    for i, pair in enumerate((PAIRS[1][:2], PAIRS[2][:2], PAIRS[0][:2])):
        both = [r.curves(lane_name(name, tau)) for name in pair]
        inits = min(curves[0][1].shape[1] for curves in both)  # that both have
        first = ([(x, y[:, :inits]) for x, y in curves] for curves in both)
        (x, a), (_, b) = map(r.rows, first)
        label = " − ".join(st.label_of(name).partition(" (")[0] for name in pair)
        marks = MARKERS[pair[0]], i, len(PAIRS)
        band(ax, x, a - b, label=label, color=color_of(pair[0]), marks=marks)
    ax.axhline(0, color="0.5", lw=0.8)
    ax.set(xlabel=r.abscissa_text, ylabel="difference in accuracy")
    words = "argmax" if tau == 0 else f"τ = {tau:g}"
    ax.set_title(f"Within a seed, {words}")
    ax.legend(loc="best")


if __name__ == "__main__":
    PcfgAccuracy.main()
