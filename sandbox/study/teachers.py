"""One group of teachers: trained, measured, checkpoints chosen; and its students.

    t["middle"]      a checkpoint by the setting's rule, for every seed
    t.stages(name)   several, which teach one after the other
    t.hold           first stage of a 2-shot student
    t.spacing        samples between checkpoints

`lanes` of a study is called with made-up teachers too, which have every candidate: so
bad strategies are refused when a study is built, and estimates know what is trained.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sandbox.distill.sources import PerSeed
from sandbox.distill.strategy import Strategy, fits
from sandbox.errors import ConfigError, DivergenceError, StoreError, require
from sandbox.probes.offline import measure_trajectory
from sandbox.store.code import classes, is_foreign
from sandbox.store.files import read_json
from sandbox.store.folders import RunFolder
from sandbox.study.lanes import Capped, Lane
from sandbox.study.rules import Chosen
from sandbox.study.setting import (
    IN_TURN,
    LEARNED,
    STOP,
    Fixed,
    Setting,
    UntilLearned,
    padding,
)
from sandbox.tasks.base import is_sequence_task
from sandbox.theory.sample_complexity import samples_to
from sandbox.train.loop import fit
from sandbox.train.progress import Progress
from sandbox.train.run import Run, folder_of, identity, open_run
from sandbox.train.spec import RunSpec, Stop, TeacherRef


@dataclass(frozen=True)
class Teachers:
    """One group, seeds in order.

    Attributes:
      setting: what it was trained for.
      spec: its record.
      n90: samples to accuracy .90 of every seed, `(S,)`; infinite where not in time.
      chosen: what the setting's rule found.
      trained: the finished run; None for made-up teachers.
    """

    setting: Setting
    spec: RunSpec
    n90: np.ndarray
    chosen: Chosen
    trained: Run | None = field(default=None, repr=False)

    @classmethod
    def made_up(cls, setting: Setting, spec: RunSpec | None = None) -> "Teachers":
        """Teachers that learned at their limit and have every candidate."""
        spec = spec or setting.teacher_specs()[0]
        n, n90 = spec.n_seeds, setting.samples(setting.budget.expects[1])
        first = (setting.samples(setting.spacing),) * n
        names = setting.rule.names(setting.made_task)
        stages = {name: (first,) * count for name, count in names.items()}
        chosen = Chosen(stages | {"final": ((n90,) * n,)}, np.ones(n, bool))
        return cls(setting, spec, np.full(n, float(n90)), chosen)

    @property
    def run(self) -> Run:
        """The finished run."""
        assert self.trained is not None, "made-up teachers have no run"
        return self.trained

    @property
    def steps(self) -> np.ndarray:
        """Samples seen at each record, `(R,)`."""
        return self.run.metrics.steps

    @property
    def accuracy(self) -> np.ndarray:
        """Accuracy, `(S, R)`."""
        return self.run.metrics.curves("teacher")

    @property
    def measured(self) -> Mapping[str, np.ndarray]:
        """What the rule measured along the trajectory, `(S, R, ...)` by name."""
        return self.chosen.measured

    @property
    def usable(self) -> np.ndarray:
        """Seeds whose teacher learned and has a final checkpoint, `(S,)` bool."""
        return self.chosen.usable

    @property
    def spacing(self) -> int:
        """Samples between checkpoints."""
        return self.spec.checkpoint_every

    def __getitem__(self, name: str) -> int | PerSeed:
        """A candidate checkpoint of every seed."""
        (stage,) = self.stages(name)
        return stage

    def near(self, share: float) -> PerSeed:
        """The checkpoint nearest to a share of the middle one's samples.

        From the first after step 0 to the final one.
        """
        every, stages = self.spacing, self.chosen.stages
        (middle,), (final,) = stages["middle"], stages["final"]

        def nearest(step: int | None, last: int | None) -> int | None:
            if step is None or last is None:
                return None
            regular = min(max(round(share * step / every) * every, every), last)
            steps = (regular, *(s for s in self.spec.checkpoints_at if s <= last))
            return min(steps, key=lambda s: abs(s - share * step))

        return PerSeed(tuple(map(nearest, middle, final)))

    def stages(self, name: str) -> tuple[int | PerSeed, ...]:
        """Checkpoints that teach one after the other."""
        return tuple(self._each(stage) for stage in self.chosen.stages[name])

    def _each(self, values: tuple[int | None, ...]) -> int | PerSeed:
        """One number where the budget makes all seeds alike."""
        if self.setting.budget.varies or values[0] is None:
            return PerSeed(values)
        return values[0] if len(set(values)) == 1 else PerSeed(values)

    @property
    def hold(self) -> int | PerSeed:
        """First stage of a 2-shot student, in samples."""
        s = self.setting
        unit = s.samples(s.student_every)
        if self.trained is None:  # shorter than any real one, so that it always fits
            return s.samples(s.hold) or unit
        if s.hold or isinstance(s.budget, Fixed):
            return self._each((s.samples(s.hold),) * len(self.n90))
        stages = (
            np.maximum(np.round(s.budget.hold_fraction * self.n90 / unit), 1) * unit
        )
        return PerSeed(tuple(int(n) if np.isfinite(n) else None for n in stages))

    def caps(self, cap: float | None = None) -> np.ndarray:
        """Samples that a student of each seed may see; one evaluation if unusable.

        `cap` is a multiple of the teacher's n90, the budget's by default.
        """
        s, b, n90 = self.setting, self.setting.budget, self.n90
        if isinstance(b, Fixed):
            require(not cap, "lanes of a fixed budget have no caps of their own.")
            return np.full(len(n90), s.samples(b.student))
        unit, least = s.samples(s.student_every), s.samples(b.least)
        most = np.where(self.usable, np.maximum((cap or b.cap) * n90, least), 0)
        return np.maximum(np.ceil(most / unit) * unit, unit).astype(int)

    def students(self, lanes: Iterable[Lane]) -> list[RunSpec]:
        """The records of students: one a compiled structure and cap, in order."""
        runs: list[tuple[Capped, list[Strategy]]] = []
        for lane in lanes:
            own = lane if isinstance(lane, Capped) else Capped(lane)
            for first, members in runs:
                alike = replace(own, strategy=first.strategy) == first
                room = len(members) < self.setting.at_once
                if alike and room and _shares(own.strategy, members):
                    members.append(own.strategy)
                    break
            else:
                runs.append((own, [own.strategy]))
        ref = TeacherRef(spec=self.spec, final=self["final"])
        specs = []
        for own, members in runs:
            caps = self.caps(own.cap)
            if own.samples:
                caps = np.where(self.usable, own.samples, caps)
            most = self._each(tuple(map(int, caps)))
            ends = self.setting.budget.varies and not own.whole
            stop = Stop(max_samples=most, accuracy=STOP if ends else None)
            made = self.setting.student_spec(
                tuple(members),
                ref,
                stop,
                model=own.model,
                data=own.data,
                start=ref if own.start else None,
            )
            specs.append(made)
        return specs


def _shares(strategy: Strategy, members: list[Strategy]) -> bool:
    """Whether a strategy fits the compiled structure of others."""
    group = (*members, strategy)
    first = next((s for s in group if s.source.needs_teacher), strategy)
    return all(fits(s, first) for s in group)


def train_group(
    specs: Iterable[RunSpec], root: Path, progress: Progress | None = None
) -> tuple[Run, ...]:
    """Trains every record of one group's students; what exists is only opened.

    A record whose students all became non-finite is kept.

    Raises:
      DivergenceError: that is every record.
    """
    out: list[Run] = []
    failed: list[DivergenceError] = []
    for spec in specs:
        try:
            out += train_students(spec, root, progress)
        except DivergenceError as e:
            failed.append(e)
            out.append(Run(folder_of(spec, root), spec))
    if failed and len(failed) == len(out):
        raise failed[0]
    return tuple(out)


def train_students(
    spec: RunSpec, root: Path, progress: Progress | None = None
) -> tuple[Run, ...]:
    """Trains the strategies of a record that no stored run has, and opens the others.

    A stored run has a strategy if it has all its initialisations and differs in nothing
    but which other strategies it trains. Samples to a level, and curves at samples that
    both runs have, are then those of one run of all; how long a run goes on, and so
    what its last record is, its slowest strategy decides.

    Returns:
      The runs, each with its lanes of the record.
    """
    missing, out = list(spec.strategies), list[Run]()
    for run in [] if folder_of(spec, root).complete else _alike(spec, root):
        there = {s.name for s in missing if s in run.spec.strategies}
        cut = {s.name.partition("#")[0] for s in missing if s.name not in there}
        own = [s for s in missing if s.name.partition("#")[0] not in cut]
        if own:
            missing = [s for s in missing if s not in own]
            run = fit(run.spec, root=root, progress=progress)  # or made by other code
            out.append(replace(run, lanes=tuple(s.name for s in own)))
    if missing:
        padded = padding(spec.task, spec.shape, (spec.n_seeds, len(missing)))
        rest = replace(spec, strategies=tuple(missing), padded=padded)
        try:
            out.append(fit(rest, root=root, progress=progress))
        except DivergenceError:
            if not out:
                raise
            out.append(Run(folder_of(rest, root), rest))
    return tuple(out)


def _alike(spec: RunSpec, root: Path) -> Iterator[Run]:
    """Finished runs that differ from a record in their strategies only.

    What is damaged, or of classes that are not here, is none.
    """
    mine, code = _without_lanes(identity(spec), spec.task)
    own = [cls for cls in classes(spec) if is_foreign(cls)]
    kept = folder_of(spec, root).path  # others are called by as many digits
    for path in sorted(kept.parent.glob(f"{'?' * len(kept.name)}/config.json")):
        with suppress(StoreError, ConfigError, DivergenceError, TypeError, ValueError):
            data = read_json(path)
            record = data.get("spec") if isinstance(data, dict) else None
            if not isinstance(record, dict) or not RunFolder(path.parent).complete:
                continue
            theirs, other = _without_lanes(data, spec.task)
            same = all(other.get(tag, code[tag]) == code[tag] for tag in code)
            if theirs == mine and same:
                yield open_run(path.parent, extra=own, quiet=True)


def _without_lanes(
    content: dict[str, Any], task: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a run is called by, but for its strategies, and the code of own classes.

    Its record has the shape of its programs.
    """
    record = {**content["spec"]}
    own = [record.get("n_seeds"), len(record.pop("strategies", ()))]
    seeds, lanes = record.get("padded") or own
    one_by_one = is_sequence_task(task)
    record["padded"] = [seeds, min(lanes, IN_TURN) if one_by_one else lanes]
    rest = {k: v for k, v in content.items() if k != "foreign"}
    return {**rest, "spec": record}, content.get("foreign", {})


def train_teachers(
    setting: Setting,
    root: Path,
    progress: Progress | None = None,
    *,
    seeds: Sequence[int] | None = None,
) -> list[Teachers]:
    """Trains, measures and reads groups of teachers; what exists is only opened.

    A group whose teachers all became non-finite is kept, and none of it is usable.

    Args:
      setting: whose teachers.
      root: where runs are stored.
      progress: who is told.
      seeds: only groups that begin with one of these; all by default.

    Raises:
      DivergenceError: that is every group.
    """
    out: list[Teachers] = []
    failed: DivergenceError | None = None
    rule, budget, limit, factor = setting.rule, setting.budget, np.inf, np.inf
    if isinstance(budget, UntilLearned):
        limit, factor = setting.samples(budget.limit), budget.factor
    for spec in setting.teacher_specs(root):
        if seeds is not None and spec.first_seed not in seeds:
            continue
        n = spec.n_seeds
        try:
            run = fit(spec, root=root, progress=progress)
        except DivergenceError as e:
            failed, run, n90 = e, Run(folder_of(spec, root), spec), np.full(n, np.inf)
            names = rule.names(setting.made_task)
            chosen = Chosen(
                {name: ((None,) * n,) * count for name, count in names.items()},
                np.zeros(n, bool),
                why=["teacher non-finite"] * n,
                facts=[{"seed": s} for s in spec.seeds],
                each=[None] * n,
            )
        else:
            curves = run.metrics.curves("teacher")
            cap = np.full(n, limit)
            n90 = samples_to(run.metrics.steps, curves, LEARNED, cap=cap)
            measure = partial(measure_trajectory, run, root=root, progress=progress)
            # What a seed's companions make it train beyond its own end is not looked at
            chosen = rule.choose(run, n90, factor * n90, measure)
        out.append(Teachers(setting, spec, n90, chosen, run))
    if failed is not None and not any(t.usable.any() for t in out):
        raise failed
    return out
