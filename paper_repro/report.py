"""What a study hands back, and how it is stored, drawn and printed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.parity_missing import missing_runs
from paper_repro.claims import Claim, number, print_table, write_results
from sandbox.plotting.style import save
from sandbox.probes.transitions import locate
from sandbox.store.config import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.parity_teachers import Teachers
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
      config: what was run.
      figure: drawn from the store.
      claims: evaluated by their rules.
      teachers: every group of teachers.
      students: the runs of every group's students.
      probe_seconds: what the measurements took.
    """

    study: str
    scale: str
    config: Any
    figure: "Figure"
    claims: Sequence[Claim]
    teachers: "Sequence[Teachers]"
    students: "Sequence[Sequence[Run]]"
    probe_seconds: float

    def publish(self, *, figures: Path = FIGURES, results: Path = RESULTS) -> None:
        """Writes figure and results, prints the claims table."""
        png, svg = save(self.figure, figures / self.scale / self.study)
        path = results / f"{self.study}.{self.scale}.json"
        header = self.header()
        write_results(path, self.claims, header)
        print_table(self.title(), self.claims)
        for what in header["left_out"]:
            print(f"left out: {what}")
        for p in (png, svg, path):
            print(p.relative_to(ROOT) if p.is_relative_to(ROOT) else p)

    def title(self) -> str:
        """What heads the claims table."""
        counts = count_teachers(self.teachers)
        learned = f"{counts['learned']} of {counts['trained']} teachers learned"
        return f"{self.study}, {self.scale} scale: {learned}"

    def header(self) -> dict[str, Any]:
        """Everything a result file says besides its claims; facts are the runs' own."""
        runs = [t.run for t in self.teachers]
        runs += [r for group in self.students for r in group]
        return {
            "study": self.study,
            "scale": self.scale,
            **describe_runs(self.config, runs, self.probe_seconds),
            "left_out": missing_runs(self.teachers, self.students),
            "teachers": {
                **count_teachers(self.teachers),
                "each": describe_teachers(self.teachers),
            },
        }


def describe_runs(
    config: Any, runs: "Sequence[Run]", probe_seconds: float
) -> dict[str, Any]:
    """Config, hardware, versions, time and speed behind a study.

    Args:
      config: what was asked for.
      runs: every run that the study stands on.
      probe_seconds: what the measurements took besides.
    """
    made = [r.provenance for r in runs]
    wall = sum(p["wall_seconds"] for p in made) + probe_seconds
    return {
        "config": to_json(config),
        "hardware": _one_or_all([p["hardware"] for p in made]),
        "versions": _one_or_all([p["versions"] for p in made]),
        "commit": _one_or_all([p["git"].get("commit", "unknown") for p in made]),
        "wall_seconds": round(wall, 1),
        "runs": [_describe(r, p) for r, p in zip(runs, made, strict=True)],
    }


def _describe(run: "Run", made: dict[str, Any]) -> dict[str, Any]:
    """A run's folder, size, speed and memory; every lane sees every sample."""
    samples, lanes, seconds = (
        run.outcome["samples"],
        run.outcome["lanes"],
        made["wall_seconds"],
    )
    return {
        "run": f"{run.spec.kind}/{run.folder.path.name}",
        "lanes": lanes,
        "samples": samples,
        "wall_seconds": round(seconds, 1),
        "steps_per_second": round(samples * lanes / run.spec.batch_size / seconds, 1),
        "peak_memory_mb": made.get("peak_memory_mb"),
        "sittings": len(made.get("sittings", [])),
    }


def _one_or_all(facts: list[Any]) -> Any:
    """The fact all runs share, or the list of different ones."""
    distinct = [f for i, f in enumerate(facts) if f not in facts[:i]]
    return distinct[0] if len(distinct) == 1 else distinct


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
