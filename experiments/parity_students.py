"""Students of parity teachers, group by group, and how many samples they needed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.parity_teachers import (
    Teachers,
    learned_n90,
    student_curves,
    student_lanes,
)
from sandbox.distill.sources import PerSeed

if TYPE_CHECKING:
    import numpy as np

    from sandbox.train.run import Run


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Teachers and their students; the results of studies add what they measured.

    Attributes:
      teachers: one entry a group.
      students: the finished runs of each group's students.
    """

    teachers: list[Teachers]
    students: "list[tuple[Run, ...]]"

    @property
    def names(self) -> list[str]:
        """The strategies, each once."""
        return [
            s.name for r in self.students[0] for s in r.spec.strategies if s.init == 0
        ]

    def runs(self, strategy: str) -> "list[Run]":
        """The run of every group that holds a strategy."""
        return [
            next(r for r in group if strategy in r.metrics.strategies)
            for group in self.students
        ]

    def curves(self, strategy: str) -> "list[tuple[np.ndarray, np.ndarray]]":
        """Samples `(R,)` and accuracies `(S, I, R)` of every group's students."""
        runs = self.runs(strategy)
        return [(r.metrics.steps, student_curves(r, strategy)) for r in runs]

    @property
    def n90_teacher(self) -> "np.ndarray":
        """Samples to .90 of every teacher that learned, NaN for the others."""
        return learned_n90(self.teachers)

    def n_students(self, strategy: str, level: float = 0.9) -> "np.ndarray":
        """Samples to `level`, (teachers, initialisations), as `reached` counts them."""
        import numpy as np

        return np.concatenate(
            [
                reached(t, r, strategy, level)
                for t, r in zip(self.teachers, self.runs(strategy), strict=True)
            ]
        )


def reached(
    teachers: Teachers,
    run: "Run",
    strategy: str,
    level: float = 0.9,
) -> "np.ndarray":
    """Samples to `level` of one group's students under a strategy, `(S, I)`.

    Infinite beyond the cap, and for a blind choice that found no checkpoint; NaN for a
    seed whose teacher did not learn, whose rule has no checkpoint, or whose student
    became non-finite.
    """
    import numpy as np

    from sandbox.theory.sample_complexity import samples_to

    most = run.spec.stop.max_samples
    caps = np.asarray(most.values if isinstance(most, PerSeed) else most, float)
    caps = np.broadcast_to(caps, len(run.metrics.seeds))
    columns = []
    for lane in student_lanes(run, strategy):
        n = samples_to(run.metrics.steps, run.metrics.curves(lane), level, cap=caps)
        out = {
            kind: np.isin(
                run.metrics.seeds,
                [a["seed"] for a in run.outcome[kind] if a["strategy"] == lane],
            )
            for kind in ("absent", "failed")
        }
        if strategy == "blind":  # a rule that finds no checkpoint has not taught
            n = np.where(out["absent"], np.inf, n)
            out["absent"] = ~teachers.usable
        missing = out["absent"] | out["failed"] | ~teachers.usable
        columns.append(np.where(missing, np.nan, n))
    return np.stack(columns, 1)
