"""How benchmarks measure: candidates in turn, CPU and wall time.

What a candidate does ends when its device is done. Rates are of the process's CPU time,
which other processes disturb less; of wall time on a GPU, where the process waits.
"""

import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.bench import DEVICE

USED = "cpu" if DEVICE == "cpu" else "wall"
RATE = f"{USED}_per_s"
WORDS = "CPU time on one core" if DEVICE == "cpu" else "wall time on a GPU"
clock = time.process_time if DEVICE == "cpu" else time.perf_counter
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
        first = self._spend()[USED]
        spent = self._spend()[USED]
        self.compile_seconds = max(first - spent, 0.0) if self.compiles else 0.0
        while spent < seconds:
            grow = 1.1 * seconds / max(spent, 1e-4)
            self.pieces = max(self.pieces + 1, int(self.pieces * min(grow, 50)))
            spent = self._spend()[USED]

    def time(self) -> None:
        """Adds one timing."""
        spent = self._spend()
        self.cpu.append(self.pieces * self.steps / spent["cpu"])
        self.wall.append(self.pieces * self.steps / spent["wall"])

    def _spend(self) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        self.go(self.pieces)
        used, passed = time.process_time() - cpu, time.perf_counter() - wall
        return {"cpu": used, "wall": passed}

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
    pairs = zip(*(x[f"{USED}_rounds"] for x in (one, other)), strict=True)
    return {
        "obtained": one[RATE] / other[RATE],
        "rounds": [a / b for a, b in pairs],
    }


def warm_up(candidates: Mapping[str, Candidate], seconds: float) -> None:
    """Compiles everything and finds how many pieces fill `seconds`."""
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
