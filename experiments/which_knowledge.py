"""Which part of a checkpoint's target is the curriculum?

    python -m experiments.which_knowledge smoke
    python -m experiments.which_knowledge cpu
    python -m experiments.which_knowledge --help

Students of successive checkpoints whose targets keep a part of what the teacher says
(Tang et al., arXiv 2002.03532), leave out where it is wrong (arXiv 2409.01627), or are
matched otherwise (temperatures, logits, decoupled terms, TAID). On plain parity the two
classes have no relations, so class means and smoothing depend on the label alone; the
tree's eight leaves share parities, and masked tokens of strings have a language's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import sandbox.study as st
from experiments import parity_mlp, pcfg_accuracy
from sandbox.distill.losses import Loss, Objective
from sandbox.distill.methods import (
    TAID,
    ClassMeans,
    Decoupled,
    LogitMatching,
    OwnWeight,
    SkipWrong,
    Smooth,
    SwapWrong,
    TopK,
)
from sandbox.distill.sources import Final, Progressive, Source
from sandbox.distill.strategy import Anneal, Strategy
from sandbox.distill.targets import Target, Transform
from sandbox.plotting import curves as plots
from sandbox.plotting.style import DEGREE_COLORS, FAMILIES
from sandbox.probes.knowledge import KnowledgeProbe
from sandbox.tasks.hierarchy import Hierarchy

SMOKE = replace(
    parity_mlp.SMOKE,
    n_teachers=2,
    group=2,
    alone=True,
    budget=st.UntilLearned(limit=128_000, cap=2.0),
)
CPU = replace(
    parity_mlp.CPU,
    n_teachers=10,
    alone=True,
    budget=st.UntilLearned(limit=409_600, cap=3.0),
)
TREES = replace(
    SMOKE,
    budget=st.UntilLearned(limit=128_000, cap=3.0),
    task=Hierarchy(d=24, depth=3, feature_complexity=3),
    teacher=st.TwoLayer(300),
    student=st.TwoLayer(100),
    rule=st.ByNode(points=4096),
    n_teachers=10,
    group=5,
)
PARTS = {
    "means": ("class means", ClassMeans()),
    "smooth": ("label smoothing", Smooth()),
    "own": ("label's own weight", OwnWeight()),
    "top2": ("top two", TopK(k=2)),
    "swap": ("wrong swapped", SwapWrong()),
    "skip": ("wrong skipped", SkipWrong()),
}
"""Transforms of the checkpoints' target: what figures call them, and the record."""
LOSSES = {
    "decoupled": ("decoupled", Decoupled()),
    "logits": ("logit matching", LogitMatching(weight=0.1)),
    "loud": ("gradient x 4", Loss(scale=4.0)),
    "T2": ("T = 2", Loss(tau_student=2.0, scale=4.0)),
    "T4": ("T = 4", Loss(tau_student=4.0, scale=16.0)),
    "T8": ("T = 8", Loss(tau_student=8.0, scale=64.0)),
}
"""Losses on the final teacher; `loud` is a control of the size of gradients."""
TERMS = dict(zip(("instance", "universe", "domain"), DEGREE_COLORS, strict=False))
"""Terms of the gradient, and their colours."""
Split = dict[str, tuple[np.ndarray, np.ndarray]]
FIRST = ("ce", "one_shot", "progressive")


class WhichKnowledge(st.Study):
    """Parts of the target on plain parity, on trees of eight leaves, and on strings.

    Attributes:
      parity: plain parity, teachers and students.
      trees: tree labels likewise; None leaves them out.
      strings: masked strings of a grammar, at a fixed length; None leaves them out.
      ramp: samples in which TAID's target moves to the teacher's.
    """

    parity: st.Setting = SMOKE
    trees: st.Setting | None = None
    strings: st.Setting | None = None
    ramp: int = 64_000

    presets = {
        "smoke": st.preset("two teachers of d=24, k=6; no trees, no strings."),
        "cpu": st.preset(
            "ten teachers of d=32, k=6, and of d=24, k=3, C=8; cfg3b from level 13, two"
            " teachers.",
            parity=CPU,
            trees=TREES,
            strings=replace(pcfg_accuracy.LEVEL_13, n_teachers=2),
            ramp=150_000,
        ),
    }

    since = {"any": "2026-11-28 19748b1"}

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        more = {"trees": self.trees, "strings": self.strings}
        return {"parity": self.parity} | {n: s for n, s in more.items() if s}

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        s, c, ramp = t.setting, t.setting.made_task.n_classes, self.ramp
        pace = Progressive(every=t.spacing)
        if isinstance(s.task, st.Strings):
            # TAID's target moves for as long as the first stage of 2-shot.
            pace, ramp = pcfg_accuracy.pace(t), s.samples(s.hold)
        # The label's own weight says all of two classes, the top two all of three.
        told = {"own": c == 2, "top2": c <= 3}
        kept = [_taught(n, pace, v) for n, (_, v) in PARTS.items() if not told.get(n)]
        matched = [_matched(name, loss) for name, (_, loss) in LOSSES.items()]
        taid = TAID(share=Anneal(start=0.0, end=1.0, over=ramp))
        whole = Strategy(name="progressive", source=pace)
        first = (st.ce(), st.one_shot(), whole)
        return [*first, *kept, *matched, _matched("taid", taid)]

    def measure(self, r: st.Result) -> dict[str, Split]:
        """What checkpoints' targets ask of a fresh student, along training."""
        out = {}
        for name, p in r.parts.items():
            task, rows = p.setting.made_task, []
            student = p.setting.student.model(task)
            for t in p.teachers:
                steps = t.run.trajectory.steps
                points = 512 if isinstance(p.setting.task, st.Strings) else 4096
                probe = KnowledgeProbe(
                    task, t.spec.model, student=student, points=points
                )
                rows.append(
                    r.measure(t.run, probe, steps=steps[:: len(steps) // 40 + 1])
                )
            out[name] = {
                term: p.rows([(found.steps, found.values[term]) for found in rows])
                for term in TERMS
            }
        return out

    def figure(self, r: st.Result) -> Figure:
        """Samples to .90 over the teacher's, for every part and every loss.

        Top: plain parity, two classes, where a label's own weight and the top two are
        the same as progressive and left out; where run, trees of eight leaves, and
        accuracy at the end on masked strings, three classes. A dot is a student, a bar
        the median where it is within the cap; triangles count students that were not
        there by then. Bottom: root mean square of the three terms of the logit gradient
        of a fresh student taught by each checkpoint, medians of teachers, bands
        quartiles (extremes of fewer than ten); universe and domain are 0 for two
        classes.
        """
        fig, axes = st.panels(
            2, len(r.parts), height=5.0, squeeze=False, height_ratios=(2, 1)
        )
        for ax, (name, p) in zip(axes[1], r.parts.items(), strict=True):
            for i, (term, color) in enumerate(TERMS.items()):
                marks = "osD"[i], i, len(TERMS)
                found = r.measured[name][term]
                plots.band(ax, *found, label=term, color=color, marks=marks)
            ax.set(xlabel=p.abscissa_text, ylim=(0, None))
            ax.set_title("Terms of the gradient")
        axes[1, 0].set_ylabel("gradient, rms")
        axes[1, 0].legend()
        for ax in axes[1, 1:]:
            ax.legend().set_visible(False)
        known = {n for p in r.parts.values() for n in p.strategies}
        names = [n for n in (*FIRST, *PARTS, *LOSSES, "taid") if n in known]
        for ax, p in zip(axes[0], r.parts.values(), strict=True):
            if isinstance(p.setting.task, st.Strings):
                st.endings(ax, p, names, label=name_of, color=color_of)
                ax.set_title(pcfg_accuracy.level(p.setting))
            else:
                st.ratios(ax, {"": p}, names, label=name_of, color=color_of)
                ax.set_xlabel("samples to .90 / teacher's")
                ax.set_title(_title(p.setting.made_task))
            ax.set_ylim(len(names) - 0.5, -0.5)
            if ax is not axes[0, 0]:
                ax.tick_params(axis="y", labelleft=False)
        st.families(fig, map(family, names))
        each = ", ".join(str(st.learned(p)) for p in r.parts.values())
        order = " (left to right)" * (len(r.parts) > 1)
        st.note(fig, f"n = {each} teachers{order}; ▸ not by its cap")
        return fig

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        """Rules of 2026-11-28, written before the first run."""
        p = r.parts["parity"].n90
        for name in ("means", "smooth"):
            words = (
                f"on plain parity, {name_of(name)} of checkpoints carry no curriculum"
            )
            ratio = p[name] / p["progressive"]
            yield st.at_least(f"W1.{name}", ratio, 2.0, words, also=(sqrt(2), 4.0))
        for name in ("swap", "skip"):
            words = f"at tau = 1, checkpoints with {name_of(name)} teach nearly as fast"
            ratio = p[name] / p["progressive"]
            yield st.at_most(f"W2.{name}", ratio, 1.5, words, also=(sqrt(1.5), 2.25))
        for name in (*LOSSES, "taid"):
            if name == "loud":  # added after the first run, as a control: no rule
                continue
            words = f"on plain parity, {name_of(name)} on the final teacher is slower"
            ratio = p[name] / p["progressive"]
            yield st.at_least(f"W3.{name}", ratio, 2.0, words, also=(sqrt(2), 4.0))
        if "trees" not in r.parts:
            return
        t = r.parts["trees"].n90
        for name in ("means", "own"):
            words = f"on trees, {name_of(name)} of checkpoints help over labels"
            ratio = t[name] / t["ce"]
            yield st.at_most(f"W4.{name}", ratio, 0.8, words, also=(sqrt(0.8), 0.64))

    def facts(self, r: st.Result) -> dict[str, Any]:
        p = r.parts.get("strings")
        ends = {} if p is None else {n: p.at(n).values.ravel() for n in p.strategies}
        return {"accuracy_on_strings": ends}


def _title(task: Any) -> str:
    """E.g. `Parity, d=32, k=6`."""
    if isinstance(task, Hierarchy):
        return f"Trees, d={task.d}, k={task.feature_complexity}, C={task.n_classes}"
    return f"Parity, d={task.d}, k={task.k}"


def _taught(name: str, source: Source, transform: Transform) -> Strategy:
    return Strategy(name=name, source=source, target=Target(transforms=(transform,)))


def _matched(name: str, loss: Objective) -> Strategy:
    """The final teacher under another loss, at the loss's own temperature."""
    tau = loss.tau_student if isinstance(loss, Loss) else 1.0
    return Strategy(name=name, source=Final(), target=Target(tau=tau), loss=loss)


def name_of(name: str) -> str:
    """What figures call a strategy."""
    words = {n: text for n, (text, _) in (PARTS | LOSSES).items()}
    known = {"ce": "labels (CE)", "one_shot": "one-shot", "taid": "TAID"}
    return (words | known).get(name, name)


def color_of(name: str) -> str:
    """The colour of a strategy's family."""
    return FAMILIES[family(name)]


def family(name: str) -> str:
    """A family of `style.FAMILIES`."""
    if name in FIRST:
        return "checkpoints" if name == "progressive" else "labels"
    return "parts" if name in PARTS else "final"


if __name__ == "__main__":
    WhichKnowledge.main()
