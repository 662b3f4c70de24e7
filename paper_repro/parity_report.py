"""What a parity study hands back: the report, about teachers of many seeds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from experiments.parity_missing import missing_runs
from paper_repro.claims import number
from paper_repro.report import Report
from sandbox.probes.transitions import locate

if TYPE_CHECKING:
    from experiments.parity_teachers import Teachers
    from sandbox.train.run import Run


@dataclass(frozen=True, kw_only=True)
class ParityReport(Report):
    """A finished study of parity teachers and students.

    Attributes:
      teachers: every group of teachers.
      students: the runs of every group's students.
    """

    teachers: "Sequence[Teachers]"
    students: "Sequence[Sequence[Run]]"

    def title(self) -> str:
        """What heads the claims table."""
        counts = count_teachers(self.teachers)
        learned = f"{counts['learned']} of {counts['trained']} teachers learned"
        return f"{super().title()}: {learned}"

    def runs(self) -> "list[Run]":
        """Teachers first."""
        taught = [r for group in self.students for r in group]
        return [*(t.run for t in self.teachers), *taught]

    def facts(self) -> dict[str, Any]:
        """What is missing, and how every teacher learned."""
        return {
            "left_out": missing_runs(self.teachers, self.students),
            "teachers": {
                **count_teachers(self.teachers),
                "each": describe_teachers(self.teachers),
            },
        }


def count_teachers(groups: "Sequence[Teachers]") -> dict[str, int]:
    """Teachers trained, those that learned within their limit, and blind choices."""
    blind = [v for t in groups for v in t.per_seed("blind").values]
    return {
        "trained": sum(len(t.chosen) for t in groups),
        "learned": sum(int(t.usable.sum()) for t in groups),
        "with_blind_checkpoint": sum(v is not None for v in blind),
    }


def describe_teachers(groups: "Sequence[Teachers]") -> "list[dict[str, Any]]":
    """n90, located transition and candidate checkpoints of every teacher."""
    rows = []
    for t in groups:
        for s, chosen in enumerate(t.chosen):
            phase = locate(t.steps, t.accuracy[s])
            rows.append(
                {
                    "seed": t.run.spec.seeds[s],
                    "n90": number(float(t.n90[s])),
                    "transition": asdict(phase) if phase else None,
                    "spacing_over_n90": float(t.setting.spacing / t.n90[s]),
                    "checkpoints": asdict(chosen),
                }
            )
    return rows
