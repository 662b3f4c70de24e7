"""How long a scale will take on this machine, measured before it starts."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import parity_curriculum, parity_mlp
from experiments.parity_setting import Setting
from sandbox.distill.sources import PerSeed
from sandbox.train.estimate import seconds_per_sample
from sandbox.train.progress import clock
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec, Stop, TeacherRef

PUBLISHED_N90 = 10.5e6
"""Samples after which the published teacher has learned."""


def print_estimate(studies: list[str], scale: str, root: Path) -> None:
    """Times a few seconds of each kind of run and prints what all of it will take."""
    configs = {
        "parity_mlp": parity_mlp.PRESETS[scale](),
        "parity_curriculum": parity_curriculum.PRESETS[scale](),
    }
    print("timing a few seconds of every kind of run ...", flush=True)
    setting: Setting = configs[studies[0]].setting
    specs = setting.teacher_specs()
    missing = [s for s in specs if not folder_of(s, root).complete]
    each = seconds_per_sample(specs[0])
    guess = PUBLISHED_N90 if scale == "paper" else setting.teacher_cap / 4
    likely = min(setting.teacher_factor * guess, setting.teacher_cap)
    lanes = setting.group
    total = [each * len(missing) * n for n in (likely, setting.teacher_cap)]
    _line(
        f"teachers: {len(missing)} of {len(specs)} groups to train", each, lanes, total
    )
    for name in studies:
        spec = _student_spec(name, configs[name], specs[0])
        each = seconds_per_sample(spec)
        cap = getattr(configs[name], "student_samples", 0)
        n = cap or setting.student_cap * guess
        most = cap or setting.student_cap * setting.teacher_cap / 1.3
        more = [each * len(specs) * v for v in (n, most)]
        _line(f"{name} students", each, lanes * len(spec.strategies), more)
        total = [a + b for a, b in zip(total, more, strict=True)]
    print(
        f"in all about {clock(total[0])} if teachers learn after {guess:,.0f} samples,"
        f" at most {clock(total[1])}; probes and evaluations come on top (some"
        " percent). Interrupt whenever you like, the same command goes on.",
        flush=True,
    )


def _line(what: str, each: float, lanes: int, total: list[float]) -> None:
    rate = lanes / each
    print(
        f"  {what}: {rate:,.0f} training steps/s over {lanes} lanes, about"
        f" {clock(total[0])}, at most {clock(total[1])}",
        flush=True,
    )


def _student_spec(name: str, config: Any, teacher: RunSpec) -> RunSpec:
    """A student record with made-up checkpoints, for timing only."""
    s: Setting = config.setting
    final = teacher.stop.largest // s.spacing * s.spacing
    ref = TeacherRef(spec=teacher, final=PerSeed((final,) * teacher.n_seeds))
    step = PerSeed((s.spacing,) * teacher.n_seeds)
    hold = s.hold_samples or s.student_eval_every
    if name == "parity_mlp":
        strategies = parity_mlp.strategies(config, middle=step, hold=hold)
    else:
        strategies = parity_curriculum.strategies(
            config, {c: step for c in config.candidates}, hold
        )
    from sandbox.models.mlp import MLP

    model = MLP(d=s.task.d, hidden=(s.student_width,), n_classes=s.task.n_classes)
    return RunSpec(
        kind="student",
        task=s.task,
        model=model,
        strategies=strategies,
        optimizer=s.student_optimizer,
        stop=Stop(max_samples=int(np.ceil(s.student_eval_every))),
        eval_every=s.student_eval_every,
        teacher=ref,
        n_seeds=teacher.n_seeds,
        first_seed=teacher.first_seed,
    )
