"""What a parity figure stands on, and what is missing from it, in words.

    missing_runs(teachers, students)
    # ["seed 3: teacher not at .90 by 409,600 samples", ...]

A figure never leaves a run out silently: what it lacks is written below it and in the
study's report.
"""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.parity_setting import Setting
    from experiments.parity_teachers import Teachers
    from sandbox.train.run import Run

SHOWN = 4
"""Missing runs named below a figure; further ones are counted there."""
LINE = 130
"""Characters of a line below a figure."""


def counts_text(teachers: "Sequence[Teachers]", setting: "Setting") -> str:
    """How many runs a curve summarises, and how."""
    n = sum(int(t.usable.sum()) for t in teachers)
    inits = setting.student_inits
    if n * inits == 1:
        return "one seed"
    if inits == 1:
        return f"median and quartiles of {n} seeds"
    who = "one teacher" if n == 1 else f"{n} teachers"
    return f"{who} x {inits} students, quartiles"


def missing_runs(
    teachers: "Sequence[Teachers]", students: "Sequence[Sequence[Run]]"
) -> list[str]:
    """One phrase for every run that the study asked for and no curve shows whole.

    A student whose teacher did not learn is not listed beside its teacher.
    """
    out: list[str] = []
    for t, runs in zip(teachers, students, strict=True):
        seeds, diverged = t.run.spec.seeds, set()
        for lane in t.run.outcome["failed"]:
            diverged.add(lane["seed"])
            out.append(f"seed {lane['seed']}: teacher non-finite at {lane['sample']:,}")
        for s, ok in zip(seeds, t.usable, strict=True):
            if not ok and s not in diverged:
                out.append(f"seed {s}: {_why_unusable(t, seeds.index(s))}")
        learned = {s for s, ok in zip(seeds, t.usable, strict=True) if ok}
        for run in runs:
            first = {lane.name for lane in run.spec.strategies if lane.init == 0}
            lost = [
                (a, f"non-finite at {a['sample']:,}") for a in run.outcome["failed"]
            ]
            lost += [  # all initialisations of a strategy lack the same checkpoint
                (a, "no checkpoint by its rule")
                for a in run.outcome["absent"]
                if a["strategy"] in first
            ]
            for lane, what in lost:
                if lane["seed"] in learned:
                    out.append(f"seed {lane['seed']} / {lane['strategy']}: {what}")
    return out


def _why_unusable(t: "Teachers", position: int) -> str:
    import numpy as np

    if np.isfinite(t.n90[position]):
        return "teacher has no final checkpoint by its rule"
    return f"teacher not at .90 by {t.setting.teacher_limit:,} samples"


def list_missing(fig: "Figure", missing: Sequence[str]) -> None:
    """Writes below a figure which runs it lacks; nothing if none."""
    if not missing:
        return
    text = "; ".join(missing[:SHOWN])
    more = len(missing) - SHOWN
    if more > 0:
        text += f"; and {more} more (see the report)"
    lines = textwrap.fill(f"left out: {text}", LINE)
    fig.supxlabel(lines, fontsize=6.5, color="0.35")
