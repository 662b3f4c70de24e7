"""Single networks, ensembles, and students of them, where a class has two views.

    python -m experiments.multi_view smoke
    python -m experiments.multi_view cpu
    python -m experiments.multi_view --help

After Allen-Zhu and Li (arXiv 2012.09816): a network learns one of two views of a class,
which one by its initialisation, and memorises the rows that do not show it; an ensemble
knows both views, and its outputs tell a single student of both. Networks of an ensemble
and their students see the same rows. On bits, where there are two classes, the outputs
of an ensemble have no more to tell than the labels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments.methods import beside
from sandbox.distill.losses import Loss
from sandbox.distill.methods import Ensemble, Truncated
from sandbox.distill.sources import Final
from sandbox.distill.strategy import Strategy, Target, replicas
from sandbox.errors import require
from sandbox.models.base import Model, Size
from sandbox.models.mlp import MLP
from sandbox.models.patches import PatchNet
from sandbox.plotting.curves import estimates
from sandbox.plotting.style import WIDE
from sandbox.store.bounds import AtLeast, Increasing, MoreThan
from sandbox.tasks.data import Data, Finite, Fresh
from sandbox.tasks.multi_view import MultiView, TwoViews
from sandbox.theory.sample_complexity import median_estimate
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import task_key
from sandbox.types import Batch

ARMS = {
    "single": ("single networks", "#6b7280"),
    "together": ("trained as one", "#111827"),
    "ensemble": ("ensemble", "#0f766e"),
    "distilled": ("distilled", "#1d4ed8"),
    "truncated": ("distilled, truncated", "#7c3aed"),
    "itself": ("self-distilled", "#b45309"),
}
"""Arms, what figures call them, and their colours."""
BITS, TEST = "bits", 8192
"""Name of the second task; rows of the test."""


class MultipleViews(st.Study):
    """Accuracy on rows of one view, of networks and of students of several.

    Attributes:
      patches: rows of patches.
      mus: shares of single-view rows that they are made with.
      hidden: units a class.
      rows: of each training set.
      samples: that every network on patches is trained for, in batches of 64.
      bits: two parities that agree.
      width: of their networks.
      bit_samples: that every network on bits is trained for, in batches of 16.
      tau: temperature of students and teachers.
      n: networks of an ensemble.
      n_seeds: data sets.
    """

    patches: MultiView = MultiView(n_classes=5, patches=12, dims=64, noise=0.2)
    mus: Annotated[tuple[float, ...], Increasing(0)] = (0.1,)
    hidden: Size = 5
    rows: Size = 500
    samples: Annotated[int, AtLeast(1)] = 51_200
    bits: TwoViews = TwoViews(d=12, k=2, mu=0.1)
    width: Size = 50
    bit_samples: Annotated[int, AtLeast(1)] = 1600
    tau: Annotated[float, MoreThan(0)] = 8.0
    n: Annotated[int, AtLeast(2)] = 5
    n_seeds: Annotated[int, AtLeast(1)] = 3

    presets = {
        "smoke": st.preset("five classes, ensembles of five, three data sets."),
        "cpu": st.preset(
            "ten classes and 1,000 rows, parity on d=20, k=3; ensembles of ten, five"
            " data sets.",
            patches=MultiView(patches=12, dims=256, noise=0.1),
            mus=(0.05, 0.1, 0.2),
            rows=1000,
            samples=102_400,
            bits=TwoViews(d=20, k=3, mu=0.1),
            width=100,
            bit_samples=32_000,
            n=10,
            n_seeds=5,
        ),
    }

    since = {"any": "2026-11-29 9464ef9"}

    def check(self) -> None:
        require(bool(self.mus), "mus must hold a share of single-view rows.")

    @property
    def tasks(self) -> Mapping[str, MultiView | TwoViews]:
        """Every task by name."""
        made = {f"{mu:g}": replace(self.patches, mu=mu) for mu in self.mus}
        return {**made, BITS: self.bits}

    @property
    def claimed(self) -> str:
        """Name of the task on patches that most claims are about."""
        return f"{self.mus[len(self.mus) // 2]:g}"

    @property
    def plain_runs(self) -> dict[tuple[str, str], RunSpec]:
        """Of every task the networks of an ensemble, then what learns from them."""
        out, tau = {}, self.tau
        soft = Loss(alpha=0.5, tau_student=tau, scale=tau**2)
        taught = {"target": Target(tau=tau), "init": self.n}
        both = (
            Strategy(name="distilled", source=Ensemble(n=self.n), loss=soft, **taught),
            Strategy(name="itself", source=Final(), loss=soft, **taught),
        )
        pushed = replace(
            both[0], name="truncated", loss=beside(Truncated(tau=tau), labels=True)
        )
        for name in self.tasks:
            singles = replicas((Strategy(name="single"),), self.n)
            out[name, "singles"] = one = self._spec(name, singles)
            teacher = TeacherRef(spec=one, final=one.stop.largest, lanes=self.n)
            out[name, "students"] = self._spec(name, both, teacher=teacher)
            if name in (self.claimed, BITS):
                out[name, "truncated"] = self._spec(name, (pushed,), teacher=teacher)
                wide = (Strategy(name="together"),)
                out[name, "together"] = self._spec(name, wide, times=self.n)
        return out

    def _spec(
        self,
        name: str,
        strategies: tuple[Strategy, ...],
        times: int = 1,
        teacher: TeacherRef | None = None,
    ) -> RunSpec:
        """Networks of one task; of kind `teacher` all, so that all see the same rows.

        Args:
          name: of the task.
          strategies: one a network.
          times: as many hidden units.
          teacher: whose networks teach.
        """
        task, bits = self.tasks[name], name == BITS
        data: Data = Fresh() if bits else Finite(n=self.rows)
        samples = self.bit_samples if bits else self.samples
        return RunSpec(
            kind="teacher",
            task=task,
            model=self._model(task, times),
            strategies=strategies,
            optimizer=SGD(lr=LearningRate(peak=0.1 if bits else 1.0)),
            stop=Stop(max_samples=samples),
            eval_every=samples,
            checkpoint_every=samples,
            n_seeds=self.n_seeds,
            batch_size=16 if bits else 64,
            teacher=teacher,
            data=data,
        )

    def _model(self, task: MultiView | TwoViews, times: int) -> Model:
        if isinstance(task, TwoViews):
            return MLP(d=task.d, hidden=(times * self.width,), n_classes=task.n_classes)
        return PatchNet(
            patches=task.patches,
            dims=task.dims,
            hidden=times * self.hidden,
            n_classes=task.n_classes,
        )

    def measure(self, r: st.Result) -> dict[str, dict[str, np.ndarray]]:
        """Accuracy of every arm by task: `(T, 2)`, on single-view rows and on all.

        That of single networks is their mean; `memorised` is theirs on the rows of
        their training.
        """
        return {name: self._accuracies(r, name) for name in self.tasks}

    def _accuracies(self, r: st.Result, name: str) -> dict[str, np.ndarray]:
        task, rows = self.tasks[name], []
        runs = [run for (of, _), run in r.plain.items() if of == name]
        for s in range(self.n_seeds):
            key = task_key(s)
            test = task.sample(key, jnp.uint32(0), TEST, split="probe")
            seen = task.sample(key, jnp.uint32(0), self.rows, split="train")
            z = {n: v for run in runs for n, v in _logits(run, s, test).items()}
            singles = [z.pop(lane.name) for lane in runs[0].spec.strategies]
            found = {arm: _accuracy([v], test) for arm, v in z.items()}
            found["single"] = _accuracy(singles, test)
            found["ensemble"] = _accuracy([np.mean(singles, 0)], test)
            own = _logits(runs[0], s, seen)
            found["memorised"] = _accuracy(list(own.values()), seen)
            rows.append(found)
        return {arm: np.stack([row[arm] for row in rows]) for arm in rows[0]}

    def on_single(self, r: st.Result, name: str, arm: str) -> st.Quantity:
        """Accuracy on the single-view rows of a task."""
        return st.of_teachers(r.measured[name][arm][:, 0], ARMS[arm][0])

    def share(self, r: st.Result, name: str, arm: str) -> st.Quantity:
        """An arm's gain over single networks on such rows as a share of the ensemble's.

        NaN where the ensemble gains nothing.
        """
        own, single, most = (
            self.on_single(r, name, a).values for a in (arm, "single", "ensemble")
        )
        gain = np.where(most > single, most - single, np.nan)
        text = f"gain of {ARMS[arm][0]} / gain of the ensemble"
        return st.of_teachers(((own - single) / gain)[:, 0], text)

    def figure(self, r: st.Result) -> Figure:
        """Accuracy on single-view rows, and errors against their share.

        Left and right: accuracy on rows that show one view, of networks on patches and
        on bits; dots are data sets (single networks: means of an ensemble's), bars
        medians; dotted, what one view is worth by guessing elsewhere. Middle: error on
        all test rows against the share of single-view ones, medians with 95% intervals
        over data sets; dotted, half of that share.
        """
        fig = Figure(figsize=(WIDE, 2.9), layout="constrained")
        a, b, c = fig.subplots(1, 3, width_ratios=(1.2, 1, 1.2))
        self._draw_arms(a, r, self.claimed)
        a.set_title(f"patches, {self.patches.n_classes} classes, μ = {self.claimed}")
        self._draw_shares(b, r)
        self._draw_arms(c, r, BITS)
        c.set_title(f"bits, d = {self.bits.d}, k = {self.bits.k}, μ = {self.bits.mu:g}")
        return fig

    def _draw_arms(self, ax: Axes, r: st.Result, name: str) -> None:
        for row, (arm, (_, color)) in enumerate(ARMS.items()):
            values = r.measured[name][arm][:, 0]
            jitter = row + 0.2 * np.sin(7.0 * np.arange(len(values)))
            ax.plot(values, jitter, "o", color=color, ms=3, alpha=0.7, mew=0)
            ax.plot(np.median(values), row, "|", color=color, ms=12, mew=2)
        ax.axvline(0.5 + 0.5 / self.tasks[name].n_classes, color="0.6", lw=0.8, ls=":")
        ax.set_yticks(range(len(ARMS)), [words for words, _ in ARMS.values()])
        ax.invert_yaxis()
        ax.set(xlim=(None, 1.02), xlabel="accuracy on single-view rows")

    def _draw_shares(self, ax: Axes, r: st.Result) -> None:
        for arm in ("single", "itself", "distilled", "ensemble"):
            words, color = ARMS[arm]
            rows = [1 - r.measured[f"{mu:g}"][arm][:, 1] for mu in self.mus]
            found = [median_estimate(row) for row in rows]
            estimates(ax, self.mus, found, color=color, label=words)
        half = np.asarray(self.mus) / 2
        ax.plot(self.mus, half, color="0.6", lw=0.8, ls=":", label="μ / 2")
        ax.set(xlabel="share μ of single-view rows", ylabel="error on all rows")
        ax.legend(fontsize=6.5)
        ax.set_title(f"patches, {self.rows:,} rows")

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        at, only = self.claimed, self.on_single
        single, both = only(r, at, "single"), only(r, at, "ensemble")
        words = "a single network fails on many rows of one view"
        yield st.at_most("E1.single", single, 0.85, words, also=(0.75, 0.95))
        known = st.of_teachers(
            r.measured[at]["memorised"][:, 1], "accuracy on own rows"
        )
        words = "all the same it knows its training rows"
        yield st.at_least("E1.memorised", known, 0.99, words, also=(0.98, 1.0))
        words = "an ensemble knows both views"
        yield st.at_least("E2.ensemble", both, 0.98, words, also=(0.95, 0.99))
        words = "one network as large as the ensemble does not"
        share = self.share(r, at, "together")
        yield st.at_most("E2.together", share, 0.5, words, also=(0.25, 0.75))
        words = "a student of the ensemble knows both views"
        share = self.share(r, at, "distilled")
        yield st.at_least("E3.distilled", share, 0.75, words, also=(0.5, 0.9))
        share = self.share(r, at, "truncated")
        words = "so it does by the paper's truncated gradient"
        yield st.at_least("E3.truncated", share, 0.75, words, also=(0.5, 0.9))
        words = "self-distillation gains, and less than the ensemble's student"
        gain = only(r, at, "itself") - single
        yield st.positive("E4.gain", gain, words)
        less = only(r, at, "distilled") - only(r, at, "itself")
        yield st.positive("E4.less", less, words)
        if len(self.mus) > 1:
            low, high = (
                (1 - r.measured[f"{mu:g}"]["single"][:, 1]) / mu
                for mu in (self.mus[0], self.mus[-1])
            )
            what = st.of_teachers(high / low, "error / μ, most over least μ")
            words = "errors of single networks grow in proportion to μ"
            yield st.at_least("E5.mu", what, 0.5, words, also=(0.25, 0.75))
        words = "on bits an ensemble knows both views as well"
        yield st.at_least(
            "E6.ensemble", only(r, BITS, "ensemble"), 0.98, words, also=(0.95, 0.99)
        )
        words = "and its student does not: two classes have no more to tell"
        share = self.share(r, BITS, "distilled")
        yield st.at_most("E6.distilled", share, 0.5, words, also=(0.25, 0.75))

    def facts(self, r: st.Result) -> dict[str, Any]:
        return {
            name: {
                arm: {
                    "single_view": median_estimate(v[:, 0]).to_json("accuracy"),
                    "all": median_estimate(v[:, 1]).to_json("accuracy"),
                }
                for arm, v in found.items()
            }
            for name, found in r.measured.items()
        }


def _logits(run: Run, seed: int, batch: Batch) -> dict[str, Float[np.ndarray, "B C"]]:
    """Of the final network of every strategy."""
    at, model = run.trajectory.steps[-1], run.spec.model
    out = {}
    for i, strategy in enumerate(run.spec.strategies):
        net = run.trajectory.read(at, seed=seed, lane=i)
        out[strategy.name] = np.asarray(model.apply(net, batch.x).logits)
    return out


def _accuracy(nets: list[Float[np.ndarray, "B C"]], batch: Batch) -> np.ndarray:
    """On single-view rows and on all, the mean over networks; NaN if non-finite."""
    z, y = np.stack(nets), np.asarray(batch.y)
    hit = np.where(np.isfinite(z).all(-1), z.argmax(-1) == y, np.nan)
    if "view" in batch.aux:
        single = np.asarray(batch.aux["view"]) >= 0
    else:
        single = (np.asarray(batch.x) == 0).any(-1)
    return np.asarray([hit[:, single].mean(), hit.mean()])


if __name__ == "__main__":
    MultipleViews.main()
