"""The curriculum hidden in a teacher's checkpoints, and which of them teaches best.

    python -m experiments.parity_curriculum smoke
    python -m experiments.parity_curriculum cpu --tau 0
    python -m experiments.parity_curriculum --help

Reproduces the "spike" figure of arXiv 2410.05464. Left: the teacher's accuracy with the
candidate checkpoints, found by rule. Middle: mean |correlation| of its output with
low-degree monomials in and off the support; around the transition the in-support ones
spike. Right: students of the 2-shot strategy, one for each candidate.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import parity_setting
from experiments.parity_missing import list_missing, missing_runs
from experiments.parity_setting import Setting
from experiments.parity_students import Taught
from experiments.parity_teachers import (
    Teachers,
    abscissa,
    gaps,
    scaled_rows,
    supports,
    train_teachers,
)
from sandbox.distill.sources import NShot, PerSeed
from sandbox.distill.strategy import Strategy, Target
from sandbox.errors import require

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sandbox.train.progress import Progress

CANDIDATES = ("before", "middle", "after", "blind")
PAPER_CANDIDATES = ("before", "before_last", "middle", "after", "blind")
LABELS = {
    "before": "before (half of n53)",
    "before_last": "before (last below .53)",
    "middle": "middle (largest gap)",
    "after": "after (first > .999)",
    "blind": "blind (no labels)",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      setting: task, teachers and students.
      tau: teacher temperature.
      candidates: which checkpoints teach the first stage.
      student_samples: cap of the students in samples; 0 takes the setting's.
    """

    setting: Setting = field(default_factory=parity_setting.smoke)
    tau: float = 1.0
    candidates: tuple[str, ...] = CANDIDATES
    student_samples: int = 0

    def __post_init__(self) -> None:
        """Refuses unknown candidates and temperatures."""
        Target(tau=self.tau)
        unknown = [c for c in self.candidates if c not in LABELS]
        require(
            bool(self.candidates) and not unknown,
            f"candidates must be among {', '.join(LABELS)}, got {self.candidates}.",
        )
        require(
            self.student_samples >= 0,
            f"student_samples must be at least 0, got {self.student_samples}.",
        )


def smoke() -> Config:
    """d=24, k=6, five teachers of width 500."""
    return Config(setting=parity_setting.smoke())


def cpu() -> Config:
    """d=32, k=6, twenty teachers of width 1000."""
    return Config(setting=parity_setting.cpu())


def paper() -> Config:
    """d=100, k=6, one teacher of width 50,000, students for 2M samples."""
    return Config(
        setting=parity_setting.paper(),
        candidates=PAPER_CANDIDATES,
        student_samples=2_000_000,
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


@dataclass(frozen=True, kw_only=True)
class Result(Taught):
    """Teachers, their students, and fresh measurements of the candidates.

    Attributes:
      config: what was run.
      inside: candidate name -> mean in-support |degree-1 correlation| of every seed on
        fresh inputs, NaN where a seed has no such checkpoint.
      outside: the same off the support.
      probe_seconds: what the fresh measurements took.
    """

    config: Config
    inside: "dict[str, np.ndarray]"
    outside: "dict[str, np.ndarray]"
    probe_seconds: float


def student_caps(config: Config, teachers: Teachers) -> "np.ndarray":
    """Samples a student of each seed may see."""
    import numpy as np

    caps = teachers.caps()
    if config.student_samples:
        return np.where(teachers.usable, config.student_samples, caps)
    return caps


def strategies(
    config: Config, steps: dict[str, PerSeed], hold: int | PerSeed
) -> tuple[Strategy, ...]:
    """One 2-shot lane a candidate."""
    return tuple(
        Strategy(
            name=c,
            source=NShot(steps=(steps[c],), hold=hold),
            target=Target(tau=config.tau),
        )
        for c in config.candidates
    )


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains and measures what is missing and opens the rest."""
    from sandbox.train.loop import fit

    teachers = train_teachers(config.setting, root, progress)
    students = []
    for t in teachers:
        steps = {c: t.per_seed(c) for c in config.candidates}
        lanes = strategies(config, steps, t.holds())
        spec = t.students(lanes, student_caps(config, t))
        students.append((fit(spec, root=root, progress=progress),))
    inside, outside, seconds = _measure_candidates(teachers, root, progress)
    return Result(
        config=config,
        teachers=teachers,
        students=students,
        inside=inside,
        outside=outside,
        probe_seconds=seconds,
    )


def _measure_candidates(
    teachers: list[Teachers], root: Path, progress: "Progress | None"
) -> "tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]":
    """Degree-1 correlations of every candidate on inputs that did not choose it."""
    import numpy as np

    from sandbox.probes.fourier import FourierProbe
    from sandbox.probes.offline import measure_trajectory

    names = (*PAPER_CANDIDATES, "final")
    inside: dict[str, list[float]] = {n: [] for n in names}
    outside: dict[str, list[float]] = {n: [] for n in names}
    seconds = 0.0
    for t in teachers:
        probe = FourierProbe(
            t.setting.task,
            t.run.spec.model,
            degrees=(1,),
            points=t.setting.claim_points,
            first_row=t.setting.choice_points,
        )
        for s, c in enumerate(t.chosen):
            at = {n: getattr(c, n) if t.usable[s] else None for n in names}
            steps = sorted({step for step in at.values() if step is not None})
            found: dict[int | None, tuple[float, float]] = {None: (np.nan, np.nan)}
            if steps:
                out = measure_trajectory(
                    t.run, probe, root=root, steps=steps, seeds=(s,), progress=progress
                )
                seconds += out.wall_seconds
                pairs = gaps(out.values["degree1"][0], supports(t.run, s))
                found.update(zip(steps, zip(*pairs, strict=True), strict=True))
            for n in names:
                inside[n].append(float(found[at[n]][0]))
                outside[n].append(float(found[at[n]][1]))
    return (
        {n: np.asarray(v) for n, v in inside.items()},
        {n: np.asarray(v) for n, v in outside.items()},
        seconds,
    )


def draw(result: Result, *, published: "dict[str, list] | None" = None) -> "Figure":
    """Three panels: teacher and candidates, correlations, students of each candidate.

    With several teachers every abscissa is divided by the teacher's n90, so that seeds
    with early and late transitions can be compared; with one it is in million samples.

    Args:
      result: of `run`.
      published: name -> [(million samples, value), ...] drawn as open circles.
    """
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    with styled():
        fig = Figure(figsize=(WIDE, 2.6), layout="constrained")
        a, b, c = fig.subplots(1, 3)
        _draw_teacher(a, result)
        _draw_correlations(b, result)
        _draw_students(c, result)
        for ax, names in ((a, ("teacher",)), (b, ("inside", "outside")), (c, LABELS)):
            for name in names:
                for px, py in (published or {}).get(name, []):
                    ax.plot(px, py, "o", mfc="none", mec="0.2", ms=3.5, zorder=5)
                    ax.set_ylim(top=max(ax.get_ylim()[1], 1.02 * py))
        if published:
            a.plot([], [], "o", mfc="none", mec="0.2", ms=3.5, label="published")
        fig.legend(*a.get_legend_handles_labels(), loc="outside upper left", ncols=6)
        list_missing(fig, missing_runs(result.teachers, result.students))
        single = result.config.setting.n_teachers == 1
        for ax in (a, b, c):
            ax.set_xlabel("million samples" if single else "samples / n90 of teacher")
    return fig


def _draw_teacher(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.curves import band
    from sandbox.plotting.style import color_of

    rows = [(t.steps, t.accuracy) for t in result.teachers]
    x, y = scaled_rows(result.teachers, rows)
    band(ax, x, y, label="teacher", color=color_of("teacher"))
    scale = abscissa(result.teachers)
    for i, name in enumerate(result.config.candidates):
        steps = [v for t in result.teachers for v in t.per_seed(name).values]
        at = np.asarray([np.nan if s is None else s for s in steps], float) / scale
        at = at[~np.isnan(at)]
        if not len(at):
            continue
        mark = float(np.median(at))
        ax.axvline(mark, color=color_of(name), lw=1.2, label=LABELS[name])
        if len(at) > 1:
            ax.plot(at, np.full(len(at), 0.49 - 0.012 * i), "|", c=color_of(name), ms=3)
    ax.set_xlim(0, None if result.config.setting.n_teachers == 1 else 2.2)
    ax.set_ylim(0.44, 1.02)
    ax.set_ylabel("teacher accuracy")
    ax.set_title(f"teacher, {len(x)} seed{'' if len(x) == 1 else 's'}")


def _draw_correlations(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.curves import band
    from sandbox.plotting.style import DEGREE_COLORS

    def rows(name: str, axes: tuple[int, ...]) -> "list[tuple[np.ndarray, np.ndarray]]":
        return [
            (t.steps, largest_class(t.probe[name]).mean(axes)) for t in result.teachers
        ]

    known = result.teachers[0].probe
    for degree in result.config.setting.degrees:
        color = DEGREE_COLORS[(degree - 1) % len(DEGREE_COLORS)]
        for group, style in (("in_support", "-"), ("off_support", ":")):
            if f"{group}/{degree}" in known:
                x, y = scaled_rows(result.teachers, rows(f"{group}/{degree}", (-1, -2)))
                label = f"degree {degree}" if style == "-" else "_"
                band(ax, x, y, label=label, color=color, linestyle=style)
    x, y = scaled_rows(result.teachers, rows("degree1_se", (-1,)))
    floor = np.sqrt(2 / np.pi) * y  # mean |c| of pure sampling noise
    label = "sampling noise"
    band(ax, x, floor, label=label, color="0.6", linewidth=0.8, shade=False)
    ax.set_xlim(0, 2.2 if result.config.setting.n_teachers > 1 else None)
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend
    ax.set_ylabel("mean |cov(p(1|x), χ_A(x))|")
    ax.set_title("in support (—), off (···)")
    if ax.get_lines():
        single = result.config.setting.n_teachers == 1  # its spike comes late
        ax.legend(loc="upper left" if single else "upper right")


def largest_class(c: "np.ndarray") -> "np.ndarray":
    """|c| of class 1 where C = 2, the largest over classes where C > 2."""
    import numpy as np

    size = np.abs(c)
    return size[..., 1] if size.shape[-1] == 2 else size.max(-1)


def _draw_students(ax: "Axes", result: Result) -> None:
    from sandbox.plotting.curves import band
    from sandbox.plotting.style import color_of

    for name in result.config.candidates:
        x, y = scaled_rows(result.teachers, result.curves(name))
        band(ax, x, y, label=LABELS[name], color=color_of(name))
    if result.config.setting.n_teachers > 1:
        ax.set_xlim(0, result.config.setting.student_cap)
    ax.set_ylim(0.44, 1.02)
    ax.set_ylabel("student accuracy")
    inits = result.config.setting.student_inits
    ax.set_title("2-shot students" + (f", {inits} a teacher" if inits > 1 else ""))


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("parity_curriculum", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
