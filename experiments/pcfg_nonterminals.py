"""Nonterminals in hidden states: which level is found when, and in which student.

    python -m experiments.pcfg_nonterminals smoke
    python -m experiments.pcfg_nonterminals cpu --train 2048
    python -m experiments.pcfg_nonterminals --help

Probes of nonterminals and boundaries (`sandbox.probes.nonterminals`) on a PCFG
teacher's checkpoints and on the finished students of `experiments.pcfg_accuracy`, after
section 4 of arXiv 2410.05464: the multi-head probe whose attention looks at positions
only, a linear probe, and the controls of both.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import sandbox.study as st
from experiments.pcfg_accuracy import TAUGHT, PcfgAccuracy, lane_name, strings
from experiments.pcfg_curriculum import NGRAMS, PcfgCurriculum
from sandbox.errors import require
from sandbox.plotting.curves import band, dots, log_steps, rows
from sandbox.plotting.style import DEGREE_COLORS, color_of
from sandbox.probes.nonterminals import NonterminalProbe
from sandbox.store.bounds import Increasing
from sandbox.theory.ranks import rank_correlation
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec

KINDS = {"attention": "-", "linear": "--", "untrained/attention": ":"}
"""Probes that are drawn, and the style of their lines."""
KIND_WORDS = {
    "attention": "attention probe",
    "linear": "linear probe",
    "untrained/attention": "attention probe, untrained network",
}

ALSO = 0.6, 0.9
"""Other bounds of rank correlations."""


class Measured(NamedTuple):
    """What the probes found.

    Attributes:
      ngrams: the n-gram probe along each teacher's training.
      along: arrays of the probe along it, `(T, P, levels)` by name.
      students: lane -> arrays of the probe on its finished student, `(T, levels)`.
    """

    ngrams: st.Probed
    along: dict[str, np.ndarray]
    students: dict[str, dict[str, np.ndarray]]


class PcfgNonterminals(st.Study):
    """Nonterminals in PCFG teachers and students, after arXiv 2410.05464.

    Attributes:
      accuracy: the study whose teachers and students are probed.
      ngrams: what else is probed along the teachers' training.
      probed: teacher steps that are probed, the last one its end.
      train: strings a probe is trained on.
      test: further strings it is scored on.
      epochs: passes over the training strings.
      heads: heads of the attention probe.
      refits: how often each probe is trained; accuracies are means over them.
    """

    accuracy: PcfgAccuracy = PcfgAccuracy.preset("smoke")
    ngrams: st.Ngrams = st.Ngrams(strings=64, places=3)
    probed: Annotated[tuple[int, ...], Increasing(2)] = (25, 100, 300, 600)
    train: int = 256
    test: int = 128
    epochs: int = 8
    heads: int = 8
    refits: int = 1

    presets = {
        "smoke": st.preset("Level 10, one layer, two seeds."),
        "cpu": st.preset(
            "cfg3b from level 16, two layers, 8 heads to 2, five seeds.",
            accuracy=PcfgAccuracy.preset("cpu"),
            ngrams=NGRAMS,
            probed=(100, 200, 300, 400, 600, 800, 1000, 1400, 2000, 4000, 8000),
            train=1024,
            test=512,
            refits=5,
        ),
        "paper": st.preset(
            "Whole cfg3b strings, four layers, 32 heads to 8; 16 heads in the probe.",
            accuracy=PcfgAccuracy.preset("paper"),
            ngrams=PcfgCurriculum.preset("paper").ngrams,
            probed=(100, 300, 500, 700, 900, 1200, 1600, 2000),
            train=4096,
            test=512,
            epochs=4,
            heads=16,
        ),
    }
    since = {
        "any": "2026-11-22 9bce772",
        "G5.levels_gain": "2026-11-22 9bce772 (added)",
        "G5.levels_learned": "2026-11-28 30c3d14",
    }

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        return self.accuracy.settings

    def check(self) -> None:
        s, p = self.accuracy.setting, self.probed
        self.ngrams.check(s)
        spec = s.teacher_specs()[0]
        end = spec.stop.largest // s.one
        known = range(s.spacing, end + 1, s.spacing)
        require(
            set(p) <= set(known) and p[-1] == end,
            f"probed must be multiples of setting.spacing = {s.spacing} up to the"
            f" teacher's {end} steps, got {p}.",
        )
        self._probe(spec)

    def _probe(self, spec: RunSpec) -> NonterminalProbe:
        task: Any = spec.task
        names = ("train", "test", "epochs", "heads", "refits")
        sizes = {n: getattr(self, n) for n in names}
        return NonterminalProbe(task=task, model=spec.model, **sizes)

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        return self.accuracy.lanes(t)

    def measure(self, r: st.Result) -> Measured:

        def of(run: Run) -> NonterminalProbe:
            return self._probe(run.spec)

        along = r.probe("teacher", of, [*map(r.setting.samples, self.probed)])
        students = {
            lane: {k: v[:, 0] for k, v in r.probe(lane, of).items()}
            for lane in r.strategies
        }
        return Measured(self.ngrams.measure(r), along, students)

    @property
    def levels(self) -> np.ndarray:
        """Levels with more than one symbol, about which there is something to know."""
        task = self.accuracy.setting.made_task
        return np.flatnonzero(task.arrays.at_level[:-1].sum(1) > 1)

    def held(self, r: st.Result, name: str) -> st.Quantity:
        """Nonterminal accuracy of a strategy's students, the mean over levels."""
        lane = lane_name(name, self.accuracy.taus[0])
        values = r.measured.students[lane]["attention/nonterminal"][:, self.levels]
        text = f"mean nonterminal accuracy({lane})"
        return st.Quantity(values.mean(-1)[:, None], text)

    def figure(self, r: st.Result) -> Figure:
        """Two targets along the teachers' training, and the students at their ends.

        Accuracy of probes of the teachers' activations that tell (a) which nonterminal
        covers a token, (b) whether it ends there, both answers weighted alike; depth 0
        is the root of a string, which ends with it. Medians over seeds, bands quartiles
        (extremes of fewer than ten). (c) Nonterminals found in finished students, mean
        over levels; a dot a student, bars the medians.
        """
        fig, (a, b, c) = st.panels(1, 3, height=2.9)
        self._draw_along(a, r, "nonterminal", "Which nonterminal?")
        self._draw_along(b, r, "boundary_balanced", "Does it end here?")
        names = ("ce", *TAUGHT)
        for i, name in enumerate(names):
            dots(c, i, self.held(r, name).values[:, 0], color_of(name))
        rows(c, [st.brief(st.label_of(name)) for name in names])
        c.set(xlabel="accuracy of the probe", title="Nonterminals in students")
        named = {k: Line2D([], [], color=v) for k, v in self._depths(r).items()}
        for kind, style in KINDS.items():
            named[KIND_WORDS[kind]] = Line2D([], [], color="0.35", ls=style)
        st.legend(fig, named)
        st.note(fig, f"{r.setting}; {st.counts_text(r)}")
        return fig

    def _depths(self, r: st.Result) -> dict[str, str]:
        """A colour a level that is drawn, named by its depth."""
        n_levels = r.measured.along["attention/nonterminal"].shape[-1]
        drawn = sorted({*self.levels, *range(1, n_levels)})
        at = {level: (n_levels - 1 - level) % len(DEGREE_COLORS) for level in drawn}
        return {f"depth {level}": DEGREE_COLORS[i] for level, i in at.items()}

    def _draw_along(self, ax: Axes, r: st.Result, target: str, title: str) -> None:
        along, colors = r.measured.along, self._depths(r)
        n_levels = along[f"attention/{target}"].shape[-1]
        boundary = target.startswith("boundary")  # the root's is the end of the string
        for level in range(1, n_levels) if boundary else self.levels:
            for kind, style in KINDS.items():
                y = along[f"{kind}/{target}"][..., level]
                x = np.broadcast_to(np.asarray(self.probed, float), y.shape)
                line: dict[str, Any] = {"linestyle": style, "lw": 1.1}
                color = colors[f"depth {level}"]
                band(ax, x, y, label="_", color=color, log=True, **line)
        log_steps(ax)
        ax.set(xlim=(self.probed[0], self.probed[-1]), title=title)
        ax.set(xlabel="optimizer steps of the teacher", ylabel="accuracy of the probe")

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        windows, (ngrams, along, _) = self.ngrams.windows, r.measured
        peaks = np.stack([ngrams.peaks(n) for n in windows], 1)
        order = _order(windows, peaks, "n, step of the peak of M_robust(n)")
        words, shown = "reliance on longer n-grams peaks later", "an n-gram curriculum"
        yield st.at_least("G5.ngrams", order, 0.8, words, paper=shown, also=ALSO)
        accuracy = along["attention/nonterminal"]
        gain = accuracy - along["majority/nonterminal"]
        words = "nonterminals of lower levels are found first"
        learned = accuracy - along["untrained/attention/nonterminal"]
        if len(self.levels) < 4:  # too few to be in an order
            learned = np.full_like(learned, np.nan)
        for name, what, every_level in (
            ("levels", "accuracy", accuracy),
            ("levels_gain", "gain over the majority", gain),
            ("levels_learned", "gain over the untrained network", learned),
        ):
            y = every_level[..., self.levels]
            last = y[:, -1]
            first = np.asarray(self.probed)[np.argmax(y >= 0.8 * last[:, None], 1)]
            steps = np.where(last > 0, first, np.inf) + 0 * last  # NaN stays NaN
            text = f"height, step to 80% of the final {what}"
            # Height is counted above the tokens; the root is highest.
            order = _order(-self.levels, steps, text)
            shown = "level by level"
            yield st.at_least(f"G5.{name}", order, 0.8, words, paper=shown, also=ALSO)
        more = self.held(r, "progressive") - self.held(r, "one_shot")
        words = "progressive students show more nonterminals than one-shot ones"
        yield st.at_least("G5.students", more, 0.0, words, paper="higher")

    def facts(self, r: st.Result) -> dict[str, Any]:
        keep = ("attention/nonterminal", "linear/nonterminal", "attention/boundary")
        keep = (*keep, *(f"untrained/{name}" for name in keep))
        along, students = r.measured.along, r.measured.students.items()
        measured = {
            "probed_steps": self.probed,
            "teacher_end": {k: v[:, -1].round(4) for k, v in along.items()},
            "teacher_along": {k: along[k].round(4) for k in keep},
            "students": {n: {k: v[k].round(4) for k in keep} for n, v in students},
        }
        return {"measured": measured, "strings": strings(r)}


def _order(x: Any, steps: np.ndarray, text: str) -> st.Quantity:
    """Rank correlation of `x` and every teacher's steps `(T, n)`, 0 if all alike."""
    each = [rank_correlation(np.asarray(x), row) for row in steps]
    lost = np.isnan(steps).any(1)
    known = np.where(lost, np.nan, np.nan_to_num(each))
    return st.of_teachers(known, f"Spearman of {text}")


if __name__ == "__main__":
    PcfgNonterminals.main()
