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

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from sandbox.distill.strategy import Strategy
from sandbox.errors import require
from sandbox.models.mlp import MLP
from sandbox.plotting.curves import estimates, log_levels, log_ticks
from sandbox.plotting.style import SEQUENCE, sequence
from sandbox.store.bounds import AtLeast, Increasing, MoreThan
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.theory.exponents import fit_exponent
from sandbox.theory.ranks import order_of_medians
from sandbox.theory.sample_complexity import Estimate, median_estimate, samples_to
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.spec import RunSpec, Stop

LEVEL = 0.9  # accuracy that ends a run
MARKS = "osDvP"
"""Of the learning rates, in their order."""


Sizes = tuple[Annotated[int, AtLeast(1)], ...]
Rates = tuple[Annotated[float, MoreThan(0)], ...]


def named(width: int, rate: float) -> str:
    """What a run is found by."""
    return f"width {width}, rate {rate:g}"


class ParityWidth(st.Study):
    """Claim P7 of arXiv 2410.05464.

    Attributes:
      task: the parity.
      widths: hidden units, increasing.
      rates: constant learning rates.
      claim_rate: the rate the claim is about, one of `rates`.
      n_seeds: seeds of every width and rate, trained together.
      cap: samples after which a run is given up.
      eval_every: samples between evaluations.
    """

    task: Parity = Parity(d=20, k=4, support=RandomSupport())
    widths: Annotated[Sizes, Increasing(2)] = (10, 20, 50, 100, 200)
    rates: Annotated[Rates, Increasing()] = (0.01,)
    claim_rate: float = 0.01
    n_seeds: int = 10
    cap: int = 102_400
    eval_every: int = 640

    presets = {
        "smoke": st.preset("d=20, k=4, five widths at one rate, ten seeds."),
        "cpu": st.preset(
            "d=32, k=6, widths 20 to 1000 at rates .003, .01 and .03, twenty seeds.",
            task=Parity(d=32, k=6, support=RandomSupport()),
            widths=(20, 50, 100, 200, 500, 1000),
            rates=(0.003, 0.01, 0.03),
            n_seeds=20,
            cap=1_024_000,
            eval_every=5120,
        ),
        # Published are the widths 100, 1,000 (students) and 50,000 (teacher), the rates
        # .005 and .01 and runs of up to 20M samples; the widths between are ours.
        "paper": st.preset(
            "The published d=100, k=6, widths 100 to 50,000, one seed.",
            task=Parity(d=100, k=6),
            widths=(100, 1000, 5000, 20_000, 50_000),
            rates=(0.005, 0.01),
            n_seeds=1,
            cap=20_000_000,
            eval_every=100_000,
        ),
    }
    since = {"smoke, cpu": "2026-11-22 e4ffa22"}

    def check(self) -> None:
        r, most = self.rates, len(SEQUENCE)
        require(len(r) <= most, f"rates must be at most {most}, got {r}.")
        what = f"claim_rate = {self.claim_rate} must be one of rates = {r}."
        require(self.claim_rate in r, what)

    @property
    def plain_runs(self) -> dict[str, RunSpec]:
        """All seeds of every width and rate, those of the claim first."""
        task, claimed = self.task, self.claim_rate
        return {
            named(width, rate): RunSpec(
                kind="teacher",
                task=task,
                model=MLP(d=task.d, hidden=(width,), n_classes=task.n_classes),
                strategies=(Strategy(name="ce"),),
                optimizer=SGD(lr=LearningRate(peak=rate)),
                stop=Stop(max_samples=self.cap, accuracy=LEVEL),
                eval_every=self.eval_every,
                n_seeds=self.n_seeds,
            )
            for rate in sorted(self.rates, key=lambda r: r != claimed)
            for width in self.widths
        }

    def n90(self, r: st.Result, rate: float) -> Float[np.ndarray, "W S"]:
        """Samples to .90; infinite if not by the cap, or if non-finite."""
        found = [r.plain[named(m, rate)].metrics for m in self.widths]
        return np.stack([samples_to(m.steps, m.curves("ce"), LEVEL) for m in found])

    def figure(self, r: st.Result) -> Figure:
        """Samples to .90, and width times samples, over width.

        (a) Samples until a network of the width has accuracy .90 on sparse parity,
        trained on labels at batch 1; dots are seeds, lines medians with 95% bootstrap
        intervals. Numbers count the seeds that did not arrive by the cap (dotted),
        which enter the median as later than all others; a triangle at the cap is a
        median beyond it. (b) The same times the width, with what it would be if twice
        the width halved the samples, or saved none.
        """
        fig, (left, right) = st.panels(1, 2, height=3.0)
        for ax in (left, right):
            log_levels(ax)
            log_ticks(ax, self.widths)
            ax.set_xlabel("hidden units")
        self._draw_samples(left, r)
        self._draw_product(right, r)
        task = f"Parity, d={self.task.d}, k={self.task.k}"
        each = f"n = {self.n_seeds} seed{'s' * (self.n_seeds > 1)} a width and rate"
        text = f"{task}; {each}; numbers: how many are not by the cap"
        lost = sum(len(run.outcome["failed"]) for run in r.plain.values())
        if lost:
            text += f" (non-finite, counted there: {lost} runs, see the report)"
        st.note(fig, text)
        return fig

    def _draw_samples(self, ax: Axes, r: st.Result) -> None:
        for j, rate in enumerate(self.rates):
            n90, x, color = self.n90(r, rate), self._beside(j), self._colors[j]
            arrived, never = np.where(np.isinf(n90), np.nan, n90), np.isinf(n90).sum(1)
            ax.plot(x, arrived, "o", color=color, ms=2.5, alpha=0.3, mew=0)
            label = f"learning rate {rate:g}"
            found = [median_estimate(row) for row in n90]
            fmt = f"{MARKS[j]}-"
            estimates(ax, x, found, color=color, cap=self.cap, label=label, fmt=fmt)
            for m, n in zip(self.widths, never, strict=True):
                if n:
                    at = (m, self.cap * 1.3 * 1.3**j)
                    style: dict[str, Any] = {"fontsize": 6.5, "ha": "center"}
                    ax.text(*at, f"{n}", color=color, va="center", **style)
        ax.axhline(self.cap, color="0.6", lw=0.8, ls=":")
        ax.set_ylim(top=self.cap * 1.6 * 1.25 ** len(self.rates))
        sooner = self.order(r, self.claim_rate).upper < 0
        words = "Wider networks learn sooner" if sooner else "Samples by width"
        ax.set(ylabel="samples to accuracy .90", title=words)

    def _draw_product(self, ax: Axes, r: st.Result) -> None:
        widths = np.asarray(self.widths, float)
        for j, rate in enumerate(self.rates):
            product = self.n90(r, rate) * widths[:, None]
            found = [median_estimate(row) for row in product]
            at, cap = self._beside(j), self.cap * widths
            fmt = f"{MARKS[j]}-"
            estimates(ax, at, found, color=self._colors[j], cap=cap, fmt=fmt)
        known = np.median(self.n90(r, self.claim_rate), 1) * widths
        if np.isfinite(known).any():
            last = int(np.flatnonzero(np.isfinite(known))[-1])
            ends = widths[[0, -1]]
            for power, style, word in ((0, ":", "half the"), (1, "--", "as many")):
                y = known[last] * (ends / widths[last]) ** power
                label = f"{word} samples at twice the width"
                ax.plot(ends, y, color="0.45", lw=0.9, ls=style, zorder=0, label=label)
            ax.legend(loc="upper left")
        ax.set(ylabel="width × samples to .90")
        ax.set_title("Width times samples")

    @property
    def _colors(self) -> list[str]:
        return sequence(len(self.rates))

    def _beside(self, j: int) -> np.ndarray:
        """Widths, the marks of one learning rate beside those of the others."""
        return np.asarray(self.widths) * 1.06 ** (j - (len(self.rates) - 1) / 2)

    def order(self, r: st.Result, rate: float) -> Estimate:
        """Spearman's correlation of width and median n90."""
        return order_of_medians(np.asarray(self.widths), self.n90(r, rate))

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        found = self.order(r, self.claim_rate)
        text = f"Spearman of width and median n90 over {len(self.widths)} widths"
        what, words = st.Statistic(found, text, found.n), "wider networks learn sooner"
        shown = "wider MLPs learn sooner (text)"
        yield st.at_most("P7", what, -0.8, words, paper=shown)

    def paper_claims(self, r: st.Result) -> tuple[st.Claim, ...]:
        """None: one seed has no interval."""
        return ()

    def facts(self, r: st.Result) -> dict[str, Any]:
        return {"rates": {f"{rate:g}": self.numbers(r, rate) for rate in self.rates}}

    def numbers(self, r: st.Result, rate: float) -> dict[str, Any]:
        """One rate: every width's median n90 and product, the order and the slope.

        The slope is the exponent p of n90 ~ width^p, censored runs included.
        """
        n90 = self.n90(r, rate)
        rows = [
            {
                "width": m,
                **e.to_json("median_n90"),
                "width_x_median_n90": m * e.value,
                "not_by_the_cap": np.isinf(each).sum(),
                "n90": each,
            }
            for m, each, e in zip(
                self.widths, n90, map(median_estimate, n90), strict=True
            )
        ]
        x = np.repeat(np.asarray(self.widths, float), n90.shape[1])
        slope = fit_exponent(x, n90.ravel(), float(self.cap)).estimate[:3]
        order = self.order(r, rate)[:3]
        found = {"spearman": order, "exponent_in_width": slope, "cap": self.cap}
        return {**found, "widths": rows}

    def summary(self, r: st.Result) -> list[str]:
        lines = []
        for rate in self.rates:
            medians = [median_estimate(row).value for row in self.n90(r, rate)]
            text = ", ".join(
                f"{m}: > cap" if np.isinf(v) else f"{m}: {v / 1000:,.0f}k"
                for m, v in zip(self.widths, medians, strict=True)
            )
            lines.append(f"  rate {rate:g}, median n90 by width: {text}")
        return lines


if __name__ == "__main__":
    ParityWidth.main()
