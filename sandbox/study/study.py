"""A study: teachers, the curriculum in their checkpoints, students, figure, claims.

    class MyIdea(Study):
        \"\"\"One line of what it shows.\"\"\"

        setting: Setting = Setting(task=Parity(d=24, k=6))
        tau: float = 1.0
        presets = {"smoke": preset("d=24"), "cpu": preset("ten", n_teachers=10)}

        def lanes(self, t):
            return ce(), one_shot(self.tau), two_shot(t["middle"], t.hold, self.tau)

        def figure(self, r):
            fig, (a, b) = panels(1, 2)
            accuracy(a, r)
            strips(b, r)
            return fig

    MyIdea().run().n90["two_shot"]
    MyIdea.main()      # PRESET --tau 0 --setting.task.d 32 --grid tau=0.25,1,4

A study is a frozen record; its fields are its knobs. Everything is trained and measured
once and found again by what it is, so the same call goes on after an interruption.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import (
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    dataclass_transform,
    runtime_checkable,
)

import numpy as np
from matplotlib.figure import Figure

from sandbox.command import Root, guarded, parse_config
from sandbox.errors import ConfigError, DivergenceError, SandboxError, require
from sandbox.platforms import suffix
from sandbox.plotting.style import styled
from sandbox.store.bounds import check_fields
from sandbox.store.config import digest, to_json
from sandbox.store.folders import default_root
from sandbox.study import figures
from sandbox.study.claims import Claim
from sandbox.study.estimate import print_estimate
from sandbox.study.grid import write_grid
from sandbox.study.lanes import Lane
from sandbox.study.report import Report
from sandbox.study.result import Result, Taught
from sandbox.study.setting import Setting
from sandbox.study.teachers import Teachers, train_group, train_teachers
from sandbox.tasks.base import check_target
from sandbox.train.arithmetic import pinned
from sandbox.train.loop import fit
from sandbox.train.progress import Progress
from sandbox.train.resumable import compute
from sandbox.train.run import Run, folder_of
from sandbox.train.spec import RunSpec

S = TypeVar("S", bound="Study")  # the types that tests check know no Self


Preset = tuple[str, Mapping[str, Any]]


def preset(text: str, **fields: Any) -> Preset:
    """A preset: what it is, in a line, and the fields that differ from the defaults."""
    return text, fields


@runtime_checkable
class Computed(Protocol):
    """A frozen record of what a study computes without training."""

    def pieces(self) -> Mapping[str, Callable[[], dict[str, np.ndarray]]]:
        """Name -> what computes it; each is stored when it is done."""
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """What else the command line can ask for.

    Attributes:
      root: where runs are stored.
      estimate: say how long it would take, and stop.
      publish: also write the committed files, figures/ and paper_repro/results/.
      grid: run every combination of these values, e.g. tau=0.25,1 setting.task.d=24,32.
    """

    root: Root = None
    estimate: bool = False
    publish: bool = False
    grid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses a file in place of a folder."""
        ok = self.root is None or self.root.is_dir() or not self.root.exists()
        require(ok, f"--root: {self.root} is not a folder.")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Study:
    """The base of every study; subclasses are frozen records.

    Write `setting` (or `settings`, or `plain_runs`, or `computed`), `presets`,
    `lanes`, `figure`, and, where something is claimed, `claims`.
    """

    presets: ClassVar[Mapping[str, Preset]] = {"smoke": ("the defaults", {})}
    since: ClassVar[dict[str, str]] = {}
    """A claim's id, or its scale -> date and commit that first evaluated it."""

    def __init_subclass__(cls) -> None:
        """Makes the subclass a frozen record."""
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)
        taken = [f.name for f in fields(Options) if f.name in cls.__annotations__]
        require(
            not taken,
            f"{cls.__name__}: the command line has an option {', '.join(taken)} of its"
            " own; call the field something else.",
        )

    def __post_init__(self) -> None:
        """Refuses what would fail later; subclasses say more in `check`."""
        check_fields(self, "")
        self.check()
        for setting in self.settings.values():
            check_target(setting.made_task)
            made_up = Teachers.made_up(setting)
            made_up.students(self.lanes(made_up))
        self.plain_runs  # noqa: B018 (builds the records)

    # ---- what a study says

    def check(self) -> None:
        """Refuses fields that do not fit together."""

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Every setting by name; the field `setting` where there is one."""
        own = getattr(self, "setting", None)
        return {} if own is None else {"": own}

    @property
    def plain_runs(self) -> Mapping[str, RunSpec]:
        """Runs apart from teachers and students, by key."""
        return {}

    @property
    def computed(self) -> Computed | None:
        """What is computed without training."""
        return None

    def lanes(self, t: Teachers) -> Sequence[Lane]:
        """The strategies that students of some teachers, real or made up, learn by."""
        return ()

    def measure(self, r: Result) -> Any:
        """Further measurements, which figure and claims find in `r.measured`."""

    def figure(self, r: Result) -> Figure:
        """Left: accuracy of teachers and students. Right: each run's samples to .90.

        One row a setting. A figure of one's own says in its docstring what it shows.
        """
        require(
            bool(r.parts), f"{type(self).__name__} draws no figure; define `figure`."
        )
        size = len(r.parts)
        fig, axes = figures.panels(size, 2, height=2.7 * size, squeeze=False)
        for (name, part), (a, b) in zip(r.parts.items(), axes, strict=True):
            figures.accuracy(a, part)
            figures.strips(b, part)
            a.set_title(name)
        return fig

    def claims(self, r: Result) -> Iterable[Claim]:
        """The claims, by rules of the smoke and cpu scales (or of every scale)."""
        return ()

    def paper_claims(self, r: Result) -> Iterable[Claim]:
        """The claims by the rules of the paper scale."""
        return self.claims(r)

    def facts(self, r: Result) -> dict[str, Any]:
        """What the result file records besides, as JSON data."""
        return {}

    def summary(self, r: Result) -> Sequence[str]:
        """Lines that are printed above the claims."""
        return ()

    # ---- what comes with it

    @classmethod
    def name(cls) -> str:
        """The stem of the study's file; in a notebook its class, with underscores."""
        stem = ""
        with suppress(TypeError, OSError):
            stem = Path(inspect.getfile(cls)).stem
        if stem.isidentifier() and stem != "__main__":
            return stem
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def preset(cls: type[S], name: str) -> S:
        """The study with a preset's values."""
        require(name in cls.presets, f"{cls.name()} has no preset {name!r}.")
        return cls(**cls.presets[name][1])

    def _is(self, preset: str) -> bool:
        """Whether this is a preset as it stands."""
        return preset in self.presets and self.preset(preset) == self

    @pinned()
    def run(
        self,
        *,
        root: Path | str | None = None,
        progress: Progress | None = None,
        preset: str = "",
    ) -> Result:
        """Trains, measures and computes what is missing, and opens the rest.

        Args:
          root: where runs are stored; `$SANDBOX_RUNS` or `runs` by default.
          progress: who is told; a bar or plain lines by default.
          preset: what this study's fields started from.
        """
        root = default_root() if root is None else Path(root)
        plain = _fit_all(self.plain_runs, root, progress)
        values: Mapping[str, dict[str, np.ndarray]] = {}
        seconds: list[float] = []
        if self.computed is not None:
            found = compute(
                self.computed, self.computed.pieces(), root=root, progress=progress
            )
            values = found.values
            seconds.append(found.wall_seconds)
        parts = {k: _taught(self, s, root, progress) for k, s in self.settings.items()}
        result = Result(
            study=self,
            teachers=[t for p in parts.values() for t in p.teachers],
            students=[s for p in parts.values() for s in p.students],
            names=tuple(dict.fromkeys(n for p in parts.values() for n in p.names)),
            preset=preset,
            scale=preset if self._is(preset) else None,
            parts=parts,
            plain=plain,
            values=values,
            measured=None,
            root=root,
            progress=progress,
            seconds=[
                *seconds,
                *(t.chosen.seconds for p in parts.values() for t in p.teachers),
            ],
        )
        return replace(result, measured=self.measure(result))

    def draw(self, r: Result) -> Figure:
        """The figure in the project's style, its legend and what is missing added."""
        with styled():
            fig = self.figure(r)
            figures.finish(fig, r)
        return fig

    def groups(self) -> dict[str, Callable[[Path], None]]:
        """What can be trained apart, by other processes: name -> what trains it.

        A group is some seeds of a setting, from their teachers to the last student, a
        plain run with those that learn from it, or all that is computed. It is called
        with the folder of runs, where `run` finds what it trained; teachers that all
        became non-finite are a finding.
        """
        out: dict[str, Callable[[Path], Any]] = {}
        for key, setting in self.settings.items():
            for spec in setting.teacher_specs():
                name = f"{key}/{spec.seeds[0]}-{spec.seeds[-1]}".strip("/")
                out[name] = partial(
                    _taught, self, setting, progress=None, seeds=spec.seeds
                )
        for runs in _connected(self.plain_runs):
            out[next(iter(runs))] = partial(_fit_all, runs, progress=None)
        if (what := self.computed) is not None:
            out["computed"] = lambda root: compute(what, what.pieces(), root=root)
        return {name: partial(_group, train) for name, train in out.items()}

    @pinned()
    def report(self, r: Result) -> Report:
        """Figure, claims and table of a result."""
        paper = r.preset.startswith("paper")
        own = type(self).paper_claims is not Study.paper_claims
        scale = ("paper" if paper else "smoke, cpu") if own else "any"
        made, since = self.paper_claims(r) if paper else self.claims(r), self.since
        folder = f"{self.name()}.{r.preset or 'custom'}"
        if r.scale is None:
            folder += f".{digest(to_json(self))[:8]}"
        return Report(
            study=self.name(),
            result=r,
            config=self,
            figure=self.draw(r),
            caption=inspect.getdoc(type(self).figure) or "",
            claims=[
                replace(c, scale=scale, since=since.get(c.id, since.get(scale, "")))
                for c in made
            ],
            facts=self.facts(r),
            summary=self.summary(r),
            folder=r.root / "studies" / f"{folder}{suffix()}",
        )

    @classmethod
    def main(cls, argv: Sequence[str] | None = None) -> None:
        """The command line: a preset, overrides of any field, or a grid of them."""
        file = Path(sys.argv[0]).stem
        known = {n: (text, cls.preset(n)) for n, (text, _) in cls.presets.items()}
        doc = inspect.getdoc(inspect.getmodule(cls)) or inspect.getdoc(cls) or ""
        name, studies, options = parse_config(
            known,
            sys.argv[1:] if argv is None else argv,
            prog=f"python -m experiments.{file}" if "experiments" in doc else file,
            description=doc,
            options=Options(),
        )
        guarded(lambda: run_all(name, studies, options))


def study_in(module: ModuleType) -> type[Study]:
    """The study that a module defines.

    Raises:
      ConfigError: it defines none, or several.
    """
    found = [
        v
        for v in vars(module).values()
        if isinstance(v, type)
        and issubclass(v, Study)
        and v.__module__ == module.__name__
    ]
    require(
        len(found) == 1, f"{module.__name__} defines {len(found)} studies, not one."
    )
    return found[0]


def _taught(
    study: Study,
    setting: Setting,
    root: Path,
    progress: Progress | None,
    seeds: Sequence[int] | None = None,
) -> Taught:
    """Teachers of a setting, what is measured along them, and their students."""
    teachers = train_teachers(setting, root, progress, seeds=seeds)
    specs = [t.students(study.lanes(t)) if t.usable.any() else () for t in teachers]
    students = [train_group(own, root, progress) for own in specs]
    lanes = (s for own in specs for spec in own for s in spec.strategies)
    names = tuple(dict.fromkeys(s.name for s in lanes if s.init == 0))
    return Taught(teachers=teachers, students=students, names=names)


@pinned()
def _group(train: Callable[[Path], Any], root: Path) -> None:
    with suppress(DivergenceError):
        train(root)


def _connected(runs: Mapping[str, RunSpec]) -> list[dict[str, RunSpec]]:
    """Plain runs, those that need each other together, each after what it needs."""
    out: list[dict[str, RunSpec]] = []
    for key, spec in runs.items():
        needs = [ref.spec for ref in (spec.teacher, spec.start) if ref is not None]
        joined = [part for part in out if any(s in needs for s in part.values())]
        out = [part for part in out if part not in joined]
        out.append({k: s for part in joined for k, s in part.items()} | {key: spec})
    return out


def _fit_all(
    runs: Mapping[str, RunSpec], root: Path, progress: Progress | None
) -> dict[str, Run]:
    return {key: _fit(spec, root, progress) for key, spec in runs.items()}


def _fit(spec: RunSpec, root: Path, progress: Progress | None) -> Run:
    """A plain run; one whose lanes all became non-finite is a finding of the study."""
    try:
        return fit(spec, root=root, progress=progress)
    except DivergenceError:
        return Run(folder_of(spec, root), spec)


def run_all(preset: str, studies: Sequence[Study], options: Options) -> None:
    """Runs a study, or every point of a grid, and writes what each leaves behind.

    Raises:
      ConfigError: a study with overridden fields is to be published.
      SandboxError: there is no checkout to publish in.
    """
    root = options.root or default_root()
    if options.estimate:
        print_estimate({s.name(): s for s in studies}, root)
        return
    results = Path.cwd() / "paper_repro" / "results"
    if options.publish:
        if not all(study._is(preset) for study in studies):
            raise ConfigError("only a preset as it stands is published, no overrides.")
        if not results.is_dir():
            raise SandboxError(f"--publish needs a checkout; {results} is not there.")
    reports = []
    for study in studies:
        report = study.report(study.run(root=root, preset=preset))
        report.write()
        if options.publish:
            report.publish(Path.cwd() / "figures", results)
        reports.append(report)
    if len(reports) > 1:
        write_grid(reports, root)
