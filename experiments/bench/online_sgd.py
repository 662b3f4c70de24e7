"""Speed of batch-1 training: the blocked engine against a plain scan and PyTorch.

    python -m experiments.bench.online_sgd --rounds 3

Everything is timed in this process, which pins itself to one core with every thread
pool at one thread; engines take turns (A, B, C, A, B, C, ...) after a warm-up, and
compile time is listed apart. Rates are training steps (samples) per second of process
CPU time, which other processes disturb less than wall time; both are stored. The jax
engines make their data, the PyTorch loop finds it in memory.

The floor is compute alone. With T samples a block and I of them in an inner block, a
step of width m costs m (4 (d + 1) + T + I + 10) operations: forward and update
products, corrections within the block, ReLU and second layer. The floor is the time of
that at the rate of a 1024 x 1024 x 1024 product, measured here. A teacher of width M
adds 2 M (d + 1) for its forward product.

The last section runs the blocked engine on every core, in a process of its own.
"""

import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import DEVICE, GIVEN
from experiments.bench.command import Begun, Options, run
from experiments.bench.report import Row, print_tables
from experiments.bench.timing import Candidate, clock, say, take_turns, warm_up
from sandbox.distill.sources import Final
from sandbox.distill.strategy import Strategy
from sandbox.models.mlp import MLP
from sandbox.tasks.parity import Parity
from sandbox.train.engine import Engine
from sandbox.train.online_sgd import INNER_BLOCKS
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import task_key

LR = 0.005
SEGMENT = 1024


@dataclass(frozen=True)
class Sizes:
    """What is timed; the defaults are the real benchmark."""

    d: int = 100
    k: int = 6
    widths: tuple[int, ...] = (100, 1000, 5000, 50_000)
    students: tuple[int, ...] = (100, 1000)
    teacher: int = 50_000
    lanes: int = 8
    lane_width: int = 100
    all_cores: tuple[int, ...] = (1000, 5000, 50_000)
    block: int = 32
    seconds: float = 1.1  # each timing
    gemm: int = 1024


QUICK = Sizes(
    d=12, k=2, widths=(16,), students=(16,), teacher=32, lanes=2, lane_width=16,
    all_cores=(16,), block=8, seconds=0.02, gemm=64,
)  # fmt: skip


@dataclass(frozen=True)
class Against(Options):
    """The command line."""

    no_torch: bool = False
    """leave PyTorch out"""


def _task(sizes: Sizes) -> Parity:
    return Parity(d=sizes.d, k=sizes.k)


def _spec(sizes: Sizes, m: int, **fields: Any) -> RunSpec:
    defaults: dict[str, Any] = {
        "kind": "teacher",
        "strategies": (Strategy(name="labels"),),
        "checkpoint_every": SEGMENT,
    }
    return RunSpec(
        task=_task(sizes),
        model=MLP(d=sizes.d, hidden=(m,)),
        optimizer=SGD(lr=LearningRate(peak=LR)),
        stop=Stop(max_samples=2**31),
        eval_every=SEGMENT,
        block=sizes.block,
        **(defaults | fields),
    )


def engine(sizes: Sizes, m: int, *, taught_by: int = 0, **fields: Any) -> Candidate:
    """An engine of the library on its own stream, from labels or a frozen teacher."""
    teacher = None
    if taught_by:
        spec = _spec(sizes, taught_by)
        params = spec.model.init(jax.random.key(1))
        teacher = jax.tree.map(lambda p: jnp.asarray(p)[None, None], params)
        fields |= {
            "kind": "student",
            "strategies": (Strategy(name="one-shot", source=Final()),),
            "teacher": TeacherRef(spec=spec, final=SEGMENT),
        }
    spec = _spec(sizes, m, **fields)
    if spec.segment != SEGMENT:
        raise RuntimeError(f"segments of {spec.segment} samples, {SEGMENT} expected")
    made = Engine(spec)
    n_lanes = len(spec.strategies)
    index = np.zeros((1, n_lanes), np.int32)
    state, t = made.init(), 0

    def go(n: int) -> None:
        nonlocal state, t
        state = made.run(state, t, n, teacher, index)
        jax.block_until_ready(state)
        t += n * SEGMENT
        if (made.first_bad(state) >= 0).any():
            raise RuntimeError(f"width {m} became non-finite; its speed means nothing")

    return Candidate(go, SEGMENT * n_lanes)


def block_flop(sizes: Sizes, m: int) -> float:
    """Operations of one step of the blocked engine; see the module's first lines."""
    return m * (4 * (sizes.d + 1) + sizes.block + sizes.block / INNER_BLOCKS + 10)


def make_rows(sizes: Sizes, torch: Any) -> list[Row]:
    """Every problem with its engines, the library's blocked engine first."""
    rows = [
        Row(
            "labels",
            m,
            {
                "blocked": engine(sizes, m),
                "generic": engine(sizes, m, engine="generic"),
            },
            block_flop(sizes, m),
        )
        for m in sizes.widths
    ]
    for m in sizes.students:
        taught = engine(sizes, m, taught_by=sizes.teacher)
        flop = block_flop(sizes, m) + 2 * sizes.teacher * (sizes.d + 1)
        rows.append(Row("distill", m, {"blocked": taught}, flop))
    if torch:
        batch = _task(sizes).sample(task_key(0), 0, 8192, split="train")
        x, y = np.asarray(batch.x), np.asarray(batch.y)
        for row in rows:
            if row.kind == "labels":
                go = torch.labels_loop(x, y, m=row.m, lr=LR)
            else:
                go = torch.distill_loop(x, m=row.m, m_teacher=sizes.teacher, lr=LR)
            row.candidates["torch"] = Candidate(go, 1, compiles=False)
    names = tuple(Strategy(name=f"student {i}") for i in range(sizes.lanes))
    m = sizes.lane_width
    pair = {"lanes": engine(sizes, m, strategies=names), "one": engine(sizes, m)}
    rows.append(Row("lanes", m, pair, block_flop(sizes, m)))
    return rows


def gemm_roof(n: int, seconds: float) -> Callable[[], float]:
    """A function that measures GFLOP/s of an n x n x n float32 product."""
    a = jax.random.normal(jax.random.key(0), (n, n), jnp.float32)
    dot = jax.jit(lambda p, q: jnp.dot(p, q, precision="highest"))
    dot(a, a).block_until_ready()

    def measure() -> float:
        rates, begin = [], clock()
        while clock() - begin < seconds / 2:
            now = clock()
            dot(a, a).block_until_ready()
            rates.append(2 * n**3 / max(clock() - now, 1e-7) / 1e9)
        return statistics.median(rates)

    return measure


def time_rows(rows: list[Row], sizes: Sizes, rounds: int) -> list[float]:
    """Times every engine in turn; returns each round's roof, in GFLOP/s."""
    roof = gemm_roof(sizes.gemm, sizes.seconds)
    made = {
        f"{row.kind} m={row.m:,} {name}": c
        for row in rows
        for name, c in row.candidates.items()
    }
    warm_up(made, sizes.seconds)
    return take_turns(made.values(), rounds, first=roof)


def child(quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The blocked engine alone, on what cores this process has."""
    sizes = QUICK if quick else Sizes()
    rows = [Row("labels", m, {"blocked": engine(sizes, m)}) for m in sizes.all_cores]
    time_rows(rows, sizes, rounds)
    return [row.record(1.0) for row in rows]


def measure(begun: Begun[Against]) -> dict[str, Any]:
    """Everything, as JSON data."""
    sizes = QUICK if begun.options.quick else Sizes()
    used, torch = {}, None
    timed = DEVICE == "cpu" and not begun.options.no_torch
    if timed and importlib.util.find_spec("torch"):
        # lazily: torch is optional
        from experiments.bench import torch_mlp as torch

        used["torch"] = torch.one_thread()
    rows = make_rows(sizes, torch)
    roofs = time_rows(rows, sizes, begun.options.rounds)
    roof = statistics.median(roofs)
    result: dict[str, Any] = {
        "roof_gflop_per_s": {"median": roof, "rounds": roofs},
        "rows": [row.record(roof) for row in rows],
    }
    if DEVICE == "cpu":
        say(f"blocked engine on {len(begun.usable)} cores, in another process")
    wall = {r["m"]: r["rates"]["blocked"]["wall_per_s"] for r in result["rows"]
            if r["row"] == "labels"}  # fmt: skip
    result["all_cores"] = [
        {
            "m": r["m"],
            "cores": len(begun.usable),
            **r["rates"]["blocked"],
            "to_one_core": r["rates"]["blocked"]["wall_per_s"] / wall[r["m"]],
        }
        for r in (begun.child(GIVEN) if DEVICE == "cpu" else ())
    ]
    goals = [
        x["met"] for r in result["rows"] for x in r["ratios"].values() if "met" in x
    ]
    result["goals_met"] = f"{sum(goals)} of {len(goals)}"
    return begun.record(sizes, **used) | result


if __name__ == "__main__":
    run("online_sgd", __doc__, Against, measure, print_tables)
