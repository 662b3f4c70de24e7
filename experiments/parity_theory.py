"""The analysed setting: one large-batch step from labels, or from a checkpoint.

    python -m experiments.parity_theory smoke
    python -m experiments.parity_theory cpu --theory.label-seeds 10
    python -m experiments.parity_theory --help

The two-phase setting in which arXiv 2410.05464 proves its separation (after Barak et
al., arXiv 2207.08799): mirrored networks, hinge loss, one large-batch step of the first
layer, then the second layer. The population gradients are known in closed form, and so
is the checkpoint of a teacher after its first step along one of them. Measured is the
batch that a student's first step needs, from labels and from that checkpoint: until the
support comes out (`support`: the k largest coordinates of the mean absolute update),
until half of the squared update lies in it (`aligned`), and until the second layer
reaches accuracy .9 (`accuracy`). The teacher's own cost is left out, as in the theorem.
"""

from collections.abc import Iterator
from math import isfinite
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import sandbox.study as st
from sandbox.plotting.curves import estimates, log_ticks
from sandbox.plotting.style import DEGREE_COLORS, color_of
from sandbox.theory import two_stage
from sandbox.theory.exponents import (
    Exponent,
    Scaling,
    difference,
    survival_estimate,
)
from sandbox.theory.parity_bounds import coefficient_pair
from sandbox.theory.two_stage import SUPERVISIONS, Problem, TwoStage

Values = dict[str, np.ndarray]
"""What `TwoStage.measure` returns."""
MARKERS = {2: "o", 4: "s", 6: "^"}
COLORS = {"labels": color_of("ce"), "checkpoint": color_of("two_shot")}
PARTS = ("in the support S", "outside")
"""Those of the strategies in other figures."""
QUARTILES, TEACHERS, FEWEST = (0.25, 0.5, 0.75), 12, 3
"""Of bands; teachers in the scatter; runs from which a median is drawn."""
CRITERIA = {
    "aligned": ("half of the update in S", "o", True),
    "support": ("top k is S", "D", False),
    "accuracy": ("accuracy .9", "*", True),
}
"""Words, marks, and whether these are filled."""


class ParityTheory(st.Study):
    """Claim P9 in the setting of the theorem itself.

    Attributes:
      theory: what is computed.
    """

    theory: TwoStage = TwoStage()

    presets = {
        "smoke": st.preset("Supports of 2 and 4, d up to 65, ten students of labels."),
        "cpu": st.preset(
            "Supports of 2, 4 and 6, labels up to d = 129, checkpoints up to 257.",
            theory=TwoStage(
                d_k2=(17, 33, 65, 129),
                d_k4=(17, 25, 33, 49),
                d_k6=(17, 21, 25),
                checkpoint_d=(65, 129, 257),
                label_seeds=20,
                checkpoint_seeds=24,
                check_blocks=16,
                control_d=33,
            ),
        ),
        "paper": st.preset(
            "The same at larger d with more seeds; the theorem itself names no sizes.",
            theory=TwoStage(
                d_k2=(17, 33, 65, 129, 257, 513),
                d_k4=(17, 25, 33, 49, 65, 97, 129),
                d_k6=(17, 21, 25, 29, 33, 41, 49),
                checkpoint_d=(65, 129, 257, 513, 1025),
                label_seeds=50,
                checkpoint_seeds=200,
                teacher_pairs=256,
                checkpoint_cap=131_072,
                check_blocks=256,
                control_d=65,
            ),
        ),
    }
    since = {"any": "2026-11-22 58cb131 (added)"}

    @property
    def computed(self) -> TwoStage:
        return self.theory

    @property
    def cases(self) -> list[tuple[int, str, str]]:
        """Every k, supervision and criterion."""
        return [
            (k, s, c)
            for k in self.theory.cases
            for s in SUPERVISIONS
            for c in self.theory.criteria(k)
        ]

    def along(self, r: st.Result, k: int, supervision: str) -> dict[int, Values]:
        """What was measured of one k, by d."""
        every = self.theory.dimensions(k, supervision)
        return {d: r.values[str(Problem(k, d, supervision))] for d in every}

    def law(self, r: st.Result, k: int, supervision: str, criterion: str) -> Scaling:
        """Needed batches and caps of all runs of one k, by d."""
        found = self.along(r, k, supervision).items()
        caps = {d: np.full(len(v["share"]), float(v["sizes"][-1])) for d, v in found}
        return Scaling({d: (v[criterion], caps[d]) for d, v in found})

    def common(self, r: st.Result, k: int, criterion: str) -> list[int]:
        """Every d at which `FEWEST` runs of either supervision are counted."""
        laws = [self.law(r, k, s, criterion).runs for s in SUPERVISIONS]
        counted = [
            {d for d, (n, _) in runs.items() if (~np.isnan(n)).sum() >= FEWEST}
            for runs in laws
        ]
        return sorted(set.intersection(*counted))

    def exponent(
        self,
        r: st.Result,
        k: int,
        supervision: str,
        c: str,
        at: list[int] | None = None,
    ) -> Exponent:
        """Fitted exponent in d of the needed batch, censored runs included.

        Args:
          r: what was computed.
          k: size of the support.
          supervision: of which runs.
          c: the criterion.
          at: the d that count; all by default.
        """
        law = self.law(r, k, supervision, c)
        if at is not None:  # a d that does not count is there with runs that do not
            none = (np.full(FEWEST, np.nan), np.full(FEWEST, np.nan))
            law = Scaling({d: v if d in at else none for d, v in law.runs.items()})
        return law.exponent(seed=SUPERVISIONS.index(supervision))

    def predicted(self, r: st.Result, k: int, supervision: str, c: str) -> float:
        """Exponent of the closed form's batches over the same d; NaN without any."""
        found = self.along(r, k, supervision)
        batch = [float(v.get(f"predicted_{c}", np.nan)) for v in found.values()]
        if len(batch) < 2 or not np.isfinite(batch).all():
            return float("nan")
        return float(np.polyfit(np.log(list(found)), np.log(batch), 1)[0])

    def figure(self, r: st.Result) -> Figure:
        """Closed forms beside measured gradients, needed batches, and exponents.

        Mirrored ReLU networks on (d, k)-sparse parity, one large-batch step of the
        first layer with the hinge loss, from labels (grey) or from the checkpoint of a
        teacher after its own first step (purple); dashed: closed forms, no fit. (a)
        Mean gradient from labels, the same at every neuron up to a sign, in the support
        S and outside (those outside S at k are those in S at k + 2); bars two standard
        errors. (b) Degree-1 coefficients of twelve checkpoints. (c) Share of a
        student's squared update in S, median and quartiles; dotted: chance, horizontal:
        half. (d) Batch at which half of it is. (e) Batch at which the k largest
        coordinates are S, among the teachers whose exact coefficients allow it. (f)
        Exponents in d fitted to single runs, censored ones included, a mark a
        criterion; dotted: k, k - 1 and 1. Medians with 95% bootstrap intervals over
        seeds.
        """
        fig, ((a, b, c), (e, f, g)) = st.panels(2, 3, height=4.9)
        self._draw_coefficients(a, r)
        self._draw_degree1(b, r)
        self._draw_shares(c, r)
        self._draw_batches(e, r, "aligned")
        self._draw_batches(f, r, "support")
        self._draw_exponents(g, r)
        words = {"labels": "labels", "checkpoint": "checkpoint after stage one"}
        named = [(COLORS[s], f"by {words[s]}") for s in SUPERVISIONS]
        handles = [_mark(color=color, label=label) for color, label in named]
        for k in self.theory.cases:
            handles.append(_mark(marker=MARKERS[k], ls="", label=f"k = {k}"))
        handles.append(_mark(ls="--", lw=1, label="closed form"))
        st.legend(fig, {str(h.get_label()): h for h in handles})
        seeds = sorted({len(r.values[str(p)]["share"]) for p in self.theory.problems})
        each = " to ".join(f"{n}" for n in (seeds[0], seeds[-1])[: len(seeds)])
        words = "bars: 95% intervals (a: two standard errors), bands: quartiles"
        st.note(fig, f"n = {each} seeds a point; {words}")
        return fig

    def _draw_coefficients(self, ax: Axes, r: st.Result) -> None:
        for k in self.theory.cases:
            found = self.along(r, k, "labels")
            d = np.asarray(list(found))
            every = np.arange(d[0], d[-1] + 1, 2)
            exact = np.abs([coefficient_pair(int(v), k) for v in every])
            for j, (part, color) in enumerate(_parts(k)):
                ax.plot(every, exact[:, j], "--", lw=1, color=color)
                each = [v["measured"][:, part].mean(1) for v in found.values()]
                mean = np.asarray([abs(v.mean()) for v in each])
                error = np.asarray([2 * v.std(ddof=1) / len(v) ** 0.5 for v in each])
                seen = mean > error  # the rest is noise, and has no place on a log axis
                ax.errorbar(
                    d[seen], mean[seen], np.minimum(error, 0.99 * mean)[seen],
                    fmt=MARKERS[k], ms=3.5, lw=1, mfc="white" if j else color,
                    color=color,
                )  # fmt: skip
        self._log_axes(ax, "labels")
        ax.set(ylabel="|gradient|, any neuron", title="Gradient from labels")
        handles = [
            _mark(color=c, marker="o", ls="", label=word, mfc="white" if j else c)
            for j, ((_, c), word) in enumerate(zip(_parts(1), PARTS, strict=True))
        ]
        ax.legend(handles=handles, loc="lower left", handletextpad=0.2)

    @property
    def shown(self) -> tuple[int, int]:
        """K = 4 if there is one, and the largest d that labels have."""
        cases = self.theory.cases
        k = 4 if 4 in cases else next(iter(cases))
        return k, cases[k][-1]

    def _draw_degree1(self, ax: Axes, r: st.Result) -> None:
        k, d = self.shown
        found = self.along(r, k, "checkpoint")[d]
        exact, measured = (2 * found[v][:TEACHERS] for v in ("exact", "measured"))
        ends = np.asarray([exact.min(), exact.max()])
        ax.plot(ends, ends, "--", color="0.35", lw=0.8)
        for (part, color), label in zip(_parts(k), PARTS, strict=True):
            x, y = exact[:, part].ravel(), measured[:, part].ravel()
            ax.plot(x, y, "o", ms=3.5, mew=0, color=color, alpha=0.7, label=label)
        ax.set(xlabel="exact E[$f_1 x_i$]", ylabel="measured")
        ax.set_title(f"Coefficients, k={k}, d={d}")
        ax.legend(loc="upper left", handletextpad=0.2)

    def _draw_shares(self, ax: Axes, r: st.Result) -> None:
        k, d = self.shown
        for supervision, color in COLORS.items():
            v = self.along(r, k, supervision)[d]
            b, share = v["sizes"], v["share"]
            alive = (~np.isnan(share)).mean(0) >= 0.9
            low, mid, high = np.nanquantile(share[:, alive], QUARTILES, axis=0)
            ax.fill_between(b[alive], low, high, color=color, alpha=0.2, lw=0)
            ax.plot(b[alive], mid, color=color)
            ax.plot(b, v["predicted_share"], "--", color=color, lw=0.9)
        ax.axhline(0.5, color="0.8", lw=0.8)
        ax.axhline(k / d, color="0.8", lw=0.8, ls=":")
        ax.set(xscale="log", ylim=(0, 1), title=f"Larger batches, k={k}, d={d}")
        ax.set(xlabel="batch (samples)", ylabel="share of the update in S")
        ax.minorticks_off()

    def _draw_batches(self, ax: Axes, r: st.Result, criterion: str) -> None:
        """Kaplan-Meier medians of `FEWEST` runs or more, with intervals.

        A hollow triangle at the cap says that there is none.
        """
        aligned = criterion == "aligned"
        for k, s in [(k, s) for k, s, c in self.cases if c == criterion]:
            every, color = self.law(r, k, s, criterion).runs, COLORS[s]
            asked = {d: (~np.isnan(batch)).sum() for d, (batch, _) in every.items()}
            law = Scaling({d: v for d, v in every.items() if asked[d] >= FEWEST})
            d, fmt = list(law.runs), MARKERS[k] if aligned else f"{MARKERS[k]}-"
            if d:
                found = law.medians()
                estimates(ax, d, found, color=color, cap=law.caps, fmt=fmt, lw=0.6)
            if d and aligned:
                found = self.along(r, k, s)
                exact = [found[int(x)]["predicted_aligned"] for x in d]
                ax.plot(d, exact, "--", color=color, lw=0.9)
        self._log_axes(ax, "checkpoint")
        words = CRITERIA[criterion][0]
        ax.set(ylabel="needed batch (samples)", title=words[0].upper() + words[1:])

    def _draw_exponents(self, ax: Axes, r: st.Result) -> None:
        ks = np.asarray(list(self.theory.cases))
        for k, s, c in self.cases:
            e, (_, mark, fill) = self.exponent(r, k, s, c), CRITERIA[c]
            if e.upper - e.lower < 3:
                beside = 0.16 * (list(CRITERIA).index(c) - 1) + 0.05 * (s != "labels")
                color, size = COLORS[s], 6 if mark == "*" else 4
                estimates(
                    ax, [k + beside], [e.estimate], color=color, fmt=mark, ms=size,
                    mfc=color if fill else "white",
                )  # fmt: skip
        for y, text in ((ks, "$k$"), (ks - 1, "$k-1$"), (ks**0, "1")):
            ax.plot(ks, y, ":", color="0.35", lw=0.9)
            ax.text(ks[-1] + 0.25, y[-1], text, fontsize=6.5, va="center")
        ax.axhline(0, color="0.8", lw=0.6)
        ax.set(xlabel="k", xlim=(ks[0] - 0.6, ks[-1] + 0.9), xticks=ks)
        ax.set(ylabel="exponent of the batch in d", title="Fitted exponents")
        handles = [
            _mark(marker=shape, ls="", label=word, mfc="0.35" if fill else "white")
            for word, shape, fill in CRITERIA.values()
        ]
        ax.legend(handles=handles, loc="upper left", fontsize=6)

    def _log_axes(self, ax: Axes, supervision: str) -> None:
        ticks = [0]
        every = {p.d for p in self.theory.problems if p.supervision == supervision}
        for d in sorted(every):
            if d > 1.45 * ticks[-1]:
                ticks.append(d)
        ax.set(yscale="log", xlabel="d")
        log_ticks(ax, ticks[1:])
        ax.minorticks_off()

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        for s in SUPERVISIONS:
            every = [p for p in self.theory.problems if p.supervision == s]
            values = [r.values[str(p)]["deviation"] for p in every]
            words = f"population gradients from {s} are the closed form's"
            what = "mean squared deviation in standard errors (1 if exact)"
            each = st.of_teachers(np.mean(values, axis=0), what)
            yield st.at_most(f"P9.gradient.{s}", each, 1.1, words)
        words = "labels cost a higher power of d than the checkpoint"
        for k, c in [(k, c) for k, s, c in self.cases if s == "labels"]:
            at = self.common(r, k, c)
            a, b = (self.exponent(r, k, s, c, at) for s in SUPERVISIONS)
            text = f"exponent of the batch in d ({c}, k = {k}): labels - checkpoint"
            text += (
                f", d = {', '.join(map(str, at))}" if len(at) > 1 else ", no common d"
            )
            shown = "d^(k-1) against poly(d)"
            what = self._gap(r, k, a, b, text)
            yield st.at_least(f"P9.{c}.k{k}", what, 1.0, words, paper=shown)
        low, high = min(self.theory.cases), max(self.theory.cases)
        if low < high:
            a, b = (self.exponent(r, k, "checkpoint", "aligned") for k in (high, low))
            text = f"exponent from the checkpoint (aligned), k = {high} minus k = {low}"
            words = "the checkpoint's exponent does not grow with k"
            shown = f"0, against {high - low} for labels"
            what = self._gap(r, high, a, b, text)
            yield st.at_most("P9.flat", what, 1.0, words, paper=shown)
        k, d = self.theory.control_k, self.theory.control_d
        odd, even = r.values["odd"], r.values["even"]
        what, batch = "share of the update in S", f"batch {odd['batch']:,}"
        text = f"{what} over k/d, d = {d}, {batch}"
        over = st.of_teachers(odd["share"] / (k / d), text)
        words = f"k = {k} shows labels nothing at an odd d"
        words += ", where relu' has no even degree"
        yield st.at_most("P9.odd", over, 1.5, words, paper="chance (1)")
        words = "with ties, at the even d beside it, the same batch shows the support"
        share = st.of_teachers(even["share"], f"{what}, d = {d + 1}, {batch}")
        yield st.at_least("P9.even", share, 0.5, words)

    def _gap(
        self, r: st.Result, k: int, a: Exponent, b: Exponent, text: str
    ) -> st.Statistic:
        fewest = min(self.law(r, k, s, "aligned").fewest for s in SUPERVISIONS)
        return st.Statistic(difference(a, b), text, fewest, a.runs + b.runs)

    def facts(self, r: st.Result) -> dict[str, Any]:
        problems = [_problem(p, r.values[str(p)]) for p in self.theory.problems]
        measured: dict[str, Any] = {"exponents": [], "problems": problems}
        for k, s, c in self.cases:
            row: dict[str, Any] = {"k": k, "supervision": s, "criterion": c}
            row |= self.exponent(r, k, s, c).to_json()
            row["closed_form"] = self.predicted(r, k, s, c)
            row["local_slopes"] = self.law(r, k, s, c).slopes_to_json(draws=500)
            measured["exponents"].append(row)
        measured["controls"] = [
            {
                "k": self.theory.control_k,
                "d": self.theory.control_d + i,
                "batch": v["batch"],
                "closed_form_batch": v["predicted"],
                "share": np.quantile(v["share"], QUARTILES),
                "supports_found": v["found"].sum(),
                "seeds": len(v["found"]),
            }
            for i, v in enumerate((r.values["odd"], r.values["even"]))
        ]
        return {"measured": measured}

    def summary(self, r: st.Result) -> list[str]:
        lines = []
        for k, s, c in self.cases:
            e, exact = self.exponent(r, k, s, c), self.predicted(r, k, s, c)
            what = f"k={k}, {s}, {c}: exponent"
            text = f"  {what} {e.value:.2f} [{e.lower:.2f}, {e.upper:.2f}]"
            lines.append(text + f" (closed form: {exact:.2f})" * isfinite(exact))
        return lines


def _mark(**style: Any) -> Line2D:
    return Line2D([], [], **{"color": "0.35", "ms": 4, **style})


def _parts(k: int) -> tuple[tuple[slice, str], tuple[slice, str]]:
    """Coordinates in S and outside, each with its colour."""
    return (slice(0, k), DEGREE_COLORS[0]), (slice(k, None), DEGREE_COLORS[1])


def _problem(p: Problem, v: Values) -> dict[str, Any]:
    batch = {c: v[c] for c in two_stage.CRITERIA if c in v}
    cap = v["sizes"][-1]
    medians = {c: survival_estimate(b, float(cap)) for c, b in batch.items()}
    return {
        **p._asdict(),
        "seeds": len(v["share"]),
        "cap": cap,
        "batch": {c: {**e.to_json("median"), "runs": e.n} for c, e in medians.items()},
        "batches": batch,
        "beyond_the_cap": {c: np.isinf(b).sum() for c, b in batch.items()},
        "closed_form_batch": {c: v[f"predicted_{c}"] for c in ("aligned", "support")},
        "teachers_that_separate": v["can"].mean(),
        "accuracy_at_infinite_batch": np.quantile(v["ceiling"], QUARTILES),
    }


if __name__ == "__main__":
    ParityTheory.main()
