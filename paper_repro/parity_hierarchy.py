"""Tree labels: claim P8, and the order in which nodes are learned (exploratory)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import parity_hierarchy
from experiments.parity_hierarchy import Result
from experiments.parity_nodes import groups_of, levels
from paper_repro.claims import Claim, claim, number
from paper_repro.parity_report import ParityReport
from sandbox.theory.ranks import rank_correlation
from sandbox.theory.sample_complexity import Estimate, median_estimate, ratio


@dataclass(frozen=True, kw_only=True)
class HierarchyReport(ParityReport):
    """A finished study of tree labels.

    Attributes:
      result: teachers, nodes and students.
    """

    result: Result

    def title(self) -> str:
        """What heads the claims table, with what no rule of the paper asks."""
        lines = [super().title(), "exploratory, not in the paper's rules:"]
        for name, e in ratios(self.result).items():
            lines.append(f"  median n90({name}) / n90(teacher): {_show(e)}")
        for what, times in orders(self.result).items():
            lines.append(
                f"  nodes in the order in which each {what}: Spearman of level and time"
                f" {_show(root_down(times))}, root first in {root_first(times)} of"
                f" {len(times)} teachers"
            )
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """Those of any parity study, and what was measured besides the claims."""
        result = self.result
        return {
            **super().facts(),
            "exploratory": {
                "note": "not in the paper's rules; medians and 95% intervals",
                "n90_over_teacher": {k: _json(e) for k, e in ratios(result).items()},
                "order_of_nodes": {
                    what: {
                        "spearman_of_level_and_time": _json(root_down(times)),
                        "root_first": root_first(times),
                        "teachers": len(times),
                    }
                    for what, times in orders(result).items()
                },
                "nodes": describe_nodes(result),
            },
        }


def reproduce(scale: str, root: Path) -> HierarchyReport:
    """Runs what is missing, draws and evaluates; there is no rule at paper scale."""
    result = parity_hierarchy.run(parity_hierarchy.PRESETS[scale](), root=root)
    return HierarchyReport(
        study="parity_hierarchy",
        scale=scale,
        config=result.config,
        figure=parity_hierarchy.draw(result),
        claims=[] if scale == "paper" else student_claims(result),
        teachers=result.teachers,
        students=result.students,
        caption=parity_hierarchy.CAPTION,
        probe_seconds=sum(t.probe_seconds for t in result.teachers)
        + sum(n.seconds for n in result.nodes),
        result=result,
    )


def student_claims(result: Result) -> list[Claim]:
    """P8 by the rules of the cpu scale."""
    progressive = result.n_students("progressive")
    return [
        claim(
            "P8.progressive",
            "on tree labels, the progressive student keeps the teacher's pace",
            ratio(progressive, result.n90_teacher[:, None]),
            kind="ratio_at_most",
            bound=2.0,
            rule="median n90(progressive) / n90(teacher) <= 2",
            expected="progressive > one-shot, CE (appendix)",
            students=True,
        ),
        *[
            claim(
                f"P8.{name}",
                f"on tree labels, {words} learns later than progressive",
                ratio(result.n_students(name), progressive),
                kind="ratio_at_least",
                bound=2.0,
                rule=f"median n90({words}) / n90(progressive) >= 2",
                expected="progressive > one-shot, CE (appendix)",
                students=True,
            )
            for name, words in (
                ("ce", "CE"),
                ("one_shot", f"one-shot (tau {result.config.one_shot_tau:g})"),
            )
        ],
    ]


def ratios(result: Result) -> dict[str, Estimate]:
    """n90 of every strategy over its teacher's; a teacher counts by its median."""
    teacher = result.n90_teacher
    out = {}
    for name in result.names:
        each = np.median(result.n_students(name), 1)
        out[name] = median_estimate(ratio(each, teacher))
    return out


def orders(result: Result) -> dict[str, np.ndarray]:
    """Time of every node of every teacher that learned, `(T, n)`, by two readings.

    `learned` is the middle of the located transition of the node's accuracy, `leaks`
    the checkpoint at which its support leaks most while it is being learned (the one
    chosen for the node). Infinite where there is none.
    """
    rows: dict[str, list[np.ndarray]] = {"learned": [], "leaks": []}
    alone = groups_of(result.config.task.depth)["by_node"]
    for t, n in zip(result.teachers, result.nodes, strict=True):
        for s in np.flatnonzero(t.usable):
            chosen = n.middles(int(s), alone, t.chosen[s].final)
            rows["learned"].append(n.times[s])
            rows["leaks"].append(
                np.asarray([np.inf if c is None else c for c in chosen])
            )
    nodes = len(alone)
    return {k: np.asarray(v, float).reshape(-1, nodes) for k, v in rows.items()}


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


def describe_nodes(result: Result) -> list[dict[str, Any]]:
    """Located transition and chosen checkpoint of every node of every teacher."""
    out = []
    alone = groups_of(result.config.task.depth)["by_node"]
    for t, n in zip(result.teachers, result.nodes, strict=True):
        for s, seed in enumerate(t.run.spec.seeds):
            final = t.chosen[s].final if t.usable[s] else None
            chosen = n.middles(s, alone, final)
            for v, (phase, step) in enumerate(zip(n.phases(s), chosen, strict=True)):
                at = n.steps == step
                out.append(
                    {
                        "seed": seed,
                        "node": v,
                        "transition": asdict(phase) if phase else None,
                        "leaks_most_at": step,
                        "inside_there": float(n.inside[s][at, v][0]) if step else None,
                        "outside_there": (
                            float(n.outside[s][at, v][0]) if step else None
                        ),
                    }
                )
    return out


def _json(e: Estimate) -> list[float | str | None]:
    return [number(v) for v in e[:3]]


def _show(e: Estimate) -> str:
    return f"{e.value:.3g} [{e.lower:.3g}, {e.upper:.3g}]"
