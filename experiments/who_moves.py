"""Who moves: the stored path of a teacher, a teacher that learns, or the student?

    python -m experiments.who_moves smoke
    python -m experiments.who_moves cpu
    python -m experiments.who_moves --help

Progressive distillation replays the path of a teacher that is paid for. Its rivals need
no stored checkpoint: a teacher that learns from labels beside its student (Harutyunyan
et al., arXiv 2301.12245), or on shared tensors (GPD, 2410.04140), an adapter on the
final teacher (OKD, 2409.12512), a teacher that learns to teach (MetaDistil,
2106.04570), the student's moving average under label noise (ATSEN, 2212.06522), a
student that shrinks from its teacher (HomoDistil, 2302.09632), and one that writes its
own strings (GKD, 2306.13649). All are compared by samples and by passes, in which the
training of a teacher that learns meanwhile counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import cycle
from math import sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments import methods as every
from experiments import pcfg_accuracy, which_knowledge
from sandbox.distill import methods as m
from sandbox.distill.losses import Loss
from sandbox.distill.methods.on_policy import written
from sandbox.distill.strategy import Strategy
from sandbox.distill.views import Identity
from sandbox.errors import require
from sandbox.models.base import widened
from sandbox.models.mlp import MLP
from sandbox.plotting.style import FAMILIES, WIDE
from sandbox.tasks import bayes
from sandbox.tasks.next_token import NextToken
from sandbox.tasks.parity import NoisyParity, Parity
from sandbox.train.teaching import task_key

SMOKE = which_knowledge.SMOKE
CPU = replace(which_knowledge.CPU, n_teachers=5, group=5)
NOISY = replace(
    CPU,
    task=NoisyParity(d=24, k=5, eps=0.2),
    student=st.TwoLayer(100),
    spacing=2560,
    student_every=2560,
)
NEXT = replace(
    pcfg_accuracy.LEVEL_13,
    task=st.Strings(predict="next"),
    budget=st.Fixed(teacher=1600, student=400),
    hold=100,
    n_teachers=3,
)
ARMS = {
    "ce": ("labels (CE)", "labels"),
    "one_shot": ("one-shot", "labels"),
    "progressive": ("progressive", "checkpoints"),
    "online": ("online, as wide as the teacher", "moving"),
    "online_narrow": ("online, r times as wide", "moving"),
    "gpd": ("GPD", "moving"),
    "gpd_raw": ("GPD, student's rate raw", "moving"),
    "gpd_off": ("GPD, no gap loss", "moving"),
    "gpd_apart": ("GPD, nothing shared", "moving"),
    "branched": ("GPD, branches", "moving"),
    "adapter": ("adapter (OKD)", "moving"),
    "averaged": ("moving average", "moving"),
    "sure": ("average, where sure", "moving"),
    "meta": ("MetaDistil", "tuned"),
    "meta_still": ("its teacher, fixed", "tuned"),
    "meta_fresh": ("MetaDistil, fresh", "tuned"),
    "pruned": ("shrinks to its width", "final"),
    "reverse": ("reverse divergence", "final"),
    "gkd": ("own strings (GKD)", "final"),
    "gkd_half": ("half own strings", "final"),
}
"""Arms, what figures call them, and their colours."""
STRINGS = 1024
"""Strings that every student writes at the end."""


class WhoMoves(st.Study):
    """Teachers and students that move, at equal passes.

    Attributes:
      parity: plain parity, row by row.
      r: how many times as wide as its student a teacher on shared tensors is.
      batches: the same in batches, for MetaDistil; None leaves them out.
      noisy: labels with noise; None leaves them out.
      strings: next tokens; None leaves them out.
    """

    parity: st.Setting = SMOKE
    r: int = 8
    batches: st.Setting | None = None
    noisy: st.Setting | None = None
    strings: st.Setting | None = None

    presets = {
        "smoke": st.preset("two teachers of d=24, k=6; nothing else."),
        "cpu": st.preset(
            "five teachers of d=32, k=6, alone and in batches of 16, and of d=24, k=5"
            " with a fifth of the labels wrong; three of cfg3b from level 13.",
            parity=CPU,
            batches=every.batched(CPU),
            noisy=NOISY,
            strings=NEXT,
        ),
    }

    since = {"any": "2026-11-28 abb2853"}

    def check(self) -> None:
        require(isinstance(self.parity.task, Parity), "parity must be a Parity.")
        require(self.r >= 2, f"r must be at least 2, got {self.r}.")
        strings = self.strings is None or isinstance(self.strings.made_task, NextToken)
        require(strings, "strings.task must predict next tokens.")

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        names = ("parity", "batches", "noisy", "strings")
        return {n: s for n in names if (s := getattr(self, n)) is not None}

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        if t.setting == self.strings:
            return self._on_strings(t)
        first = [st.ce(), st.one_shot(), st.progressive(t.spacing)]
        if t.setting == self.batches:
            return [*first, *self._meta(t)]
        if t.setting == self.noisy:
            return [*first, *every.averaged(t)]
        return [*first, *self._moving(t)]

    def _moving(self, t: st.Teachers) -> list[st.Lane]:
        small, large = t.setting.student.model(t.setting.made_task), t.spec.model
        assert isinstance(small, MLP)
        wide = widened(small, self.r)
        share = {"network": small, "r": self.r}
        off = Loss(alpha=1.0)
        return [
            Strategy(name="online", source=m.Online(network=large)),
            Strategy(name="online_narrow", source=m.Online(network=wide)),
            every.gpd("gpd", m.Expand(**share)),
            every.gpd("gpd_raw", m.Expand(**share, rate="raw")),
            replace(every.gpd("gpd_off", m.Expand(**share)), loss=off),
            every.gpd("gpd_apart", Identity(), m.Online(network=wide)),
            every.gpd("branched", m.Branched(**share)),
            Strategy(name="adapter", source=m.Adapter(network=small)),
            self._pruned(t),
        ]

    def _pruned(self, t: st.Teachers) -> st.Capped:
        """From the teacher to the student's width, then as long again."""
        small, large = t.setting.student, t.setting.teacher
        assert isinstance(small, st.TwoLayer) and isinstance(large, st.TwoLayer)
        model, last = t.spec.model, 32 * t.setting.spacing
        kept = small.width / large.width
        view = m.Pruned(network=model, kept=kept, last=last, memory=1000)
        one = Strategy(name="pruned", source=st.one_shot().source, view=view)
        return st.Capped(one, samples=2 * last, model=model, start=True, whole=True)

    def _meta(self, t: st.Teachers) -> list[st.Lane]:
        """A teacher that learns to teach, from the final one or afresh; a fixed one."""
        meta = every.meta(t)
        still = replace(st.one_shot(), name="meta_still", loss=meta.loss)
        return [st.Capped(meta, start=True), replace(meta, name="meta_fresh"), still]

    def _on_strings(self, t: st.Teachers) -> list[st.Lane]:
        task, back = t.setting.made_task, Loss(direction="reverse")
        source = m.OnPolicy(positions=task.positions)
        view = m.Beside(network=t.spec.model)
        own = Strategy(name="gkd", source=source, view=view, loss=back)
        half = replace(own, name="gkd_half", source=replace(source, share=0.5))
        return [
            *(st.ce(), st.one_shot()),
            Strategy(name="progressive", source=pcfg_accuracy.pace(t)),
            replace(st.one_shot(name="reverse"), loss=back),
            *(st.Capped(s, start=True) for s in (own, half)),
        ]

    def measure(self, r: st.Result) -> dict[str, np.ndarray]:
        """What students write: a `Law` a teacher, `(T, 2)`, by strategy."""
        if "strings" not in r.parts:
            return {}
        p, out = r.parts["strings"], dict[str, np.ndarray]()
        for name in ("teacher", *p.strategies):
            rows: list[Law] = []
            for t, run in zip(p.teachers, p.runs(name), strict=True):
                for s, seed in enumerate(t.spec.seeds):
                    rows.append(Law(np.nan, np.nan))
                    if run is None:
                        continue
                    last, names = run.trajectory.steps[-1], run.spec.strategies
                    lane = [own.name for own in names].index(name)
                    net = run.trajectory.read(last, seed=s, lane=lane)
                    rows[-1] = law(t.setting.made_task, run.spec.model, net, seed)
            out[name] = np.asarray(rows)
        return out

    def figure(self, r: st.Result) -> Figure:
        """Samples and passes to .90 over the teacher's, a row an arm.

        (a) Samples of every student on plain parity over its teacher's; a dot a
        student, a bar the median where it is within the cap, triangles those not there
        by then. (b) Passes of student and of whoever teaches, backward ones counted
        twice, in units of what the teacher took; the path of a stored teacher was paid
        for before. Below, where run: the same samples for MetaDistil in batches, and
        under label noise; and strings that students of next tokens write: the share
        that the grammar cannot make, against accuracy on its own strings, a mark a
        student.
        """
        rest = [n for n in ("batches", "noisy", "strings") if n in r.parts]
        fig = Figure(figsize=(WIDE, 6.0 if rest else 3.4), layout="constrained")
        grid = fig.add_gridspec(
            1 + bool(rest), 1, height_ratios=(1.5, 1)[: 1 + bool(rest)]
        )
        a, b = (fig.add_subplot(g) for g in grid[0].subgridspec(1, 2))
        p = r.parts["parity"]
        names = [n for n in ARMS if n in p.strategies and n != "pruned"]
        every.draw(a, b, p, names, name_of, color_of)
        if rest:
            axes = grid[1].subgridspec(1, len(rest)).subplots(squeeze=False).ravel()
            for ax, name in zip(axes, rest, strict=True):
                self._draw(ax, name, r)
        shown = {n for part in r.parts.values() for n in part.strategies}
        st.families(fig, [ARMS[n][1] for n in shown - {"pruned"}])
        kept = np.nanmedian(p.at("pruned").values)
        words = f"pruned to the student's width, its teacher keeps accuracy {kept:.2f}"
        counts = st.counts_by_part(r.parts)
        st.note(fig, f"{counts}; bars: medians; ▸ not by its cap; {words}")
        return fig

    def _draw(self, ax: Axes, name: str, r: st.Result) -> None:
        p = r.parts[name]
        if name == "strings":
            for arm, mark in zip(r.measured, cycle("*soD^vPX"), strict=False):
                ends = p.at(arm).values[:, 0]
                off = 1 - r.measured[arm][:, 0]
                words = name_of(arm) if arm != "teacher" else "teacher"
                color = color_of(arm) if arm != "teacher" else "black"
                ax.plot(ends, off, mark, ms=4, mew=0, color=color, label=words)
            ax.set(xlabel="accuracy at the end", ylabel="not of the language")
            ax.set_title(pcfg_accuracy.level(p.setting))
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.2)
            return
        rows = [n for n in ARMS if n in p.strategies]
        st.ratios(ax, {"": p}, rows, label=name_of, color=color_of)
        noise = "Under label noise"
        title = f"In batches of {p.setting.batch}" if name == "batches" else noise
        ax.set(xlabel="samples / teacher's", title=title)

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        n90 = (p := r.parts["parity"]).n90
        also = (sqrt(1.5), 2.25)
        for name in ("online", "gpd", "gpd_apart"):
            words = (
                f"{name_of(name)}: a teacher that learns meanwhile is as good a path"
            )
            ratio = n90[name] / n90["progressive"]
            yield st.at_most(f"V1.{name}", ratio, 1.5, words, also=also)
        words = "sharing tensors alone, without the gap loss, is slower than with it"
        ratio = n90["gpd_off"] / n90["gpd"]
        yield st.at_least("V2.shared", ratio, 1.5, words, also=also)
        words = "an adapter on the final teacher is slower than its path"
        ratio = n90["adapter"] / n90["progressive"]
        yield st.at_least("V3.adapter", ratio, 2.0, words, also=(sqrt(2), 4.0))
        words = "a teacher pruned to the student's width keeps its accuracy"
        yield st.at_least("V4.pruned", p.at("pruned"), 0.9, words, also=(0.55, 0.7))
        if "batches" in r.parts:
            b = r.parts["batches"].n90
            words = "a final teacher that learns to teach halves what labels need"
            ratio = b["meta"] / b["ce"]
            yield st.at_most("V5.meta", ratio, 0.5, words, also=(sqrt(0.5), 0.25))
        if "noisy" in r.parts:
            n = r.parts["noisy"].n90
            for name in ("averaged", "sure"):
                words = f"under label noise, {name_of(name)}: beats labels"
                yield st.below(f"V6.{name}", n[name] / n["ce"], 1.0, words)
        if "strings" in r.parts:
            gain = r.measured["gkd"][:, 0] - r.measured["reverse"][:, 0]
            words = "own strings make students write more strings of the language"
            what = st.of_teachers(gain, "share of the language: gkd - reverse")
            yield st.positive("V7.language", what, words)

    def facts(self, r: st.Result) -> dict[str, Any]:
        out: dict[str, Any] = {n: every.rows_of(p) for n, p in r.parts.items()}
        for unread in ("pace", "interval", "learned"):  # it had learned before
            del out["parity"]["pruned"][unread]
        return out | {"written": {n: np.median(v, 0) for n, v in r.measured.items()}}


class Law(NamedTuple):
    """What a network writes, given the length.

    Attributes:
      share: of its strings that the grammar makes.
      gap: KL in nats of its law on these, scaled to 1, from the grammar's.
    """

    share: float
    gap: float


def law(task: NextToken, model: Any, params: Any, seed: int) -> Law:
    """Of strings as long as the task's."""
    net = jax.tree.map(jnp.asarray, params)
    tokens, length, log_q = map(np.asarray, _write(task, model, net, task_key(seed)))
    log_p = np.asarray(bayes.log_probability(task.arrays, tokens, length))
    log_n = np.log(np.asarray(task.arrays.level_length_distribution[0])[length])
    inside = np.isfinite(log_p)
    share = float(inside.mean())
    each = (log_q.astype(float) - log_p + log_n)[inside]
    gap = each.mean() - np.log(share) if share else np.nan
    return Law(share, float(gap))


@partial(jax.jit, static_argnums=(0, 1))  # compiled once for all networks of a model
def _write(
    task: NextToken, model: Any, net: Any, key: Array
) -> tuple[Int[Array, "S N"], Int[Array, " S"], Float[Array, " S"]]:
    """Strings, their lengths, and the network's log probability of each."""
    x = task.sample(key, jnp.uint32(0), STRINGS, split="probe").x
    ids = written(model, net, x, jax.random.fold_in(key, 1))
    z = model.apply(net, x._replace(ids=ids)).logits[:, :-1]
    there, tokens = x.valid[:, 1:], jnp.where(x.valid, ids, 0)[:, 1:]
    each = jnp.take_along_axis(jax.nn.log_softmax(z, -1), tokens[..., None], -1)
    return tokens, there.sum(1), (each[..., 0] * there).sum(1)


def name_of(name: str) -> str:
    """What figures call an arm."""
    return ARMS[name][0]


def color_of(name: str) -> str:
    """The colour of an arm's family."""
    return FAMILIES[ARMS[name][1]]


if __name__ == "__main__":
    WhoMoves.main()
