"""How long a scale will take on this machine, measured before it starts."""

from pathlib import Path
from typing import Any

import jax

from experiments import parity_curriculum, parity_mlp
from experiments.parity_setting import Setting
from paper_repro import estimate_pcfg
from sandbox.distill.sources import PerSeed
from sandbox.train.estimate import seconds_per_sample
from sandbox.train.progress import clock
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec

PUBLISHED_N90 = 10.5e6
"""Samples after which the published teacher has learned."""


def print_estimate(studies: list[str], scale: str, root: Path) -> None:
    """Times a few seconds of each kind of run and prints what all of it will take."""
    configs = {
        "parity_mlp": parity_mlp.PRESETS[scale](),
        "parity_curriculum": parity_curriculum.PRESETS[scale](),
    }
    for name in studies:
        if name in estimate_pcfg.TRAINED:
            estimate_pcfg.print_estimate(name, scale, root)
        elif name not in configs:
            print(f"{name}: nothing is trained; minutes to an hour.")
    studies = [name for name in studies if name in configs]
    if not studies:
        return
    print("timing a few seconds of every kind of run ...", flush=True)
    setting: Setting = configs[studies[0]].setting
    specs = setting.teacher_specs()
    missing = [s for s in specs if not folder_of(s, root).complete]
    each = seconds_per_sample(specs[0])
    guess = PUBLISHED_N90 if scale == "paper" else setting.teacher_limit / 2
    samples = (setting.teacher_factor * guess, specs[0].stop.largest)
    total = [each * len(missing) * n for n in samples]
    what = f"teachers, {len(missing)} of {len(specs)} groups not finished"
    _line(what, each, setting.lanes, total)
    for name in studies:
        spec = _students(name, configs[name])
        each = seconds_per_sample(spec)
        cap = getattr(configs[name], "student_samples", 0)
        most = setting.student_cap * setting.teacher_limit
        counts = (cap or setting.student_cap * guess, cap or most)
        more = [each * len(specs) * n for n in counts]
        _line(f"{name} students", each, setting.lanes * len(spec.strategies), more)
        total = [a + b for a, b in zip(total, more, strict=True)]
    size = parameters(specs[0]) * 4 * setting.lanes / 1e9
    disk = [len(specs) * size * n / setting.spacing for n in samples]
    print(
        f"in all about {clock(total[0])} if teachers learn after {guess:,.0f} samples"
        f" (at most {clock(total[1])}), counted from the start of whatever is not"
        f" finished; probes and evaluations come on top. Checkpoints take about"
        f" {disk[0]:.1f} GB (at most {disk[1]:.1f}). Interrupt whenever you like, the"
        " same command goes on.",
        flush=True,
    )


def parameters(spec: RunSpec) -> int:
    """Number of parameters of a run's model."""
    shapes = jax.eval_shape(spec.model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _line(what: str, each: float, lanes: int, total: list[float]) -> None:
    rate = lanes / each
    print(
        f"  {what}: {rate:,.0f} training steps/s over {lanes} lanes, about"
        f" {clock(total[0])}, at most {clock(total[1])}",
        flush=True,
    )


def _students(name: str, config: Any) -> RunSpec:
    """A student record with made-up checkpoints, for timing only."""
    s: Setting = config.setting
    step = PerSeed((s.spacing,) * s.lanes)
    hold = s.hold_samples or s.student_eval_every
    if name == "parity_mlp":
        lanes = parity_mlp.strategies(config, middle=step, hold=hold)
    else:
        steps = {c: step for c in config.candidates}
        lanes = parity_curriculum.strategies(config, steps, hold)
    return s.example_students(lanes)
