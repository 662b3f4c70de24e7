"""How benchmarks measure: candidates in turn, CPU and wall time."""

import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

_START = time.monotonic()


def say(text: str) -> None:
    """A progress line."""
    print(f"[{time.monotonic() - _START:4.0f} s] {text}", file=sys.stderr, flush=True)


@dataclass
class Candidate:
    """One engine on one problem: `go(n)` trains n pieces of `steps` steps each."""

    go: Callable[[int], None]
    steps: int
    compiles: bool = True
    pieces: int = 1
    compile_seconds: float = 0.0
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def warm_up(self, seconds: float) -> None:
        """Compiles, then finds how many pieces fill `seconds`."""
        first = self._spend()[0]
        spent = self._spend()[0]
        self.compile_seconds = max(first - spent, 0.0) if self.compiles else 0.0
        while spent < seconds:
            grow = 1.1 * seconds / max(spent, 1e-4)
            self.pieces = max(self.pieces + 1, int(self.pieces * min(grow, 50)))
            spent = self._spend()[0]

    def time(self) -> None:
        """Adds one timing."""
        cpu, wall = self._spend()
        self.cpu.append(self.pieces * self.steps / cpu)
        self.wall.append(self.pieces * self.steps / wall)

    def _spend(self) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        self.go(self.pieces)
        return time.process_time() - cpu, time.perf_counter() - wall

    def record(self) -> dict[str, Any]:
        """Medians and all rounds, as JSON data."""
        return {
            "cpu_per_s": statistics.median(self.cpu),
            "wall_per_s": statistics.median(self.wall),
            "cpu_rounds": self.cpu,
            "wall_rounds": self.wall,
            "compile_seconds": self.compile_seconds,
        }


def ratio(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One record's rate to another's, of medians and by rounds, as JSON data."""
    pairs = zip(one["cpu_rounds"], other["cpu_rounds"], strict=True)
    return {
        "obtained": one["cpu_per_s"] / other["cpu_per_s"],
        "rounds": [a / b for a, b in pairs],
    }


def warm_up(candidates: Mapping[str, Candidate], seconds: float) -> None:
    """Compiles everything and finds how many pieces fill `seconds` of CPU time."""
    for name, c in candidates.items():
        c.warm_up(seconds)
        took = f", compiled in {c.compile_seconds:.1f} s" if c.compiles else ""
        say(f"ready: {name}{took}")


def take_turns(
    candidates: Collection[Candidate],
    rounds: int,
    *,
    first: Callable[[], Any] = lambda: None,
) -> list[Any]:
    """Times everything once a round.

    Returns:
      What `first`, called before each round, returned.
    """
    found = []
    for r in range(rounds):
        found.append(first())
        for c in candidates:
            c.time()
        say(f"round {r + 1} of {rounds} done")
    return found
