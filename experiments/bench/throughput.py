"""Student steps per second of grids of students: together, one by one, over devices.

    python -m experiments.bench.throughput --rounds 3

Batch-1 training on (d, 3)-parity labels by the blocked engine. The first table compares
S seeds in one program (vmap) with the same S seeds in a Python loop, on one core with
every thread pool at one thread. The second spreads the largest S over D forced host
devices, each with one thread, in processes of their own, D = 1, 2, 4, ... up to the
cores there are; its rates are of wall time. Candidates take turns after a warm-up.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax
import numpy as np

from experiments.bench import DEVICE
from experiments.bench.command import Begun, Options, machine_line, run
from experiments.bench.timing import RATE, WORDS, Candidate, say, take_turns, warm_up
from sandbox.distill.strategy import Strategy
from sandbox.models.mlp import MLP
from sandbox.tasks.parity import Parity
from sandbox.text import table
from sandbox.train.engine import Engine
from sandbox.train.spec import RunSpec, Stop


@dataclass(frozen=True)
class Sizes:
    """What is timed; the defaults are the real benchmark."""

    dims: tuple[int, ...] = (32, 100)
    widths: tuple[int, ...] = (20, 100, 1000)
    seeds: tuple[int, ...] = (1, 8, 64)
    segment: int = 1024
    seconds: float = 0.7  # each timing


QUICK = Sizes(dims=(8,), widths=(8,), seeds=(1, 4), segment=64, seconds=0.02)


def runner(
    sizes: Sizes, d: int, m: int, first: int, n_seeds: int
) -> Callable[[int], None]:
    """A function that trains a group of seeds for n more segments."""
    spec = RunSpec(
        kind="teacher",
        task=Parity(d=d, k=3),
        model=MLP(d=d, hidden=(m,)),
        strategies=(Strategy(name="labels"),),
        stop=Stop(max_samples=2**31),
        eval_every=sizes.segment,
        n_seeds=n_seeds,
        first_seed=first,
    )
    engine = Engine(spec)
    state, t, index = engine.init(), 0, np.zeros((n_seeds, 1), np.int32)

    def go(n: int) -> None:
        nonlocal state, t
        state = engine.run(state, t, n, None, index)
        jax.block_until_ready(state)
        t += n * sizes.segment

    return go


def together(sizes: Sizes, d: int, m: int, n_seeds: int) -> Candidate:
    """All seeds in one program."""
    return Candidate(runner(sizes, d, m, 0, n_seeds), n_seeds * sizes.segment)


def one_by_one(sizes: Sizes, d: int, m: int, n_seeds: int) -> Candidate:
    """A program of one seed, in a loop over seeds."""
    each = [runner(sizes, d, m, s, 1) for s in range(n_seeds)]

    def go(n: int) -> None:
        for train in each:
            train(n)

    return Candidate(go, n_seeds * sizes.segment)


def grid(sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """Every (d, m, S), both ways."""
    problems = list(product(sizes.dims, sizes.widths, sizes.seeds))
    ways = {"together": together, "one_by_one": one_by_one}
    made = {(p, k): way(sizes, *p) for p in problems for k, way in ways.items()}
    warm_up({f"{k}, (d, m, S) = {p}": c for (p, k), c in made.items()}, sizes.seconds)
    take_turns(made.values(), rounds)
    rows = []
    for p in problems:
        rates = {k: made[p, k].record() for k in ways}
        a, b = (r[RATE] for r in rates.values())
        d, m, n = p
        rows.append({"d": d, "m": m, "seeds": n, "rates": rates, "ratio": a / b})
    return rows


def child(quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The largest S on the devices that this process has."""
    sizes = QUICK if quick else Sizes()
    problems = list(product(sizes.dims, sizes.widths))
    made = {p: together(sizes, *p, max(sizes.seeds)) for p in problems}
    warm_up({f"(d, m) = {p}": c for p, c in made.items()}, sizes.seconds)
    take_turns(made.values(), rounds)
    return [{"d": d, "m": m, **c.record()} for (d, m), c in made.items()]


def over_devices(begun: Begun[Options]) -> list[dict[str, Any]]:
    """Wall rates with 1, 2, 4, ... forced host devices."""
    rates, devices = {}, 1
    while devices <= len(begun.usable):
        say(f"{devices} forced host devices, in another process")
        force = f"--xla_force_host_platform_device_count={devices}"
        flags = f"{os.environ['XLA_FLAGS']} {force}"
        rates[devices] = begun.child(os.environ | {"XLA_FLAGS": flags})
        devices *= 2
    return [
        {
            "devices": n,
            **row,
            "to_one_device": row["wall_per_s"] / alone["wall_per_s"],
        }
        for n, rows in rates.items()
        for row, alone in zip(rows, rates[1], strict=True)
    ]


def measure(begun: Begun[Options]) -> dict[str, Any]:
    """Everything, as JSON data."""
    sizes = QUICK if begun.options.quick else Sizes()
    rows = grid(sizes, begun.options.rounds)
    spread = over_devices(begun) if DEVICE == "cpu" else []
    return begun.record(sizes) | {"rows": rows, "devices": spread}


def print_tables(result: dict[str, Any]) -> None:
    """Prints both tables."""
    cells = [
        [
            str(r["d"]),
            f"{r['m']:,}",
            str(r["seeds"]),
            *(f"{x[RATE]:,.0f}" for x in r["rates"].values()),
            f"{r['ratio']:.1f}x",
        ]
        for r in result["rows"]
    ]
    print(f"\nstudent steps per second of {WORDS}, median of {result['rounds']}")
    print(table(("d", "m", "S", "together", "one by one", ""), cells, right="r" * 6))
    cells = [
        [
            str(r["d"]),
            f"{r['m']:,}",
            str(r["devices"]),
            f"{r['wall_per_s']:,.0f}",
            f"{r['to_one_device']:.2f}x",
        ]
        for r in result["devices"]
    ]
    if cells:
        most = max(result["sizes"]["seeds"])
        print(f"\n{most} seeds over forced host devices, steps per second of wall time")
        print(table(("d", "m", "devices", "steps/s", "to one"), cells, right="r" * 5))
    print(machine_line(result))


if __name__ == "__main__":
    run("throughput", __doc__, Options, measure, print_tables)
