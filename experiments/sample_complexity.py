"""Samples to accuracy .90 against the dimension: who pays d^(k-1), and who does not.

    python -m experiments.sample_complexity smoke
    python -m experiments.sample_complexity cpu --max-teachers 20
    python -m experiments.sample_complexity --help

Parities of k of d bits are learned from labels (CE), from the final teacher (one-shot),
from its successive checkpoints (progressive), and from one checkpoint within its
transition, chosen by rule, before the final one (2-shot). A progressive student goes at
its teacher's pace at best, so that it does not show its own exponent. The 2-shot
student is the comparison that theory makes (arXiv 2410.05464, section 3): its own
samples are counted, and its first stage has a length that does not depend on the
teacher. Several lengths are trained: one that is fixed sets a floor under n90, which
flattens the curve at small d, so the best length of every d is shown beside it.

A run that does not arrive within its cap is censored, not dropped. Teachers are added,
`group` at a time, until the intervals of all exponents are narrow enough or
`max_teachers` is reached; the result says which.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.parity_students import reached
from experiments.parity_teachers import Teachers, train_teachers
from experiments.sample_complexity_setting import (
    FITTED,
    PRESETS,
    Config,
    Problem,
    hold_name,
    ks_fitted,
    student_lanes,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from sandbox.theory.exponents import Exponent
    from sandbox.train.progress import Progress
    from sandbox.train.run import Run


@dataclass(frozen=True)
class Solved:
    """A problem with its teachers and students.

    Attributes:
      problem: which.
      teachers: one entry a group.
      students: every group's runs.
      n90: strategy -> samples to .90 of every teacher's student, `(T,)`; inf beyond
        the cap, NaN where the teacher did not learn.
      caps: strategy -> where each was given up.
    """

    problem: Problem
    teachers: list[Teachers]
    students: "list[list[Run]]"
    n90: "dict[str, np.ndarray]"
    caps: "dict[str, np.ndarray]"


@dataclass(frozen=True)
class Result:
    """All problems, and why no more teachers were trained.

    Attributes:
      config: what was run.
      solved: one entry a problem.
      stopped: `precision` or `max_teachers`.
    """

    config: Config
    solved: list[Solved]
    stopped: str

    def along(self, axis: str, **fixed: float) -> list[Solved]:
        """Problems that differ in one field only, in its order.

        Args:
          axis: d, k, width or eps.
          **fixed: the others; width and eps are the grid's unless given.
        """
        base = {"width": self.config.student_width, "eps": 0.0} | fixed
        base.pop(axis, None)
        rows = [
            s
            for s in self.solved
            if all(getattr(s.problem, name) == v for name, v in base.items())
        ]
        return sorted(rows, key=lambda s: getattr(s.problem, axis))

    @property
    def ks(self) -> list[int]:
        """Every k with an exponent: three or more d."""
        return ks_fitted(self.config)

    def best_holds(self, k: int) -> dict[int, int]:
        """D -> the first stage with the lowest median n90, judged by these runs."""
        from sandbox.theory.exponents import survival_median

        out = {}
        for s in self.along("d", k=k):
            medians = {
                h: survival_median(s.n90[hold_name(h)], s.caps[hold_name(h)])
                for h in self.config.holds
            }
            out[s.problem.d] = min(medians, key=lambda h: (medians[h], h))
        return out

    def exponent(self, k: int, strategy: str, *, draws: int = 2000) -> "Exponent":
        """Fitted exponent in d; the resamples of strategies are paired.

        A teacher that did not learn is a censored run of its own and, having no
        checkpoints, none of its students'. `best_hold` is the 2-shot student with the
        first stage of `best_holds`, chosen before resampling.
        """
        from sandbox.theory.exponents import fit_exponent

        return fit_exponent(*self.rows(k, strategy), draws=draws)

    def rows(
        self, k: int, strategy: str
    ) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        """d, n90 and cap of every run of a strategy."""
        import numpy as np

        best = self.best_holds(k) if strategy == "best_hold" else {}
        parts = []
        for s in self.along("d", k=k):
            d = s.problem.d
            name = hold_name(best[d]) if best else strategy
            n, caps = s.n90[name], s.caps[name]
            parts.append((np.full(len(n), float(d)), n, caps))
        x, n, caps = (np.concatenate(column) for column in zip(*parts, strict=True))
        return x, n, caps


def solve(
    config: Config,
    problem: Problem,
    n_teachers: int,
    *,
    root: Path,
    progress: "Progress | None" = None,
) -> Solved:
    """Trains what is missing of a problem and reads off its n90."""
    import numpy as np

    from sandbox.train.loop import fit

    setting = config.setting(problem, n_teachers)
    teachers = train_teachers(setting, root, progress)
    n90: dict[str, list[np.ndarray]] = {}
    caps: dict[str, list[np.ndarray]] = {}
    students = []
    for t in teachers:
        limit = np.full(len(t.n90), float(setting.teacher_limit))
        n90.setdefault("teacher", []).append(t.n90)
        caps.setdefault("teacher", []).append(limit)
        runs = []
        for lanes, multiple in student_lanes(
            config, setting, middle=t.per_seed("middle")
        ):
            most = t.caps(multiple)
            run = fit(t.students(lanes, most), root=root, progress=progress)
            for s in lanes:
                n90.setdefault(s.name, []).append(reached(t, run, s.name)[:, 0])
                caps.setdefault(s.name, []).append(most.astype(float))
            runs.append(run)
        students.append(runs)
    joined = {name: np.concatenate(v) for name, v in n90.items()}
    ends = {name: np.concatenate(v) for name, v in caps.items()}
    for values in (joined, ends):
        values["two_shot"] = values[hold_name(config.hold)]
    return Solved(problem, teachers, students, joined, ends)


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains teachers and students until the exponents are known well enough."""
    n, grid = config.min_teachers, len(config.grid)
    while True:
        counts = [
            n if i < grid else config.min_teachers for i in range(len(config.problems))
        ]
        solved = [
            solve(config, p, count, root=root, progress=progress)
            for p, count in zip(config.problems, counts, strict=True)
        ]
        result = Result(config, solved, "max_teachers")
        if widest(result) <= config.precision:
            return replace(result, stopped="precision")
        if n == config.max_teachers:
            return result
        n += config.group


def widest(result: Result) -> float:
    """Width of the widest 95% interval of an exponent; inf where there is none."""
    import numpy as np

    widths = []
    for k in result.ks:
        for name in FITTED:
            e = result.exponent(k, name, draws=500)
            widths.append(np.nan_to_num(e.upper - e.lower, nan=np.inf))
    return float(max(widths, default=0.0))


def draw(result: Result) -> "Figure":
    """Six panels; see `experiments.sample_complexity_figure`."""
    from experiments.sample_complexity_figure import draw as drawn

    return drawn(result)


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("sample_complexity", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
