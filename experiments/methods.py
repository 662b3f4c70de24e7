"""Distillation methods of our sources on the same tasks.

    python -m experiments.methods smoke
    python -m experiments.methods cpu
    python -m experiments.methods --help

Each with one choice of its knobs, made before the run and not tuned: what a method does
at its best, `which_knowledge`, `final_teacher_only`, `which_teacher` and `who_moves`
ask. All learn sparse parity from the same teachers; those whose loss looks at rows
together, in batches; those that need more than two classes, on trees; some
fill in masked tokens of strings. Methods that change the student (`dagfm`) stand beside
labels on the same student.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments import pcfg_accuracy, which_knowledge
from sandbox.distill import methods as m
from sandbox.distill.losses import Loss, Objective, Sum
from sandbox.distill.sources import Final, Progressive, Source
from sandbox.distill.strategy import Anneal, Strategy
from sandbox.distill.targets import Target, Transform
from sandbox.distill.views import View
from sandbox.errors import require
from sandbox.models.dagfm import DAGFM
from sandbox.models.mlp import MLP
from sandbox.plotting import curves as plots
from sandbox.plotting import style
from sandbox.plotting.style import WIDE
from sandbox.store.bounds import AtLeast
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import Parity
from sandbox.theory.sample_complexity import median_estimate
from sandbox.train.optim import SGD, LearningRate

SMOKE = replace(which_knowledge.SMOKE, hold=15_360)
CPU = replace(which_knowledge.CPU, n_teachers=5, group=5, hold=61_440)
TREES = replace(which_knowledge.TREES, n_teachers=5)


def batched(s: st.Setting, size: int = 16) -> st.Setting:
    """The setting in batches, at ten times the learning rate and twice the limit."""
    rule, budget = SGD(lr=LearningRate(peak=0.1)), s.budget
    assert isinstance(budget, st.UntilLearned)
    return replace(
        s,
        batch=size,
        teacher_optimizer=rule,
        student_optimizer=rule,
        budget=replace(budget, limit=2 * budget.limit),
    )


FAMILIES = {
    "labels": ("ce", "one_shot", "dagfm_ce"),
    "checkpoints": ("progressive", "two_shot", "fixed", "snapshots"),
    "parts": ("smooth", "means", "own", "top2", "swap", "skip"),
    "moving": ("online", "adapter", "averaged", "sure", "gpd", "branched"),
    "tuned": ("meta",),
}
"""Names of `style.FAMILIES`; the rest are other uses of the final teacher."""
WORDS = {
    "ce": "labels (CE)",
    "one_shot": "one-shot",
    "two_shot": "2-shot, middle",
    "fixed": "middle throughout",
    "snapshots": "last four snapshots",
    "smooth": "label smoothing",
    "means": "class means",
    "own": "label's own weight",
    "top2": "top two",
    "swap": "wrong swapped",
    "skip": "wrong skipped",
    "logits": "logit matching",
    "taid": "TAID",
    "flips": "bit flips",
    "extraction": "features, then outputs",
    "units": "30% of units, then whole",
    "exits": "one-for-all, exits",
    "truncated": "truncated (Allen-Zhu, Li)",
    "own_head": "teacher's head (srdL)",
    "norm": "norm and direction",
    "augmented": "telling rows (TST)",
    "relations": "relations (REFILLED)",
    "centres": "centres (REFILLED)",
    "lipschitz": "Lipschitz (LONDON)",
    "sampled": "four sampled classes",
    "online": "online teacher",
    "adapter": "adapter (OKD)",
    "averaged": "moving average",
    "sure": "average, where sure",
    "gpd": "GPD",
    "branched": "GPD, branches",
    "meta": "MetaDistil",
    "dagfm": "DAGFM student",
    "dagfm_ce": "DAGFM student, labels",
}
"""What figures call them."""


class Methods(st.Study):
    """Every method once.

    Attributes:
      parity: teachers and students, row by row.
      batches: the same in batches; None leaves them out.
      trees: tree labels; None leaves them out.
      strings: masked strings, at a fixed length; None leaves them out.
      ramp: samples in which TAID's target moves to the teacher's.
    """

    parity: st.Setting = SMOKE
    batches: st.Setting | None = None
    trees: st.Setting | None = None
    strings: st.Setting | None = None
    ramp: Annotated[int, AtLeast(1)] = 64_000

    presets = {
        "smoke": st.preset("two teachers of d=24, k=6; no batches, trees or strings."),
        "cpu": st.preset(
            "five teachers of d=32, k=6, alone and in batches of 16, and of d=24, k=3,"
            " C=8; three of cfg3b from level 13.",
            parity=CPU,
            batches=batched(CPU),
            trees=TREES,
            strings=replace(pcfg_accuracy.LEVEL_13, n_teachers=3),
            ramp=150_000,
        ),
    }

    since = {"any": "2026-11-28 abb2853"}

    def check(self) -> None:
        ok = isinstance(self.parity.task, Parity) and self.parity.hold > 0
        require(ok, "parity must be a Parity with a positive hold.")

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        names = ("parity", "batches", "trees", "strings")
        return {n: s for n in names if (s := getattr(self, n)) is not None}

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        if isinstance(t.setting.task, st.Strings):
            return self._on_strings(t)
        if isinstance(t.setting.task, Hierarchy):
            return self._on_trees(t)
        if t.setting.batch > 1:
            return self._in_batches(t)
        return self._on_bits(t)

    def _first(self, t: st.Teachers, pace: Source) -> list[st.Lane]:
        return [
            *(st.ce(), st.one_shot(), Strategy(name="progressive", source=pace)),
            st.two_shot(t["middle"], t.hold),
            Strategy(name="fixed", source=m.Fixed(step=t["middle"])),
        ]

    def _on_bits(self, t: st.Teachers) -> list[st.Lane]:
        task, hold = t.setting.made_task, t.setting.hold
        student, teacher = t.setting.student.model(task), t.spec.model
        assert isinstance(student, MLP)
        pace = Progressive(every=t.spacing)
        products = DAGFM(d=task.d, depth=task.k - 1)
        some = m.Damaged(damage=m.SubNetwork(share=0.3), hold=hold)
        return [
            *self._first(t, pace),
            _snapshots(t.spacing),
            taught("smooth", pace, m.Smooth()),
            taught("swap", pace, m.SwapWrong()),
            taught("skip", pace, m.SkipWrong()),
            told("logits", m.LogitMatching(weight=0.1)),
            told("taid", _taid(self.ramp)),
            told("flips", beside(m.Flips(n=4), weight=4.0)),
            told("extraction", m.Features(layers=("hidden_0",), dims=32, hold=hold)),
            told("units", Loss(), some),
            told("exits", beside(m.OneForAll(exits=("hidden_0",)), labels=True)),
            told("truncated", beside(m.Truncated(), labels=True)),
            told("own_head", beside(_own_head("hidden_0"), labels=True)),
            told("augmented", beside(m.Augmented(n=4))),
            told("online", Loss(), m.Online(network=teacher)),
            told("adapter", Loss(), m.Adapter(network=student)),
            *averaged(t),
            gpd("gpd", m.Expand(network=student, r=8)),
            gpd("branched", m.Branched(network=student, r=8)),
            st.Capped(Strategy(name="dagfm_ce"), model=products),
            st.Capped(told("dagfm", m.LogitMatching(weight=0.1)), model=products),
        ]

    def _in_batches(self, t: st.Teachers) -> list[st.Lane]:
        layer = "hidden_0"
        near = m.Centres(teacher_layer=layer)
        alike = m.Relations(layer=layer, teacher_layer=layer)
        slope = m.Lipschitz(layer=layer, teacher_layer=layer)
        return [
            *self._first(t, Progressive(every=t.spacing)),
            told("centres", beside(near, labels=True)),
            told("relations", beside(alike, labels=True)),
            told("lipschitz", beside(slope, labels=True)),
            st.Capped(meta(t), start=True),
        ]

    def _on_trees(self, t: st.Teachers) -> list[st.Lane]:
        pace = Progressive(every=t.spacing)
        norm = m.NormDirection(layer="hidden_0", teacher_layer="hidden_0")
        return [
            *self._first(t, pace),
            taught("means", pace, m.ClassMeans()),
            taught("own", pace, m.OwnWeight()),
            taught("top2", pace, m.TopK(k=2)),
            told("logits", m.LogitMatching(weight=0.1)),
            told("exits", beside(m.OneForAll(exits=("hidden_0",)), labels=True)),
            told("truncated", beside(m.Truncated(), labels=True)),
            told("own_head", beside(_own_head("hidden_0"), labels=True)),
            told("norm", beside(norm, labels=True)),
            told("sampled", m.Sampled(n=4)),
        ]

    def _on_strings(self, t: st.Teachers) -> list[st.Lane]:
        """The first stage is divided among the layers, TAID's ramp is as long."""
        s, pace = t.setting, pcfg_accuracy.pace(t)
        assert isinstance(s.teacher, st.Heads)
        layers = tuple(f"residual_{i + 1}" for i in range(s.teacher.layers))
        stage = s.samples(s.hold) // len(layers)
        return [
            *self._first(t, pace),
            _snapshots(t.spacing),
            taught("means", pace, m.ClassMeans()),
            taught("swap", pace, m.SwapWrong()),
            taught("skip", pace, m.SkipWrong()),
            told("logits", m.LogitMatching(weight=0.1)),
            told("taid", _taid(s.samples(s.hold))),
            told("flips", beside(m.Flips(n=1), weight=4.0)),
            told("extraction", m.Features(layers=layers, dims=16, hold=stage)),
        ]

    def figure(self, r: st.Result) -> Figure:
        """Samples and passes to .90 over the teacher's, a row a method.

        (a) Samples of every student over its teacher's; a dot a student, a bar the
        median where it is within the cap, triangles count those not there by then. (b)
        Forward passes of both networks and backward ones (counted twice) to .90, in
        units of what the teacher took; an online teacher's own are counted in, a stored
        one's training is not. Below, where run: samples in batches of 16 and on trees
        of eight leaves, and accuracy at the end on masked strings.
        """
        more = [name for name in ("batches", "trees", "strings") if name in r.parts]
        fig = Figure(figsize=(WIDE, 7.4 if more else 4.8), layout="constrained")
        heights = (5, 3) if more else (5,)
        grid = fig.add_gridspec(len(heights), 1, height_ratios=heights)
        p = r.parts["parity"]
        names = [n for n in ORDER if n in p.strategies]
        top = grid[0].subgridspec(1, 2)
        draw(fig.add_subplot(top[0]), fig.add_subplot(top[1]), p, names)
        columns = max(len(more), 1)
        below = grid[-1].subgridspec(1, columns)
        for i, name in enumerate(more):
            ax, p = fig.add_subplot(below[i]), r.parts[name]
            rows = [n for n in ORDER if n in p.strategies]
            if name == "strings":
                st.endings(ax, p, rows, label=name_of, color=color_of)
                ax.set(xlabel="final accuracy", title="Strings")
                continue
            st.ratios(ax, {"": p}, rows, label=name_of, color=color_of)
            ax.set(xlabel="samples / teacher's", title=title(p.setting))
        shown = [n for part in r.parts.values() for n in part.strategies]
        st.families(fig, map(family, shown))
        counts = st.counts_by_part(r.parts)
        st.note(fig, f"{counts}; a dot a run, bars: medians; ▸ not by its cap")
        return fig

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        for part, p in r.parts.items():
            for name in p.strategies:
                if part == "strings" or name in ("ce", "one_shot", "dagfm_ce"):
                    continue
                words = f"{part}: {name_of(name)} learns no later than its teacher"
                seen = pace(p, name)
                yield st.at_most(f"A.{part}.{name}", seen, 1.0, words, also=(0.5, 2.0))
        if "strings" not in r.parts:
            return
        p = r.parts["strings"]
        for name in p.strategies:
            if name not in ("ce", "one_shot"):
                words = f"strings: {name_of(name)} ends above labels"
                yield st.positive(f"A.strings.{name}", p.at(name) - p.at("ce"), words)

    def facts(self, r: st.Result) -> dict[str, Any]:
        return {part: rows_of(p) for part, p in r.parts.items()}


ORDER = (
    *("ce", "one_shot", "dagfm_ce", "progressive", "two_shot", "fixed", "snapshots"),
    *[n for n in WORDS if n in FAMILIES["parts"]],
    *("logits", "taid", "flips", "extraction", "units", "exits", "truncated"),
    *("own_head", "norm", "augmented", "relations", "centres", "lipschitz"),
    *("sampled", "dagfm"),
    *FAMILIES["moving"],
    *FAMILIES["tuned"],
)
"""Rows of the figure."""


def told(name: str, loss: Objective, source: Source | None = None) -> Strategy:
    """The final teacher, or another source, under a loss."""
    return Strategy(name=name, source=source or Final(), loss=loss)


def taught(
    name: str, source: Source, transform: Transform, loss: Objective | None = None
) -> Strategy:
    """A source with a transform of its target."""
    target = Target(transforms=(transform,))
    return Strategy(name=name, source=source, target=target, loss=loss or Loss())


def beside(loss: Objective, *, weight: float = 1.0, labels: bool = False) -> Sum:
    """A loss beside the teacher's outputs, or, each half, beside labels."""
    if labels:
        return Sum(losses=(Loss(alpha=1.0), loss), weights=(0.5, 0.5 * weight))
    return Sum(losses=(Loss(), loss), weights=(1.0, weight))


def cost(p: st.Taught, name: str) -> dict[str, float]:
    """Passes a sample by kind, those on quiz rows counted in."""
    s = p.strategies[name]
    quiz = s.update.quiz_rows / p.setting.batch
    more = {"student_forward": quiz, "student_backward": quiz}
    return {k: v + more.get(k, 0.0) for k, v in s.cost._asdict().items()}


def pace(p: st.Taught, name: str) -> st.Quantity:
    """Samples to .90 over the teacher's; a student that became non-finite is not there.

    Nor is one whose teacher has no such checkpoint.
    """
    q, known = p.n90[name] / p.n90.teacher, ~np.isnan(p.n90.teacher.values)
    lost = np.isnan(q.values) & known
    return replace(q, values=np.where(lost, np.inf, q.values))


def draw(
    a: Axes,
    b: Axes,
    p: st.Taught,
    names: Sequence[str],
    label: Callable[[str], str] | None = None,
    color: Callable[[str], str] | None = None,
) -> None:
    """Samples to .90, and passes, backward ones counted twice, over the teacher's."""
    label, color = label or name_of, color or color_of
    st.ratios(a, {"": p}, names, label=label, color=color)
    a.set(xlabel="samples to .90 / teacher's", title="Samples that students need")
    taken = []
    for name in names:
        own = cost(p, name)
        each = sum(n * (2 if k.endswith("backward") else 1) for k, n in own.items())
        taken.append(pace(p, name).values.ravel() * each / 3.0)
    known = [v[np.isfinite(v)] for v in taken]
    plots.strips(
        b,
        taken,
        labels=["" for _ in names],
        colors=[color(n) for n in names],
        cap=1.2 * max((float(v.max()) for v in known if len(v)), default=1.0),
    )
    b.axvline(1, color="0.5", lw=0.8, zorder=0)
    b.set(xlabel="passes to .90 / teacher's", title="Passes that they need")


def rows_of(p: st.Taught) -> dict[str, dict[str, Any]]:
    """What the result file records of every method."""
    out = {}
    for name in p.strategies:
        row: dict[str, Any] = {"passes_a_sample": cost(p, name)}
        row["accuracy"] = median_estimate(p.at(name).values.ravel()).value
        if isinstance(p.setting.budget, st.UntilLearned):
            each = pace(p, name).values.ravel()
            row |= median_estimate(each).to_json("pace")
            row["learned"] = int(np.isfinite(each).sum())
        out[name] = row
    return out


def gpd(name: str, view: View, source: Source | None = None) -> Strategy:
    """GPD; the weights 1 and 3 of the published losses add up to 1 here."""
    return Strategy(
        name=name,
        source=source or m.Dynamic(),
        view=view,
        target=Target(transforms=(m.Flatten(share=0.1),)),
        loss=Sum(losses=(Loss(alpha=1.0), Loss()), weights=(0.25, 0.75)),
    )


def averaged(t: st.Teachers) -> list[Strategy]:
    """The student's average, which moves until the cap, beside labels."""
    s, budget = t.setting, t.setting.budget
    assert isinstance(budget, st.UntilLearned)
    network, end = s.student.model(s.made_task), round(budget.cap * budget.limit)
    source = m.Averaged(network=network, period=t.spacing, over=s.samples(end))
    plain = Strategy(name="averaged", source=source, loss=Loss(alpha=0.5))
    sure = Target(transforms=(m.Sure(),))
    return [plain, replace(plain, name="sure", target=sure)]


def meta(t: st.Teachers) -> Strategy:
    """MetaDistil, the teacher beside its student."""
    return Strategy(
        name="meta",
        source=m.Tuned(),
        view=m.Beside(network=t.spec.model),
        loss=Loss(alpha=0.5),
        update=m.MetaDistil(eta=0.1, teacher_lr=0.1, quiz=64),
    )


def _taid(ramp: int) -> m.TAID:
    return m.TAID(share=Anneal(start=0.0, end=1.0, over=ramp))


def _snapshots(every: int) -> Strategy:
    """Wang et al.'s temperature and weights."""
    source = m.Snapshots(last=4, every=every)
    loss = Loss(alpha=0.5, tau_student=5.0, scale=25.0)
    return Strategy(name="snapshots", source=source, target=Target(tau=5.0), loss=loss)


def _own_head(layer: str) -> m.OwnHead:
    return m.OwnHead(layer=layer, teacher_layer=layer, weight=0.1)


def title(s: st.Setting) -> str:
    """E.g. `In batches of 16`."""
    if s.batch > 1:
        return f"In batches of {s.batch}"
    task = s.made_task
    return f"Trees, d={task.d}, k={task.feature_complexity}, C={task.n_classes}"


def name_of(name: str) -> str:
    """What figures call a strategy."""
    return WORDS.get(name, name)


def family(name: str) -> str:
    """The family of a strategy."""
    return next((f for f, names in FAMILIES.items() if name in names), "final")


def color_of(name: str) -> str:
    """The colour of a strategy's family."""
    return style.FAMILIES[family(name)]


if __name__ == "__main__":
    Methods.main()
