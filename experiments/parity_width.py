"""Samples to accuracy .90 against width and learning rate: wider networks learn sooner.

    python -m experiments.parity_width smoke
    python -m experiments.parity_width cpu --n-seeds 10 --rates 0.01
    python -m experiments.parity_width --help

Claim P7 of arXiv 2410.05464, on sparse parity: two-layer networks of several widths are
trained on labels with batch-1 SGD at a constant rate. A seed has its own support and
samples, the same at every width and rate. Width times samples says what a hidden unit
buys: where it is flat, twice the width halves the samples (compare Edelman et al.,
2023, arXiv 2309.03800).
"""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.parity_setting import task_text
from sandbox.distill.strategy import Strategy
from sandbox.errors import DivergenceError, require
from sandbox.models.mlp import MLP
from sandbox.store.config import is_number
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.spec import RunSpec, Stop

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sandbox.train.progress import Progress
    from sandbox.train.run import Run

LEVEL = 0.9
"""Accuracy that ends a run."""
RATE_COLORS = ("#5790fc", "#000000", "#e42536", "#964a8b", "#f89c20")
"""Colours of the learning rates, in the order of the config."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

    Attributes:
      task: the parity.
      widths: hidden units, increasing.
      rates: constant learning rates.
      claim_rate: the rate the claim is about, one of `rates`.
      n_seeds: seeds of every width and rate, trained together.
      cap: samples after which a run is given up.
      eval_every: samples between evaluations.
    """

    task: Parity = field(
        default_factory=lambda: Parity(d=20, k=4, support=RandomSupport())
    )
    widths: tuple[int, ...] = (10, 20, 50, 100, 200)
    rates: tuple[float, ...] = (0.01,)
    claim_rate: float = 0.01
    n_seeds: int = 10
    cap: int = 102_400
    eval_every: int = 640

    def __post_init__(self) -> None:
        """Refuses axes that cannot be drawn, and whatever the records refuse."""
        w, r = self.widths, self.rates
        require(
            len(w) >= 2 and all(a < b for a, b in pairwise(w)),
            f"widths must be two or more, increasing, got {w}.",
        )
        require(
            1 <= len(r) <= len(RATE_COLORS)
            and all(is_number(v) and v > 0 for v in r)
            and all(a < b for a, b in pairwise(r)),
            f"rates must be one to {len(RATE_COLORS)} positive numbers, increasing, got"
            f" {r}.",
        )
        require(
            self.claim_rate in r,
            f"claim_rate = {self.claim_rate} must be one of rates = {r}.",
        )
        self.specs()

    def spec(self, width: int, rate: float) -> RunSpec:
        """The record of one width and rate, all seeds."""
        task = self.task
        return RunSpec(
            kind="teacher",
            task=task,
            model=MLP(d=task.d, hidden=(width,), n_classes=task.n_classes),
            strategies=(Strategy(name="ce"),),
            optimizer=SGD(lr=LearningRate(peak=rate)),
            stop=Stop(max_samples=self.cap, accuracy=LEVEL),
            eval_every=self.eval_every,
            n_seeds=self.n_seeds,
        )

    def specs(self) -> dict[tuple[int, float], RunSpec]:
        """Every record by width and rate, those of the claim first."""
        rates = sorted(self.rates, key=lambda r: r != self.claim_rate)
        return {(m, r): self.spec(m, r) for r in rates for m in self.widths}


def smoke() -> Config:
    """d=20, k=4, five widths at one rate, ten seeds."""
    return Config()


def cpu() -> Config:
    """d=32, k=6, widths 20 to 1000 at rates .003, .01 and .03, twenty seeds."""
    return Config(
        task=Parity(d=32, k=6, support=RandomSupport()),
        widths=(20, 50, 100, 200, 500, 1000),
        rates=(0.003, 0.01, 0.03),
        n_seeds=20,
        cap=1_024_000,
        eval_every=5120,
    )


def paper() -> Config:
    """The published (100, 6), from the students' widths to the teacher's, one seed.

    Published are the widths 100, 1,000 (students) and 50,000 (teacher), the rates .005
    and .01 and runs of up to 20M samples; the widths between are ours.
    """
    return Config(
        task=Parity(d=100, k=6),
        widths=(100, 1000, 5000, 20_000, 50_000),
        rates=(0.005, 0.01),
        n_seeds=1,
        cap=20_000_000,
        eval_every=100_000,
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


@dataclass(frozen=True)
class Result:
    """The finished runs.

    Attributes:
      config: what was run.
      runs: every run by width and rate.
    """

    config: Config
    runs: "dict[tuple[int, float], Run]"

    def n90(self, rate: float) -> "np.ndarray":
        """Samples to .90, `(W, S)`; infinite if not by the cap, or if non-finite."""
        import numpy as np

        from sandbox.theory.sample_complexity import samples_to

        rows = []
        for m in self.config.widths:
            found = self.runs[m, rate].metrics
            rows.append(samples_to(found.steps, found.curves("ce"), LEVEL))
        return np.stack(rows)

    def diverged(self) -> list[str]:
        """One phrase for every run that became non-finite (it counts as > cap)."""
        return [
            f"width {m}, rate {r:g}, seed {lane['seed']}: non-finite at"
            f" {lane['sample']:,}, counted as > cap"
            for (m, r), run in self.runs.items()
            for lane in run.outcome["failed"]
        ]


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains what is missing and opens the rest."""
    from sandbox.train.loop import fit
    from sandbox.train.run import Run, folder_of

    runs = {}
    for where, spec in config.specs().items():
        try:
            runs[where] = fit(spec, root=root, progress=progress)
        except DivergenceError:  # of every seed: a finding about this rate
            runs[where] = Run(folder_of(spec, root), spec)
    return Result(config, runs)


CAPTION = """\
Left: samples until a network of the width has accuracy .90 on sparse parity, trained on
labels at batch 1; dots are seeds, lines medians with 95% bootstrap intervals over
seeds; numbers count the seeds that did not arrive by the cap (dotted), which enter the
median as later than all others. Right: the same times the width, with what it would be
if twice the width halved the samples, or saved none.
"""


def draw(result: Result) -> "Figure":
    """Two panels over width: samples to .90, and width times samples.

    Medians over seeds with 95% bootstrap intervals; a median beyond the cap is an open
    triangle at the cap, which is then a lower bound.
    """
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    with styled():
        fig = Figure(figsize=(WIDE, 3.0), layout="constrained")
        left, right = fig.subplots(1, 2)
        _draw_samples(left, result)
        _draw_product(right, result)
        fig.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=5)
        lost = result.diverged()
        if lost:
            text = f"non-finite, counted as > cap: {len(lost)} runs (see the report)"
            fig.supxlabel(text, fontsize=6.5, color="0.35")
    return fig


def _draw_samples(ax: "Axes", result: Result) -> None:
    import numpy as np

    c = result.config
    widths = np.asarray(c.widths, float)
    _width_axis(ax, c)
    for j, rate in enumerate(c.rates):
        n90, color, x = result.n90(rate), RATE_COLORS[j], widths * _beside(j, c)
        arrived = np.where(np.isinf(n90), np.nan, n90)
        ax.plot(x, arrived, "o", color=color, ms=2.5, alpha=0.3, mew=0)
        _medians(ax, x, n90, np.full(len(x), c.cap), color, f"learning rate {rate:g}")
        for m, never in zip(widths, np.isinf(n90).sum(1), strict=True):
            if never:
                at = (m, c.cap * 1.15 * 1.25**j)
                ax.text(*at, f"{never}", color=color, fontsize=6.5, ha="center")
    ax.axhline(c.cap, color="0.6", lw=0.8, ls=":")
    if any(np.isinf(result.n90(r)).any() for r in c.rates):
        text = f"numbers: of {c.n_seeds}, not by the cap; △ median beyond it"
        style = {"fontsize": 6.5, "color": "0.35", "va": "top"}
        ax.text(0.02, 0.99, text, transform=ax.transAxes, **style)
    ax.set_ylim(top=c.cap * 2 * 1.25 ** len(c.rates))
    ax.set_ylabel("samples to accuracy .90")
    seeds = f"{c.n_seeds} seeds" if c.n_seeds > 1 else "one seed"
    ax.set_title(f"{task_text(c.task)}: medians of {seeds}")


def _draw_product(ax: "Axes", result: Result) -> None:
    import numpy as np

    c = result.config
    widths = np.asarray(c.widths, float)
    _width_axis(ax, c)
    for j, rate in enumerate(c.rates):
        product = result.n90(rate) * widths[:, None]
        _medians(ax, widths * _beside(j, c), product, c.cap * widths, RATE_COLORS[j])
    known = np.median(result.n90(c.claim_rate), 1) * widths
    known = np.where(np.isinf(known), np.nan, known)
    if np.isfinite(known).any():
        last = int(np.flatnonzero(np.isfinite(known))[-1])
        ends = widths[[0, -1]]
        for power, style in ((0, ":"), (1, "--")):  # half the samples, the same ones
            y = known[last] * (ends / widths[last]) ** power
            word = "half the" if power == 0 else "as many"
            label = f"{word} samples at twice the width"
            ax.plot(ends, y, color="0.6", lw=0.9, ls=style, zorder=0, label=label)
        ax.legend(loc="upper left")
        ax.set_ylim(top=ax.get_ylim()[1] * 2)
    ax.set_ylabel("width x samples to .90")
    ax.set_title("what a hidden unit buys")


def _beside(j: int, config: Config) -> float:
    """Factor that sets the marks of one learning rate beside those of the others."""
    return 1.06 ** (j - (len(config.rates) - 1) / 2)


def _medians(
    ax: "Axes",
    x: "np.ndarray",
    values: "np.ndarray",
    caps: "np.ndarray",
    color: str,
    label: str = "_",
) -> None:
    """Medians over the rows of `values` with intervals; at the cap where beyond it."""
    import numpy as np

    from sandbox.theory.sample_complexity import median_estimate

    found = [median_estimate(row) for row in values]
    y = np.asarray([min(e.value, cap) for e, cap in zip(found, caps, strict=True)])
    beyond = np.isinf([e.value for e in found])
    ax.plot(x, y, color=color, lw=1.0, label=label)
    ax.plot(x[~beyond], y[~beyond], "o", color=color, ms=4, mew=0)
    ax.plot(x[beyond], y[beyond], "^", mfc="white", mec=color, ms=5)
    for at, e, cap in zip(x, found, caps, strict=True):
        ends = [min(e.lower, cap), min(e.upper, cap)]
        ax.plot([at, at], ends, color=color, lw=1.6, alpha=0.6, solid_capstyle="butt")


def _width_axis(ax: "Axes", config: Config) -> None:
    from matplotlib.ticker import NullLocator

    from sandbox.plotting.curves import log_levels

    log_levels(ax)
    ax.yaxis.set_major_formatter(_plain)
    ax.set_xscale("log")
    ax.set_xticks(config.widths, [f"{m:g}" for m in config.widths])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("hidden units")


def _plain(value: float, _: float) -> str:
    """Thousands as k, millions as M."""
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{word}"
    return f"{value:g}"


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("parity_width", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
