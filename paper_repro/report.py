"""What a study hands back, and how it is stored, drawn and printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_repro.claims import Claim, print_table, write_results
from sandbox.plotting.style import save
from sandbox.store.config import to_json
from sandbox.store.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sandbox.train.run import Run

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
RESULTS = ROOT / "paper_repro" / "results"


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished study; each family of studies adds what its results say.

    Attributes:
      study: its name.
      scale: smoke, cpu or paper.
      config: what was run.
      figure: drawn from the store.
      claims: evaluated by their rules.
      probe_seconds: what the measurements took.
      caption: what the figure shows, for a reader of the figure alone.
    """

    study: str
    scale: str
    config: Any
    figure: "Figure"
    claims: Sequence[Claim]
    probe_seconds: float
    caption: str = ""

    def publish(self, *, figures: Path = FIGURES, results: Path = RESULTS) -> None:
        """Writes figure, caption and results, prints the claims table."""
        png, svg = save(self.figure, figures / self.scale / self.study)
        path = results / f"{self.study}.{self.scale}.json"
        header = self.header()
        write_results(path, self.claims, header)
        print_table(self.title(), self.claims)
        for what in header.get("left_out", ()):
            print(f"left out: {what}")
        written = [png, svg, path]
        if self.caption:
            written.append(png.with_suffix(".md"))
            write_atomic(written[-1], self.caption.encode())
        for p in written:
            print(p.relative_to(ROOT) if p.is_relative_to(ROOT) else p)

    def title(self) -> str:
        """What heads the claims table."""
        return f"{self.study}, {self.scale} scale"

    def runs(self) -> "list[Run]":
        """Every run that the study stands on."""
        return []

    def facts(self) -> dict[str, Any]:
        """What a family of studies records besides."""
        return {}

    def header(self) -> dict[str, Any]:
        """Everything a result file says besides its claims; facts are the runs' own."""
        return {
            "study": self.study,
            "scale": self.scale,
            **describe_runs(self.config, self.runs(), self.probe_seconds),
            **self.facts(),
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
    steps = samples * lanes / run.spec.batch_size
    return {
        "run": f"{run.spec.kind}/{run.folder.path.name}",
        "lanes": lanes,
        "samples": samples,
        "wall_seconds": round(seconds, 1),
        "steps_per_second": round(steps / seconds, 1) if seconds else None,
        "peak_memory_mb": made.get("peak_memory_mb"),
        "sittings": len(made.get("sittings", [])),
    }


def _one_or_all(facts: list[Any]) -> Any:
    """The fact all runs share, or the list of different ones."""
    distinct = [f for i, f in enumerate(facts) if f not in facts[:i]]
    return distinct[0] if len(distinct) == 1 else distinct
