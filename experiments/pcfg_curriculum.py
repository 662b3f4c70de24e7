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
from dataclasses import asdict
from itertools import chain, cycle
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments.pcfg_accuracy import CPU, PAPER, SMOKE, about, strings
from sandbox.errors import require
from sandbox.plotting.curves import band, log_levels, log_steps
from sandbox.plotting.style import DEGREE_COLORS, color_of
from sandbox.probes.phases import Drop, best_constant, locate_drop
from sandbox.store.bounds import Increasing
from sandbox.train.teaching import task_key

COUNTED = " counted from the best constant"


NGRAMS = st.Ngrams(
    steps=(
        *range(100, 1000, 100),
        *range(1000, 2000, 200),
        *(2000, 2500, 3000, 4000, 5000, 6500),
    )
)
"""What is probed at cpu scale: closely where the loss drops."""


class Measured(NamedTuple):
    """What is measured on teachers.

    Attributes:
      ngrams: the n-gram probe along each teacher's training.
      drops: each teacher's drop in its steps, counted from the first record at or below
        the loss of the best constant prediction; None where it did not learn.
    """

    ngrams: st.Probed
    drops: list[Drop | None]

    def drop(self, at: str) -> np.ndarray:
        """A field of every drop, NaN where there is none, `(T,)`."""
        return np.asarray([getattr(d, at) if d else np.nan for d in self.drops])


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
            "cfg3b from level 16, two layers, 8 heads to 2, five seeds.",
            setting=CPU,
            ngrams=NGRAMS,
            candidates=(100, 300, 500, 1000, 2000, 4000),
        ),
        "paper": st.preset(
            "Whole cfg3b strings, four layers, 32 heads to 8, argmax of the teacher.",
            setting=PAPER,
            ngrams=st.Ngrams(steps=tuple(range(100, 2000, 100)), places=14),
            candidates=(100, 200, 400, 600, 800, 1000, 1400),
            tau=0.0,
        ),
    }
    since = {
        "smoke, cpu": "2026-11-22 9bce772",
        **dict.fromkeys(
            ("G2.plateau", "G4.others", "G4.rule"), "2026-11-22 9bce772 (added)"
        ),
        **dict.fromkeys(
            ("G2.flat", "G3.rise", "G3.knows", "G4.drop"), "2026-11-28 30c3d14"
        ),
    }

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

    def measure(self, r: st.Result) -> Measured:
        return Measured(self.ngrams.measure(r), drops_from_constant(r))

    def share(self, r: st.Result) -> float:
        """Of all steps, after which students are compared."""
        return 1.0 if r.preset == "paper" else 0.5

    def by_candidate(self, r: st.Result, share: float) -> np.ndarray:
        """2-shot accuracy at a share of all steps, `(T, candidates)`."""
        lanes = [f"from_{step}" for step in self.candidates]
        return np.stack([accuracy(r, lane, share) for lane in lanes], 1)

    def figure(self, r: st.Result) -> Figure:
        """Loss with its drop, reliance on n-grams, nearest predictor, and students.

        Shaded: the median drop of the teachers' loss, counted from the best constant
        prediction; dotted vertical line: the checkpoint that the rule chooses. (a) Loss
        in nats at scored tokens. (b) M_robust: how far the output moves, in total
        variation, when the n-gram around a masked token is masked too; median over
        positions; dotted: the exact predictor. (c) KL from exact predictors that see
        only an n-gram, or all tokens. (d) A 2-shot student stands at the step of the
        checkpoint that it starts from; thin lines are seeds. Lines are medians over
        seeds, bands quartiles (extremes of fewer than ten).
        """
        fig, axes = st.panels(2, 2, height=5.0)
        draw = (self._loss, self._windows, self._distances, self._students)
        for ax, panel in zip(axes.flat, draw, strict=True):
            panel(ax, r)
            start, end = (np.nanmedian(r.measured.drop(n)) for n in ("start", "end"))
            ax.axvspan(float(start), float(end), color="0.93", lw=0, zorder=0)
            middle = float(np.nanmedian(drop(r, "steepest")))
            ax.axvline(middle, color=color_of("two_shot"), lw=0.9, ls=":")
            log_steps(ax)
            ends = 0.85 * r.setting.spacing, r.measured.ngrams.steps[-1]
            ax.set(xlim=ends, xlabel="optimizer steps of the teacher")
        st.note(fig, f"{about(r.setting)}; {st.counts_text(r)}")
        return fig

    def _loss(self, ax: Axes, r: st.Result) -> None:
        x, y = r.rows(r.curves("teacher", "loss"))
        band(ax, x, y, label="_", color=color_of("teacher"), log=True)
        ax.set(ylim=(0, None), ylabel="loss of the teacher (nats)")
        ax.set_title("Loss of the teacher, its drop shaded")

    def _windows(self, ax: Axes, r: st.Result) -> None:
        for n, color in self._colors():
            _probed(ax, r, f"m_robust/{n}/median", f"{n}-gram", color)
            exact = r.measured.ngrams.values[f"exact/m_robust/{n}/median"]
            ax.axhline(float(np.nanmedian(exact)), color=color, lw=0.8, ls=":")
        ax.set(ylim=(-0.01, None))
        ax.set_ylabel(r"$M_\mathrm{robust}$, total variation")
        ax.set_title("Reliance on each n-gram")
        ax.legend(loc="upper left")

    def _distances(self, ax: Axes, r: st.Result) -> None:
        for n, color in self._colors():
            _probed(ax, r, f"kl/{n}", f"{n}-gram", color)
        _probed(ax, r, "kl/all", "all tokens", color_of("teacher"))
        log_levels(ax)
        words = "Distance from exact predictors"
        ax.set(ylabel="KL(exact || teacher), nats", title=words)
        ax.legend(loc="best")

    def _colors(self) -> Iterator[tuple[int, str]]:
        return zip(self.ngrams.windows, cycle(DEGREE_COLORS), strict=False)

    def _students(self, ax: Axes, r: st.Result) -> None:
        steps, share, color = self.candidates, self.share(r), color_of("two_shot")
        rows = self.by_candidate(r, share)
        mid = np.nanmedian(rows, 0)
        ax.plot(steps, mid, "D-", color=color, ms=3.5, label="2-shot from this step")
        ax.plot(steps, rows.T, color=color, lw=0.4, alpha=0.5, label="_")
        for name, style in (
            ("one_shot", {"lw": 1.1}),
            ("ce", {"lw": 1.8, "zorder": 1}),
        ):
            value = float(np.nanmedian(accuracy(r, name, share)))
            ax.axhline(value, color=color_of(name), label=r.label(name), **style)
        words = f"Students after {share:.0%} of their steps"
        ax.set(ylabel="top-1 accuracy of students", title=words)
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
        words = f"the best checkpoint ({step}) lies in the drop phase"
        for id, text, (start, end) in (
            ("place", "", (drop(r, "start"), drop(r, "end"))),
            ("drop", COUNTED, (r.measured.drop("start"), r.measured.drop("end"))),
        ):
            outside = np.abs(step - np.clip(step, start, end))
            text = f"steps from the drop{text} to the best candidate {where}"
            away, paper = each(outside, text), "C1 ~ 1k of 8k steps"
            yield st.at_most(f"G4.{id}", away, 0.0, words, paper=paper)
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
        shares, probed = {"0.5": 0.5, "1": 1.0}, r.measured.ngrams
        measured: dict[str, Any] = {"candidates": self.candidates}
        for name in ("one_shot", "ce"):
            found = {k: accuracy(r, name, q) for k, q in shares.items()}
            measured[name] = {k: v.round(4) for k, v in found.items()}
        found = {k: self.by_candidate(r, q).round(4) for k, q in shares.items()}
        measured["two_shot"] = found
        measured["steps"] = probed.steps
        measured["kl"] = {
            str(n): {
                "mean": probed.values[f"kl/{n}"].round(4),
                "median": probed.values[f"kl/{n}_median"].round(4),
            }
            for n in (*self.ngrams.windows, "all")
        }
        measured["m_robust"] = {
            str(n): {
                "mean": probed.values[f"m_robust/{n}/mean"].round(4),
                "median": probed.m_robust(n).round(4),
                "peak_step": probed.peaks(n),
                "exact": probed.values[f"exact/m_robust/{n}/median"][:, -1].round(4),
            }
            for n in self.ngrams.windows
        }
        measured["drops"] = [d and asdict(d) for d in r.measured.drops]
        return {"measured": measured, "strings": strings(r)}


def drop(r: st.Result, at: str) -> np.ndarray:
    """A field of every teacher's `Drop` in its steps, NaN where it has none, `(T,)`."""
    each = r.of_seeds(lambda t, s: getattr(t.chosen.each[s], at) / t.setting.one, at)
    return each.values[:, 0]


def accuracy(r: st.Result, lane: str, share: float) -> np.ndarray:
    """Accuracy at a share of all steps, the mean over initialisations, `(T,)`."""
    return r.at(lane, share).values.astype(float).mean(1)


def _probed(ax: Axes, r: st.Result, name: str, label: str, color: str) -> None:
    """An array of the n-gram probe over training, with a mark by its colour."""
    y = r.measured.ngrams.values[name]
    x = np.broadcast_to(r.measured.ngrams.steps, y.shape)
    nth = (*DEGREE_COLORS, color).index(color)
    marks = "osD^vP"[nth], nth, 6
    band(ax, x, y, label=label, color=color, log=True, marks=marks)


def drops_from_constant(r: st.Result) -> list[Drop | None]:
    """Every teacher's drop in steps, from the loss of the best constant prediction."""
    s, out = r.setting, list[Drop | None]()
    for t in r.teachers:
        losses = t.run.metrics.curves("teacher", "loss")
        for seed, loss, ok in zip(t.spec.seeds, losses, t.usable, strict=True):
            key, task = task_key(seed), t.spec.task
            rows = task.sample(key, jnp.uint32(0), s.eval_points, split="eval")
            least = best_constant(np.asarray(rows.y), np.asarray(rows.weight))
            found = locate_drop(t.steps / s.one, loss, below=least)
            out.append(found if ok else None)
    return out


def phases(r: st.Result, *, fall: float) -> Iterator[st.Claim]:
    """G2: a plateau, then the loss drops; G3: with it peaks reliance on 3-grams.

    `G2`, `G2.plateau` and `G3.peak` count from the first record, where the frequencies
    of tokens are learned. Their successors `G2.flat` and `G3.rise` count from the best
    constant prediction, and a peak from where 90% of it is reached.
    """
    ngrams, counted = r.measured.ngrams, r.measured.drop
    text = "share of the steps of the shortest phase with half of the loss's decrease"
    share = r.of_seeds(lambda t, s: t.chosen.each[s].duration, text)
    words, paper = "the loss drops in a short phase", "0.6k to 2k of 8k"
    yield st.at_most("G2", share, 0.3, words, paper=paper, also=(0.09, 0.55))
    start, text = drop(r, "start"), "share of the steps before that phase"
    plateau = st.of_teachers(start / ngrams.steps[-1], text)
    words, paper = "a plateau comes before it", "to 0.6k of 8k"
    yield st.positive("G2.plateau", plateau, words, paper=paper)
    text = f"share of the steps before the drop{COUNTED} with a tenth of the decrease"
    flat = st.of_teachers(counted("plateau"), text)
    yield st.at_least("G2.flat", flat, 0.02, words, paper=paper, also=(0.01, 0.04))
    y, at = ngrams.m_robust(3), ngrams.peaks(3)
    late = np.where(at < start, np.inf, at / drop(r, "end"))
    text = "step of M_robust(3)'s peak / end of the drop (∞ before its start)"
    words, paper = "reliance on 3-grams peaks in the drop phase", "C1 ~ 1k of 8k, ~.6"
    also = (1.095, 1.44)
    peak = st.of_teachers(late, text)
    yield st.at_most("G3.peak", peak, 1.2, words, paper=paper, also=also)
    top = ngrams.steps[np.argmax(y >= 0.9 * y.max(1, keepdims=True), 1)]
    late = np.where(top < counted("start"), np.inf, top / counted("end"))
    text = f"step to 90% of M_robust(3)'s peak / end of the drop{COUNTED} (∞ before it)"
    rise, words = st.of_teachers(late, text), "reliance on 3-grams rises with the drop"
    yield st.at_most("G3.rise", rise, 1.2, words, paper=paper, also=also)
    kept, text = y[:, -1] / y.max(1), "M_robust(3) at the end / at its peak"
    kept, paper, also = st.of_teachers(kept, text), "~1e-3 at 8k", (fall**2, fall**0.5)
    yield st.at_most("G3.fall", kept, fall, "and falls", paper=paper, also=also)
    kl, rows = ngrams.values["kl/all"], np.arange(len(y))
    left = kl[:, -1] / kl[rows, y.argmax(1)]
    text = "KL(exact || teacher) at the end / at M_robust(3)'s peak"
    knows, words = st.of_teachers(left, text), "since it knows better, not nothing"
    yield st.at_most("G3.knows", knows, 0.5, words, also=(0.25, 0.71))


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
