"""What a PCFG study hands back: the same report, about its own teachers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from paper_repro.claims import number
from paper_repro.report import Report
from sandbox.tasks.grammar import Grammar
from sandbox.tasks.grammar_rule import is_terminal

if TYPE_CHECKING:
    from experiments.pcfg_teachers import Teacher
    from sandbox.train.run import Run


@dataclass(frozen=True, kw_only=True)
class PcfgReport(Report):
    """A finished study of PCFG teachers and students.

    Attributes:
      trained: the teachers, one a seed.
      taught: the runs of their students.
      lost: a phrase for every teacher that did not learn.
      extra: further facts for the result file.
    """

    trained: "Sequence[Teacher]"
    taught: "Sequence[Run]"
    lost: Sequence[str]
    extra: dict[str, Any] = field(default_factory=dict)

    def title(self) -> str:
        """What heads the claims table."""
        learned, everyone = len(self.trained), len(self.trained) + len(self.lost)
        return f"{super().title()}: {learned} of {everyone} teachers learned"

    def runs(self) -> "list[Run]":
        """Teachers first."""
        return [*(t.run for t in self.trained), *self.taught]

    def facts(self) -> dict[str, Any]:
        """What is missing, how many strings there are, and how teachers learned."""
        return {
            "left_out": [*self.lost, *left_out(self.runs())],
            "strings": {
                t.setting.grammar: count_derivations(t.setting.made_task.grammar)
                for t in self.trained
            },
            "teachers": [describe_teacher(t) for t in self.trained],
            **self.extra,
        }


def count_derivations(grammar: Grammar) -> float:
    """Derivations of all strings: at most so many are distinct.

    Where they are few a network can remember them all, and its evaluation strings too.
    """

    @cache
    def below(symbol: str) -> int:
        if is_terminal(symbol):
            return 1
        rules = (r for r in grammar.rules if r.left == symbol)
        return sum(prod(below(s) for s in r.right) for r in rules)

    return float(sum(below(s) for s in grammar.start))


def left_out(runs: "Sequence[Run]") -> list[str]:
    """One phrase for every lane that became non-finite or had no teacher."""
    out = []
    for r in runs:
        for lane in r.outcome["failed"]:
            who = f"seed {lane['seed']} / {lane['strategy']}"
            out.append(f"{who}: non-finite at sample {lane['sample']:,}")
        for lane in r.outcome["absent"]:
            out.append(f"seed {lane['seed']} / {lane['strategy']}: no teacher")
    return out


def describe_teacher(t: "Teacher") -> dict[str, Any]:
    """Final accuracy and loss, and the located drop in optimizer steps."""
    return {
        "seed": t.seed,
        "accuracy": number(float(t.accuracy[-1])),
        "loss": number(float(t.loss[-1])),
        "drop": asdict(t.drop),
    }
