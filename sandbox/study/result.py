"""What a study hands to its figure and its claims: teachers, students, and numbers.

    r.n90["progressive"] / r.n90.teacher     a ratio, one number a teacher and student
    r.at("two_shot", 0.5) - r.at("ce", 0.5)  paired difference of accuracies

Arrays are `(seeds, initialisations, evaluations)` in this order, or `(teachers,
initialisations)` where all groups are taken together. NaN where a teacher did not learn
or a student has no result, infinite where a level was not reached by the cap.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib.figure import Figure

from sandbox.distill.sources import PerSeed
from sandbox.distill.strategy import Strategy, replica_name
from sandbox.errors import SandboxError
from sandbox.plotting.curves import stack_ragged
from sandbox.probes.offline import Measured, Prepared, Probe, measure_trajectory
from sandbox.store.metrics import to_pandas
from sandbox.study.lanes import label_of
from sandbox.study.rules import LABEL_FREE
from sandbox.study.setting import Fixed, Setting, UntilLearned
from sandbox.study.teachers import Teachers
from sandbox.text import digits
from sandbox.theory.sample_complexity import ratio, samples_to
from sandbox.train.progress import Progress
from sandbox.train.run import Run


@dataclass(frozen=True)
class Quantity:
    """One number a teacher (and student), with the words for it.

    Attributes:
      values: `(T, I)`.
      text: what it is, e.g. `n90(ce) / n90(teacher)`.
      students: whether students entered.
      ratio: whether it is a ratio of numbers of samples.
    """

    values: Float[np.ndarray, "T I"]
    text: str
    students: bool = True
    ratio: bool = False

    def __truediv__(self, other: "Quantity | int | float") -> "Quantity":
        """Paired ratio; infinite means beyond the cap (`theory.sample_complexity`)."""
        if not isinstance(other, Quantity):
            return Quantity(self.values / other, f"{self.text} / {other:g}")
        return Quantity(
            ratio(self.values, other.values),
            f"{self.text} / {other.text}",
            self.students or other.students,
            ratio=True,
        )

    def __sub__(self, other: "Quantity") -> "Quantity":
        """Paired difference; of students, over the initialisations that both have."""
        a, b = self.values, other.values
        if self.students and other.students:
            n = min(a.shape[1], b.shape[1])
            a, b = a[:, :n], b[:, :n]
        return Quantity(
            a - b,
            f"{self.text} - {other.text}",
            self.students or other.students,
        )


def of_teachers(values: Sequence[float] | np.ndarray, text: str) -> Quantity:
    """One number a teacher, NaN where it has none."""
    return Quantity(np.asarray(values, float)[:, None], text, students=False)


@dataclass(frozen=True)
class Reach:
    """Samples to a level of accuracy: of students by strategy, and of the teachers."""

    taught: "Taught"
    level: float

    def __getitem__(self, who: str) -> Quantity:
        """Of a strategy's students, or of the teachers that learned.

        Infinite beyond the cap, and for a blind choice that found no checkpoint; NaN
        for a seed whose teacher did not learn, whose rule has no checkpoint, or whose
        student became non-finite.
        """
        groups = zip(self.taught.teachers, self.taught.runs(who), strict=True)
        rows = []
        for t, run in groups:
            if run is None:
                rows.append(np.full((len(t.n90), t.setting.inits), np.nan))
                continue
            steps, caps, columns = run.metrics.steps, caps_of(run), []
            for lane in student_lanes(run, who):
                n = samples_to(steps, run.metrics.curves(lane), self.level, cap=caps)
                absent = _lost(run, lane, "absent")
                n[absent] = np.inf if who in LABEL_FREE else np.nan
                if who != "teacher":  # one that diverged afterwards has learned
                    n[_lost(run, lane, "failed")] = np.nan
                columns.append(np.where(t.usable, n, np.nan))
            rows.append(np.stack(columns, 1))
        text = f"n{round(100 * self.level)}({who})"
        return Quantity(stack_rows(rows), text, students=who != "teacher")

    @property
    def teacher(self) -> Quantity:
        """Of the teachers that learned, NaN for the others."""
        return self["teacher"]


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Teachers of one setting (or of several) and their students, group by group.

    Attributes:
      teachers: one entry a group.
      students: the finished runs of each group's students; none where no teacher of a
        group learned.
      names: of the strategies in the order of the lanes.
    """

    teachers: list[Teachers]
    students: list[tuple[Run, ...]]
    names: tuple[str, ...]

    @property
    def setting(self) -> Setting:
        """The setting, the first of several."""
        return self.teachers[0].setting

    @property
    def strategies(self) -> dict[str, Strategy]:
        """Every strategy by name, in the order of the lanes."""
        runs = [run for group in self.students for run in group]
        found = {s.name: s for r in runs for s in r.strategies if s.init == 0}
        return {name: found[name] for name in self.names if name in found}

    def label(self, name: str) -> str:
        """What a strategy is called in figures."""
        return label_of(self.strategies.get(name, name))

    def runs(self, who: str) -> Sequence[Run | None]:
        """The run of every group that holds a strategy, or the teachers'."""
        if who == "teacher":
            return [t.run for t in self.teachers]
        return [
            next((r for r in group if who in [s.name for s in r.strategies]), None)
            for group in self.students
        ]

    def curves(
        self, who: str, metric: str = "accuracy"
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Samples `(R,)` and a metric `(S, I, R)` of every group.

        Args:
          who: a strategy, or `teacher`.
          metric: what was recorded.
        """
        out = []
        for t, run in zip(self.teachers, self.runs(who), strict=True):
            if run is None:
                shape = (len(t.n90), t.setting.inits, 1)
                out.append((np.zeros(1), np.full(shape, np.nan)))
            else:
                out.append((run.metrics.steps, student_curves(run, who, metric)))
        return out

    @property
    def abscissa(self) -> np.ndarray:
        """What samples of every seed are divided by in figures; NaN leaves it out.

        Steps where training has a fixed length; millions of samples for a single
        teacher; else units of each teacher's n90, so that early and late transitions
        can be compared.
        """
        s = self.setting
        usable = np.concatenate([t.usable for t in self.teachers])
        n90 = np.concatenate([t.n90 for t in self.teachers])
        if isinstance(s.budget, Fixed):
            return np.where(usable, float(s.one), np.nan)
        return np.where(usable, 1e6 if len(n90) == 1 else n90, np.nan)

    @property
    def abscissa_text(self) -> str:
        """The label of that axis."""
        if isinstance(self.setting.budget, Fixed):
            return "optimizer steps"
        return (
            "million samples" if len(self.abscissa) == 1 else "samples / n90 of teacher"
        )

    def rows(
        self,
        curves: Sequence[tuple[np.ndarray, np.ndarray]],
        *,
        learned: float = 2.0,
        until: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every group's (samples, values) as (x, y) rows of the usable seeds.

        Args:
          curves: values are `(S, R)`, or `(S, I, R)`.
          learned: a curve that ended at this value or above, because its run stops
            there, goes on at its last value.
          until: abscissa up to which it does.
        """
        rows = [(steps, np.atleast_2d(y)) for steps, ys in curves for y in ys]
        keep = np.flatnonzero(~np.isnan(self.abscissa))
        flat = [(rows[i][0] / self.abscissa[i], y) for i in keep for y in rows[i][1]]
        flat = [
            (np.append(x, until), np.append(y, y[-1]))
            if y[-1] >= learned and x[-1] < until
            else (x, y)
            for x, y in flat
        ]
        return stack_ragged([x for x, _ in flat]), stack_ragged([y for _, y in flat])

    def along(
        self, value: Callable[[Teachers], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What was measured along the usable teachers' trajectories as (x, y) rows.

        Args:
          value: group -> `(S, R)`; not asked where none of a group is usable.
        """
        return self.rows(
            [
                (t.steps, value(t) if t.usable.any() else np.zeros_like(t.accuracy))
                for t in self.teachers
            ]
        )

    def reach(self, level: float) -> Reach:
        """Samples to a level of accuracy."""
        return Reach(self, level)

    @property
    def n90(self) -> Reach:
        """Samples to accuracy .90."""
        return Reach(self, 0.9)

    def at(
        self,
        strategy: str,
        share: float = 1.0,
        *,
        until: Callable[[Teachers], np.ndarray] | None = None,
        text: str = "",
    ) -> Quantity:
        """Accuracy of students at a share of their records, or up to some sample.

        Args:
          strategy: whose students.
          share: of records, where all have a fixed length.
          until: group -> samples of every seed, whose last evaluation is taken instead.
          text: when that is, in words.
        """
        rows = []
        for t, (steps, y) in zip(self.teachers, self.curves(strategy), strict=True):
            last = np.full(len(y), round(share * (len(steps) - 1)))
            if until is not None:
                last = np.searchsorted(steps, until(t), side="right") - 1
            there = (t.usable & (last >= 0))[:, None]
            rows.append(np.where(there, y[np.arange(len(y)), :, last], np.nan))
        return Quantity(stack_rows(rows), f"accuracy({strategy}) {text}".strip())

    def of_seeds(self, value: Callable[[Teachers, int], float], text: str) -> Quantity:
        """A number of every usable teacher, from its group and position."""
        rows = [
            value(t, s) if ok else np.nan
            for t in self.teachers
            for s, ok in enumerate(t.usable)
        ]
        return of_teachers(rows, text)

    def missing(self) -> list[str]:
        """One phrase for every run that was asked for and no curve shows whole.

        A student whose teacher did not learn is not listed beside its teacher.
        """
        out: list[str] = []
        for t, runs in zip(self.teachers, self.students, strict=True):
            budget = t.setting.budget
            bad = {a["seed"]: a["sample"] for a in t.run.outcome["failed"]}
            out += [f"seed {s}: teacher non-finite at {at:,}" for s, at in bad.items()]
            for i, s in enumerate(t.spec.seeds):
                if not t.usable[i] and s not in bad:
                    why = t.chosen.why[i]
                    if isinstance(budget, UntilLearned) and not np.isfinite(t.n90[i]):
                        why = f"teacher not at .90 by {budget.limit:,} {t.setting.unit}"
                    out.append(f"seed {s}: {why}")
            for run in runs:
                lost = [
                    (a, f"non-finite at {a['sample']:,}") for a in run.lost("failed")
                ]
                first = {lane.name for lane in run.strategies if lane.init == 0}
                lost += [  # all initialisations of a strategy lack the same checkpoint
                    (a, "no checkpoint by its rule")
                    for a in run.lost("absent")
                    if a["strategy"] in first
                ]
                out += [
                    f"seed {a['seed']} / {a['strategy']}: {what}"
                    for a, what in lost
                    if t.usable[t.spec.seeds.index(a["seed"])]
                ]
        return out

    def every_run(self) -> list[Run]:
        """The teachers' runs, then the students'."""
        taught = [r for group in self.students for r in group]
        return [*(t.run for t in self.teachers), *taught]

    def __repr__(self) -> str:
        """How many teachers learned, and how students compare."""
        text = f"{len(self.teachers)} groups"
        with suppress(Exception):  # whatever is wrong with a file, it can be shown
            usable = np.concatenate([t.usable for t in self.teachers])
            text = f"{usable.sum()} of {len(usable)} teachers learned"
            if isinstance(self.setting.budget, Fixed):
                words = "accuracy at the end"
                found = {n: self.at(n).values for n in self.strategies}
            else:
                words, n90 = "n90 / n90 of the teacher", self.n90
                found = {n: (n90[n] / n90.teacher).values for n in self.strategies}
            known = {n: v[~np.isnan(v)] for n, v in found.items()}
            medians = (
                f"{n} {digits(np.median(v))}" for n, v in known.items() if len(v)
            )
            text += f"; {words}, medians: {', '.join(medians)}"
        return text


@dataclass(frozen=True, kw_only=True)
class Result(Taught):
    """Everything a study trained, measured and computed.

    Attributes:
      study: whose result it is.
      preset: what its config started from.
      scale: the preset's name where nothing was overridden, else None.
      parts: the teachers and students of every setting by name.
      plain: runs apart from teachers and students, by key.
      values: arrays that were computed, by piece.
      measured: what the study's `measure` returned.
      root: where runs are stored.
      progress: who is told.
      seconds: what every measurement took.
    """

    study: Any
    preset: str
    scale: str | None
    parts: Mapping[str, Taught]
    plain: Mapping[str, Run]
    values: Mapping[str, dict[str, np.ndarray]]
    measured: Any
    root: Path
    progress: Progress | None
    seconds: list[float] = field(default_factory=list)

    def measure(self, run: Run, probe: Probe | Prepared, **which: Any) -> Measured:
        """Measures a run of this study, or opens the measurement if it was made.

        Args:
          run: of this study.
          probe: what is measured.
          **which: `steps`, `seeds` and `lane`, as of `measure_trajectory`.
        """
        found = measure_trajectory(
            run, probe, root=self.root, progress=self.progress, **which
        )
        self.seconds.append(found.wall_seconds)
        return found

    def probe(
        self,
        who: str,
        probe_of: Callable[[Run], Probe | Prepared],
        steps: Sequence[int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Measures all teachers, or all students of a strategy: `(T, P, ...)` by name.

        Args:
          who: a strategy (its first initialisation), or `teacher`.
          probe_of: run -> what is measured.
          steps: checkpoints in samples; the last one by default.

        Returns:
          NaN where a teacher did not learn or a student has no result.

        Raises:
          SandboxError: no teacher learned.
        """
        found: list[dict[str, np.ndarray]] = []
        for t, run in zip(self.teachers, self.runs(who), strict=True):
            if run is None or not t.usable.any():
                found.append({})
                continue
            lane = [s.name for s in run.spec.strategies].index(who)
            at = run.trajectory.steps[-1:] if steps is None else steps
            measured = self.measure(run, probe_of(run), steps=at, lane=lane).values
            values = {k: v.copy() for k, v in measured.items()}
            lost = ~t.usable | _lost(run, who, "failed") | _lost(run, who, "absent")
            for v in values.values():
                v[lost] = np.nan
            found.append(values)
        first = next(filter(None, found), None)
        if first is None:
            raise SandboxError(
                f"no teacher learned ({'; '.join(self.missing())}); try another"
                " learning rate or more training."
            )
        return {
            k: np.concatenate([v.get(k, np.nan * like) for v in found])
            for k, like in first.items()
        }

    def missing(self) -> list[str]:
        """Of every part, named where there are several, and of plain runs by key."""
        out = [
            f"{name}: {what}" if len(self.parts) > 1 else what
            for name, part in self.parts.items()
            for what in part.missing()
        ]
        for key, run in self.plain.items():
            for lane in run.outcome["failed"]:
                at = f"{lane['sample']:,}"
                out.append(f"{key}, seed {lane['seed']}: non-finite at {at}")
        return out

    def plot(self) -> Figure:
        """The study's figure."""
        return self.study.draw(self)

    def table(self) -> pa.Table:
        """What every run recorded: rows `part, step, seed, strategy, ...metrics`.

        A part is a setting or the key of a plain run. What a run has no metric of is
        null.
        """
        runs = [(name, r) for name, p in self.parts.items() for r in p.every_run()]
        runs += list(self.plain.items())
        rows = []
        for name, run in runs:
            own = run.table()
            rows.append(own.add_column(0, "part", pa.array([name] * len(own))))
        return pa.concat_tables(rows, promote_options="default")

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`.

        Raises:
          SandboxError: pandas is not installed.
        """
        return to_pandas(self.table())

    def __repr__(self) -> str:
        """What was run, and how each part came out, a line a part."""
        parts = (
            f"\n  {n}: {p!r}" if n else f"\n  {p!r}" for n, p in self.parts.items()
        )
        other = f"\n  {len(self.plain)} plain runs" if self.plain else ""
        name = type(self.study).__name__
        return f"<{name} {self.preset or 'of its own'}{''.join(parts)}{other}>"

    def every_run(self) -> list[Run]:
        """Every run that the study stands on, each once, teachers first."""
        every = (*super().every_run(), *self.plain.values())
        return list({run.folder.path: run for run in every}.values())


def stack_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """`(S, I)` of every group as `(T, I)`, padded with NaN."""
    most = max((r.shape[1] for r in rows), default=1)
    return np.concatenate(
        [
            np.pad(r, ((0, 0), (0, most - r.shape[1])), constant_values=np.nan)
            for r in rows
        ]
    )


def student_lanes(run: Run, strategy: str) -> list[str]:
    """The lanes of a strategy in a run of students, one an initialisation."""
    names = [replica_name(strategy, i) for i in range(len(run.strategies))]
    return [n for n in names if n in {s.name for s in run.strategies}]


def student_curves(
    run: Run, strategy: str, metric: str = "accuracy"
) -> Float[np.ndarray, "S I R"]:
    """A metric of all students of a strategy: seeds, initialisations, evaluations."""
    lanes = student_lanes(run, strategy)
    return np.stack([run.metrics.curves(lane, metric) for lane in lanes], 1)


def _lost(run: Run, lane: str, kind: str) -> np.ndarray:
    """Seeds of a run whose lane `failed`, or is `absent`, `(S,)` bool."""
    seeds = [a["seed"] for a in run.outcome[kind] if a["strategy"] == lane]
    return np.isin(run.metrics.seeds, seeds)


def caps_of(run: Run) -> Float[np.ndarray, " S"]:
    """Samples after which each seed of a run was given up."""
    most = run.spec.stop.max_samples
    caps = np.asarray(most.values if isinstance(most, PerSeed) else most, float)
    return np.broadcast_to(caps, len(run.metrics.seeds))
