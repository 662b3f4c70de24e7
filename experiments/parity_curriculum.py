"""The curriculum hidden in a teacher's checkpoints, and which of them teaches best.

    python -m experiments.parity_curriculum smoke
    python -m experiments.parity_curriculum cpu --tau 0
    python -m experiments.parity_curriculum --help

Reproduces the "spike" figure of arXiv 2410.05464: around the teacher's transition its
output is correlated with the coordinates of the support. Candidate checkpoints are
found by rule; each teaches the first stage of a 2-shot student.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments import parity_mlp
from experiments.published import SPIKE
from sandbox.errors import require
from sandbox.plotting.curves import band
from sandbox.plotting.style import DEGREE_COLORS, MARKERS, color_of
from sandbox.probes.fourier import FourierProbe
from sandbox.store.bounds import AtLeast, Increasing, MoreThan
from sandbox.study.rules import gaps, supports

LABELS = {
    "before": "before (half of n53)",
    "before_last": "before (last below .53)",
    "middle": "middle (largest gap)",
    "after": "after (first > .999)",
    "blind": "blind (no labels)",
    "half_rise": "half rise (no labels)",
}
SHOWN = {
    "middle": "1.0 by 1.5M",
    "blind": "not in the paper",
    "half_rise": "not in the paper",
}
"""What the paper shows of the candidates that teach; others are at .5 at 2M."""
ADDED = (
    *("P5.size", "P5.share_0.9", "P5.share_0.951", "P6.half_rise"),
    *("P6.share_0.9", "P6.share_0.951"),
)
Shares = Annotated[tuple[Annotated[float, MoreThan(0)], ...], Increasing(0)]
AROUND = 0.9, 1.1
"""Of a single teacher's n90: where its correlations are shown."""
ZOOM = 7_500_000, 7_900_000, 4_000
"""First and last sample of the closer checkpoints, and how far apart they are (5,000
is no whole number of the engine's blocks of 32)."""


class ParityCurriculum(st.Study):
    """The "spike" figure of arXiv 2410.05464.

    Attributes:
      setting: task, teachers and students.
      tau: teacher temperature.
      candidates: which checkpoints teach the first stage.
      shares: of the middle checkpoint's samples at which others do.
      student_samples: cap of the students in samples; 0 takes the budget's.
    """

    setting: st.Setting = replace(parity_mlp.SMOKE, lanes=4)
    tau: float = 1.0
    candidates: tuple[str, ...] = ("before", "middle", "after", "blind")
    shares: Shares = ()
    student_samples: Annotated[int, AtLeast(0)] = 0

    presets = {
        "smoke": st.preset("d=24, k=6, five teachers of width 500."),
        "cpu": st.preset(
            "d=32, k=6, twenty teachers of width 1000.",
            setting=replace(parity_mlp.CPU, lanes=4),
        ),
        "paper": st.preset(
            "d=100, k=6, one teacher of width 50,000, students for 2M samples.",
            setting=replace(parity_mlp.PAPER, lanes=5),
            candidates=("before", "before_last", "middle", "after", "blind"),
            student_samples=2_000_000,
        ),
        "paper_zoom": st.preset(
            "the same teacher, with closer checkpoints within its transition.",
            setting=replace(
                parity_mlp.PAPER,
                lanes=7,
                checkpoints_at=tuple(range(ZOOM[0], ZOOM[1] + 1, ZOOM[2])),
            ),
            candidates=("before_last", "middle", "after", "blind", "half_rise"),
            shares=(0.9, 0.951),
            student_samples=2_000_000,
        ),
    }
    since = {
        "smoke, cpu": "2026-11-22 f606d70",
        "paper": "2026-11-22 b8b91bd",
        **dict.fromkeys(ADDED, "2026-11-28 01ae3e1"),
    }

    def check(self) -> None:
        known = bool(self.candidates) and set(self.candidates) <= set(LABELS)
        words = f"candidates must be among {', '.join(LABELS)}, got {self.candidates}."
        require(known, words)
        words = "setting.rule must be ByGap(), whose candidates teach here."
        require(isinstance(self.setting.rule, st.ByGap), words)

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        taught = [st.two_shot(t[c], t.hold, self.tau, name=c) for c in self.candidates]
        for share in self.shares:
            name, step = share_name(share), t.near(share)
            taught.append(st.two_shot(step, t.hold, self.tau, name=name))
        return [st.Capped(s, samples=self.student_samples) for s in taught]

    def measure(self, r: st.Result) -> dict[str, np.ndarray]:
        """Mean |degree-1 correlation| of every candidate, in and off the support.

        On inputs that did not choose it; `(2, T)`, NaN where a seed has none.
        """
        named = (*LABELS, "final", *map(share_name, self.shares))
        out: dict[str, list[tuple[float, float]]] = {n: [] for n in named}
        for t in r.teachers:
            rule = t.setting.rule
            assert isinstance(rule, st.ByGap)
            probe = FourierProbe(
                t.setting.made_task,
                t.spec.model,
                degrees=(1,),
                points=rule.claim_points,
                first_row=rule.points,
            )
            near = {share_name(x): (t.near(x).values,) for x in self.shares}
            stages = {**t.chosen.stages, **near}
            for s in range(len(t.n90)):
                at = {name: stages[name][0][s] for name in out}
                steps = sorted({step for step in at.values() if step is not None})
                found: dict[int | None, tuple[float, float]] = {None: (np.nan, np.nan)}
                if steps:
                    c = r.measure(t.run, probe, steps=steps, seeds=(s,)).values
                    pairs = gaps(c["degree1"][0], supports(t.run, s))
                    found.update(zip(steps, zip(*pairs, strict=True), strict=True))
                for name, step in at.items():
                    out[name].append(found[step])
        return {name: np.asarray(rows, float).T for name, rows in out.items()}

    def figure(self, r: st.Result) -> Figure:
        """Candidate checkpoints, what they leak, and what they teach.

        (a) Accuracy of the teachers; below it a row a candidate checkpoint, a tick a
        teacher, a mark at the median. (b) Mean |correlation| (the covariance) of the
        output p(1|x) with monomials of a degree: of coordinates in the support, less
        the same off it (chance is 0); it rises with the transition, and a teacher alone
        is shown around it. (c) Accuracy of students that learn from a candidate first,
        then from the final teacher (2-shot). Samples in units of each teacher's n90,
        its samples to accuracy .90, where there are several; medians over the teachers
        that learned, bands between quartiles (extremes of fewer than ten runs); marks
        only name the curves. Stars, at the published size alone: the published curves.
        """
        fig, axes = st.panels(1, 3, height=2.75)
        a, b, c = axes
        _draw_teacher(a, r, self.candidates, self.shares)
        _draw_correlations(b, r)
        for i, name in enumerate(r.strategies):
            x, y = r.rows(r.curves(name))
            style, color = _style(name, self.shares), color_of(name)
            marks = MARKERS.get(name, ""), i, len(r.strategies)
            label = label_of(name)
            band(c, x, y, label=label, color=color, linestyle=style, marks=marks)
        c.set(ylabel="accuracy of students", title="What each of them teaches")
        budget, ends = r.setting.budget, (None, None, None)
        if len(r.abscissa) > 1 and isinstance(budget, st.UntilLearned):
            ends = (2.2, 2.2, budget.cap)
        for ax, end in zip(axes, ends, strict=True):
            last = max((line.get_xdata()[-1] for line in ax.get_lines()), default=1)
            ax.set(xlim=(0, min(end or last, last)), xlabel=r.abscissa_text)
        if close := r.setting.checkpoints_at:
            for ax in (a, b):
                ax.set_xlim(*(np.asarray([close[0], close[-1]]) / r.abscissa[0]))
        elif len(r.abscissa) == 1:
            b.set_xlim(*np.asarray(AROUND) * r.teachers[0].n90[0] / r.abscissa[0])
        c.set_ylim(0.44, 1.02)
        if r.preset.startswith("paper"):
            pairs = zip(SPIKE["inside"], SPIKE["outside"], strict=True)
            gap = {"gap": [(x, inside - off) for (x, inside), (_, off) in pairs]}
            for ax, names in ((a, ["teacher"]), (b, ["gap"]), (c, SHOWN)):
                st.published(ax, SPIKE | gap, names)
        return fig

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        yield from self._correlations(r)
        n90 = r.n90
        for name, shown in self._taught():
            words = f"2-shot from the {name} checkpoint is no slower than the teacher"
            pace = n90[name] / n90.teacher
            yield st.at_most(f"P6.{name}", pace, 1.0, words, paper=shown)
        for name in ("before", "after"):
            words = f"2-shot from the checkpoint {name} the transition is slower"
            later = n90[name] / n90["middle"]
            yield st.at_least(f"P6.{name}", later, 2.0, words, paper=".5 at 2M")

    def paper_claims(self, r: st.Result) -> Iterator[st.Claim]:
        yield from self._correlations(r)
        for name, shown in self._taught():
            words = f"2-shot from the {name} checkpoint reaches .95 within 2M"
            seen = r.reach(0.95)[name] / 1e6
            yield st.at_most(f"P6.{name}", seen, 2.0, words, paper=shown)
        others = (n for n in ("before", "before_last", "after") if n in r.strategies)
        for name in (*others, *map(share_name, self.shares)):
            words = f"2-shot from {name} is near chance at its last sample"
            end, paper = r.at(name), ".5 at 2M"
            yield st.below(f"P6.{name}", end, 0.6, words, paper=paper, in_all=True)

    def _taught(self) -> Iterator[tuple[str, str]]:
        """Candidates that should teach, and what the paper shows of them."""
        return ((n, shown) for n, shown in SHOWN.items() if n in self.candidates)

    def _correlations(self, r: st.Result) -> Iterator[st.Claim]:
        """P5, on fresh inputs."""
        gap = {name: inside - off for name, (inside, off) in r.measured.items()}
        middle, (inside, off) = gap["middle"], r.measured["middle"]
        share = np.where(middle > 0, inside / off, 0 * middle)  # NaN stays NaN
        text = "in/off of mean |degree-1 correlation|, 0 where in - off <= 0,"
        words = "mid-transition, the teacher's output lies on its support's coordinates"
        leak = st.Quantity(share[:, None], text, students=False, ratio=True)
        yield st.at_least("P5.middle", leak, 2.0, words, paper=".09 against <= .02")
        if r.setting.checkpoints_at:
            size = st.of_teachers(inside, "mean |degree-1 correlation| in the support")
            words = "close up, its correlations are half as large as published or more"
            yield st.at_least("P5.size", size, 0.045, words, paper=".09")
        for name in ("final", "before", "before_last", *map(share_name, self.shares)):
            if name in ("final", *r.strategies):
                text = f"gap(middle) - 2 gap({name})"
                less = st.of_teachers(middle - 2 * gap[name], text)
                who, shown = "before the transition it", "small at 9.7M"
                if name == "final":
                    who, shown = "the final teacher", "small after 10.8M"
                words = f"{who} leaks at most half as much"
                yield st.positive(f"P5.{name}", less, words, paper=shown)


def share_name(share: float) -> str:
    """How the lane of a checkpoint at a share of the middle one's samples is called."""
    return f"share_{share:g}"


def label_of(name: str) -> str:
    """What a candidate is called in figures."""
    return LABELS.get(name, f"{name.removeprefix('share_')} of middle")


def _style(name: str, shares: tuple[float, ...]) -> str:
    """Of a candidate's curve: solid, or, of the shares, dashed and dotted."""
    if name in LABELS:
        return "-"
    return "--" if name == share_name(shares[0]) else ":"


def _draw_teacher(
    ax: Axes, r: st.Result, candidates: tuple[str, ...], shares: tuple[float, ...]
) -> None:
    x, y = r.rows(r.curves("teacher"))
    band(ax, x, y, label="teacher", color=color_of("teacher"))
    stages = {
        n: [s for t in r.teachers for s in t.chosen.stages[n][0]] for n in candidates
    }
    near = {
        share_name(v): [s for t in r.teachers for s in t.near(v).values] for v in shares
    }
    for i, (name, steps) in enumerate((stages | near).items()):
        at, color = np.asarray(steps, float) / r.abscissa, color_of(name)
        at, row = at[~np.isnan(at)], 0.455 - 0.035 * i
        if len(at):
            middle, mark = float(np.median(at)), MARKERS.get(name, "|")
            ax.plot(
                [middle] * 2, [row, 1], color=color, lw=0.8, ls=_style(name, shares)
            )
            ax.plot(at, np.full(len(at), row), "|", color=color, ms=4, mew=0.8)
            ax.plot(middle, row, mark, color=color, ms=4, mfc="white", mew=1.1)
    ax.set_ylim(0.42 - 0.035 * len(stages | near), 1.02)
    ax.set_yticks(np.linspace(0.5, 1, 6))
    ax.set(ylabel="accuracy of the teacher", title="Where the checkpoints lie")


def _draw_correlations(ax: Axes, r: st.Result) -> None:
    known = {name for t in r.teachers for name in t.chosen.measured}
    assert isinstance(r.setting.rule, st.ByGap)
    for degree in r.setting.rule.degrees:
        names = [f"{side}_support/{degree}" for side in ("in", "off")]
        if known.issuperset(names):

            def gap(t: st.Teachers, names: list[str] = names) -> np.ndarray:
                each = (largest_class(t.chosen.measured[name]) for name in names)
                inside, off = (size.mean((-1, -2)) for size in each)
                return inside - off

            color = DEGREE_COLORS[(degree - 1) % len(DEGREE_COLORS)]
            band(ax, *r.along(gap), label=f"degree {degree}", color=color)
    ax.axhline(0, color="0.5", lw=0.8, zorder=0)
    ax.set(ylabel=r"mean $|$cov$(p, \chi_A)|$: in $-$ off")
    ax.set_title("What their outputs leak")
    if len(ax.get_lines()) > 1:
        ax.legend(loc="upper right")


def largest_class(c: np.ndarray) -> np.ndarray:
    """|c| of class 1 where C = 2, the largest over classes where C > 2."""
    size = np.abs(c)
    return size[..., 1] if size.shape[-1] == 2 else size.max(-1)


if __name__ == "__main__":
    ParityCurriculum.main()
