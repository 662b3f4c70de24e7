"""Lanes of a study: the strategies that a student is trained by, with plain names.

    def lanes(self, t):
        return ce(), one_shot(), progressive(t.spacing), two_shot(t["middle"], t.hold)

One name is one colour (`sandbox.plotting.style`) and one label in every figure. A lane
is a strategy of a seed; the strategies of a group share a run where their compiled
structure and their caps agree.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox.distill.sources import Final, NShot, PerSeed, Progressive
from sandbox.distill.strategy import Anneal, Strategy, Target
from sandbox.models.base import Model
from sandbox.plotting.style import NAMES, name_of
from sandbox.tasks.data import Data, Fresh


@dataclass(frozen=True)
class Capped:
    """A strategy with a cap, training rows, a student or a start of its own.

    Attributes:
      strategy: what is trained.
      cap: multiple of the teacher's n90; 0 is the budget's.
      samples: cap in samples, which wins; 0 for none.
      data: which rows it is trained on.
      model: the student; None for the setting's.
      start: whether it begins as its teacher's final checkpoint, through its view.
      whole: whether it trains to its cap, also after it has learned.
    """

    strategy: Strategy
    cap: float = 0.0
    samples: int = 0
    data: Data = Fresh()
    model: Model | None = None
    start: bool = False
    whole: bool = False


Lane = Strategy | Capped


def ce() -> Strategy:
    """Labels alone: cross-entropy."""
    return Strategy(name="ce")


def one_shot(tau: float | Anneal = 1.0, name: str = "one_shot") -> Strategy:
    """The final teacher throughout."""
    return Strategy(name=name, source=Final(), target=Target(tau=tau))


def progressive(
    every: int,
    tau: float | Anneal = 1.0,
    *,
    speed: float = 1.0,
    name: str = "progressive",
) -> Strategy:
    """The teacher's checkpoints, `every` samples apart, at its pace times `speed`."""
    source = Progressive(every=every, speed=speed)
    return Strategy(name=name, source=source, target=Target(tau=tau))


def two_shot(
    step: int | PerSeed,
    hold: int | PerSeed,
    tau: float | Anneal = 1.0,
    *,
    name: str = "two_shot",
) -> Strategy:
    """One checkpoint for `hold` samples, then the final one."""
    return n_shot((step,), hold, tau, name=name)


def n_shot(
    steps: Sequence[int | PerSeed],
    hold: int | PerSeed,
    tau: float | Anneal = 1.0,
    *,
    name: str,
) -> Strategy:
    """Checkpoints one after the other for `hold` samples each, then the final one."""
    source = NShot(steps=tuple(steps), hold=hold)
    return Strategy(name=name, source=source, target=Target(tau=tau))


_MARK = re.compile(r"_(?:hard|(?P<what>tau|speed|hold)(?P<value>[\d.]+))$")


def base_name(name: str) -> str:
    """A strategy's name without what was varied: `one_shot` of `one_shot_hard`."""
    return _MARK.sub("", name)


def label_of(strategy: Strategy | str) -> str:
    """What a strategy, or a name alone, is called in figures."""
    name = strategy if isinstance(strategy, str) else strategy.name
    base = base_name(name)
    words = name_of(base)
    if isinstance(strategy, str) or not strategy.source.needs_teacher:
        return words
    if isinstance(strategy.source, NShot) and base not in NAMES:
        words = f"{len(strategy.source.steps) + 1}-shot ({words})"
    mark = _MARK.search(name)
    if mark and mark["what"] in ("speed", "hold"):
        return f"{words}, {mark['what']} {mark['value']}"
    tau = strategy.target.tau
    if isinstance(tau, Anneal):
        return f"{words}, τ {tau.start:g} to {tau.end:g}"
    return f"{words}, τ = {tau:g}" if tau else f"{words}, argmax"
