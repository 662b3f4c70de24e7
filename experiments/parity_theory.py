"""The analysed setting: one large-batch step from labels, or from a checkpoint.

    python -m experiments.parity_theory smoke
    python -m experiments.parity_theory cpu --label-seeds 10
    python -m experiments.parity_theory --help

The two-phase setting in which arXiv 2410.05464 proves its separation (after Barak et
al., arXiv 2207.08799): mirrored networks, hinge loss, one large-batch step of the first
layer, then the second layer. The population gradients are known in closed form, and so
is the checkpoint of a teacher after its first step along one of them. Measured is the
batch that a student's first step needs, from labels and from that checkpoint: until the
support comes out (`support`: the k largest coordinates of the mean absolute update),
until half of the squared update lies in it (`aligned`), and until the second layer
reaches accuracy .9 (`accuracy`). The teacher's own cost is left out, as in the theorem.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.parity_theory_measure import Control, Needed
    from sandbox.theory.exponents import Exponent
    from sandbox.train.progress import Progress

SUPERVISIONS = ("labels", "checkpoint")
CAPTION = """\
The analysed setting: mirrored ReLU networks on (d, k)-sparse parity, one large-batch
step of the first layer with the hinge loss, from labels (grey) or from the checkpoint
of a teacher after its own first step (purple). Dashed: closed forms, without fitting.
Top left: the population gradient from labels is the same at every neuron up to a sign,
t_{k-1} in the support S (full markers) and t_{k+1} outside (hollow); measured means of
65,536 samples a seed at cpu scale, bars two standard errors over seeds. t_3 is outside
for k = 2 and in S for k = 4. Top middle: degree-1 coefficients of twelve checkpoints,
in S large and of unequal size, outside about (k - 1)/(d - k) times that; a student's
gradient is half of them. Top right: share of a student's squared update that lies in S,
median and quartiles of seeds; dotted, chance. Bottom left: the batch at which half of
it does. Bottom middle: the batch at which the k largest coordinates of the mean
absolute update are S, among the teachers whose exact coefficients allow it (few at
small d for k = 4 and 6). Medians with 95% bootstrap intervals. Bottom right: exponents
in d fitted to single runs, censored ones included. Labels pay about d^k for an aligned
update and d^(k-1) for the support, the checkpoint about d^1 and d^0 (with logarithms)
for every k. Not shown: for k = 4 and 6 the checkpoint's student finds the support but
its second layer seldom decodes it, since all of its rows are parallel and the
coefficients unequal.
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      d_k2: dimensions of k = 2, odd and increasing; likewise `d_k4` and `d_k6`.
      d_k4: of k = 4.
      d_k6: of k = 6; may be empty.
      checkpoint_d: further dimensions of every k, for students of checkpoints alone.
      accuracy_k: k whose students go through the second stage at every batch.
      label_seeds: students of labels at every (d, k).
      checkpoint_seeds: students of checkpoints, each with a teacher of its own.
      teacher_pairs: mirrored pairs of a teacher.
      student_pairs: mirrored pairs of a student.
      label_cap: largest batch of labels, in units of the closed form's `aligned_batch`.
      checkpoint_cap: largest batch from a checkpoint.
      check_blocks: blocks of 4096 rows behind each measured population gradient.
      control_k: an odd k, the negative control.
      control_d: its dimension, odd; the control beside it has one more.
    """

    d_k2: tuple[int, ...] = (17, 33, 65)
    d_k4: tuple[int, ...] = (17, 25)
    d_k6: tuple[int, ...] = ()
    checkpoint_d: tuple[int, ...] = ()
    accuracy_k: tuple[int, ...] = (2,)
    label_seeds: int = 10
    checkpoint_seeds: int = 20
    teacher_pairs: int = 64
    student_pairs: int = 32
    label_cap: float = 16.0
    checkpoint_cap: int = 8192
    check_blocks: int = 8
    control_k: int = 3
    control_d: int = 17

    def __post_init__(self) -> None:
        """Refuses what the closed forms do not cover."""
        lists = [(f"d_k{k}", 2 * k, dims) for k, dims in self.cases.items()]
        lists.append(
            ("checkpoint_d", 2 * max(self.cases, default=1), self.checkpoint_d)
        )
        for name, least, dims in lists:
            require(
                all(d % 2 == 1 and d > least for d in dims),
                f"{name} must hold odd dimensions above 2 k = {least}, got {dims}: at"
                " an even d ties show a student more than degree 1.",
            )
            require(
                list(dims) == sorted(set(dims)), f"{name} must increase, got {dims}."
            )
        require(
            all(k in self.cases for k in self.accuracy_k),
            f"accuracy_k must name k that have dimensions, got {self.accuracy_k}.",
        )
        for name in ("label_seeds", "checkpoint_seeds"):
            value = getattr(self, name)
            require(value >= 2, f"{name} must be at least 2, got {value}.")
        for name in ("teacher_pairs", "student_pairs", "check_blocks", "label_cap"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}.")
        require(
            self.checkpoint_cap >= 64,
            f"checkpoint_cap must be at least 64, got {self.checkpoint_cap}.",
        )
        k, d = self.control_k, self.control_d
        require(
            k >= 3 and k % 2 == 1 and d % 2 == 1 and d > 2 * k + 2,
            "control_k and control_d must be odd, 3 <= control_k < control_d / 2 - 1,"
            f" got {k} and {d}.",
        )

    def dimensions(self, k: int, supervision: str) -> tuple[int, ...]:
        """The dimensions of one k and supervision, increasing."""
        more = self.checkpoint_d if supervision == "checkpoint" else ()
        return tuple(sorted({*self.cases[k], *more}))

    @property
    def cases(self) -> dict[int, tuple[int, ...]]:
        """Dimensions of every k that has some."""
        every = {2: self.d_k2, 4: self.d_k4, 6: self.d_k6}
        return {k: dims for k, dims in every.items() if dims}


def smoke() -> Config:
    """Supports of 2 and 4, d up to 65, ten students of labels."""
    return Config()


def cpu() -> Config:
    """Supports of 2, 4 and 6, labels up to d = 129, checkpoints up to 257."""
    return Config(
        d_k2=(17, 33, 65, 129),
        d_k4=(17, 25, 33, 49),
        d_k6=(17, 21, 25),
        checkpoint_d=(65, 129, 257),
        label_seeds=20,
        checkpoint_seeds=24,
        checkpoint_cap=8192,
        check_blocks=16,
        control_d=33,
    )


def paper() -> Config:
    """The same at larger d with more seeds; the theorem itself names no sizes."""
    return Config(
        d_k2=(17, 33, 65, 129, 257, 513),
        d_k4=(17, 25, 33, 49, 65, 97, 129),
        d_k6=(17, 21, 25, 29, 33, 41, 49),
        checkpoint_d=(65, 129, 257, 513, 1025),
        label_seeds=50,
        checkpoint_seeds=200,
        teacher_pairs=256,
        checkpoint_cap=131072,
        check_blocks=256,
        control_d=65,
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


@dataclass(frozen=True)
class Result:
    """Everything that was measured.

    Attributes:
      config: what was run.
      needed: one entry a (k, d, supervision).
      controls: the negative control, and the even d beside it.
      seconds: what it took.
    """

    config: Config
    needed: "tuple[Needed, ...]"
    controls: "tuple[Control, Control]"
    seconds: float

    def along(self, k: int, supervision: str) -> "list[Needed]":
        """The entries of one k, by d."""
        return [n for n in self.needed if (n.k, n.supervision) == (k, supervision)]

    def exponent(
        self, k: int, supervision: str, criterion: str, *, common: bool = False
    ) -> "Exponent":
        """Fitted exponent in d of the needed batch, censored runs included.

        Args:
          k: size of the support.
          supervision: one of `SUPERVISIONS`.
          criterion: support, aligned or accuracy.
          common: fit only the dimensions that labels were measured at.
        """
        import numpy as np

        from sandbox.theory.exponents import fit_exponent

        rows = self.along(k, supervision)
        if common:
            rows = [n for n in rows if n.d in self.config.cases[k]]
        counts = [len(n.batch[criterion]) for n in rows]
        d = np.repeat([float(n.d) for n in rows], counts)
        caps = np.repeat([float(n.cap) for n in rows], counts)
        batch = np.concatenate([n.batch[criterion] for n in rows])
        return fit_exponent(d, batch, caps, seed=SUPERVISIONS.index(supervision))

    def predicted(self, k: int, supervision: str, criterion: str) -> float:
        """Exponent of the closed form's batches over the same d; NaN without any."""
        import numpy as np

        rows = self.along(k, supervision)
        batch = [n.predicted.get(criterion, np.nan) for n in rows]
        if len(rows) < 2 or not np.isfinite(batch).all():
            return float("nan")
        return float(np.polyfit(np.log([n.d for n in rows]), np.log(batch), 1)[0])


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Measures everything; nothing is stored, since it takes minutes.

    Args:
      config: what to measure.
      root: not used; studies that train keep their runs there.
      progress: not used; a line a problem is printed.
    """
    del root, progress
    import time

    from experiments.parity_theory_measure import measure, measure_controls

    begin = time.monotonic()
    needed: list[Needed] = []
    for k in config.cases:
        for supervision in SUPERVISIONS:
            for d in config.dimensions(k, supervision):
                needed.append(measure(config, k, d, supervision))
                took = time.monotonic() - begin
                print(f"k={k}, d={d}, {supervision}: after {took:.0f} s", flush=True)
    controls = measure_controls(config)
    return Result(config, tuple(needed), controls, time.monotonic() - begin)


def draw(result: Result) -> "Figure":
    """Closed forms beside measured gradients, needed batches, and exponents."""
    from experiments import parity_theory_figure

    return parity_theory_figure.draw(result)


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("parity_theory", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
