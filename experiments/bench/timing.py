"""How `experiments.bench.online_sgd` measures: one core, engines in turn, CPU and wall time."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.bench.report import goal_of

_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_START = time.monotonic()


def say(text: str) -> None:
    """A progress line."""
    print(f"[{time.monotonic() - _START:4.0f} s] {text}", file=sys.stderr, flush=True)


def pin() -> tuple[int | None, set[int]]:
    """Moves this process to one core and every thread pool to one thread.

    Must come before jax, numpy or torch are imported. Returns the core (None where
    processes cannot be pinned) and all usable ones.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    os.environ.update({name: "1" for name in _POOLS})
    if not hasattr(os, "sched_setaffinity"):
        return None, set(range(os.cpu_count() or 1))
    usable = os.sched_getaffinity(0)
    core = max(usable)
    os.sched_setaffinity(0, {core})
    return core, usable


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


@dataclass
class Row:
    """One line of the table: engines that take turns on one problem."""

    kind: str
    m: int
    candidates: dict[str, Candidate]
    flop: float | None = None

    def record(self, roof: float) -> dict[str, Any]:
        """Rates, ratios against their goals, and the share of the floor."""
        rates = {name: c.record() for name, c in self.candidates.items()}
        first, *others = self.candidates
        ratios = {}
        for other in others:
            obtained = rates[first]["cpu_per_s"] / rates[other]["cpu_per_s"]
            pairs = zip(
                rates[first]["cpu_rounds"], rates[other]["cpu_rounds"], strict=True
            )
            ratios[f"{first}:{other}"] = {
                "obtained": obtained,
                "rounds": [a / b for a, b in pairs],
                **goal_of(self.kind, self.m, other, obtained),
            }
        floor = None
        if self.flop is not None:
            floor = {
                "flop_per_step": self.flop,
                "floor_per_s": roof * 1e9 / self.flop,
                "fraction": rates[first]["cpu_per_s"] * self.flop / (roof * 1e9),
            }
        return {
            "row": self.kind, "m": self.m, "rates": rates, "ratios": ratios,
            "floor": floor,
        }  # fmt: skip


def gemm_roof(n: int, seconds: float) -> Callable[[], float]:
    """A function that measures GFLOP/s of an n x n x n float32 product."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (n, n), jnp.float32)
    dot = jax.jit(lambda p, q: jnp.dot(p, q, precision="highest"))
    dot(a, a).block_until_ready()

    def measure() -> float:
        rates, begin = [], time.process_time()
        while time.process_time() - begin < seconds / 2:
            cpu = time.process_time()
            dot(a, a).block_until_ready()
            rates.append(2 * n**3 / max(time.process_time() - cpu, 1e-7) / 1e9)
        return statistics.median(rates)

    return measure


def take_turns(
    rows: Sequence[Row], *, rounds: int, seconds: float, gemm: int
) -> list[float]:
    """Warms up, then times every engine of every row once a round.

    Returns:
      The roof measured in each round, in GFLOP/s.
    """
    roof = gemm_roof(gemm, seconds)
    for row in rows:
        for name, c in row.candidates.items():
            c.warm_up(seconds)
            took = f", compiled in {c.compile_seconds:.1f} s" if c.compiles else ""
            say(f"ready: {row.kind} m={row.m:,} {name}{took}")
    roofs = []
    for r in range(rounds):
        roofs.append(roof())
        for row in rows:
            for c in row.candidates.values():
                c.time()
        say(f"round {r + 1} of {rounds} done")
    return roofs
