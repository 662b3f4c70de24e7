"""The curriculum in a PCFG teacher's checkpoints: phases, n-grams, and what they teach.

    python -m experiments.pcfg_curriculum smoke
    python -m experiments.pcfg_curriculum cpu --setting.n-teachers 5
    python -m experiments.pcfg_curriculum --help

Reproduces the figure on curricula in PCFGs of arXiv 2410.05464. A teacher's loss goes
through three phases; around its drop the teacher leans on short n-grams (M_robust),
measured beside the exact n-gram predictors; and 2-shot students are trained from a row
of checkpoints, to see which one teaches best.
"""

from collections.abc import Iterator
from itertools import chain, cycle
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments.pcfg_accuracy import CPU, PAPER, SMOKE, about, strings
from sandbox.errors import require
from sandbox.plotting.curves import band, log_levels, log_steps
from sandbox.plotting.style import DEGREE_COLORS, color_of
from sandbox.store.bounds import Increasing


class PcfgCurriculum(st.Study):
    """Phases, n-grams and checkpoints of PCFG teachers, after arXiv 2410.05464.

    Attributes:
      setting: strings, teachers and students.
      ngrams: what is probed along the teachers' training.
      candidates: teacher steps whose checkpoints teach the first stage of a 2-shot
        student each; the one chosen by rule comes on top.
      tau: teacher temperature; 0 is the argmax.
    """

    setting: st.Setting = SMOKE
    ngrams: st.Ngrams = st.Ngrams(strings=64, places=3)
    candidates: Annotated[tuple[int, ...], Increasing(2)] = (25, 50, 100, 200, 400)
    tau: float = 1.0

    presets = {
        "smoke": st.preset("Level 10, one layer, two seeds."),
        "cpu": st.preset(
            "cfg3b from level 13, two layers, 8 heads to 2, five seeds.",
            setting=CPU,
            ngrams=st.Ngrams(),
            candidates=(50, 100, 150, 200, 300, 450, 700, 1200, 2000),
        ),
        "paper": st.preset(
            "Whole cfg3b strings, four layers, 32 heads to 8, argmax of the teacher.",
            setting=PAPER,
            ngrams=st.Ngrams(every=100, places=14),
            candidates=(100, 200, 400, 600, 800, 1000, 1400),
            tau=0.0,
        ),
    }
    since = {"smoke, cpu": "2026-11-22 9bce772"} | dict.fromkeys(
        ("G2.plateau", "G4.others", "G4.rule"), "2026-11-22 9bce772 (added)"
    )

    def check(self) -> None:
        self.ngrams.check(self.setting)
        require(3 in self.ngrams.windows, "ngrams.windows must hold 3, for claim G3.")

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        middle = t["middle"]
        assert isinstance(middle, int), "groups are of one seed"
        steps = sorted({*map(t.setting.samples, self.candidates), middle})
        names = {f"from_{n // t.setting.one}": n for n in steps}
        taught = [st.two_shot(n, t.hold, self.tau, name=k) for k, n in names.items()]
        return [st.ce(), st.one_shot(self.tau), *taught]

    def measure(self, r: st.Result) -> st.Probed:
        return self.ngrams.measure(r)

    def share(self, r: st.Result) -> float:
        """Of all steps, after which students are compared."""
        return 1.0 if r.preset == "paper" else 0.5

    def by_candidate(self, r: st.Result, share: float) -> np.ndarray:
        """2-shot accuracy at a share of all steps, `(T, candidates)`."""
        lanes = [f"from_{step}" for step in self.candidates]
        return np.stack([accuracy(r, lane, share) for lane in lanes], 1)

    def figure(self, r: st.Result) -> Figure:
        """Loss with its drop, reliance on n-grams, nearest predictor, and students.

        Grey: the median drop of the teachers' loss; dotted vertical line: the
        checkpoint that the rule chooses. Medians and quartiles over seeds. A 2-shot
        student is drawn at the step of the checkpoint that it starts from; thin lines
        are its seeds.
        """
        fig, axes = st.panels(2, 2, height=5.0)
        draw = (self._loss, self._windows, self._distances, self._students)
        for ax, panel in zip(axes.flat, draw, strict=True):
            panel(ax, r)
            at = [drop(r, name) for name in ("start", "end", "steepest")]
            start, end, middle = np.nanmedian(at, 1).tolist()
            ax.axvspan(start, end, color="0.93", lw=0, zorder=0)
            ax.axvline(middle, color=color_of("two_shot"), lw=0.9, ls=":")
            log_steps(ax)
            ends = r.setting.spacing, r.measured.steps[-1]
            ax.set(xlim=ends, xlabel="teacher steps")
        fig.suptitle(f"{about(r.setting)}; {st.counts_text(r)}", fontsize=8)
        return fig

    def _loss(self, ax: Axes, r: st.Result) -> None:
        x, y = r.rows(r.curves("teacher", "loss"))
        band(ax, x, y, label="loss", color=color_of("teacher"), points=2000)
        x, y = r.rows(r.curves("teacher"))
        band(ax, x, y, label="accuracy", color="0.55", points=2000, linestyle="--")
        ax.set(ylim=(0, None), ylabel="teacher: loss (nats), accuracy")
        ax.set_title("three phases (drop shaded)")
        ax.legend(loc="upper right")

    def _windows(self, ax: Axes, r: st.Result) -> None:
        for n, color in self._colors():
            _probed(ax, r, f"m_robust/{n}/median", f"{n}-gram", color)
            exact = np.nanmedian(r.measured.values[f"exact/m_robust/{n}/median"])
            ax.axhline(float(exact), color=color, lw=0.8, ls=":")
        ax.set(ylim=(-0.01, None), ylabel="median M_robust (total variation)")
        ax.set_title("reliance on the n-gram (··· exact predictor)")
        ax.legend(loc="upper left")

    def _distances(self, ax: Axes, r: st.Result) -> None:
        for n, color in self._colors():
            _probed(ax, r, f"kl/{n}", f"{n}-gram", color)
        _probed(ax, r, "kl/all", "all tokens", color_of("teacher"))
        log_levels(ax)
        words = "which exact predictor it resembles"
        ax.set(ylabel="KL(exact, restricted || teacher), nats", title=words)
        ax.legend(loc="best")

    def _colors(self) -> Iterator[tuple[int, str]]:
        return zip(self.ngrams.windows, cycle(DEGREE_COLORS), strict=False)

    def _students(self, ax: Axes, r: st.Result) -> None:
        steps, share, color = self.candidates, self.share(r), color_of("two_shot")
        rows = self.by_candidate(r, share)
        low, mid, high = np.nanquantile(rows, [0.25, 0.5, 0.75], axis=0)
        ax.plot(steps, mid, "o-", color=color, ms=3, label="2-shot from this step")
        ax.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
        ax.plot(steps, rows.T, color=color, lw=0.4, alpha=0.5)
        for name in ("one_shot", "ce"):
            value = float(np.nanmedian(accuracy(r, name, share)))
            ax.axhline(value, color=color_of(name), lw=1.1, label=r.label(name))
        words = f"students at {share:.0%} of their steps"
        ax.set(ylabel="student top-1 accuracy", title=words)
        ax.legend(loc="best")

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        return chain(phases(r, fall=0.5), self._best(r))

    def paper_claims(self, r: st.Result) -> Iterator[st.Claim]:
        return chain(phases(r, fall=0.1), self._best(r))

    def _best(self, r: st.Result) -> Iterator[st.Claim]:
        """G4: which checkpoint teaches best.

        The best one is chosen on the mean over the seeds that also judge it, which
        favours it; `G4.others` and `G4.rule` choose without looking.
        """
        share, middle = self.share(r), drop(r, "steepest")
        y, where = self.by_candidate(r, share), f"at {share:.0%} of the steps"

        def each(values: np.ndarray, text: str) -> st.Quantity:
            return st.Quantity(values[:, None], text)

        at = int(mean(y).argmax())
        step = self.candidates[at]
        outside = np.abs(step - np.clip(step, drop(r, "start"), drop(r, "end")))
        away = each(outside, f"steps from the drop to the best candidate {where}")
        words = f"the best checkpoint ({step}) lies in the drop phase"
        yield st.at_most("G4.place", away, 0.0, words, paper="C1 ~ 1k of 8k steps")
        rows = [accuracy(r, f"from_{n:.0f}", share) for n in middle]
        best = each(y[:, at], "accuracy(best)")
        earliest = each(y[:, 0], f"accuracy(earliest) {where}")
        others = each(best_for_others(y), "accuracy(best of the others)")
        own = each(np.diagonal(rows), "accuracy(middle)")
        one = each(accuracy(r, "one_shot", share), f"accuracy(one-shot) {where}")
        paper = {"one_shot": ".925 / .888", "earliest": ".925 / .85"}
        for name, gap, words in (
            ("one_shot", best - one, "the best checkpoint beats one-shot"),
            ("earliest", best - earliest, "the best checkpoint beats the earliest"),
            ("others", others - one, "the one best for the other seeds beats one-shot"),
            ("rule", own - one, "the checkpoint chosen by rule beats one-shot"),
        ):
            shown = paper.get(name, "not in the paper")
            yield st.positive(f"G4.{name}", gap, f"2-shot from {words}", paper=shown)

    def facts(self, r: st.Result) -> dict[str, Any]:
        shares, probed = {"0.5": 0.5, "1": 1.0}, r.measured
        measured: dict[str, Any] = {"candidates": self.candidates}
        for name in ("one_shot", "ce"):
            found = {k: accuracy(r, name, q) for k, q in shares.items()}
            measured[name] = {k: v.round(4) for k, v in found.items()}
        found = {k: self.by_candidate(r, q).round(4) for k, q in shares.items()}
        measured["two_shot"] = found
        measured["m_robust_median"] = {
            str(n): {
                "peak_step": probed.peaks(n),
                "peak": probed.m_robust(n).max(1).round(4),
                "end": probed.m_robust(n)[:, -1].round(4),
                "exact": probed.values[f"exact/m_robust/{n}/median"][:, -1].round(4),
            }
            for n in self.ngrams.windows
        }
        return {"measured": measured, "strings": strings(r)}


def drop(r: st.Result, at: str) -> np.ndarray:
    """A field of every teacher's `Drop` in its steps, NaN where it has none, `(T,)`."""
    each = r.of_seeds(lambda t, s: getattr(t.chosen.each[s], at) / t.setting.one, at)
    return each.values[:, 0]


def accuracy(r: st.Result, lane: str, share: float) -> np.ndarray:
    """Accuracy at a share of all steps, the mean over initialisations, `(T,)`."""
    return r.at(lane, share).values.mean(1)


def _probed(ax: Axes, r: st.Result, name: str, label: str, color: str) -> None:
    """An array of the n-gram probe over training."""
    y = r.measured.values[name]
    x = np.broadcast_to(r.measured.steps, y.shape)
    band(ax, x, y, label=label, color=color, points=2000)


def phases(r: st.Result, *, fall: float) -> Iterator[st.Claim]:
    """G2: the loss drops in little time; G3: with it peaks reliance on 3-grams."""
    text = "share of the steps of the shortest phase with half of the loss's decrease"
    share = r.of_seeds(lambda t, s: t.chosen.each[s].duration, text)
    words, paper = "the loss drops in a short phase", "0.6k to 2k of 8k"
    yield st.at_most("G2", share, 0.3, words, paper=paper)
    start, text = drop(r, "start"), "share of the steps before that phase"
    plateau = st.of_teachers(start / r.measured.steps[-1], text)
    words, paper = "a plateau comes before it", "to 0.6k of 8k"
    yield st.positive("G2.plateau", plateau, words, paper=paper)
    y, at = r.measured.m_robust(3), r.measured.peaks(3)
    late = np.where(at < start, np.inf, at / drop(r, "end"))
    text = "step of M_robust(3)'s peak / end of the drop (∞ before its start)"
    words, paper = "reliance on 3-grams peaks in the drop phase", "C1 ~ 1k of 8k, ~.6"
    yield st.at_most("G3.peak", st.of_teachers(late, text), 1.2, words, paper=paper)
    text, paper = "M_robust(3) at the end / at its peak", "~1e-3 at 8k"
    kept = st.of_teachers(y[:, -1] / y.max(1), text)
    yield st.at_most("G3.fall", kept, fall, "and falls afterwards", paper=paper)


def mean(y: np.ndarray) -> np.ndarray:
    """Mean of the rows that are there, `(C,)`; -inf for none."""
    return np.ma.masked_invalid(y).mean(0).filled(-np.inf)


def best_for_others(y: np.ndarray) -> np.ndarray:
    """Each row's value in the column with the best mean over the other rows, `(T,)`."""
    out = np.full(len(y), np.nan)
    for i, row in enumerate(y):
        others = mean(np.delete(y, i, 0))
        if np.isfinite(others).any():
            out[i] = row[others.argmax()]
    return out


if __name__ == "__main__":
    PcfgCurriculum.main()
