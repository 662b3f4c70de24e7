"""Results that nothing was trained for, to see what figures make of them."""

from pathlib import Path
from typing import Any

import numpy as np

import sandbox.study as st
from sandbox.store.folders import RunFolder
from sandbox.store.metrics import Metrics
from sandbox.study.result import Result, Taught
from sandbox.study.rules import Chosen
from sandbox.study.teachers import Teachers
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec

PACE = {
    "teacher": 1.0,
    "two_shot": 0.4,
    "middle": 0.4,
    "blind": 0.4,
    "by_level": 1.05,
    "by_node": 1.1,
    "progressive": 1.1,
    "half_rise": 0.45,
    "ce": 3.4,
    "one_shot_hard": 3.4,
    "one_shot": 3.4,
    "after": 2.4,
}
"""Samples to .90 over the teacher's; others take five times as many."""
PLACE = {"before": 0.4, "middle": 0.9, "blind": 0.95, "half_rise": 0.85, "after": 1.1}


def made_up(study: st.Study, *, preset: str = "", seed: int = 0) -> Result:
    """A result of a study; of each setting the last teacher did not learn.

    What a study measures besides is not in it.
    """
    rng = np.random.default_rng(seed)
    parts = {k: _part(study, s, rng) for k, s in study.settings.items()}
    return Result(
        study=study,
        teachers=[t for p in parts.values() for t in p.teachers],
        students=[s for p in parts.values() for s in p.students],
        names=tuple(dict.fromkeys(n for p in parts.values() for n in p.names)),
        preset=preset,
        scale=preset or None,
        parts=parts,
        plain={},
        values={},
        measured=None,
        root=Path(),
        progress=None,
    )


def _part(study: st.Study, setting: st.Setting, rng: Any) -> Taught:
    teachers, students = list[Teachers](), list[tuple[Run, ...]]()
    for spec in setting.teacher_specs():
        t = _teachers(setting, spec, rng)
        teachers.append(t)
        runs = []
        for own in t.students(study.lanes(t)):
            caps: Any = getattr(own.stop.max_samples, "values", own.stop.max_samples)
            steps = np.arange(0, np.max(caps) + 1, own.eval_every)
            times = {
                s.name: PACE.get(s.name.partition("#")[0], 5.0)
                * np.where(np.isfinite(t.n90), t.n90, steps[-1] / 4)
                * np.exp(0.3 * _noise(s.name, spec) + 0.02 * s.init)
                for s in own.strategies
            }
            runs.append(_run(own, steps, times, 1 / setting.made_task.n_classes))
        students.append(tuple(runs))
    lanes = [s for r in students[0] for s in r.spec.strategies if s.init == 0]
    return Taught(
        teachers=teachers, students=students, names=tuple(s.name for s in lanes)
    )


def _key(name: str) -> int:
    """The argmax of a final teacher is the label: its students are those of labels."""
    name = "ce" if name == "one_shot_hard" else name
    return sum(map(ord, name)) * (name not in ("middle", "blind"))


def _noise(name: str, spec: RunSpec) -> np.ndarray:
    key = _key(name.partition("#")[0])
    return np.random.default_rng((key, *spec.seeds)).normal(size=spec.n_seeds)


def _teachers(setting: st.Setting, spec: RunSpec, rng: Any) -> Teachers:
    budget, every = setting.budget, spec.checkpoint_every
    fixed = isinstance(budget, st.Fixed)
    limit = setting.samples(budget.teacher if fixed else budget.limit)
    n90 = 0.5 * limit * np.exp(0.25 * rng.normal(size=spec.n_seeds))
    steps = np.arange(0, limit + 1 if fixed else 2.5 * limit, every).astype(int)
    usable = np.ones(spec.n_seeds, bool)
    if not fixed and spec.seeds[-1] == setting.n_teachers - 1 and spec.n_seeds > 1:
        usable[-1], n90[-1] = False, np.inf
    made = Teachers.made_up(setting, spec)
    stages: dict[str, Any] = {}
    for name, old in made.chosen.stages.items():
        share = np.linspace(0.5, 0.9, len(old))
        share = share if len(old) > 1 else [PLACE.get(name, 2.0)]
        stages[name] = tuple(
            tuple(
                _multiple(min(x * n, steps[-1]), every) if np.isfinite(n) else None
                for n in n90
            )
            for x in share
        )
    run = _run(spec, steps, {"teacher": n90}, 1 / setting.made_task.n_classes)
    measured = {} if fixed else _correlations(setting, steps, n90, rng)
    chosen = Chosen(stages, usable, ["teacher late"] * len(n90), measured=measured)
    return Teachers(setting, spec, n90, chosen, run)


def _multiple(n: float, every: int) -> int:
    return max(int(n // every), 1) * every


def _run(
    spec: RunSpec, steps: np.ndarray, times: dict[str, np.ndarray], chance: float
) -> Run:
    run = Run(RunFolder(Path()), spec)
    columns = []
    for name, t in times.items():
        rng = np.random.default_rng((_key(name), len(steps)))
        late = np.log(np.maximum(steps, 1)[:, None] / t + 1e-9) / 0.07 + 1.4
        rise = 1 / (1 + np.exp(-np.clip(late, -30, 30)))
        y = chance + (1 - chance) * rise
        columns.append(np.where(rise < 0.99, y + 0.004 * rng.normal(size=y.shape), 1.0))
    accuracy = np.stack([c.T for c in columns], 1)
    values = {"accuracy": accuracy, "loss": 1.1 - accuracy}
    run.__dict__["metrics"] = Metrics(steps, spec.seeds, tuple(times), values)
    run.__dict__["outcome"] = {"failed": [], "absent": []}
    return run


def _correlations(
    setting: st.Setting, steps: np.ndarray, n90: np.ndarray, rng: Any
) -> dict[str, np.ndarray]:
    """A spike at the transition, on top of what initialisation leaves."""
    rule, at = setting.rule, steps / np.where(np.isfinite(n90), n90, 1e9)[:, None]
    assert isinstance(rule, st.ByGap)
    spike = np.exp(-(((at - 0.92) / 0.08) ** 2))
    left = 0.025 * np.exp(-2 * at)
    out = {"degree1_se": np.full((*at.shape, 8, 2), 0.002)}
    for a in rule.degrees:
        size = 0.002 + left * (a == 1) + 0.004 * rng.random((*at.shape,)) * (a == 1)
        for group, more in (("in_support", 0.012 * a * spike), ("off_support", 0.0)):
            out[f"{group}/{a}"] = np.repeat(
                np.abs(size + more)[..., None, None, None], 2, -1
            )
    out["inside"] = np.abs(out["in_support/1"][..., 0, 0, 0])
    out["outside"] = np.abs(out["off_support/1"][..., 0, 0, 0])
    return out
