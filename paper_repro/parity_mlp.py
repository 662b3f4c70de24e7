"""Figure 1 (left): claims P1, P2 and P3 on sparse parity with MLPs."""

from pathlib import Path

import numpy as np

from experiments import parity_mlp
from experiments.parity_mlp import Result
from experiments.parity_teachers import student_curves
from paper_repro.claims import Claim, claim
from paper_repro.parity_report import ParityReport
from paper_repro.published import ACCURACY
from sandbox.theory.sample_complexity import ratio, samples_to


def reproduce(scale: str, root: Path) -> ParityReport:
    """Runs what is missing, draws and evaluates."""
    result = parity_mlp.run(parity_mlp.PRESETS[scale](), root=root)
    published = ACCURACY if scale == "paper" else None
    return ParityReport(
        study="parity_mlp",
        scale=scale,
        config=result.config,
        figure=parity_mlp.draw(result, published=published),
        claims=paper_claims(result) if scale == "paper" else cpu_claims(result),
        teachers=result.teachers,
        students=result.students,
        probe_seconds=sum(t.probe_seconds for t in result.teachers),
    )


def teacher_reach(result: Result, level: float) -> np.ndarray:
    """Samples to `level` of every teacher that learned, NaN for the others."""
    rows = [
        np.where(t.usable, samples_to(t.steps, t.accuracy, level), np.nan)
        for t in result.teachers
    ]
    return np.concatenate(rows)


def cpu_claims(result: Result) -> list[Claim]:
    """P1, P2, P3 by the rules of the cpu scale."""
    n60, n90 = teacher_reach(result, 0.6), teacher_reach(result, 0.9)
    progressive = result.n_students("progressive")
    return [
        claim(
            "P1",
            "the teacher's transition is sharp",
            (n90 - n60) / n90,
            kind="at_most",
            bound=0.5,
            rule="median (n90 - n60) / n90 of the teacher <= .5",
            expected="chance to 10.0M, 1.0 at 11M",
            students=False,
        ),
        claim(
            "P2",
            "the progressive student keeps the teacher's pace",
            ratio(progressive, n90[:, None]),
            kind="ratio_at_most",
            bound=1.5,
            rule="median n90(progressive) / n90(teacher) <= 1.5",
            expected="1.0 by 11M, as the teacher",
            students=True,
        ),
        *[
            claim(
                f"P3.{name}",
                f"{words} learns later than progressive",
                ratio(result.n_students(name), progressive),
                kind="ratio_at_least",
                bound=2.0,
                rule=f"median n90({words}) / n90(progressive) >= 2",
                expected=shown,
                students=True,
            )
            for name, words, shown in (
                ("ce", "CE", "leaves chance at 18M"),
                ("one_shot", "one-shot (tau 1)", "at chance through 20M"),
            )
        ],
    ]


def paper_claims(result: Result) -> list[Claim]:
    """P1, P2, P3 by the rules of the paper scale."""
    n55, n95 = teacher_reach(result, 0.55), teacher_reach(result, 0.95)
    n90 = teacher_reach(result, 0.9)
    return [
        claim(
            "P1",
            "the teacher's transition is sharp",
            (n95 - n55) / n55,
            kind="at_most",
            bound=0.2,
            rule="(n95 - n55) / n55 of the teacher <= .2",
            expected="chance to 10.0M, 1.0 at 11M",
            students=False,
        ),
        claim(
            "P2",
            "the progressive student keeps the teacher's pace",
            ratio(result.n_students("progressive"), n90[:, None]),
            kind="ratio_at_most",
            bound=1.2,
            rule="n90(progressive) / n90(teacher) <= 1.2",
            expected="1.0 by 11M, as the teacher",
            students=True,
        ),
        *[
            claim(
                f"P3.{name}",
                f"{words} is still near chance at 1.5 x n90(teacher)",
                accuracy_at(result, name, 1.5),
                kind="below",
                bound=0.6,
                rule=f"accuracy of {words} at 1.5 x n90(teacher) < .6",
                expected=shown,
                students=True,
            )
            for name, words, shown in (
                ("ce", "CE", ".5 at 15M"),
                ("one_shot", "one-shot (tau 1)", ".5 at 20M"),
            )
        ],
    ]


def accuracy_at(result: Result, strategy: str, multiple: float) -> np.ndarray:
    """Accuracy `(T, I)` at the last evaluation up to `multiple` n90 of the teacher."""
    rows: list[np.ndarray] = []
    for t, r in zip(result.teachers, result.runs(strategy), strict=True):
        steps, y = r.metrics.steps, student_curves(r, strategy)
        for s, n in enumerate(t.n90):
            seen = np.flatnonzero(steps <= multiple * n) if t.usable[s] else []
            none = np.full(y.shape[1], np.nan)
            rows.append(y[s, :, seen[-1]] if len(seen) else none)
    return np.stack(rows)
