"""The spike figure: claims P5 and P6 on sparse parity with MLPs."""

from pathlib import Path

import numpy as np

from experiments import parity_curriculum
from experiments.parity_curriculum import Result
from experiments.parity_teachers import student_curves
from paper_repro.claims import Claim, claim
from paper_repro.parity_report import ParityReport
from paper_repro.published import SPIKE
from sandbox.theory.sample_complexity import ratio


def reproduce(scale: str, root: Path) -> ParityReport:
    """Runs what is missing, draws and evaluates."""
    result = parity_curriculum.run(parity_curriculum.PRESETS[scale](), root=root)
    published = SPIKE if scale == "paper" else None
    students = paper_students(result) if scale == "paper" else cpu_students(result)
    return ParityReport(
        study="parity_curriculum",
        scale=scale,
        config=result.config,
        figure=parity_curriculum.draw(result, published=published),
        claims=[*correlations(result), *students],
        teachers=result.teachers,
        students=result.students,
        probe_seconds=sum(t.probe_seconds for t in result.teachers)
        + result.probe_seconds,
    )


def correlations(result: Result) -> list[Claim]:
    """P5: measured on fresh inputs that did not choose the checkpoints."""
    inside, outside = result.inside, result.outside
    gap = {name: inside[name] - outside[name] for name in inside}
    share = inside["middle"] / outside["middle"]
    both = np.where(gap["middle"] > 0, share, 0.0)
    both = np.where(np.isnan(gap["middle"]), np.nan, both)
    return [
        claim(
            "P5.middle",
            "mid-transition, the teacher's output lies on its support's coordinates",
            both,
            kind="ratio_at_least",
            bound=2.0,
            rule="median in/out of mean |degree-1 correlation| >= 2, in - out > 0",
            expected=".09 against <= .02",
            students=False,
        ),
        claim(
            "P5.final",
            "the final teacher leaks at most half as much",
            gap["middle"] - 2 * gap["final"],
            kind="difference",
            rule="median of gap(middle) - 2 gap(final) > 0",
            expected="small after 10.8M",
            students=False,
        ),
        *[
            claim(
                f"P5.{name}",
                "before the transition it leaks at most half as much",
                gap["middle"] - 2 * gap[name],
                kind="difference",
                rule=f"median of gap(middle) - 2 gap({name}) > 0",
                expected="small at 9.7M",
                students=False,
            )
            for name in ("before", "before_last")
            if name in result.config.candidates
        ],
    ]


def cpu_students(result: Result) -> list[Claim]:
    """P6 by the rules of the cpu scale."""
    middle, teacher = result.n_students("middle"), result.n90_teacher
    pace = [
        claim(
            f"P6.{name}",
            f"2-shot from the {name} checkpoint is no slower than the teacher",
            ratio(result.n_students(name), teacher[:, None]),
            kind="ratio_at_most",
            bound=1.0,
            rule=f"median n90(2-shot, {name}) / n90(teacher) <= 1",
            expected=shown,
            students=True,
        )
        for name, shown in (("middle", "1.0 by 1.5M"), ("blind", "not in the paper"))
    ]
    slower = [
        claim(
            f"P6.{name}",
            f"2-shot from the checkpoint {name} the transition is slower",
            ratio(result.n_students(name), middle),
            kind="ratio_at_least",
            bound=2.0,
            rule=f"median n90(2-shot, {name}) / n90(2-shot, middle) >= 2",
            expected=".5 at 2M",
            students=True,
        )
        for name in ("before", "after")
    ]
    return [pace[0], *slower, pace[1]]


def paper_students(result: Result) -> list[Claim]:
    """P6 by the rules of the paper scale; samples in millions."""
    reach = [
        claim(
            f"P6.{name}",
            f"2-shot from the {name} checkpoint reaches .95 within 2M samples",
            result.n_students(name, 0.95) / 1e6,
            kind="at_most",
            bound=2.0,
            rule=f"million samples to .95 of 2-shot ({name}) <= 2",
            expected=shown,
            students=True,
        )
        for name, shown in (("middle", "1.0 by 1.5M"), ("blind", "not in the paper"))
    ]
    stuck = [
        claim(
            f"P6.{name}",
            f"2-shot from {name} is near chance at 2M samples",
            last_accuracy(result, name),
            kind="below",
            bound=0.6,
            rule=f"accuracy of every 2-shot ({name}) at 2M samples < .6",
            expected=".5 at 2M",
            students=True,
            in_all=True,
        )
        for name in ("before", "before_last", "after")
    ]
    return [reach[0], *stuck, reach[1]]


def last_accuracy(result: Result, candidate: str) -> np.ndarray:
    """Accuracy `(T, I)` at the last evaluation, NaN where a student is absent."""
    cap = result.config.student_samples
    rows = []
    for t, r in zip(result.teachers, result.runs(candidate), strict=True):
        at = np.flatnonzero(r.metrics.steps <= cap)[-1]
        y = student_curves(r, candidate)[:, :, at]
        rows.append(np.where(t.usable[:, None], y, np.nan))
    return np.concatenate(rows)
