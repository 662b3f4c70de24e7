"""What a study hands back, and how it is stored, drawn and printed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_repro.claims import Claim, number, print_table, write_results
from sandbox.plotting.style import save
from sandbox.probes.transitions import locate
from sandbox.store.provenance import hardware, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.parity_setting import Teachers
    from sandbox.train.run import Run

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
RESULTS = ROOT / "paper_repro" / "results"


@dataclass(frozen=True)
class Report:
    """A finished study.

    Attributes:
      study: its name.
      scale: smoke, cpu or paper.
      figure: drawn from the store.
      claims: evaluated by their rules.
      teachers: every group of teachers.
      runs: every run behind it.
      probe_seconds: what the measurements behind it took.
    """

    study: str
    scale: str
    figure: "Figure"
    claims: Sequence[Claim]
    teachers: "Sequence[Teachers]"
    runs: "list[Run]"
    probe_seconds: float

    def publish(self, *, figures: Path = FIGURES, results: Path = RESULTS) -> None:
        """Writes figure and results, prints the claims table."""
        png, svg = save(self.figure, figures / self.scale / self.study)
        counts = count_teachers(self.teachers)
        wall = sum(r.provenance["wall_seconds"] for r in self.runs)
        path = results / f"{self.study}.{self.scale}.json"
        write_results(
            path,
            study=self.study,
            scale=self.scale,
            hardware=hardware(),
            versions=versions(),
            wall_seconds=wall + self.probe_seconds,
            teachers={**counts, "each": describe_teachers(self.teachers)},
            runs=[f"{r.spec.kind}/{r.folder.path.name}" for r in self.runs],
            claims=self.claims,
        )
        learned = f"{counts['learned']} of {counts['trained']} teachers learned"
        print_table(f"{self.study}, {self.scale} scale: {learned}", self.claims)
        for p in (png, svg, path):
            print(p.relative_to(ROOT) if p.is_relative_to(ROOT) else p)


def count_teachers(groups: "Sequence[Teachers]") -> dict[str, int]:
    """Teachers trained, and those that learned within their fixed limit."""
    return {
        "trained": sum(len(t.chosen) for t in groups),
        "learned": sum(int(t.usable.sum()) for t in groups),
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
                    "checkpoints": asdict(chosen),
                }
            )
    return rows
