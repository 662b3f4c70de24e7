"""Student steps per second of grids of students: together, one by one, over devices.

    python -m experiments.bench.throughput --rounds 3

Batch-1 training on (d, 3)-parity labels by the blocked engine. The first table compares
S seeds in one program (vmap) with the same S seeds in a Python loop, on one core with
every thread pool at one thread. The second spreads the largest S over D forced host
devices, each with one thread, in processes of their own, D = 1, 2, 4, ... up to the
cores there are; its rates are of wall time. Candidates take turns after a warm-up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from experiments.bench.command import (
    ROOT,
    arguments,
    machine_line,
    parse,
    start,
    write,
)
from experiments.bench.timing import Candidate, say

SEGMENT = 1024


@dataclass(frozen=True)
class Sizes:
    """What is timed; the defaults are the real benchmark."""

    dims: tuple[int, ...] = (32, 100)
    widths: tuple[int, ...] = (20, 100, 1000)
    seeds: tuple[int, ...] = (1, 8, 64)
    segment: int = SEGMENT
    seconds: float = 0.7  # each timing


QUICK = Sizes(dims=(8,), widths=(8,), seeds=(1, 4), segment=64, seconds=0.02)


def runner(sizes: Sizes, d: int, m: int, first: int, n_seeds: int) -> Any:
    """A function that trains a group of seeds for n more segments."""
    import jax
    import numpy as np

    from sandbox.distill.strategy import Strategy
    from sandbox.models.mlp import MLP
    from sandbox.tasks.parity import Parity
    from sandbox.train.engine import Engine
    from sandbox.train.spec import RunSpec, Stop

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
        for run in each:
            run(n)

    return Candidate(go, n_seeds * sizes.segment)


def time_all(candidates: Sequence[Candidate], rounds: int, seconds: float) -> None:
    """Warms up, then times everything once a round."""
    for i, c in enumerate(candidates):
        c.warm_up(seconds)
        say(f"ready: {i + 1} of {len(candidates)}")
    for r in range(rounds):
        for c in candidates:
            c.time()
        say(f"round {r + 1} of {rounds} done")


def grid(sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """Every (d, m, S), both ways."""
    problems = list(product(sizes.dims, sizes.widths, sizes.seeds))
    made = [(together(sizes, *p), one_by_one(sizes, *p)) for p in problems]
    time_all([c for pair in made for c in pair], rounds, sizes.seconds)
    rows = []
    for (d, m, n), (a, b) in zip(problems, made, strict=True):
        rates = {"together": a.record(), "one_by_one": b.record()}
        each = [r["cpu_per_s"] for r in rates.values()]
        rows.append({"d": d, "m": m, "seeds": n, "rates": rates,
                     "ratio": each[0] / each[1]})  # fmt: skip
    return rows


def child(sizes: Sizes, rounds: int, out: Path) -> None:
    """The largest S on the devices that this process has."""
    n = max(sizes.seeds)
    problems = [(d, m) for d in sizes.dims for m in sizes.widths]
    made = [together(sizes, d, m, n) for d, m in problems]
    time_all(made, rounds, sizes.seconds)
    rows = [
        {"d": d, "m": m, **c.record()} for (d, m), c in zip(problems, made, strict=True)
    ]
    out.write_text(json.dumps(rows))


def over_devices(args: argparse.Namespace, usable: set[int]) -> list[dict[str, Any]]:
    """Wall rates with 1, 2, 4, ... forced host devices."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, usable)  # children inherit it; nothing is timed here
    rates, devices = {}, 1
    while devices <= len(usable):
        say(f"{devices} forced host devices, in another process")
        flags = os.environ["XLA_FLAGS"]
        force = f"{flags} --xla_force_host_platform_device_count={devices}"
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            command = [sys.executable, "-m", "experiments.bench.throughput", "--child"]
            command += ["--rounds", str(args.rounds), "--out", str(out)]
            command += ["--quick"] if args.quick else []
            env = os.environ | {"XLA_FLAGS": force}
            subprocess.run(command, cwd=ROOT, env=env, check=True)
            rates[devices] = json.loads(out.read_text())
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


def measure(args: argparse.Namespace, sizes: Sizes) -> dict[str, Any]:
    """Everything, as JSON data."""
    begun = start(args)
    from sandbox.store.provenance import versions

    rows = grid(sizes, args.rounds)
    result = {"rows": rows, "devices": over_devices(args, begun.usable)}
    return begun.record("throughput", sizes, versions()) | result


def print_tables(result: dict[str, Any]) -> None:
    """Prints both tables."""
    from sandbox.text import table

    cells = [
        [
            str(r["d"]),
            f"{r['m']:,}",
            str(r["seeds"]),
            *(f"{x['cpu_per_s']:,.0f}" for x in r["rates"].values()),
            f"{r['ratio']:.1f}x",
        ]
        for r in result["rows"]
    ]
    print(
        "\nstudent steps per second of CPU time on one core, median of"
        f" {result['rounds']}"
    )
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
    most = max(result["sizes"]["seeds"])
    print(f"\n{most} seeds over forced host devices, steps per second of wall time")
    print(table(("d", "m", "devices", "steps/s", "to one"), cells, right="r" * 5))
    print(machine_line(result))


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the tables, writes the JSON."""
    parser = arguments("bench_throughput", __doc__, rounds=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parse(parser, argv)
    sizes = QUICK if args.quick else Sizes()
    if args.child:
        child(sizes, args.rounds, args.out)
        return 0
    result = measure(args, sizes)
    print_tables(result)
    write(result, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
