"""How long a scale will take on this machine, measured before it starts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from experiments import (
    parity_curriculum,
    parity_hierarchy,
    parity_mlp,
    parity_transformer,
    parity_width,
    sample_complexity,
    sample_complexity_setting,
)
from experiments.parity_setting import Setting
from paper_repro import estimate_pcfg
from sandbox.distill.sources import PerSeed
from sandbox.distill.strategy import Strategy
from sandbox.train.estimate import seconds_per_sample
from sandbox.train.progress import clock
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec

PUBLISHED_N90 = {"parity_transformer": 3.5e6}
"""Samples after which a published teacher has learned, where not `MLP_N90`."""
MLP_N90 = 10.5e6


@dataclass(frozen=True)
class Part:
    """Runs of one shape.

    Attributes:
      what: in words.
      spec: one of them, for timing.
      missing: how many are not finished; all, where that is not known before.
      samples: what each of them probably sees.
      most: what it may see.
    """

    what: str
    spec: RunSpec
    missing: int
    samples: float
    most: float


def print_estimate(studies: list[str], scale: str, root: Path) -> None:
    """Times a few seconds of each kind of run and prints what all of it will take."""
    known: set[RunSpec] = set()
    total, disk = [0.0, 0.0], [0.0, 0.0]
    print("timing a few seconds of every kind of run ...", flush=True)
    for name in studies:
        if name in estimate_pcfg.TRAINED:
            estimate_pcfg.print_estimate(name, scale, root)
        elif name not in PARTS:
            print(f"{name}: nothing is trained; minutes to an hour.")
            continue
        else:
            for part in PARTS[name](name, scale, root):
                if part.spec in known:
                    continue  # teachers that another study trains too
                known.add(part.spec)
                each = seconds_per_sample(part.spec) * part.missing
                took = [each * n for n in (part.samples, part.most)]
                total = [a + b for a, b in zip(total, took, strict=True)]
                size = stored(part.spec) * part.missing
                disk = [
                    a + size * n
                    for a, n in zip(disk, (part.samples, part.most), strict=True)
                ]
                _line(part, each, took)
    if not known:
        return
    print(
        f"in all about {clock(total[0])} (at most {clock(total[1])}), counted from the"
        " start of whatever is not finished; probes and evaluations come on top."
        f" Checkpoints take about {disk[0]:.1f} GB (at most {disk[1]:.1f}). Interrupt"
        " whenever you like, the same command goes on.",
        flush=True,
    )


def stored(spec: RunSpec) -> float:
    """Gigabytes of checkpoints that a run writes for every sample."""
    if not spec.checkpoint_every:
        return 0.0
    lanes = spec.n_seeds * len(spec.strategies)
    return parameters(spec) * 4 * lanes / spec.checkpoint_every / 1e9


def parameters(spec: RunSpec) -> int:
    """Number of parameters of a run's model."""
    shapes = jax.eval_shape(spec.model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _line(part: Part, each: float, took: list[float]) -> None:
    lanes = part.spec.n_seeds * len(part.spec.strategies) * part.missing
    rate = f"{lanes / each:,.0f} samples/s" if part.missing else "finished"
    print(
        f"  {part.what}: {part.missing} runs, {rate} over"
        f" {len(part.spec.strategies)} lanes, about {clock(took[0])}, at most"
        f" {clock(took[1])}",
        flush=True,
    )


def of_setting(
    what: str,
    setting: Setting,
    students: list[tuple[tuple[Strategy, ...], float]],
    root: Path,
    *,
    n90: float | None,
) -> Iterator[Part]:
    """Teachers and students of a parity setting.

    Args:
      what: in words.
      setting: teachers and budgets.
      students: lanes of each run of a group, and its samples over the teacher's n90.
      root: where runs are stored.
      n90: of its teachers; None takes half of their limit.
    """
    specs = setting.teacher_specs()
    missing = sum(not folder_of(s, root).complete for s in specs)
    guess = n90 or setting.teacher_limit / 2
    whole = specs[0].stop.largest
    samples = min(setting.teacher_factor * guess, whole)
    yield Part(f"{what} teachers", specs[0], missing, samples, whole)
    for lanes, multiple in students:
        spec = setting.example_students(lanes)
        names = ", ".join(s.name for s in lanes[:3]) + ", ..." * (len(lanes) > 3)
        words = f"{what} students ({names})"
        samples, most = (
            max(multiple * n, setting.student_least)
            for n in (guess, setting.teacher_limit)
        )
        yield Part(words, spec, len(specs), samples, most)


def _of_parity(name: str, scale: str, root: Path) -> Iterator[Part]:
    """A study with one setting."""
    modules = {
        "parity_mlp": parity_mlp,
        "parity_transformer": parity_transformer,
        "parity_curriculum": parity_curriculum,
        "parity_hierarchy": parity_hierarchy,
    }
    config: Any = modules[name].PRESETS[scale]()
    s: Setting = config.setting
    step = PerSeed((s.spacing,) * s.lanes)
    hold = s.hold_samples or s.student_eval_every
    if name == "parity_curriculum":
        steps = {c: step for c in config.candidates}
        lanes = parity_curriculum.strategies(config, steps, hold)
    elif name == "parity_hierarchy":
        lanes = parity_hierarchy.strategies(config, {}, hold=hold)
    else:
        lanes = parity_mlp.strategies(config, middle=step, hold=hold)
    n90 = PUBLISHED_N90.get(name, MLP_N90) if scale == "paper" else None
    runs = [(lanes, s.student_cap)]
    if name == "parity_transformer":  # every student a run of its own
        runs = [((lane,), s.student_cap) for lane in lanes]
    yield from of_setting(name, s, runs, root, n90=n90)


def _of_scaling(name: str, scale: str, root: Path) -> Iterator[Part]:
    """Every problem of the study of exponents, with its fewest teachers."""
    config = sample_complexity.PRESETS[scale]()
    for p in config.problems:
        setting = config.setting(p)
        lanes = sample_complexity_setting.student_lanes(config, setting, middle=0)
        what = f"{name} d={p.d} k={p.k} width={p.width} eps={p.eps:g}"
        n90 = 30.0 * p.spacing
        yield from of_setting(what, setting, lanes, root, n90=n90)


def _of_width(name: str, scale: str, root: Path) -> Iterator[Part]:
    """One run a width and rate."""
    config = parity_width.PRESETS[scale]()
    for (m, rate), spec in config.specs().items():
        missing = int(not folder_of(spec, root).complete)
        what = f"{name} width {m:,}, rate {rate:g}"
        yield Part(what, spec, missing, config.cap / 2, config.cap)


PARTS: dict[str, Callable[[str, str, Path], Iterator[Part]]] = {
    "parity_mlp": _of_parity,
    "parity_transformer": _of_parity,
    "parity_curriculum": _of_parity,
    "parity_hierarchy": _of_parity,
    "sample_complexity": _of_scaling,
    "parity_width": _of_width,
}
