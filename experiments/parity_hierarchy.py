"""Tree labels: which node's support leaks when, and students under every strategy.

    python -m experiments.parity_hierarchy smoke
    python -m experiments.parity_hierarchy cpu --tau 1
    python -m experiments.parity_hierarchy --help

Claim P8 of arXiv 2410.05464 (appendix). The label is a leaf of a tree whose nodes are
parities of their own, so a teacher learns in steps and leaks the supports one after the
other. Students see argmax teachers; only the one-shot student of the claim has tau = 1,
since the argmax of a perfect final teacher is the label (shown as a control).

Every seed has the same supports here: coordinates are exchangeable, in the inputs as in
the initialisations, so drawing them would change nothing.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter1d

import sandbox.study as st
from experiments import parity_mlp
from sandbox.errors import require
from sandbox.plotting.curves import band
from sandbox.plotting.style import DEGREE_COLORS
from sandbox.probes.nodes import Nodes, groups_of, levels
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.theory.ranks import rank_correlation
from sandbox.theory.sample_complexity import Estimate, median_estimate, ratio

SMOKE = st.Setting(
    task=Hierarchy(d=18, depth=2, feature_complexity=4),
    teacher=st.TwoLayer(300),
    student=st.TwoLayer(30),
    budget=st.UntilLearned(limit=64_000),
    rule=st.ByNode(points=4096),
    n_teachers=3,
    group=3,
    lanes=7,
    spacing=640,
    student_every=640,
)
CPU = replace(
    parity_mlp.CPU,
    task=Hierarchy(d=32, depth=2, feature_complexity=5),
    student=st.TwoLayer(50),
    rule=st.ByNode(),
    n_teachers=10,
    lanes=7,
)
PAPER = replace(
    parity_mlp.PAPER,
    task=Hierarchy(d=100, depth=3, feature_complexity=5),
    student=st.TwoLayer(1000),
    inits=3,
    lanes=7,
    budget=st.UntilLearned(limit=20_000_000, factor=1.4, cap=3.0, expected=10_500_000),
    rule=st.ByNode(scale="paper"),
)
"""The released eight labels of parities of k=5 on 100 bits."""


class ParityHierarchy(st.Study):
    """Students of tree labels under every strategy, and the nodes of their teachers.

    Attributes:
      setting: a `Hierarchy` task, teachers and students.
      tau: teacher temperature of the taught students, 0 for the argmax.
      one_shot_tau: that of the one-shot student of the claim; where it is not 0, the
        argmax one is trained too, as a control.
    """

    setting: st.Setting = SMOKE
    tau: float = 0.0
    one_shot_tau: float = 1.0

    presets = {
        "smoke": st.preset("d=18, four labels, k=4, three teachers of width 300."),
        "cpu": st.preset(
            "d=32, four labels, k=5, ten teachers of width 1000.", setting=CPU
        ),
        "paper": st.preset("d=100, eight labels, k=5, one teacher.", setting=PAPER),
    }
    since = {"smoke, cpu": "2026-11-22 e4ffa22"}

    def check(self) -> None:
        words = f"setting.rule must be ByNode(), got {self.setting.rule!r}."
        require(isinstance(self.setting.rule, st.ByNode), words)

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        tau, one = self.tau, st.one_shot(self.one_shot_tau)
        stages = {"two_shot": "middle", "by_level": "by_level", "by_node": "by_node"}
        shots = {name: t.stages(chosen) for name, chosen in stages.items()}
        taught = [st.n_shot(s, t.hold, tau, name=name) for name, s in shots.items()]
        hard = [st.one_shot(0.0, "one_shot_hard")] * (self.one_shot_tau > 0)
        return [st.ce(), one, st.progressive(t.spacing, tau), *taught, *hard]

    def figure(self, r: st.Result) -> Figure:
        """Tree labels: every inner node of a binary tree has a parity of its own.

        The class is the leaf that all of them lead to. (a) Accuracy on fresh inputs;
        samples in units of each teacher's n90, its samples to accuracy .90. It climbs
        node by node; bands of teacher, CE and progressive alone. (b) A dot a run, a bar
        the median where it is within the cap; a triangle counts the runs not at .90 by
        then. (c) Accuracy of the teachers at each node, those of a level in the order
        in which a teacher learns them; a tick a teacher where the node's transition
        lies. (d) Mean |correlation| (the covariance) of a node's output with the
        coordinates of its support, less that with the others, mean of five checkpoints;
        vertical lines where the nodes are learned (medians). Lines are medians over the
        teachers that learned, bands quartiles (extremes of fewer than ten).
        """
        fig, ((a, b), (c, d)) = st.panels(2, 2, height=5.2)
        st.accuracy(a, r, shaded=("teacher", "ce", "progressive"))
        task = r.setting.made_task
        a.set_yticks([(i + 1) / task.n_classes for i in range(task.n_classes)])
        a.set_title(st.paces(r, ("progressive", "ce")))
        sizes = f"d={task.d}, k={task.feature_complexity}, C={task.n_classes}"
        st.note(fig, f"Tree labels, {sizes}; {st.counts_text(r)}")
        st.strips(b, r)
        _draw_nodes(c, d, r)
        return fig

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        shown, on = "progressive > one-shot, CE (appendix)", "on tree labels, "
        yield st.pace(r, "P8.progressive", 2.0, shown, on)
        yield from st.later(r, "P8", shown, shown, on)

    def paper_claims(self, r: st.Result) -> tuple[st.Claim, ...]:
        """There is no rule at this scale."""
        return ()

    def summary(self, r: st.Result) -> list[str]:
        """What no rule of the paper asks."""
        lines = ["exploratory, not in the paper's rules:"]
        for name, (v, low, high, _) in ratios(r).items():
            what = f"median n90({name}) / n90(teacher)"
            lines.append(f"  {what}: {v:.3g} [{low:.3g}, {high:.3g}]")
        for what, times in orders(r).items():
            v, low, high, n = root_down(times)
            lines.append(
                f"  nodes in the order in which each {what}: Spearman of level and time"
                f" {v:.3g} [{low:.3g}, {high:.3g}], root first in {root_first(times)}"
                f" of {n} teachers"
            )
        return lines

    def facts(self, r: st.Result) -> dict[str, Any]:
        order = {}
        for what, times in orders(r).items():
            counts = {"root_first": root_first(times), "teachers": len(times)}
            spearman = {"spearman_of_level_and_time": root_down(times)[:3]}
            order[what] = spearman | counts
        note = "not in the paper's rules; medians and 95% intervals"
        ours = {k: e[:3] for k, e in ratios(r).items()}
        found = {"order_of_nodes": order, "nodes": describe_nodes(r)}
        return {"exploratory": {"note": note, "n90_over_teacher": ours, **found}}


def _usable(r: st.Taught) -> list[tuple[st.Teachers, Nodes, int]]:
    """Group, nodes and position of every teacher that learned."""
    usable = [(t, s) for t in r.teachers for s in np.flatnonzero(t.usable)]
    return [(t, t.chosen.each[0], int(s)) for t, s in usable]


def _chosen(t: st.Teachers, nodes: Nodes, s: int) -> list[int | None]:
    """The checkpoint at which each node leaks most, of the seed at a position."""
    alone = groups_of(nodes.depth)["by_node"]
    return nodes.middles(s, alone, t.chosen.stages["final"][0][s])


def ratios(r: st.Taught) -> dict[str, Estimate]:
    """n90 of every strategy over its teacher's; a teacher counts by its median."""
    teacher = r.n90.teacher.values[:, 0]
    return {
        name: median_estimate(ratio(np.median(r.n90[name].values, 1), teacher))
        for name in r.strategies
    }


def orders(r: st.Taught) -> dict[str, np.ndarray]:
    """Time of every node of every teacher that learned, `(T, n)`, by two readings.

    `learned` is the middle of the located transition of the node's accuracy, `leaks`
    the checkpoint at which its support leaks most while it is being learned (the one
    chosen for the node). Infinite where there is none.
    """
    found, n_nodes = _usable(r), len(levels(r.setting.made_task.depth))
    at = [_chosen(t, n, s) for t, n, s in found]
    rows = {"learned": [n.times[s] for _, n, s in found], "leaks": at}
    times = {k: np.asarray(v, float).reshape(-1, n_nodes) for k, v in rows.items()}
    return {k: np.where(np.isnan(v), np.inf, v) for k, v in times.items()}


def root_down(times: np.ndarray) -> Estimate:
    """Median over teachers of Spearman's correlation of level and time.

    Nodes of a level tie, so the largest value of three nodes is .87.
    """
    level = np.asarray(levels((times.shape[1] + 1).bit_length() - 1))
    each = [rank_correlation(level, row) for row in times]
    return median_estimate(np.nan_to_num(each))  # no order where all tie


def root_first(times: np.ndarray) -> int:
    """Teachers whose root comes strictly before every other node."""
    return int((times[:, :1] < times[:, 1:]).all(1).sum())


def describe_nodes(r: st.Taught) -> list[dict[str, Any]]:
    """Located transition and chosen checkpoint of every node of every teacher."""
    out = []
    for t in r.teachers:
        nodes = t.chosen.each[0]
        for s, seed in enumerate(t.spec.seeds if nodes else ()):
            found = zip(nodes.phases(s), _chosen(t, nodes, s), strict=True)
            for v, (phase, step) in enumerate(found):
                row: dict[str, Any] = {"seed": seed, "node": v, "leaks_most_at": step}
                row["transition"] = asdict(phase) if phase else None
                for side in ("inside", "outside"):
                    value = getattr(nodes, side)[s][nodes.steps == step, v]
                    row[f"{side}_there"] = float(value[0]) if step else None
                out.append(row)
    return out


def _in_role(values: str, role: int, t: st.Teachers) -> np.ndarray:
    """A field of the nodes in one role, one curve a seed."""
    nodes = t.chosen.each[0]
    each = zip(getattr(nodes, values), nodes.in_order[:, role], strict=True)
    found = np.stack([y[:, v] for y, v in each])
    if values == "accuracy":
        return found
    return uniform_filter1d(found, 5, axis=-1, mode="nearest")


def _draw_nodes(top: Axes, bottom: Axes, r: st.Result) -> None:
    scale = r.abscissa[~np.isnan(r.abscissa)]
    for role, level in enumerate(levels(r.setting.made_task.depth)):
        rank = role + 1 - 2**level
        color = DEGREE_COLORS[level % len(DEGREE_COLORS)]
        line = ("-", "--", "-.", ":")[rank % 4]
        nth = (("first", "second", "third", "fourth")[rank:] or [f"{rank + 1}th"])[0]
        label = f"level {level}, {nth}" if level else "root"
        for ax, values in ((top, "accuracy"), (bottom, "gap")):
            x, y = r.along(partial(_in_role, values, role))
            words = label if ax is top else "_"
            band(ax, x, y, label=words, color=color, linestyle=line)
        each = [n.times[s, n.in_order[s, role]] for _, n, s in _usable(r)]
        at = np.asarray(each) / scale
        at = at[np.isfinite(at)]
        top.plot(at, np.full(len(at), 0.48 - 0.02 * role), "|", c=color, ms=4)
        if len(at):
            bottom.axvline(float(np.median(at)), color=color, lw=0.7, ls=line, zorder=0)
    for ax in (top, bottom):
        ax.set_xlabel(r.abscissa_text)
        if len(r.abscissa) > 1:
            ax.set_xlim(0, 2)
    top.set(ylabel="accuracy at the node", title="When teachers learn each node")
    bottom.axhline(0, color="0.6", lw=0.8)
    words = "What a node leaks of its support"
    bottom.set(ylabel=r"mean $|$cov$(q_v, x_i)|$: in $-$ off", title=words)
    if top.get_legend_handles_labels()[0]:
        top.legend(loc="lower right")


if __name__ == "__main__":
    ParityHierarchy.main()
