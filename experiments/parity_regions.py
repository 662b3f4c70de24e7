"""Where checkpoints help: temperature, label noise and width of the student.

    python -m experiments.parity_regions smoke
    python -m experiments.parity_regions cpu --noise 0 --widths 20
    python -m experiments.parity_regions --help

An extension of Figure 1 (left) of arXiv 2410.05464. Sparse parity whose labels are
flipped with some probability, for teachers and students alike; accuracy is that on
clean labels. For every temperature of the teacher, noise and width of the student, the
samples to .90 of progressive and 2-shot students are compared with those of their
faster rival without checkpoints: labels (CE), or the final teacher (one-shot) at the
same temperature.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

import sandbox.study as st
from experiments.pcfg_accuracy import TAUGHT, lane_name
from sandbox.errors import require
from sandbox.store.bounds import AtLeast, Increasing, Within
from sandbox.tasks.parity import NoisyParity, RandomSupport
from sandbox.text import digits
from sandbox.theory.sample_complexity import Estimate, median_estimate

SMOKE = st.Setting(
    task=NoisyParity(d=16, k=4, support=RandomSupport()),
    teacher=st.TwoLayer(200),
    rule=st.ByGap(points=4096, degrees=(1,)),
    lanes=10,
    n_teachers=2,
    spacing=512,
    student_every=512,
)
CPU = replace(
    SMOKE,
    task=NoisyParity(d=32, k=6, support=RandomSupport()),
    teacher=st.TwoLayer(1000),
    rule=st.ByGap(degrees=(1,)),
    lanes=6,
    n_teachers=10,
    spacing=2560,
    student_every=2560,
    budget=st.UntilLearned(limit=819_200, expected=300_000),
)
SHOWN = (
    ("progressive", "progressive"),
    ("two_shot", "2-shot"),
    ("one_shot", "one-shot, against CE"),
)
"""Panels: whose students, and their title."""
MOST = 8.0
"""Ratio at which colours end."""

Rates = tuple[Annotated[float, Within(0, 0.5, "[)")], ...]
Sizes = tuple[Annotated[int, AtLeast(1)], ...]
Problem = tuple[Annotated[int, AtLeast(1)], Annotated[int, AtLeast(1)]]


class ParityRegions(st.Study):
    """Temperature, noise and width: where checkpoints help.

    Attributes:
      setting: teachers and students; what follows is varied.
      problems: sizes k of the support, each with its spacing of checkpoints.
      noise: probabilities that a label is flipped.
      widths: hidden units of the students.
      taus: teacher temperatures; 0 is the argmax.
    """

    setting: st.Setting = SMOKE
    problems: tuple[Problem, ...] = ((4, 512),)
    noise: Annotated[Rates, Increasing(2)] = (0.0, 0.1)
    widths: Annotated[Sizes, Increasing(2)] = (10, 20)
    taus: tuple[float, ...] = (0.0, 1.0, 4.0)

    presets = {
        "smoke": st.preset("d=16, k=4, two teachers of width 200."),
        "cpu": st.preset(
            "d=32, k=5 and 6, ten teachers of width 1000.",
            setting=CPU,
            problems=((5, 1280), (6, 2560)),
            noise=(0.0, 0.05, 0.1),
            widths=(10, 20, 100),
            taus=(0.0, 0.25, 1.0, 4.0, 16.0),
        ),
    }
    since = {"any": "2026-11-28 8e77d68"}

    def check(self) -> None:
        task = self.setting.task
        require(
            isinstance(task, NoisyParity),
            f"setting.task must be a NoisyParity, got {task!r:.60}.",
        )
        require(
            1.0 in self.taus and len(set(self.taus)) == len(self.taus),
            f"taus must be distinct and hold 1, got {self.taus}.",
        )

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        out: dict[str, st.Setting] = {}
        for k, spacing in self.problems:
            for eps in self.noise:
                task: Any = replace(self.setting.task, k=k, eps=eps)  # pyright: ignore
                for width in self.widths:
                    out[self.named(k, eps, width)] = replace(
                        self.setting,
                        task=task,
                        student=st.TwoLayer(width),
                        spacing=spacing,
                        student_every=spacing,
                    )
        return out

    @staticmethod
    def named(k: int, eps: float, width: int) -> str:
        """What a setting is called."""
        return f"k={k}, noise {eps:g}, width {width}"

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        names = [[lane_name(n, tau) for tau in self.taus] for n in TAUGHT]
        one, pace, two = (list(zip(self.taus, n, strict=True)) for n in names)
        return [
            st.ce(),
            *(st.one_shot(tau, name) for tau, name in one),
            *(st.progressive(t.spacing, tau, name=name) for tau, name in pace),
            *(st.two_shot(t["middle"], t.hold, tau, name=name) for tau, name in two),
        ]

    def gain(self, p: st.Taught, name: str, tau: float) -> st.Quantity:
        """Samples to .90 of the faster rival over those of a strategy's students.

        The rival of one-shot students is CE; that of others the faster, seed by seed,
        of CE and one-shot at the same temperature.
        """
        rival = p.n90["ce"]
        if name != "one_shot":
            one = p.n90[lane_name("one_shot", tau)]
            fewer = np.minimum(rival.values, one.values)
            rival = st.Quantity(fewer, f"min({rival.text}, {one.text})")
        return rival / p.n90[lane_name(name, tau)]

    def map_of(self, r: st.Result, k: int, name: str) -> list[list[Estimate]]:
        """Median gains, a row a noise and width, a column a temperature."""
        rows = [(eps, width) for eps in self.noise for width in self.widths]
        parts = [r.parts[self.named(k, *row)] for row in rows]
        return [
            [median_estimate(self.gain(p, name, tau).values[:, 0]) for tau in self.taus]
            for p in parts
        ]

    def figure(self, r: st.Result) -> Figure:
        """Where progressive and 2-shot students learn sooner than their rivals.

        Sparse parity, a row a label noise and student width. Numbers: samples to .90 of
        the faster of CE and one-shot over those of the strategy, median over teachers
        (right column: of CE over one-shot); infinite where the rival alone does not
        arrive by six times the teacher's n90, 0 where the strategy alone does not.
        Bold: the whole 95% interval lies on one side of 1. Blue helps, red hurts.
        """
        shape = len(self.problems), len(SHOWN)
        height = 0.9 + len(self.problems) * (0.5 + 0.16 * self._rows)
        fig, axes = st.panels(*shape, height=height, squeeze=False, sharey=True)
        for row, (k, _) in zip(axes, self.problems, strict=True):
            for ax, (name, title) in zip(row, SHOWN, strict=True):
                self._draw(ax, self.map_of(r, k, name))
                ax.set_title(f"k = {k}: {title}")
            row[0].set_ylabel("label noise, student width")
        for ax in axes[-1]:
            ax.set_xlabel("teacher temperature")
        n = sum(len(t.n90) for t in next(iter(r.parts.values())).teachers)
        words = f"Parity, d = {self.setting.task.d}; n = {n} teachers a cell"  # pyright: ignore
        words = f"{words}; rival's samples to .90 / strategy's, medians: blue helps,"
        st.note(fig, f"{words} red hurts; bold: the 95% interval lies on one side of 1")
        return fig

    @property
    def _rows(self) -> int:
        return len(self.noise) * len(self.widths)

    def _draw(self, ax: Axes, found: list[list[Estimate]]) -> None:
        value = np.asarray([[e.value for e in row] for row in found])
        with np.errstate(divide="ignore"):
            shade = np.clip(np.log2(value), -np.log2(MOST), np.log2(MOST))
        norm = TwoSlopeNorm(0, -np.log2(MOST), np.log2(MOST))
        ax.imshow(shade, cmap="RdBu", norm=norm, aspect="auto", alpha=0.8)
        for i, row in enumerate(found):
            for j, e in enumerate(row):
                sure = e.lower > 1 or e.upper < 1
                dark = abs(shade[i, j]) > 2
                ax.text(
                    j,
                    i,
                    f"{e.value:.2g}" if np.isfinite(e.value) else digits(e.value),
                    color="white" if dark else "black" if sure else "0.3",
                    weight="bold" if sure else "normal",
                    ha="center",
                    va="center",
                    size=6,
                )
        for i in range(1, len(self.noise)):
            ax.axhline(i * len(self.widths) - 0.5, color="white", lw=2)
        names = ["argmax" if tau == 0 else f"{tau:g}" for tau in self.taus]
        ax.set_xticks(range(len(names)), names)
        rows = [f"{eps:g}, {width}" for eps in self.noise for width in self.widths]
        ax.set_yticks(range(len(rows)), rows)
        ax.tick_params(length=0)
        ax.grid(visible=False)

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        """At temperature 1 and the largest k."""
        k, _ = self.problems[-1]
        most, narrow, wide = self.noise[-1], self.widths[-2], self.widths[-1]

        def at(name: str, eps: float, width: int, tau: float = 1.0) -> st.Quantity:
            named = self.named(k, eps, width)
            found = self.gain(r.parts[named], name, tau)
            words = f"n90(rival) / n90({name}) at {named}, temperature {tau:g}"
            return replace(found, text=words)

        for name in ("progressive", "two_shot"):
            what, words = at(name, most, narrow), f"{name} helps under label noise"
            yield st.at_least(f"M1.{name}", what, 1.5, words, also=(1.22, 2.25))
            what = at(name, self.noise[0], narrow) / at(name, self.noise[0], wide)
            words = f"{name} helps narrow students more than wide ones"
            yield st.above(f"M2.{name}", what, 1.0, words)
        if (hot := max(self.taus)) > 1:
            what = at("progressive", self.noise[0], narrow, hot)
            words = f"progressive helps at temperature {hot:g}"
            yield st.at_least("M3.hot", what, 1.5, words, also=(1.22, 2.25))
        if 0.0 in self.taus:
            what = at("one_shot", most, narrow, 0.0)
            words = "the argmax of the final teacher takes noise off labels"
            yield st.at_least("M4.argmax", what, 1.5, words, also=(1.22, 2.25))

    def facts(self, r: st.Result) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, _ in SHOWN:
            maps = {f"k={k}": self.map_of(r, k, name) for k, _ in self.problems}
            cells = [e for rows in maps.values() for row in rows for e in row]
            out[name] = {
                "median_and_interval": {
                    k: [[e[:3] for e in row] for row in rows]
                    for k, rows in maps.items()
                },
                "cells": len(cells),
                "sooner": sum(e.lower > 1 for e in cells),
                "later": sum(e.upper < 1 for e in cells),
            }
        return {"map": out}


if __name__ == "__main__":
    ParityRegions.main()
