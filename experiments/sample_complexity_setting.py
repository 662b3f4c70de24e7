"""What `experiments.sample_complexity` runs: problems, presets, and student lanes."""

from dataclasses import dataclass
from itertools import pairwise

from experiments.parity_setting import Setting
from sandbox.distill.sources import Final, NShot, PerSeed, Progressive
from sandbox.distill.strategy import Strategy, Target
from sandbox.errors import require
from sandbox.tasks.parity import NoisyParity, Parity, RandomSupport

LIMIT = 200
"""Teacher checkpoints within which a teacher must have learned."""
FINEST = 2560
"""Samples between evaluations of students, unless their teacher is quicker."""
FITTED = ("teacher", "ce", "one_shot", "progressive", "two_shot")
"""Strategies whose exponents are fitted."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      grid: (d, k, spacing) of every problem; spacing is the number of samples between
        teacher checkpoints, about a thirtieth of what teachers need.
      main_k: whose exponents the claims speak of.
      base: the problem whose student width and label noise are varied.
      widths: student widths tried there.
      noises: shares of flipped labels tried there.
      teacher_width: hidden units of teachers.
      student_width: hidden units of students.
      holds: lengths of the 2-shot student's first stage, in samples.
      hold: the one that claims rest on.
      tau: teacher temperature.
      ce_cap: samples of a CE student, as a multiple of its teacher's n90.
      one_shot_cap: the same of one-shot students.
      cap: the same of the others; no cap is below three times the longest hold.
      min_teachers: teachers of every problem.
      max_teachers: most teachers of a problem in `grid`.
      group: teachers trained together.
      precision: width of an exponent's 95% interval at which no more are added.
    """

    grid: tuple[tuple[int, int, int], ...] = ((10, 4, 128), (14, 4, 256), (20, 4, 512))
    main_k: int = 4
    base: tuple[int, int, int] = (14, 4, 256)
    widths: tuple[int, ...] = ()
    noises: tuple[float, ...] = ()
    teacher_width: int = 200
    student_width: int = 20
    holds: tuple[int, ...] = (2048, 4096)
    hold: int = 4096
    tau: float = 1.0
    ce_cap: float = 6.0
    one_shot_cap: float = 6.0
    cap: float = 6.0
    min_teachers: int = 3
    max_teachers: int = 6
    group: int = 3
    precision: float = 2.0

    def __post_init__(self) -> None:
        """Builds every setting and strategy once, so that bad values fail here."""
        for name in ("grid", "holds"):
            require(len(getattr(self, name)) > 0, f"{name} must not be empty.")
        for cell in (*self.grid, self.base):
            require(
                len(cell) == 3 and cell[2] > 0 and cell[2] % 64 == 0,
                "grid must hold (d, k, spacing) with a spacing that is a multiple of"
                f" 64, got {cell}.",
            )
        require(
            len({cell[:2] for cell in self.grid}) == len(self.grid),
            "grid must hold every (d, k) once.",
        )
        require(
            self.main_k in ks_fitted(self),
            f"main_k = {self.main_k} must be a k of which grid has three or more d.",
        )
        require(
            self.hold in self.holds,
            f"hold = {self.hold} must be one of holds = {self.holds}.",
        )
        require(
            all(a < b for a, b in pairwise(self.holds)),
            f"holds must increase, got {self.holds}.",
        )
        require(
            1 <= self.min_teachers <= self.max_teachers
            and self.min_teachers % self.group == 0
            and self.max_teachers % self.group == 0,
            "min_teachers and max_teachers must be multiples of group, the first at"
            f" most the second, got {self.min_teachers}, {self.max_teachers} and"
            f" {self.group}.",
        )
        require(
            self.precision > 0, f"precision must be positive, got {self.precision}."
        )
        for name in ("ce_cap", "one_shot_cap", "cap"):
            v = getattr(self, name)
            require(v > 0, f"{name} must be positive, got {v}.")
        require(
            all(eps > 0 for eps in self.noises),
            f"noises must be positive (the grid is without), got {self.noises}.",
        )
        for problem in self.problems:
            every = problem.eval_every
            uneven = [h for h in self.holds if h % every]
            require(
                not uneven and problem.spacing % every == 0,
                f"holds and the spacing of (d, k) = ({problem.d}, {problem.k}) must be"
                f" multiples of {every}, its evaluations; got {self.holds} and"
                f" {problem.spacing}.",
            )
            setting = self.setting(problem)
            for lanes, _ in student_lanes(self, setting, middle=0):
                setting.example_students(lanes)

    @property
    def problems(self) -> "list[Problem]":
        """Every problem, those of the grid first."""
        width = self.student_width
        out = [Problem(*cell, width, 0.0) for cell in self.grid]
        out += [Problem(*self.base, w, 0.0) for w in self.widths if w != width]
        out += [Problem(*self.base, width, eps) for eps in self.noises]
        base = Problem(*self.base, width, 0.0)
        return out if base in out else [*out, base]

    def setting(self, problem: "Problem", n_teachers: int | None = None) -> Setting:
        """Teachers and budgets of a problem."""
        p = problem
        task = Parity(d=p.d, k=p.k, support=RandomSupport())
        if p.eps:
            task = NoisyParity(d=p.d, k=p.k, support=RandomSupport(), eps=p.eps)
        return Setting(
            task=task,
            teacher_width=self.teacher_width,
            student_width=p.width,
            n_teachers=n_teachers or self.min_teachers,
            group=self.group,
            spacing=p.spacing,
            student_eval_every=p.eval_every,
            teacher_limit=LIMIT * p.spacing,
            student_cap=max(self.ce_cap, self.one_shot_cap, self.cap),
            student_least=3 * max(self.holds),
            hold_samples=self.hold,
            choice_points=8192,
            degrees=(1,),
        )


@dataclass(frozen=True)
class Problem:
    """One point of the grids.

    Attributes:
      d: bits.
      k: bits that matter.
      spacing: samples between teacher checkpoints.
      width: hidden units of students.
      eps: share of flipped labels.
    """

    d: int
    k: int
    spacing: int
    width: int
    eps: float

    @property
    def eval_every(self) -> int:
        """Samples between evaluations of students, fine enough for quick ones."""
        return min(self.spacing // 2, FINEST)


def smoke() -> Config:
    """k=4, d = 10 to 20, three to six teachers of width 200."""
    return Config()


def cpu() -> Config:
    """Parities of 4, 5 and 6 of 16 to 48 bits, ten teachers of width 1000."""
    return Config(
        grid=(
            (16, 4, 256), (24, 4, 512), (32, 4, 1024), (48, 4, 2048),
            (16, 5, 512), (24, 5, 1024), (32, 5, 2048), (48, 5, 5120),
            (16, 6, 1024), (24, 6, 2048), (32, 6, 5120),
        ),
        main_k=5,
        base=(32, 5, 2048),
        widths=(10, 100),
        noises=(0.1,),
        teacher_width=1000,
        holds=(5120, 10_240, 20_480),
        hold=20_480,
        ce_cap=12.0,
        one_shot_cap=8.0,
        cap=4.0,
        min_teachers=10,
        max_teachers=10,
        group=10,
        precision=0.6,
    )  # fmt: skip


def paper() -> Config:
    """To d = 100 and k = 6 with teachers of width 50,000: for GPUs."""
    return Config(
        grid=(
            (24, 4, 512), (32, 4, 1024), (48, 4, 2048), (72, 4, 5120), (100, 4, 10_240),
            (24, 5, 1024), (32, 5, 2048), (48, 5, 5120), (72, 5, 30_720),
            (100, 5, 61_440),
            (24, 6, 2048), (32, 6, 5120), (48, 6, 15_360), (72, 6, 92_160),
            (100, 6, 327_680),
        ),
        main_k=5,
        base=(48, 5, 5120),
        widths=(10, 20, 50, 100, 1000),
        noises=(0.05, 0.1, 0.2),
        teacher_width=50_000,
        student_width=100,
        holds=(5120, 10_240, 20_480, 40_960, 81_920),
        hold=20_480,
        ce_cap=12.0,
        one_shot_cap=8.0,
        cap=4.0,
        min_teachers=20,
        max_teachers=100,
        group=20,
        precision=0.3,
    )  # fmt: skip


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


def hold_name(hold: int) -> str:
    """How the 2-shot lane with a first stage of so many samples is called."""
    return f"two_shot_{hold}"


def student_lanes(
    config: Config, setting: Setting, *, middle: int | PerSeed
) -> list[tuple[tuple[Strategy, ...], float]]:
    """The student runs of a group of teachers: their lanes, and their caps' multiple.

    Lanes with the same cap share a run. A larger cap of its own, for CE or one-shot,
    means that the teacher's other checkpoints are not evaluated that long for nothing.
    """
    target = Target(tau=config.tau)
    taught = [
        Strategy(
            name="progressive",
            source=Progressive(every=setting.spacing),
            target=target,
        )
    ]
    taught += [
        Strategy(
            name=hold_name(h), source=NShot(steps=(middle,), hold=h), target=target
        )
        for h in config.holds
    ]
    one_shot = Strategy(name="one_shot", source=Final(), target=target)
    by_cap: dict[float, list[Strategy]] = {}
    for lanes, cap in (
        ([Strategy(name="ce")], config.ce_cap),
        ([one_shot], config.one_shot_cap),
        (taught, config.cap),
    ):
        by_cap.setdefault(cap, []).extend(lanes)
    return [(tuple(lanes), cap) for cap, lanes in by_cap.items()]


def ks_fitted(config: Config) -> list[int]:
    """Every k of which the grid has three or more d."""
    ks = [k for _, k, _ in config.grid]
    return sorted({k for k in ks if ks.count(k) >= 3})
