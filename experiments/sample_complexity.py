"""Samples to accuracy .90 against d and k: who pays d^(k-1), and who does not.

    python -m experiments.sample_complexity smoke
    python -m experiments.sample_complexity cpu --n-teachers 10
    python -m experiments.sample_complexity --help

Parities of k of d bits are learned from labels (CE), and from one checkpoint within the
teacher's transition, chosen by rule, before its final one (2-shot). That is the
comparison which theory makes (arXiv 2410.05464, section 3): the student's own samples
are counted, and what its teacher needed stands beside them. The length of the first
stage sets a floor under n90, which flattens its curve. So several lengths are trained,
every teacher's student gets the one that was best with the *other* teachers, and the
samples after the first stage are counted too.

A run that does not arrive within its cap is censored, not dropped.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from sandbox.errors import require
from sandbox.plotting.curves import estimates, log_levels, log_ticks
from sandbox.plotting.style import WIDE, color_of, sequence
from sandbox.store.bounds import AtLeast, Increasing, MoreThan
from sandbox.study.result import caps_of
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.text import number
from sandbox.theory.exponents import (
    Scaling,
    difference,
    local_slopes,
    survival_estimate,
    survival_median,
)
from sandbox.theory.parity_bounds import label_batch
from sandbox.theory.parity_checkpoint import checkpoint_batch
from sandbox.theory.sample_complexity import (
    Estimate,
    median_estimate,
    median_quotient,
    ratio,
)

LIMIT, LIKELY = 200, 30
"""Teacher checkpoints by which a teacher must have learned, and probably has."""
FINEST = 2560
"""Samples between evaluations of students, unless their teacher is quicker."""
SHOWN = {
    "teacher": "teacher",
    "ce": "CE (labels)",
    "chosen": "2-shot",
    "after": "2-shot after its first stage",
}
"""Strategies of the figure, its runs judged by `SampleComplexity.judged`."""
FIXED = {
    "two_shot": ("P9", "labels cost a higher power of d than 2-shot"),
    "best_hold": ("P9.best_hold", "labels against 2-shot at its best"),
}
"""2-shot with one first stage for all: claims about the gap of exponents."""
LOW, HIGH, COMMON = 4, 6, (32, 48)
"""k between which labels must fall behind, and the d where both are compared."""
CLOSED_K, CLOSED_D = (2, 4, 6, 8, 10), (513, 1025)
"""Even k of the closed forms, and the odd d between which their exponents are taken."""

Cell = tuple[int, int, int]
"""d, k, and samples between teacher checkpoints."""
Times = tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]
"""Samples to .90 of every teacher's run (inf beyond the cap, NaN where no student was
taught), and its caps."""
Runs = dict[str, Times]
"""When the runs of every strategy arrived."""
CPU_CELLS: tuple[Cell, ...] = (
    (24, 3, 256), (32, 3, 256), (48, 3, 512), (64, 3, 1024),
    (24, 4, 256), (32, 4, 512), (48, 4, 1024), (64, 4, 5120),
    (24, 5, 1024), (32, 5, 2048), (48, 5, 5120),
    (24, 6, 1024), (32, 6, 5120), (48, 6, 10_240),
)  # fmt: skip
PAPER_CELLS: tuple[Cell, ...] = (
    (24, 4, 512), (32, 4, 1024), (48, 4, 2048), (72, 4, 5120), (100, 4, 10_240),
    (24, 5, 1024), (32, 5, 2048), (48, 5, 5120), (72, 5, 30_720), (100, 5, 61_440),
    (24, 6, 2048), (32, 6, 5120), (48, 6, 15_360), (72, 6, 92_160), (100, 6, 327_680),
)  # fmt: skip


class Problem(NamedTuple):
    """A cell with the width of its students."""

    d: int
    k: int
    spacing: int
    width: int

    def __str__(self) -> str:
        """As settings and reports name it."""
        return f"d={self.d}, k={self.k}, width={self.width}"

    @property
    def every(self) -> int:
        """Samples between evaluations of students, fine enough for quick ones."""
        return min(self.spacing // 2, FINEST)


Solved = dict[Problem, Runs]


class SampleComplexity(st.Study):
    """Exponents of n90 in d, and how far labels fall behind as k grows (claim P9).

    Attributes:
      cells: (d, k, spacing) of every problem; spacing is the number of samples between
        teacher checkpoints, about a thirtieth of what teachers need.
      main_k: whose exponents the claims speak of.
      teacher_width: hidden units of teachers.
      widths: hidden units of students; claims speak of the first.
      holds: lengths of the 2-shot student's first stage, in samples.
      hold: the one that claim P9 rests on.
      tau: teacher temperature.
      ce_cap: samples of a CE student, as a multiple of its teacher's n90.
      cap: the same of 2-shot students; no cap is below three times the longest hold.
      n_teachers: of every problem.
      group: teachers trained together.
    """

    cells: tuple[Cell, ...] = ((10, 4, 128), (14, 4, 256), (20, 4, 512))
    main_k: int = 4
    teacher_width: int = 200
    widths: Annotated[tuple[int, ...], Increasing()] = (20,)
    holds: Annotated[tuple[int, ...], Increasing()] = (2048, 4096)
    hold: int = 4096
    tau: float = 1.0
    ce_cap: Annotated[float, MoreThan(0)] = 6.0
    cap: Annotated[float, MoreThan(0)] = 6.0
    n_teachers: Annotated[int, AtLeast(1)] = 3
    group: Annotated[int, AtLeast(1)] = 3

    presets = {
        "smoke": st.preset("k=4, d = 10 to 20, three teachers of width 200."),
        "cpu": st.preset(
            "Parities of 3 to 6 of 24 to 64 bits, twenty teachers of width 1000.",
            cells=CPU_CELLS,
            main_k=5,
            teacher_width=1000,
            widths=(20, 100),
            holds=(5120, 10_240, 20_480, 40_960),
            hold=20_480,
            ce_cap=16.0,
            cap=1.0,
            n_teachers=20,
            group=10,
        ),
        "paper": st.preset(
            "To d = 100 and k = 6 with teachers of width 50,000: for GPUs.",
            cells=PAPER_CELLS,
            main_k=5,
            teacher_width=50_000,
            widths=(100, 1000),
            holds=(5120, 10_240, 20_480, 40_960, 81_920),
            hold=20_480,
            ce_cap=12.0,
            cap=1.0,
            n_teachers=20,
            group=20,
        ),
    }
    since = {
        "any": "2026-11-22 66005ec",
        "P9.best_hold": "2026-11-22 66005ec (added)",
        **dict.fromkeys((f"P9.k.d{d}" for d in COMMON), "2026-11-28 ff79df1"),
    }

    def check(self) -> None:
        cells = [cell[:2] for cell in self.cells]
        require(len(set(cells)) == len(cells), "cells must hold every (d, k) once.")
        for cell in self.cells:
            require(
                cell[2] > 0 and cell[2] % 64 == 0,
                "cells must hold (d, k, spacing) with a spacing that is a multiple of"
                f" 64, got {cell}.",
            )
        few = [k for k in self.ks if len(self.along(k)) < 3]
        require(not few, f"cells must hold three or more d of every k; not of {few}.")
        what = f"main_k = {self.main_k} must be a k of cells."
        require(self.main_k in self.ks, what)
        what = f"hold = {self.hold} must be one of holds = {self.holds}."
        require(self.hold in self.holds, what)
        for p in self.problems:
            require(
                all(length % p.every == 0 for length in (*self.holds, p.spacing)),
                f"holds and the spacing of {p} must be multiples of {p.every}, its"
                f" evaluations; got {self.holds} and {p.spacing}.",
            )

    @property
    def ks(self) -> list[int]:
        """Every k."""
        return sorted({k for _, k, _ in self.cells})

    @property
    def problems(self) -> list[Problem]:
        """Every cell with every width."""
        return [Problem(*cell, width) for cell in self.cells for width in self.widths]

    def along(self, k: int, i: int = 0) -> list[Problem]:
        """Problems of one k, with the i-th of `widths`, by d."""
        return sorted(p for p in self.problems if (p.k, p.width) == (k, self.widths[i]))

    @property
    def settings(self) -> dict[str, st.Setting]:
        return {
            str(p): st.Setting(
                task=Parity(d=p.d, k=p.k, support=RandomSupport()),
                teacher=st.TwoLayer(self.teacher_width),
                student=st.TwoLayer(p.width),
                n_teachers=self.n_teachers,
                group=self.group,
                lanes=1,
                spacing=p.spacing,
                student_every=p.every,
                budget=st.UntilLearned(
                    limit=LIMIT * p.spacing,
                    expected=LIKELY * p.spacing,
                    cap=self.cap,
                    least=3 * max(self.holds),
                ),
                rule=st.ByGap(points=8192, degrees=(1,)),
            )
            for p in self.problems
        }

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        """Labels, and 2-shot by every first stage."""
        middle, tau = t["middle"], self.tau
        shots = [st.two_shot(middle, h, tau, name=hold_name(h)) for h in self.holds]
        return [st.Capped(st.ce(), self.ce_cap), *shots]

    def measure(self, r: st.Result) -> Solved:
        return {p: self.judged(p, times_of(r.parts[str(p)])) for p in self.problems}

    def judged(self, p: Problem, runs: Runs) -> Runs:
        """Adds the 2-shot students that figure and claims speak of.

        Returns:
          two_shot: those of `hold`.
          best_hold: those of the first stage that is best by these very runs.
          chosen: teacher by teacher those of the first stage that is best with the
            others' students.
          after: the same, counted from the end of the first stage; at least one
            evaluation.
        """
        holds = self.held_out(runs)
        own = [[v[i] for v in runs[hold_name(h)]] for i, h in enumerate(holds)]
        n90, caps = np.transpose(own)
        return runs | {
            "two_shot": runs[hold_name(self.hold)],
            "best_hold": runs[hold_name(self.best_hold(runs))],
            "chosen": (n90, caps),
            "after": (np.maximum(n90 - holds, p.every), caps - holds),
        }

    def best_hold(self, runs: Runs, without: int = -1) -> int:
        """The first stage with the lowest median n90, one teacher left out or none."""
        kept = np.arange(len(runs["teacher"][0])) != without

        def median(hold: int) -> float:
            return survival_median(*(v[kept] for v in runs[hold_name(hold)]))

        return min(self.holds, key=median)

    def held_out(self, runs: Runs) -> list[int]:
        """For every teacher the first stage that is best without it."""
        return [self.best_hold(runs, i) for i in range(len(runs["teacher"][0]))]

    def law(self, times: Solved, k: int, who: str, i: int = 0) -> Scaling:
        """Runs of one strategy by d; the resamples of strategies are paired.

        A teacher that did not learn is a censored run of its own and, having no
        checkpoints, none of its students'.
        """
        return Scaling({p.d: times[p][who] for p in self.along(k, i)})

    def growth(self, times: Solved, i: int = 0) -> dict[int, Estimate]:
        """D -> median of `gains` at k = HIGH over that at k = LOW, where both are.

        A censored run counts as its cap or as infinite, whichever makes this smaller.
        """
        high = {p.d: gains(times[p])[1] for p in self.along(HIGH, i)}
        low = {p.d: gains(times[p])[2] for p in self.along(LOW, i)}
        return {d: median_quotient(v, low[d]) for d, v in high.items() if d in low}

    def figure(self, r: st.Result) -> Figure:
        """Samples to .90 against d for every k; exponents, paired ratios, local slopes.

        (d, k)-parity at batch 1. Top: medians (runs not there by their cap count as
        later) with 95% bootstrap intervals over teachers, which end at the cap; a
        triangle there where fewer than half arrive. Hollow squares: the other student
        width. 2-shot has the first stage that was best with the other teachers, whose
        samples count. Dotted: d^(k-1) through CE, d log d and d through 2-shot after
        its first stage; grey: d + 1, which Gaussian elimination needs. Bottom: (1)
        exponents in d fitted to single runs, censored ones included, with 95%
        intervals; crosses: closed forms; dotted: k - 1. (2) n90 of CE over that of
        2-shot, teacher by teacher, medians with 95% intervals, of which an infinite end
        is not drawn; a triangle is a lower bound. (3) Slopes between neighbouring
        medians; dotted: k - 1.
        """
        fig, times = Figure(figsize=(WIDE, 5.2), layout="constrained"), r.measured
        above, below = fig.add_gridspec(2, 1)
        grid = above.subgridspec(1, len(self.ks))
        (columns,) = grid.subplots(sharey=True, squeeze=False)
        for ax, k in zip(columns, self.ks, strict=True):
            self._draw_samples(ax, times, k)
        columns[0].set_ylabel("samples to accuracy .90")
        ((a, b, c),) = below.subgridspec(1, 3).subplots(squeeze=False)
        self._draw_exponents(a, times)
        self._draw_gains(b, times)
        self._draw_slopes(c, times)
        known = [int(np.sum(~np.isnan(runs["teacher"][0]))) for runs in times.values()]
        each = f"{min(known)} to {max(known)}" if len(set(known)) > 1 else f"{known[0]}"
        st.note(fig, f"n = {each} teachers a point; medians, bars: 95% intervals")
        return fig

    def _draw_samples(self, ax: Axes, times: Solved, k: int) -> None:
        for i, width in enumerate(self.widths):
            for name, label in SHOWN.items():
                if i and name not in ("ce", "chosen"):
                    continue
                law, color = self.law(times, k, name, i), _color(name)
                fmt = "s:" if i else "o--" if name == "after" else "o-"
                estimates(
                    ax, list(law.runs), law.medians(draws=500), color=color, fmt=fmt,
                    cap=law.caps, label=f"{label}, width {width}" if i else label,
                    mfc=color if fmt == "o-" else "white",
                )  # fmt: skip
        d = np.asarray([p.d for p in self.along(k)], float)
        fine, mid = np.geomspace(d[0], d[-1]), np.sqrt(d[0] * d[-1])
        for name, f, text, below in (
            ("ce", lambda x: x ** (k - 1.0), f"$d^{{{k - 1}}}$", -2),
            ("after", lambda x: x * np.log(x), "", 0),
            ("after", lambda x: x, "$d$ and $d\\,\\log\\,d$", 18),
        ):
            fit = self.law(times, k, name).exponent(draws=0)
            if np.isfinite(fit.value):
                line = fit.at(np.asarray(mid)) * f(fine) / f(mid)
                ax.plot(fine, line, ":", color="0.35", lw=0.9)
                style: dict[str, Any] = {"fontsize": 6.5, "ha": "right"}
                at, away = (d[-1], line[-1]), {"textcoords": "offset points"}
                ax.annotate(text, at, (0, -below), va="bottom", **away, **style)
        ax.plot(d, d + 1, color="0.7", lw=1.2, label="elimination: d + 1")
        log_levels(ax)
        log_ticks(ax, d.tolist())
        ax.set(xlabel="d", title=f"k = {k}")

    def _draw_exponents(self, ax: Axes, times: Solved) -> None:
        ks, closed = self.ks, closed_forms()
        for i in range(len(self.widths)):
            for j, name in enumerate(list(SHOWN)[i > 0 :]):  # teachers have one width
                fits = [self.law(times, k, name, i).exponent().estimate for k in ks]
                color, x = _color(name), np.asarray(ks) + 0.1 * (j - 1.5) + 0.15 * i
                mfc = "white" if i or name == "after" else color
                estimates(ax, x, fits, color=color, fmt="s" if i else "o", mfc=mfc)
        for who, name in (("labels", "ce"), ("checkpoint", "chosen")):
            ax.plot(CLOSED_K, closed[who], "x", color=_color(name), ms=4, mew=0.9)
        ax.plot(CLOSED_K, np.asarray(CLOSED_K) - 1, ":", color="0.35", lw=0.9)
        top = max(ks[-1], 4) + 0.5
        ax.set(xlim=(1.7, top), ylim=(-0.8, top + 0.5), xticks=range(2, int(top) + 1))
        ax.set(xlabel="k", ylabel="exponent in d")
        ax.set_title("How samples grow with d")

    def _draw_gains(self, ax: Axes, times: Solved) -> None:
        every = sorted({d for d, _, _ in self.cells})
        for i, d in enumerate(every):
            color = sequence(len(every))[i]
            for j in range(len(self.widths)):
                row = [p for k in self.ks for p in self.along(k, j) if p.d == d]
                each = [gains(times[p]) for p in row]
                found = [median_estimate(value) for value, *_ in each]
                sure = [median_estimate(least).value for _, least, _ in each]
                cap = np.where([e.value < np.inf for e in found], np.inf, sure)
                x, mfc = [p.k + 0.06 * (i - 1.5) for p in row], "white" if j else color
                label, fmt = "_" if j else f"d = {d}", "s:" if j else "o-"
                style: dict[str, Any] = {"fmt": fmt, "mfc": mfc, "label": label}
                estimates(ax, x, found, color=color, cap=cap, **style)
        ax.axhline(1, color="0.8", lw=0.6)
        log_levels(ax)
        ends = self.ks[0] - 0.3, self.ks[-1] + 0.3
        ax.set(xticks=self.ks, xlim=ends, xlabel="k", ylabel="n90 of CE / 2-shot")
        ax.set_title("What 2-shot saves")
        ax.legend(loc="upper left")

    def _draw_slopes(self, ax: Axes, times: Solved) -> None:
        k = self.main_k
        for i, name in enumerate(SHOWN):
            x, slopes = local_slopes(*self.law(times, k, name).rows, draws=500)
            mfc = "white" if name == "after" else _color(name)
            x *= 1.02 ** (i - 1.5)
            estimates(ax, x, slopes, color=_color(name), mfc=mfc)
        ax.axhline(k - 1, color="0.35", lw=0.9, ls=":")
        log_ticks(ax, [p.d for p in self.along(k)])
        ax.set(xlabel="d", ylabel="local exponent in d", title=f"Local slopes, k = {k}")

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        times, k = r.measured, self.main_k
        ce = self.law(times, k, "ce")
        for name, (id, words) in FIXED.items():
            a, b = (law.exponent() for law in (ce, self.law(times, k, name)))
            text = f"exponent of n90 in d, k = {k}: ce - {name}"
            what = st.Statistic(difference(a, b), text, ce.fewest, a.runs + b.runs)
            shown = "d^(k-1) against poly(d)" if id == "P9" else "not in the paper"
            yield st.at_least(id, what, 1.0, words, paper=shown)
        for d, growth in self.growth(times).items():
            if d in COMMON:
                text = (
                    f"median n90(ce) / n90(2-shot): k = {HIGH} over k = {LOW}, d = {d}"
                )
                what = st.Statistic(growth, text, growth.n, 4 * growth.n)
                words = "labels fall further behind 2-shot as k grows"
                shown = f"about d^{HIGH - LOW}"
                yield st.at_least(f"P9.k.d{d}", what, 1.0, words, paper=shown)

    def facts(self, r: st.Result) -> dict[str, Any]:
        times: Solved = r.measured
        out: dict[str, Any] = {"exponents": {}, "local_slopes": {}, "growth": {}}
        for i, width in enumerate(self.widths):
            for k in self.ks:
                key = f"k={k}, width={width}"
                laws = {n: self.law(times, k, n, i) for n in (*SHOWN, *FIXED)}
                fits = {n: law.exponent().to_json() for n, law in laws.items()}
                out["exponents"][key] = fits
                out["local_slopes"][key] = {n: laws[n].slopes_to_json() for n in SHOWN}
            growth = self.growth(times, i).items()
            out["growth"][f"width={width}"] = {d: e.to_json() for d, e in growth}
        problems = [self.record(p, runs) for p, runs in times.items()]
        return {**out, "closed_forms": closed_forms(), "problems": problems}

    def record(self, p: Problem, runs: Runs) -> dict[str, Any]:
        """Medians of n90, chosen first stages, and how far labels fall behind."""
        strategies = {}
        for name, (n90, caps) in runs.items():
            e = survival_estimate(n90, caps)
            counts = {"runs": e.n, "censored": int(np.isinf(n90).sum())}
            strategies[name] = {**e.to_json("n90"), **counts}
        gain, *ends = (median_estimate(v) for v in gains(runs))
        least, most = (number(e.value) for e in ends)
        return {
            **p._asdict(),
            "strategies": strategies,
            "chosen_holds": self.held_out(runs),
            "gain": {**gain.to_json(), "at_least": least, "at_most": most},
        }


def hold_name(hold: int) -> str:
    """How the 2-shot lane with a first stage of so many samples is called."""
    return f"two_shot_{hold}"


def times_of(part: st.Taught) -> Runs:
    """When the runs of one problem arrived, and where they were given up."""
    n90 = np.concatenate([t.n90 for t in part.teachers])
    limit = np.full(len(n90), float(LIMIT * part.setting.spacing))
    out: Runs = {"teacher": (n90, limit)}
    for name in part.strategies:
        caps = [
            caps_of(run) if run else np.full(len(t.n90), np.nan)
            for t, run in zip(part.teachers, part.runs(name), strict=True)
        ]
        out[name] = part.n90[name].values[:, 0], np.concatenate(caps)
    return out


def gains(runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n90 of CE over that of 2-shot, teacher by teacher, and between what it must lie.

    Returns:
      The ratio with infinity for a censored run (both censored: a tie, 1); the least
      it can be; the most.
    """
    (ce, ce_cap), (shot, shot_cap) = runs["ce"], runs["chosen"]
    least = ratio(np.minimum(ce, ce_cap), shot)
    return ratio(ce, shot), least, ratio(ce, np.minimum(shot, shot_cap))


@cache
def closed_forms() -> dict[str, Any]:
    """Exponents in d of the batch that puts half of the first update in the support.

    Slopes between both `CLOSED_D`, of labels and of a checkpoint, for every `CLOSED_K`.
    """

    def slope(batch: Callable[[int, int], float], k: int) -> float:
        low, high = (batch(d, k) for d in CLOSED_D)
        return float(np.log(high / low) / np.log(CLOSED_D[1] / CLOSED_D[0]))

    forms = {"labels": label_batch, "checkpoint": checkpoint_batch}
    slopes = {who: [slope(f, k) for k in CLOSED_K] for who, f in forms.items()}
    return {"d": CLOSED_D, "k": CLOSED_K, **slopes}


def _color(name: str) -> str:
    return color_of("two_shot" if name in ("chosen", "after") else name)


if __name__ == "__main__":
    SampleComplexity.main()
