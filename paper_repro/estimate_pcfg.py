"""How long a PCFG study will take on this machine, measured on its own step."""

from dataclasses import replace
from pathlib import Path

from experiments import (
    pcfg_accuracy,
    pcfg_autoregressive,
    pcfg_curriculum,
    pcfg_nonterminals,
)
from experiments.pcfg_setting import Setting
from sandbox.distill.strategy import Strategy
from sandbox.train.estimate import seconds_per_sample
from sandbox.train.progress import clock
from sandbox.train.run import folder_of

TRAINED = (
    "pcfg_accuracy",
    "pcfg_curriculum",
    "pcfg_nonterminals",
    "pcfg_autoregressive",
)


def parts(name: str, scale: str) -> list[tuple[str, Setting, tuple[Strategy, ...]]]:
    """Every (label, setting, student strategies) that a study trains."""
    if name == "pcfg_autoregressive":
        config = pcfg_autoregressive.PRESETS[scale]()
        configs = {n: config.part(n) for n in pcfg_autoregressive.PARTS}
        made = {n: _accuracy_lanes(c) for n, c in configs.items()}
    elif name == "pcfg_curriculum":
        config = pcfg_curriculum.PRESETS[scale]()
        first = config.setting.spacing
        lanes = pcfg_curriculum.strategies(config, middle=first)
        made = {"": (config.setting, lanes)}
    elif name == "pcfg_nonterminals":
        made = {"": _accuracy_lanes(pcfg_nonterminals.PRESETS[scale]().accuracy)}
    else:
        made = {"": _accuracy_lanes(pcfg_accuracy.PRESETS[scale]())}
    return [(label, setting, lanes) for label, (setting, lanes) in made.items()]


def _accuracy_lanes(
    config: pcfg_accuracy.Config,
) -> tuple[Setting, tuple[Strategy, ...]]:
    lanes = pcfg_accuracy.strategies(config, middle=config.setting.spacing)
    return config.setting, lanes


def print_estimate(name: str, scale: str, root: Path) -> None:
    """Times a step of teacher and students, and prints what all of them will take.

    A student step is timed while as many checkpoints teach as ever do, so that the
    figure is an upper bound.
    """
    total = 0.0
    for label, setting, strategies in parts(name, scale):
        one_step = replace(
            setting,
            batch=setting.micro or setting.batch,
            spacing=1,
            teacher_steps=2,
            student_steps=2,
            progressive_every=1,
            progressive_speed=1.0,
            probe_every=1,
            hold=1,
        )
        first = _first_steps(strategies, one_step)
        for who, spec, steps, folders in (
            (
                "teachers",
                one_step.teacher_spec(0),
                setting.teacher_steps,
                [setting.teacher_spec(s) for s in range(setting.n_seeds)],
            ),
            ("students", one_step.student_spec(first, 0), setting.student_steps, None),
        ):
            missing = setting.n_seeds
            if folders is not None:
                missing = sum(not folder_of(s, root).complete for s in folders)
            print(f"  {name} {label}".rstrip() + f" {who}: ", end="", flush=True)
            each = seconds_per_sample(spec) * setting.batch
            total += each * steps * missing
            print(
                f"{each:,.2g} s a step of {setting.batch}, about {clock(each * steps)}"
                f" each for {steps:,} steps, {missing} to go",
                flush=True,
            )
    print(
        f"{name}: about {clock(total)}; evaluations and probes come on top. Interrupt"
        " whenever you like, the same command goes on.",
        flush=True,
    )


def _first_steps(
    strategies: tuple[Strategy, ...], setting: Setting
) -> tuple[Strategy, ...]:
    """The same lanes with checkpoints that the tiny setting has."""
    from sandbox.distill.sources import NShot, Progressive

    out = []
    for s in strategies:
        if isinstance(s.source, NShot):
            s = replace(s, source=NShot(steps=(0,), hold=setting.batch))
        elif isinstance(s.source, Progressive):
            s = replace(s, source=Progressive(every=setting.batch))
        out.append(s)
    return tuple(out)
