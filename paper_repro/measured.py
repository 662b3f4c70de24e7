"""The report of a study that trains nothing: what it measured, and where."""

from dataclasses import dataclass, field
from typing import Any

from paper_repro.report import Report
from sandbox.store.provenance import git_state, hardware, versions


@dataclass(frozen=True)
class Measured(Report):
    """A finished study without teachers.

    Attributes:
      measured: what the study computed, as JSON data.
      summary: the same for people, a line each.
    """

    measured: dict[str, Any] = field(default_factory=dict)
    summary: tuple[str, ...] = ()

    def title(self) -> str:
        """What heads the claims table."""
        return "\n".join((f"{self.study}, {self.scale} scale", *self.summary))

    def header(self) -> dict[str, Any]:
        """Facts of this process, which made everything."""
        return {
            **super().header(),
            "hardware": hardware(),
            "versions": versions(),
            "commit": git_state().get("commit", "unknown"),
            "measured": self.measured,
        }
