"""The report of a study that trains nothing: what it measured, and where."""

from dataclasses import dataclass, field
from typing import Any

from paper_repro.report import Report
from sandbox.store.provenance import git_state, hardware, versions


@dataclass(frozen=True, kw_only=True)
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
        return "\n".join((super().title(), *self.summary))

    def facts(self) -> dict[str, Any]:
        """Those of this process, which made everything."""
        return {
            "hardware": hardware(),
            "versions": versions(),
            "commit": git_state().get("commit", "unknown"),
            "measured": self.measured,
        }
