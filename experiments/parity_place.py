"""Where in a teacher's transition the first stage's checkpoint may lie.

    python -m experiments.parity_place smoke
    python -m experiments.parity_place cpu --places.n-teachers 5
    python -m experiments.parity_place --help

Extends the "spike" figure of arXiv 2410.05464 (claim P6). At one problem, 2-shot
students learn from checkpoints before, at and after the middle one, whose correlations
with monomials of every degree are measured on many inputs: which degree shows where
the student learns? At several problems, a checkpoint that a rule finds without labels
(`sandbox.probes.transitions.half_rise`) teaches; the rule was designed on other seeds
of one of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

import sandbox.study as st
from experiments.parity_curriculum import Shares, share_name
from sandbox.errors import require
from sandbox.plotting.curves import estimates, log_levels, strips
from sandbox.plotting.style import DEGREE_COLORS, color_of
from sandbox.probes.fourier import FourierProbe
from sandbox.store.bounds import AtLeast, Increasing
from sandbox.study.rules import LABEL_FREE
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.theory.sample_complexity import Estimate, median_estimate

SMOKE = st.Setting(
    task=Parity(d=16, k=4, support=RandomSupport()),
    teacher=st.TwoLayer(200),
    rule=st.ByGap(points=4096, degrees=(1,)),
    lanes=10,
    n_teachers=3,
    seed=100,
    spacing=256,
    student_every=128,
    budget=st.UntilLearned(limit=51_200, cap=3.0),
)
CPU = replace(
    SMOKE,
    task=Parity(d=32, k=6, support=RandomSupport()),
    teacher=st.TwoLayer(1000),
    n_teachers=10,
    group=10,
    spacing=2560,
    student_every=1280,
    budget=st.UntilLearned(limit=512_000, cap=3.0),
)
PLACES = "places"

Problem = tuple[
    Annotated[int, AtLeast(1)], Annotated[int, AtLeast(1)], Annotated[int, AtLeast(64)]
]
"""d, k, and samples between teacher checkpoints."""


class ParityPlace(st.Study):
    """P6 by the place of the checkpoint, and by a rule without labels.

    Attributes:
      places: teachers and students of the first question.
      shares: of the middle checkpoint's samples, near which checkpoints teach.
      degrees: of the monomials that are measured there.
      points: inputs that they are measured on.
      problems: d, k and spacing of the second question.
      n_teachers: of each of these.
    """

    places: st.Setting = SMOKE
    shares: Shares = (0.5, 0.8, 0.951)
    degrees: Annotated[tuple[int, ...], Increasing(1)] = (1, 2)
    points: Annotated[int, AtLeast(2)] = 20_000
    problems: tuple[Problem, ...] = ((16, 4, 256), (20, 4, 256))
    n_teachers: Annotated[int, AtLeast(1)] = 3

    presets = {
        "smoke": st.preset("d=16 and 20, k=4, three teachers of width 200."),
        "cpu": st.preset(
            "d=32, k=6 by place; d=24, 32, 40 and k=4, 5, 6 by rule; width 1000.",
            places=CPU,
            shares=(0.5, 0.7, 0.8, 0.85, 0.9, 0.951, 1.0, 1.05),
            degrees=(1, 2, 3, 4, 5),
            points=1_000_000,
            problems=(
                (24, 4, 256), (32, 4, 512), (40, 4, 1024),
                (24, 5, 1024), (32, 5, 1280), (40, 5, 2560),
                (24, 6, 1280), (32, 6, 2560), (40, 6, 10_240),
            ),
            n_teachers=20,
        ),
    }  # fmt: skip
    since = {"any": "2026-11-28 01ae3e1"} | {
        f"PL.leak.{share:g}": "2026-11-28 b4ef803 (added)"
        for share in (0.7, 0.8, 0.85, 0.9, 0.951, 1.0, 1.05)
    }

    def check(self) -> None:
        ok = isinstance(self.places.rule, st.ByGap)
        require(ok, "places.rule must be ByGap(), which measures the variance of p.")
        words = f"degrees must hold 1, of which the claims speak, got {self.degrees}."
        require(1 in self.degrees, words)
        require(
            all(spacing % 64 == 0 for *_, spacing in self.problems),
            f"problems must hold multiples of 64 as spacings, got {self.problems}.",
        )

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        out = {PLACES: self.places}
        for d, k, spacing in self.problems:
            out[named(d, k)] = replace(
                self.places,
                task=Parity(d=d, k=k, support=RandomSupport()),
                n_teachers=self.n_teachers,
                spacing=spacing,
                student_every=spacing // 2,
                budget=replace(
                    self.places.budget, limit=200 * spacing, expected=40 * spacing
                ),
            )
        return out

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        if t.setting != self.places:
            names = ("middle", *LABEL_FREE)
            return [st.two_shot(t[name], t.hold, name=name) for name in names]
        return [
            st.two_shot(t.near(share), t.hold, name=share_name(share))
            for share in self.shares
        ]

    def measure(self, r: st.Result) -> dict[str, np.ndarray]:
        """Energies by teacher, place and degree, on inputs that chose no checkpoint.

        `inside` is the mean square of the correlations with monomials in the support,
        less what sampling adds on average, `error` its standard error, and `outside`
        the same of monomials that are not; `(T, P, A)`, NaN without a checkpoint.
        """
        rows: list[np.ndarray] = []
        none = np.full((3, len(self.degrees)), np.nan)
        for t in r.parts[PLACES].teachers:
            rule = t.setting.rule
            assert isinstance(rule, st.ByGap)
            probe = FourierProbe(
                t.setting.made_task,
                t.spec.model,
                degrees=self.degrees,
                off_count=20,
                points=self.points,
                first_row=rule.points,
            )
            near = [t.near(share).values for share in self.shares]
            for s, steps in enumerate(zip(*near, strict=True)):
                known = sorted({step for step in steps if step is not None})
                found = {None: none}
                if known:
                    c = r.measure(t.run, probe, steps=known, seeds=(s,)).values
                    found |= {step: self.energies(c, i) for i, step in enumerate(known)}
                rows.append(np.stack([found[step] for step in steps], 1))
        every = np.stack(rows, 1)
        return dict(zip(("inside", "error", "outside"), every, strict=True))

    def energies(self, c: Mapping[str, np.ndarray], i: int) -> np.ndarray:
        """What `measure` says of one seed's checkpoint, by degree: `(3, A)`."""
        out = []
        for a in self.degrees:
            sides = [
                [c[f"{side}{x}/{a}"][0, i, 0, :, 1] for x in ("", "_se")]
                for side in ("in_support", "off_support")
            ]
            (inside, error), (outside, _) = (energy(*side) for side in sides)
            out.append((inside, error, outside))
        return np.asarray(out).T

    def figure(self, r: st.Result) -> Figure:
        """Students by place, correlations by place and degree, and a rule by problem.

        (a) Samples to .90 of 2-shot students over their teacher's n90, by where the
        first stage's checkpoint lies (as a share of the samples of the checkpoint with
        the largest degree-1 gap); a dot a teacher, medians with 95% intervals, and
        triangles for runs not there by their cap. (b) Root mean square of the
        correlations of those checkpoints' output with the support's monomials of each
        degree, less sampling noise, median over teachers; filled where it is above
        three standard errors in at least half of them. (c) Students of the checkpoint
        that `half_rise` finds without labels, a row a problem (in brackets: how many
        teachers have one), bars the medians, diamonds those of the older rule `blind`,
        none where it is beyond the cap; who has no checkpoint counts as not there.
        Dotted in a and c: the teacher's pace.
        """
        fig, (a, b, c) = st.panels(1, 3, height=2.9, width_ratios=(1, 1, 1.1))
        self._draw_places(a, r)
        self._draw_degrees(b, r.measured)
        self._draw_problems(c, r)
        n = st.learned(r.parts[PLACES])
        setting = str(self.places)
        st.note(fig, f"{setting}; n = {n} teachers in a and b; bars: 95% intervals")
        return fig

    def _draw_places(self, ax: Axes, r: st.Result) -> None:
        part, budget = r.parts[PLACES], self.places.budget
        assert isinstance(budget, st.UntilLearned)
        color, found = color_of("two_shot"), []
        for share in self.shares:
            values = pace(part, share_name(share)).values[:, 0]
            found.append(median_estimate(values))
            dots = np.minimum(values, 1.05 * budget.cap)
            late = np.isinf(values)
            x = share + 0.006 * np.sin(7.0 * np.arange(len(dots)))
            ax.plot(x[~late], dots[~late], "o", color=color, ms=2.5, alpha=0.4, mew=0)
            ax.plot(x[late], dots[late], "^", color=color, ms=3, alpha=0.4, mew=0)
        estimates(ax, self.shares, found, color=color, cap=budget.cap)
        log_levels(ax)
        ax.axhline(1, color="0.5", lw=0.8, ls=":")
        ax.set(xlabel="place / middle", ylabel="samples to .90 / n90 of teacher")
        ax.set_title("2-shot by place")

    def _draw_degrees(self, ax: Axes, measured: Mapping[str, np.ndarray]) -> None:
        inside, error, outside = measured.values()

        def size(energy: np.ndarray) -> np.ndarray:
            median = np.nanmedian(energy, 0)
            return np.sqrt(np.where(median > 0, median, np.nan))

        shown = np.nanmean(inside > 3 * error, 0) >= 0.5
        for i, a in enumerate(self.degrees):
            color, y = DEGREE_COLORS[i % len(DEGREE_COLORS)], size(inside)[:, i]
            ax.plot(self.shares, y, "-", color=color, lw=1, label=f"{a}")
            for at, mfc in ((shown[:, i], color), (~shown[:, i], "white")):
                ax.plot(
                    np.asarray(self.shares)[at],
                    y[at],
                    "o",
                    ms=3.5,
                    color=color,
                    mfc=mfc,
                )
        style = {"color": DEGREE_COLORS[0], "lw": 1, "label": "1, off support"}
        ax.plot(self.shares, size(outside)[:, 0], ":", **style)
        log_levels(ax)
        ax.set(xlabel="place / middle", ylabel=r"rms cov$(p, \chi_A)$ in the support")
        ax.set_title("What places leak")
        ax.legend(title="degree", ncols=2, columnspacing=1.0)

    def _draw_problems(self, ax: Axes, r: st.Result) -> None:
        parts = [(d, k, r.parts[named(d, k)]) for d, k, _ in self.problems]
        budget = self.places.budget
        assert isinstance(budget, st.UntilLearned)
        strips(
            ax,
            [pace(p, "half_rise").values[:, 0] for *_, p in parts],
            labels=[f"{d}, {k} ({found(p)}/{st.learned(p)})" for d, k, p in parts],
            colors=[color_of("half_rise")] * len(parts),
            cap=budget.cap,
        )
        old = [np.nanmedian(pace(p, "blind").values) for *_, p in parts]
        y = np.arange(len(parts))
        ax.plot(
            np.where(np.isinf(old), np.nan, old),
            y,
            "d",
            color=color_of("blind"),
            ms=4,
            mfc="white",
            label="the older rule",
        )
        ax.legend(handletextpad=0.2)
        ax.axvline(1, color="0.5", lw=0.8, ls=":")
        ax.set(xlabel="samples to .90 / n90 of teacher", ylabel="d, k (found)")
        ax.set_title("By a rule without labels")

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        part, degree1 = r.parts[PLACES], self.degrees.index(1)
        first, *later = self.shares
        words = f"2-shot from {first:g} of the middle is slower than the teacher"
        early = pace(part, share_name(first))
        yield st.at_least(f"PL.at.{first:g}", early, 1.0, words)
        for share in later:
            words = f"2-shot from {share:g} of the middle is no slower than the teacher"
            seen = pace(part, share_name(share))
            yield st.at_most(f"PL.at.{share:g}", seen, 1.0, words, also=(0.5, 2.0))
            i = self.shares.index(share)
            leak = r.measured["inside"] / r.measured["outside"]
            words = f"at {share:g} of the middle degree 1 stands out in the support"
            text = "degree-1 energy in the support / off it"
            shown = st.of_teachers(leak[:, i, degree1], text)
            yield st.at_least(f"PL.leak.{share:g}", shown, 2.0, words, also=(1.41, 4.0))
        for d, k, _ in self.problems:
            p = r.parts[named(d, k)]
            n, x = st.learned(p), found(p)
            words = (
                f"d={d}, k={k}: `half_rise` finds a checkpoint in nine teachers of ten"
            )
            share = Estimate(np.nan, np.nan, np.nan, n)
            if n:
                ends = binomtest(x, n).proportion_ci()
                share = Estimate(x / n, ends.low, ends.high, n)
            text = "share of teachers with one (95%: Clopper and Pearson)"
            rate = st.Statistic(share, text, n)
            yield st.at_least(f"LF.found.{d}.{k}", rate, 0.9, words)
            words = f"d={d}, k={k}: its 2-shot students are no slower than the teacher"
            seen = pace(p, "half_rise")
            yield st.at_most(f"LF.pace.{d}.{k}", seen, 1.0, words, also=(0.5, 2.0))

    def facts(self, r: st.Result) -> dict[str, Any]:
        m = r.measured
        shown = np.nanmean(m["inside"] > 3 * m["error"], 0)
        inside, outside = (np.nanmedian(m[side], 0) for side in ("inside", "outside"))
        energies = {"inside": inside, "outside": outside, "above_3_errors": shown}
        places = {
            f"{share:g}": {
                **summary(r.parts[PLACES], share_name(share)),
                **{name: v[i].tolist() for name, v in energies.items()},
            }
            for i, share in enumerate(self.shares)
        }
        rules = {
            named(d, k): {
                "teachers": st.learned(p := r.parts[named(d, k)]),
                **{n: {"found": found(p, n), **summary(p, n)} for n in LABEL_FREE},
            }
            for d, k, _ in self.problems
        }
        return {"degrees": list(self.degrees), "places": places, "rules": rules}


def summary(p: st.Taught, name: str) -> dict[str, Any]:
    """Median of `pace`, its interval, and how many are no slower than their teacher."""
    values = pace(p, name).values[:, 0]
    return {
        **median_estimate(values).to_json("pace"),
        "no_slower": int(np.sum(values <= 1)),
    }


def energy(c: np.ndarray, se: np.ndarray) -> tuple[float, float]:
    """Mean square of correlations, less what sampling adds, and its standard error.

    With c normal around its mean, Var c^2 = 4 c^2 se^2 + 2 se^4.
    """
    error = np.sqrt((4 * c**2 * se**2 + 2 * se**4).sum()) / len(c)
    return float((c**2 - se**2).mean()), float(error)


def pace(p: st.Taught, name: str) -> st.Quantity:
    """Samples to .90 of 2-shot students over their teacher's."""
    return p.n90[name] / p.n90.teacher


def found(p: st.Taught, name: str = "half_rise") -> int:
    """How many of them have a checkpoint by a rule."""
    return sum(
        step is not None and bool(ok)
        for t in p.teachers
        for step, ok in zip(t.chosen.stages[name][0], t.usable, strict=True)
    )


def named(d: int, k: int) -> str:
    """What a problem is called."""
    return f"d={d}, k={k}"


if __name__ == "__main__":
    ParityPlace.main()
