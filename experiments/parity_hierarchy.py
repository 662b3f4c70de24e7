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

import sandbox.study as st
from experiments import parity_mlp
from sandbox.errors import require
from sandbox.plotting.curves import band
from sandbox.probes.nodes import Nodes, groups_of, levels
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.text import number
from sandbox.theory.ranks import rank_correlation
from sandbox.theory.sample_complexity import Estimate, median_estimate, ratio

LEVEL_COLORS = ("#0b6e69", "#c17c00", "#7a21dd", "#a0522d")
"""Colours of the levels of the tree, the root's first."""

SMOKE = st.Setting(
    task=Hierarchy(d=18, depth=2, feature_complexity=4),
    teacher=st.TwoLayer(300),
    student=st.TwoLayer(30),
    budget=st.UntilLearned(limit=64_000),
    rule=st.ByNode(points=4096),
    n_teachers=3,
    spacing=640,
    student_every=640,
)
CPU = st.Setting(
    task=Hierarchy(d=32, depth=2, feature_complexity=5),
    teacher=st.TwoLayer(1000),
    student=st.TwoLayer(50),
    budget=st.UntilLearned(limit=409_600),
    rule=st.ByNode(),
    n_teachers=10,
    spacing=2560,
    student_every=2560,
)
PAPER = replace(
    parity_mlp.PAPER,
    task=Hierarchy(d=100, depth=3, feature_complexity=5),
    student=st.TwoLayer(1000),
    inits=3,
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
        """Refuses rules that do not measure the nodes."""
        rule = self.setting.rule
        require(
            isinstance(rule, st.ByNode), f"setting.rule must be ByNode(), got {rule!r}."
        )

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        """Labels, and the teacher's checkpoints by every schedule."""
        shots = {"two_shot": "middle", "by_level": "by_level", "by_node": "by_node"}
        return [
            st.ce(),
            st.one_shot(self.one_shot_tau),
            st.progressive(t.spacing, self.tau),
            *[
                st.n_shot(t.stages(chosen), t.hold, self.tau, name=name)
                for name, chosen in shots.items()
            ],
            *[st.one_shot(0.0, "one_shot_hard")] * (self.one_shot_tau > 0),
        ]

    def figure(self, r: st.Result) -> Figure:
        """Tree labels: every inner node of a binary tree has a parity of its own.

        The class is the leaf that all of them lead to. Top left: accuracy against
        samples in units of the teacher's n90, medians and quartiles of seeds; it climbs
        node by node. Top right: samples to .90 of every run. Bottom left: accuracy of
        the teachers at each node, those of a level in the order in which a teacher
        learns them, ticks where each seed's transition lies by the rule of `locate`.
        Bottom right: mean |correlation| of the node's output with the coordinates of
        its support minus that with the others, vertical lines where the nodes are
        learned (medians).
        """
        fig, ((a, b), (c, d)) = st.panels(2, 2, height=5.2)
        st.accuracy(a, r, shaded=("teacher", "ce", "progressive"))
        n_classes = r.setting.made_task.n_classes
        a.set_yticks([share / n_classes for share in range(1, n_classes + 1)])
        task = _tree(r)
        sizes = f"d={task.d}, k={task.feature_complexity}, C={n_classes}"
        a.set_title(f"{sizes}: {st.counts_text(r)}")
        st.strips(b, r)
        _draw_nodes(c, d, r)
        return fig

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        """P8 by the rules of the cpu scale."""
        pace, shown = r.n90["progressive"], "progressive > one-shot, CE (appendix)"
        words = "on tree labels, the progressive student keeps the teacher's pace"
        yield st.at_most(
            "P8.progressive", pace / r.n90.teacher, 2.0, words, paper=shown
        )
        for name in ("ce", "one_shot"):
            words = f"on tree labels, {r.label(name)} learns later than progressive"
            later = r.n90[name] / pace
            yield st.at_least(f"P8.{name}", later, 2.0, words, paper=shown)

    def paper_claims(self, r: st.Result) -> tuple[st.Claim, ...]:
        """There is no rule at this scale."""
        del r
        return ()

    def summary(self, r: st.Result) -> list[str]:
        """What no rule of the paper asks."""
        lines = ["exploratory, not in the paper's rules:"]
        for name, e in ratios(r).items():
            lines.append(f"  median n90({name}) / n90(teacher): {_show(e)}")
        for what, times in orders(r).items():
            lines.append(
                f"  nodes in the order in which each {what}: Spearman of level and time"
                f" {_show(root_down(times))}, root first in {root_first(times)} of"
                f" {len(times)} teachers"
            )
        return lines

    def facts(self, r: st.Result) -> dict[str, Any]:
        """What was measured besides the claims."""
        order = {
            what: {
                "spearman_of_level_and_time": _json(root_down(times)),
                "root_first": root_first(times),
                "teachers": len(times),
            }
            for what, times in orders(r).items()
        }
        return {
            "exploratory": {
                "note": "not in the paper's rules; medians and 95% intervals",
                "n90_over_teacher": {k: _json(e) for k, e in ratios(r).items()},
                "order_of_nodes": order,
                "nodes": describe_nodes(r),
            }
        }


def _tree(r: st.Taught) -> Hierarchy:
    task = r.setting.task
    assert isinstance(task, Hierarchy)
    return task


def _usable(r: st.Taught) -> Iterator[tuple[st.Teachers, Nodes, int]]:
    """Group, nodes and position of every teacher that learned."""
    for t in r.teachers:
        for s in np.flatnonzero(t.usable):
            yield t, t.chosen.each[0], int(s)


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
    rows: dict[str, list[Any]] = {"learned": [], "leaks": []}
    for t, n, s in _usable(r):
        rows["learned"].append(n.times[s])
        rows["leaks"].append([np.inf if c is None else c for c in _chosen(t, n, s)])
    n_nodes = len(levels(_tree(r).depth))
    return {k: np.asarray(v, float).reshape(-1, n_nodes) for k, v in rows.items()}


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
                at = nodes.steps == step
                row = {
                    "seed": seed,
                    "node": v,
                    "transition": asdict(phase) if phase else None,
                    "leaks_most_at": step,
                }
                for side in ("inside", "outside"):
                    value = getattr(nodes, side)[s][at, v]
                    row[f"{side}_there"] = float(value[0]) if step else None
                out.append(row)
    return out


def _json(e: Estimate) -> list[float | str | None]:
    return [number(v) for v in e[:3]]


def _show(e: Estimate) -> str:
    return f"{e.value:.3g} [{e.lower:.3g}, {e.upper:.3g}]"


def _in_role(values: str, role: int, t: st.Teachers) -> np.ndarray:
    """A field of the nodes in one role, one curve a seed."""
    nodes = t.chosen.each[0]
    each = zip(getattr(nodes, values), nodes.in_order[:, role], strict=True)
    return np.stack([y[:, v] for y, v in each])


def _draw_nodes(top: Axes, bottom: Axes, r: st.Result) -> None:
    scale = r.abscissa[~np.isnan(r.abscissa)]
    for role, level in enumerate(levels(_tree(r).depth)):
        rank = role + 1 - 2**level
        color = LEVEL_COLORS[level % len(LEVEL_COLORS)]
        line = ("-", "--", "-.", ":")[rank % 4]
        label = f"level {level}, {_ordinal(rank)}" if level else "root"
        for ax, values in ((top, "accuracy"), (bottom, "gap")):
            x, y = r.along(partial(_in_role, values, role))
            band(ax, x, y, label=label, color=color, linestyle=line)
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
    top.set_ylabel("accuracy at the node")
    top.set_title("teachers' nodes in the order learned (ticks)")
    bottom.axhline(0, color="0.6", lw=0.8)
    bottom.set_ylabel("mean |cov(q_v, x_i)|: in - off")
    bottom.set_title("support leaked by a node (lines: learned)")
    if top.get_legend_handles_labels()[0]:
        top.legend(loc="lower right")


def _ordinal(rank: int) -> str:
    return ("first", "second", "third", "fourth")[rank] if rank < 4 else f"{rank + 1}th"


if __name__ == "__main__":
    ParityHierarchy.main()
