"""What a study hands back, and how it is stored, drawn and printed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paper_repro.claims import Claim, print_table, write_results
from sandbox.plotting.style import save
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
      teachers: how many were trained and how many learned.
      runs: every run behind it.
    """

    study: str
    scale: str
    figure: "Figure"
    claims: Sequence[Claim]
    teachers: dict[str, int]
    runs: "list[Run]"

    def publish(self, *, figures: Path = FIGURES, results: Path = RESULTS) -> None:
        """Writes figure and results, prints the claims table."""
        begin = time.monotonic()
        png, svg = save(self.figure, figures / self.scale / self.study)
        wall = sum(r.provenance["wall_seconds"] for r in self.runs)
        path = results / f"{self.study}.{self.scale}.json"
        write_results(
            path,
            study=self.study,
            scale=self.scale,
            hardware=hardware(),
            versions=versions(),
            wall_seconds=wall + time.monotonic() - begin,
            teachers=self.teachers,
            runs=[f"{r.spec.kind}/{r.folder.path.name}" for r in self.runs],
            claims=self.claims,
        )
        title = f"{self.study}, {self.scale} scale: {self.teachers['learned']} of"
        print_table(
            f"{title} {self.teachers['trained']} teachers learned", self.claims
        )
        for p in (png, svg, path):
            print(p.relative_to(ROOT) if p.is_relative_to(ROOT) else p)


def count_teachers(groups: "Sequence[Teachers]") -> dict[str, int]:
    """Teachers trained, and those that learned within their fixed limit."""
    return {
        "trained": sum(len(t.chosen) for t in groups),
        "learned": sum(int(t.usable.sum()) for t in groups),
    }
