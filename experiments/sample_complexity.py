"""Samples to accuracy .90 against the dimension: who pays d^(k-1), and who does not.

    python -m experiments.sample_complexity smoke
    python -m experiments.sample_complexity cpu --max-teachers 20
    python -m experiments.sample_complexity --help

Parities of k of d bits are learned from labels (CE), from the final teacher (one-shot),
from its successive checkpoints (progressive), and from one checkpoint within its
transition, chosen by rule, before the final one (2-shot). A progressive student goes at
its teacher's pace at best, so that it does not show its own exponent. The 2-shot
student is the comparison that theory makes (arXiv 2410.05464, section 3): its own
samples are counted, and its first stage has a length that does not depend on the
teacher. Several lengths are trained: one that is fixed sets a floor under n90, which
flattens the curve at small d, so the best length of every d is shown beside it.

A run that does not arrive within its cap is censored, not dropped. Teachers are added,
`group` at a time, until the intervals of all exponents are narrow enough or
`max_teachers` is reached; the result says which.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import sandbox.study as st
from sandbox.errors import require
from sandbox.plotting.curves import estimates, log_levels, log_ticks
from sandbox.plotting.style import color_of
from sandbox.store.bounds import AtLeast, Increasing, MoreThan
from sandbox.study.result import caps_of
from sandbox.tasks.parity import NoisyParity, Parity, RandomSupport
from sandbox.text import number
from sandbox.theory.exponents import (
    Scaling,
    difference,
    local_slopes,
    survival_estimate,
    survival_median,
)
from sandbox.theory.sample_complexity import Estimate, percentiles

LIMIT, LIKELY = 200, 30
"""Teacher checkpoints by which a teacher must have learned, and probably has."""
FINEST = 2560
"""Samples between evaluations of students, unless their teacher is quicker."""
FITTED = ("teacher", "ce", "one_shot", "progressive", "two_shot")
"""Strategies whose exponents are fitted."""
LABELS = {name: st.label_of(name) for name in FITTED} | {
    "two_shot": "2-shot, fixed first stage",
    "best_hold": "2-shot, best first stage",
}
GAPS = (
    ("P9", "ce", "two_shot", "labels cost a higher power of d than 2-shot"),
    ("P9.one_shot", "one_shot", "two_shot", "so does the final teacher alone"),
    ("P9.best_hold", "ce", "best_hold", "labels against 2-shot at its best"),
    ("P9.progressive", "ce", "progressive", "labels against the teacher's pace"),
)

Cell = tuple[int, int, int]
"""d, k, and samples between teacher checkpoints."""
Times = tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]
"""Samples to .90 of every teacher's run (inf beyond the cap, NaN where no student was
taught), and its caps."""
LARGE: dict[str, Any] = dict(
    main_k=5, hold=20_480, ce_cap=12.0, one_shot_cap=8.0, cap=4.0
)
CPU_CELLS: tuple[Cell, ...] = (
    (16, 4, 256), (24, 4, 512), (32, 4, 1024), (48, 4, 2048),
    (16, 5, 512), (24, 5, 1024), (32, 5, 2048), (48, 5, 5120),
    (16, 6, 1024), (24, 6, 2048), (32, 6, 5120),
)  # fmt: skip
PAPER_CELLS: tuple[Cell, ...] = (
    (24, 4, 512), (32, 4, 1024), (48, 4, 2048), (72, 4, 5120), (100, 4, 10_240),
    (24, 5, 1024), (32, 5, 2048), (48, 5, 5120), (72, 5, 30_720), (100, 5, 61_440),
    (24, 6, 2048), (32, 6, 5120), (48, 6, 15_360), (72, 6, 92_160), (100, 6, 327_680),
)  # fmt: skip


class Problem(NamedTuple):
    """One point of the grids: a cell, its students' width, its share of flips."""

    d: int
    k: int
    spacing: int
    width: int
    eps: float

    def __str__(self) -> str:
        """As settings and reports name it."""
        noise = f", eps={self.eps:g}" if self.eps else ""
        return f"d={self.d}, k={self.k}, width={self.width}{noise}"

    @property
    def every(self) -> int:
        """Samples between evaluations of students, fine enough for quick ones."""
        return min(self.spacing // 2, FINEST)


Solved = dict[Problem, dict[str, Times]]
"""When the runs of every problem and strategy arrived."""


class SampleComplexity(st.Study):
    """Exponents of n90 in d, student by student (claim P9).

    Attributes:
      cells: (d, k, spacing) of every problem; spacing is the number of samples between
        teacher checkpoints, about a thirtieth of what teachers need.
      main_k: whose exponents the claims speak of.
      base: the problem whose student width and label noise are varied.
      widths: student widths tried there.
      noises: shares of flipped labels tried there.
      teacher_width: hidden units of teachers.
      student_width: hidden units of students.
      holds: lengths of the 2-shot student's first stage, in samples.
      hold: the one that claims rest on.
      tau: teacher temperature.
      ce_cap: samples of a CE student, as a multiple of its teacher's n90.
      one_shot_cap: the same of one-shot students.
      cap: the same of the others; no cap is below three times the longest hold.
      min_teachers: teachers of every problem.
      max_teachers: most teachers of a problem in `cells`.
      group: teachers trained together.
      precision: width of an exponent's 95% interval at which no more are added.
    """

    cells: tuple[Cell, ...] = ((10, 4, 128), (14, 4, 256), (20, 4, 512))
    main_k: int = 4
    base: Cell = (14, 4, 256)
    widths: tuple[int, ...] = ()
    noises: tuple[Annotated[float, MoreThan(0)], ...] = ()
    teacher_width: int = 200
    student_width: int = 20
    holds: Annotated[tuple[int, ...], Increasing()] = (2048, 4096)
    hold: int = 4096
    tau: float = 1.0
    ce_cap: Annotated[float, MoreThan(0)] = 6.0
    one_shot_cap: Annotated[float, MoreThan(0)] = 6.0
    cap: Annotated[float, MoreThan(0)] = 6.0
    min_teachers: Annotated[int, AtLeast(1)] = 3
    max_teachers: int = 6
    group: Annotated[int, AtLeast(1)] = 3
    precision: Annotated[float, MoreThan(0)] = 2.0

    presets = {
        "smoke": st.preset("k=4, d = 10 to 20, three to six teachers of width 200."),
        "cpu": st.preset(
            "Parities of 4, 5 and 6 of 16 to 48 bits, ten teachers of width 1000.",
            cells=CPU_CELLS,
            **LARGE,
            base=(32, 5, 2048),
            widths=(10, 100),
            noises=(0.1,),
            teacher_width=1000,
            holds=(5120, 10_240, 20_480),
            min_teachers=10,
            max_teachers=10,
            group=10,
            precision=0.6,
        ),
        "paper": st.preset(
            "To d = 100 and k = 6 with teachers of width 50,000: for GPUs.",
            cells=PAPER_CELLS,
            **LARGE,
            base=(48, 5, 5120),
            widths=(10, 20, 50, 100, 1000),
            noises=(0.05, 0.1, 0.2),
            teacher_width=50_000,
            student_width=100,
            holds=(5120, 10_240, 20_480, 40_960, 81_920),
            min_teachers=20,
            max_teachers=100,
            group=20,
            precision=0.3,
        ),
    }
    since = {"any": "2026-11-22 66005ec"} | dict.fromkeys(
        ("P9.one_shot", "P9.best_hold", "P9.progressive", "P9.k"),
        "2026-11-22 66005ec (added)",
    )

    def check(self) -> None:
        cells = [cell[:2] for cell in self.cells]
        require(len(set(cells)) == len(cells), "cells must hold every (d, k) once.")
        for cell in (*self.cells, self.base):
            require(
                cell[2] > 0 and cell[2] % 64 == 0,
                "cells must hold (d, k, spacing) with a spacing that is a multiple of"
                f" 64, got {cell}.",
            )
        holds, least, most = self.holds, self.min_teachers, self.max_teachers
        what = f"main_k = {self.main_k} must be a k of which cells have three or more"
        require(self.main_k in self.ks, f"{what} d.")
        what = f"hold = {self.hold} must be one of holds = {holds}."
        require(self.hold in holds, what)
        require(
            least <= most and least % self.group == most % self.group == 0,
            "min_teachers and max_teachers must be multiples of group, the first at"
            f" most the second, got {least}, {most} and {self.group}.",
        )
        for p in self.problems:
            require(
                all(length % p.every == 0 for length in (*holds, p.spacing)),
                f"holds and the spacing of {p} must be multiples of {p.every}, its"
                f" evaluations; got {holds} and {p.spacing}.",
            )

    @property
    def ks(self) -> list[int]:
        """Every k with an exponent: three or more d."""
        ks = [k for _, k, _ in self.cells]
        return sorted({k for k in ks if ks.count(k) >= 3})

    @property
    def problems(self) -> list[Problem]:
        """Every problem, those of the grid first."""
        width = self.student_width
        out = [Problem(*cell, width, 0.0) for cell in self.cells]
        out += [Problem(*self.base, w, 0.0) for w in self.widths if w != width]
        out += [Problem(*self.base, width, eps) for eps in self.noises]
        base = Problem(*self.base, width, 0.0)
        return out if base in out else [*out, base]

    @property
    def settings(self) -> dict[str, st.Setting]:
        return {str(p): self.setting_of(p, self.min_teachers) for p in self.problems}

    def setting_of(self, p: Problem, n_teachers: int) -> st.Setting:
        """Teachers and budgets of a problem."""
        task = Parity(d=p.d, k=p.k, support=RandomSupport())
        if p.eps:
            task = NoisyParity(d=p.d, k=p.k, support=RandomSupport(), eps=p.eps)
        return st.Setting(
            task=task,
            teacher=st.TwoLayer(self.teacher_width),
            student=st.TwoLayer(p.width),
            n_teachers=n_teachers,
            group=self.group,
            lanes=1,
            spacing=p.spacing,
            student_every=p.every,
            budget=st.UntilLearned(
                limit=LIMIT * p.spacing,
                expected=LIKELY * p.spacing,
                cap=max(self.ce_cap, self.one_shot_cap, self.cap),
                least=3 * max(self.holds),
            ),
            rule=st.ByGap(points=8192, degrees=(1,)),
        )

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        """Labels, the final teacher, its pace, and 2-shot by every first stage.

        A larger cap of their own, for CE or one-shot, means that the teacher's other
        checkpoints are not evaluated that long for nothing.
        """
        middle, tau = t["middle"], self.tau
        shots = [st.two_shot(middle, h, tau, name=hold_name(h)) for h in self.holds]
        return [
            st.Capped(st.ce(), self.ce_cap),
            st.Capped(st.one_shot(tau), self.one_shot_cap),
            *(st.Capped(s, self.cap) for s in (st.progressive(t.spacing, tau), *shots)),
        ]

    def more(self, r: st.Result) -> dict[str, st.Setting]:
        """The grid with one group of teachers more, until its exponents are known."""
        n = len(r.parts[str(self.problems[0])].n90.teacher.values)
        if n >= self.max_teachers or self.stopped(self.measure(r)) == "precision":
            return {}
        grid = self.problems[: len(self.cells)]
        return {str(p): self.setting_of(p, n + self.group) for p in grid}

    def measure(self, r: st.Result) -> Solved:
        times = {p: times_of(r.parts[str(p)]) for p in self.problems}
        for each in times.values():
            each["two_shot"] = each[hold_name(self.hold)]
        return times

    def along(self, axis: str, **fixed: float) -> list[Problem]:
        """Problems that differ in one field only, in its order.

        Args:
          axis: d, k, width or eps.
          **fixed: the others; width and eps are the grid's unless given.
        """
        base = {"width": self.student_width, "eps": 0.0} | fixed
        same = [(name, v) for name, v in base.items() if name != axis]
        rows = [p for p in self.problems if all(getattr(p, n) == v for n, v in same)]
        return sorted(rows, key=lambda p: getattr(p, axis))

    def law(self, times: Solved, k: int, who: str) -> Scaling:
        """Runs of one strategy by d; the resamples of strategies are paired.

        A teacher that did not learn is a censored run of its own and, having no
        checkpoints, none of its students'. `best_hold` is the 2-shot student with the
        first stage of `best_holds`, chosen before resampling.
        """
        best = self.best_holds(times, k) if who == "best_hold" else {}
        names = {p: hold_name(best[p.d]) if best else who for p in self.along("d", k=k)}
        return Scaling({p.d: times[p][name] for p, name in names.items()})

    def best_holds(self, times: Solved, k: int) -> dict[int, int]:
        """D -> the first stage with the lowest median n90, judged by these runs."""
        return {
            p.d: min(self.holds, key=lambda h: survival_median(*times[p][hold_name(h)]))
            for p in self.along("d", k=k)
        }

    def stopped(self, times: Solved) -> str:
        """`precision` where the 95% interval of every exponent is narrow enough."""
        laws = [self.law(times, k, who) for k in self.ks for who in FITTED]
        fits = [law.exponent(draws=500) for law in laws]
        narrow = all(e.upper - e.lower <= self.precision for e in fits)
        return "precision" if narrow else "max_teachers"

    def figure(self, r: st.Result) -> Figure:
        """Samples against d with exponents and local slopes; first stage, width, noise.

        Samples until a network has accuracy .90 on (d, k)-parity, batch 1. Top left:
        medians (Kaplan-Meier, so that runs not there by their cap count as they are)
        with 95% bootstrap intervals over teachers, each with its own support, weights
        and samples; a triangle at the cap where fewer than half arrive; dotted, powers
        of d through the CE line; dashed, the length of the 2-shot student's first
        stage, below which it cannot be. Top middle: exponents of n90 in d fitted to
        single runs, censored ones included; dotted, k - 1, what learning from labels
        costs asymptotically. Progressive students go at the pace of their teacher at
        best and are counted from its start; the 2-shot student's own samples are
        counted. Top right: slopes between neighbouring medians, which one fit would
        hide. Bottom left: 2-shot with first stages of several lengths (dashed). Bottom
        middle and right: student width and label noise at one problem, where they were
        varied.
        """
        fig, ((a, b, s), (h, w, e)) = st.panels(2, 3, height=5.4)
        times: Solved = r.measured
        self._draw_scaling(a, times)
        self._draw_exponents(b, times)
        self._draw_slopes(s, times)
        self._draw_holds(h, times)
        self._draw_axis(w, times, "width", "student width")
        self._draw_axis(e, times, "eps", "share of flipped labels")
        fig.legend(*b.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        return fig

    def _draw_scaling(self, ax: Axes, times: Solved) -> None:
        k = self.main_k
        for name in FITTED:
            _medians(ax, self.law(times, k, name), color_of(name), LABELS[name])
        ends = self._sizes(ax)[[0, -1]]
        ce, mid = self.law(times, k, "ce").exponent(draws=0), np.sqrt(ends.prod())
        for power, text in ((k - 1, f"$d^{{{k - 1}}}$"), (1, "$d$")):
            if np.isfinite(ce.value):
                line = ce.at(np.asarray(mid)) * (ends / mid) ** power
                ax.plot(ends, line, ":", color="0.35", lw=0.9)
                ax.annotate(text, (ends[1], line[1]), fontsize=6.5)
        ax.axhline(self.hold, color=color_of("two_shot"), lw=0.6, ls="--")
        ax.set_title(f"k = {k} (△ not by the cap)")

    def _draw_exponents(self, ax: Axes, times: Solved) -> None:
        ks = self.ks
        for i, (name, label) in enumerate(LABELS.items()):
            color = color_of(name if name in FITTED else "two_shot")
            x = np.asarray(ks) + 0.09 * (i - (len(LABELS) - 1) / 2)
            fits = [self.law(times, k, name).exponent().estimate for k in ks]
            mfc = color if name in FITTED else "white"
            estimates(ax, x, fits, color=color, fmt="o", label=label, mfc=mfc)
        ax.plot(ks, [k - 1 for k in ks], ":", color="0.35", lw=0.9)
        ax.text(ks[-1] + 0.1, ks[-1] - 1, "k - 1", va="center", fontsize=6.5)
        ax.axhline(0, color="0.8", lw=0.6)
        ax.set(xticks=ks, xlabel="k", ylabel="exponent of n90 in d")
        ax.set_title("fitted exponents, 95%")

    def _draw_slopes(self, ax: Axes, times: Solved) -> None:
        k = self.main_k
        for i, name in enumerate(FITTED):
            x, slopes = local_slopes(*self.law(times, k, name).rows, draws=500)
            estimates(ax, x * 1.02 ** (i - 2), slopes, color=color_of(name))
        ax.axhline(k - 1, color="0.35", lw=0.9, ls=":")
        ax.axhline(0, color="0.8", lw=0.6)
        self._sizes(ax)
        ax.set(ylabel="local slope", title=f"k = {k}: local slopes")

    def _draw_holds(self, ax: Axes, times: Solved) -> None:
        for i, h in enumerate(self.holds):
            shade = 0.4 + 0.55 * i / max(len(self.holds) - 1, 1)
            color = to_hex(colormaps["Purples"](shade))
            law = self.law(times, self.main_k, hold_name(h))
            _medians(ax, law, color, f"{h / 1000:.3g}k")
            ax.axhline(h, color=color, lw=0.6, ls="--")
        self._sizes(ax)
        ax.set_title("2-shot by first stage (- -)")
        ax.legend(loc="upper left", ncols=2, fontsize=6)

    def _draw_axis(self, ax: Axes, times: Solved, axis: str, label: str) -> None:
        d, k, _ = self.base
        what = "label noise" if axis == "eps" else label
        ax.set_title(f"{what} (d={d}, k={k})")
        x = {float(getattr(p, axis)): p for p in self.along(axis, d=d, k=k)}
        if len(x) < 2:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "not varied", ha="center", va="center", color="0.5")
            return
        for name in FITTED[1:]:
            runs = {v: times[p][name] for v, p in x.items()}
            _medians(ax, Scaling(runs), color_of(name))
        (log_ticks if axis == "width" else Axes.set_xticks)(ax, list(x))
        ax.set_xlabel(label)

    def _sizes(self, ax: Axes) -> np.ndarray:
        d = [p.d for p in self.along("d", k=self.main_k)]
        log_ticks(ax, d)
        ax.set_xlabel("d")
        return np.asarray(d, float)

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        times, k = r.measured, self.main_k
        fits = {name: self.law(times, k, name).exponent() for name in LABELS}
        teachers = self.law(times, k, "teacher").fewest
        for id, a, b, words in GAPS:
            gap, runs = difference(fits[a], fits[b]), fits[a].runs + fits[b].runs
            text = f"exponent of n90 in d, k = {k}: {a} - {b}"
            what = st.Statistic(gap, text, teachers, runs)
            shown = "d^(k-1) against poly(d)" if b == "two_shot" else "not in the paper"
            yield st.at_least(id, what, 1.0, words, paper=shown)
        low, high = self.ks[0], self.ks[-1]
        if low == high:
            return
        laws = [self.law(times, k, w) for w in ("ce", "two_shot") for k in (high, low)]
        teachers = min(law.fewest for law in laws)
        a, b, c, d = (law.exponent() for law in laws)
        value = (a.value - b.value) - (c.value - d.value)
        ends = percentiles((a.draws - b.draws) - (c.draws - d.draws))
        text = f"growth of the exponent from k = {low} to {high}: ce - two_shot"
        what = st.Statistic(Estimate(value, *ends, teachers), text, teachers)
        words = "the exponent of labels grows faster with k than that of 2-shot"
        yield st.positive("P9.k", what, words, paper=f"{high - low} against 0")

    def facts(self, r: st.Result) -> dict[str, Any]:
        times: Solved = r.measured
        out: dict[str, Any] = {"exponents": {}, "local_slopes": {}, "best_holds": {}}
        for k in self.ks:
            laws = {n: self.law(times, k, n) for n in LABELS}
            fits = {n: law.exponent().to_json() for n, law in laws.items()}
            out["exponents"][f"{k}"] = fits
            out["local_slopes"][f"{k}"] = {n: laws[n].slopes_to_json() for n in FITTED}
            out["best_holds"][f"{k}"] = self.best_holds(times, k)
        out["problems"] = [problem_record(p, t) for p, t in times.items()]
        return {"stopped_by": self.stopped(times), **out}

    def summary(self, r: st.Result) -> list[str]:
        why = self.stopped(r.measured)
        return [f"  {len(self.problems)} problems; stopped by {why}"]


def hold_name(hold: int) -> str:
    """How the 2-shot lane with a first stage of so many samples is called."""
    return f"two_shot_{hold}"


def times_of(part: st.Taught) -> dict[str, Times]:
    """When the runs of one problem arrived, and where they were given up."""
    n90 = np.concatenate([t.n90 for t in part.teachers])
    limit = np.full(len(n90), float(LIMIT * part.setting.spacing))
    out: dict[str, Times] = {"teacher": (n90, limit)}
    for name in part.strategies:
        caps = [
            caps_of(run) if run else np.full(len(t.n90), np.nan)
            for t, run in zip(part.teachers, part.runs(name), strict=True)
        ]
        out[name] = part.n90[name].values[:, 0], np.concatenate(caps)
    return out


def problem_record(p: Problem, times: Mapping[str, Times]) -> dict[str, Any]:
    """Medians of n90 and what they cost, strategy by strategy."""
    out = {}
    for name, (n90, caps) in times.items():
        if name == "two_shot":  # is there as the one with its first stage
            continue
        e = survival_estimate(n90, caps)
        n = number(e.value)  # up to n90, one a sample at batch size 1
        passes: dict[str, Any] = {"student_forward": n, "student_backward": n}
        passes["teacher_forward"] = 0 if name in ("teacher", "ce") else n
        counts = {"runs": e.n, "censored": int(np.isinf(n90).sum())}
        out[name] = {**e.to_json("n90"), **counts, "passes": passes}
    return {"d": p.d, "k": p.k, "width": p.width, "eps": p.eps, "strategies": out}


def _medians(ax: Axes, law: Scaling, color: str, label: str = "_") -> None:
    found = law.medians(draws=500)
    estimates(ax, list(law.runs), found, color=color, cap=law.caps, label=label)
    log_levels(ax)
    ax.set_ylabel("samples to accuracy .90")


if __name__ == "__main__":
    SampleComplexity.main()
