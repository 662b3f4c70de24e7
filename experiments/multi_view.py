"""Single networks, ensembles, and students of them, where a class has two views.

    python -m experiments.multi_view smoke
    python -m experiments.multi_view cpu
    python -m experiments.multi_view --help

Allen-Zhu and Li (arXiv 2012.09816) say: of few rows of patches a network learns one of
two views of a class, which one by its initialisation, and memorises the rows that do
not show it; an ensemble knows both, and its outputs tell a single student of both. Here
that is tried, also on two parities that agree, with fresh rows. Networks of an ensemble
and their students see the same rows.
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
from sandbox.plotting.curves import dots, estimates, rows
from sandbox.plotting.style import FAMILIES, WIDE
from sandbox.store.bounds import AtLeast, Increasing, MoreThan
from sandbox.tasks.data import Data, Finite, Fresh
from sandbox.tasks.multi_view import MultiView, TwoViews
from sandbox.theory.sample_complexity import LEAST, median_estimate
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import task_key
from sandbox.types import Batch

ARMS = {
    "single": ("single networks", FAMILIES["labels"]),
    "together": ("trained as one", "#000000"),
    "slowly": ("as one, at rate / n", "#000000"),
    "ensemble": ("ensemble", FAMILIES["parts"]),
    "distilled": ("distilled", FAMILIES["checkpoints"]),
    "truncated": ("distilled, truncated", FAMILIES["moving"]),
    "itself": ("self-distilled", FAMILIES["final"]),
    "labels": ("labels, students' start", FAMILIES["labels"]),
}
"""Arms, what figures call them, and their colours."""
BITS, TEST = "bits", 8192
"""Name of the second task; rows of the test."""
INITS = 2
"""Students of each arm."""
SLIGHT = 0.05
"""Gain of an ensemble below which shares of it mean nothing."""


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

    since = {"any": "2026-11-29 0dee3a0"}

    def check(self) -> None:
        require(bool(self.mus), "mus must hold a share of single-view rows.")

    @property
    def tasks(self) -> Mapping[str, MultiView | TwoViews]:
        """Every task by name."""
        made = {str(mu): replace(self.patches, mu=mu) for mu in self.mus}
        return {**made, BITS: self.bits}

    @property
    def claimed(self) -> str:
        """Name of the task on patches that most claims are about."""
        return str(self.mus[len(self.mus) // 2])

    @property
    def plain_runs(self) -> dict[str, RunSpec]:
        """Of every task the networks of an ensemble, then what learns from them."""
        out, tau = {}, self.tau
        target = Target(tau=tau)
        soft = Loss(alpha=0.5, tau_student=tau, scale=tau**2)
        # of the same size: (0.5 tau^2 / tau) times the difference of probabilities
        hard = beside(Truncated(tau=tau, weight=tau), labels=True)
        of_all = Strategy(
            name="of all", source=Ensemble(n=self.n), target=target, loss=soft
        )
        of_one = replace(of_all, source=Final())

        def students(**arms: Strategy) -> tuple[Strategy, ...]:
            return tuple(
                replace(s, name=f"{arm}#{i}", init=self.n + i)
                for arm, s in arms.items()
                for i in range(INITS)
            )

        plain = Strategy(name="single")
        three = students(labels=plain, distilled=of_all, itself=of_one)
        pushed = students(truncated=replace(of_all, loss=hard))
        for name in self.tasks:
            one = self._spec(name, replicas((plain,), self.n))
            teacher = TeacherRef(spec=one, final=one.stop.largest, lanes=self.n)
            out[f"{name}/singles"] = one
            out[f"{name}/students"] = self._spec(name, three, teacher=teacher)
            if name in (self.claimed, BITS):
                out[f"{name}/truncated"] = self._spec(name, pushed, teacher=teacher)
                for arm, rate in (("together", 1.0), ("slowly", 1 / self.n)):
                    wide = (Strategy(name=arm),)
                    out[f"{name}/{arm}"] = self._spec(
                        name, wide, times=self.n, rate=rate
                    )
        return out

    def _spec(
        self,
        name: str,
        strategies: tuple[Strategy, ...],
        times: int = 1,
        rate: float = 1.0,
        teacher: TeacherRef | None = None,
    ) -> RunSpec:
        """Networks of one task; of kind `teacher` all, so that all see the same rows.

        Args:
          name: of the task.
          strategies: one a network.
          times: as many hidden units.
          rate: factor on the learning rate.
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
            optimizer=SGD(lr=LearningRate(peak=rate * (0.1 if bits else 1.0))),
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

        Means over the networks of an arm. On patches also `memorised`, of single
        networks on the rows of their training, and `views`, of each of them on the
        single-view rows of a class and view, `(T, n, C, 2)`.
        """
        return {name: self._accuracies(r, name) for name in self.tasks}

    def _accuracies(self, r: st.Result, name: str) -> dict[str, np.ndarray]:
        task, rows = self.tasks[name], []
        runs = [run for key, run in r.plain.items() if key.startswith(f"{name}/")]
        for s in range(self.n_seeds):
            key = task_key(s)
            test = task.sample(key, jnp.uint32(0), TEST, split="probe")
            z = {k: v for run in runs for k, v in _logits(run, s, test).items()}
            by_arm: dict[str, list[np.ndarray]] = {}
            for lane, own in z.items():
                by_arm.setdefault(lane.partition("#")[0], []).append(own)
            by_arm["ensemble"] = [np.mean(by_arm["single"], 0)]
            found = {arm: _accuracy(nets, test) for arm, nets in by_arm.items()}
            if name != BITS:
                seen = task.sample(key, jnp.uint32(0), self.rows, split="train")
                own = list(_logits(runs[0], s, seen).values())
                found["memorised"] = _accuracy(own, seen)
                found["views"] = _by_view(by_arm["single"], test)
            rows.append(found)
        return {arm: np.stack([row[arm] for row in rows]) for arm in rows[0]}

    def on_single(self, r: st.Result, name: str, arm: str) -> st.Quantity:
        """Accuracy on the single-view rows of a task."""
        text = f"accuracy of {ARMS[arm][0]} on single-view rows, {_words(name)}"
        return st.of_teachers(r.measured[name][arm][:, 0], text)

    def share(self, r: st.Result, name: str, *arms: str) -> st.Quantity:
        """Gain over single networks on such rows as a share of the ensemble's.

        Of several arms the best; NaN where the ensemble gains less than `SLIGHT`.
        """
        found = r.measured[name]
        single = found["single"][:, 0]
        own = np.max([found[arm][:, 0] for arm in arms], 0)
        gain = found["ensemble"][:, 0] - single
        gain = np.where(gain >= SLIGHT, gain, np.nan)
        text = f"share of the ensemble's gain: {ARMS[arms[0]][0]}, {_words(name)}"
        return st.of_teachers((own - single) / gain, text)

    def known(self, r: st.Result, name: str) -> dict[str, np.ndarray]:
        """Of every data set: what its single networks know of classes and views.

        `one`: share of (network, class) that know one view (accuracy .9) and are wrong
        on half of the other's rows or more. `differ`: share of pairs of such networks
        of a class that know different views; NaN without pairs. `some`: share of
        (class, view) that some network knows.
        """
        acc = r.measured[name]["views"]  # (T, n, C, 2)
        yes, no = acc >= 0.9, acc <= 0.5
        first, second = yes[..., 0] & no[..., 1], yes[..., 1] & no[..., 0]
        a, b = first.sum(1), second.sum(1)  # (T, C)
        pairs = ((a + b) * (a + b - 1) / 2).sum(1)
        with np.errstate(invalid="ignore"):
            differ = (a * b).sum(1) / pairs
        return {
            "one": (first | second).mean((1, 2)),
            "differ": differ,
            "some": yes.any(1).mean((1, 2)),
        }

    def figure(self, r: st.Result) -> Figure:
        """Accuracy on single-view rows, and errors against their share.

        Accuracy on rows that show one view, (a) on patches (at the middle share of such
        rows) and (c) on two parities that agree; a dot a data set, the mean over the
        networks of an arm, bars the medians; dotted, one view known and the other
        guessed. (b) Error on all test rows against the share of single-view ones,
        medians with 95% intervals over five data sets or more, side by side at each
        share; dotted, what one view leaves.
        """
        fig = Figure(figsize=(WIDE, 3.0), layout="constrained")
        a, b, c = fig.subplots(1, 3, width_ratios=(1.1, 1, 1.1))
        self._draw_arms(a, r, self.claimed)
        rows(a, [words for words, _ in ARMS.values()])
        a.set_title(f"Patches, μ = {self.claimed}")
        self._draw_shares(b, r)
        self._draw_arms(c, r, BITS)
        rows(c, [""] * len(ARMS))
        c.set_title(f"Parities, μ = {self.bits.mu:g}")
        n = len(r.measured[self.claimed]["single"])
        words = f"n = {n} data sets an arm, patches of {self.rows:,} rows"
        st.note(fig, f"{words}; bars: medians" + " (b: 95% intervals)" * (n >= LEAST))
        return fig

    def _draw_arms(self, ax: Axes, r: st.Result, name: str) -> None:
        for row, (arm, (_, color)) in enumerate(ARMS.items()):
            dots(ax, row, r.measured[name][arm][:, 0], color)
        ax.axvline(0.5 + 0.5 / self.tasks[name].n_classes, color="0.6", lw=0.8, ls=":")
        ax.set(xlim=(None, 1.02), xlabel="accuracy, one-view rows")

    def _draw_shares(self, ax: Axes, r: st.Result) -> None:
        mus = np.asarray(self.mus)
        for i, arm in enumerate(("single", "itself", "distilled", "ensemble")):
            words, color = ARMS[arm]
            each = [1 - r.measured[str(mu)][arm][:, 1] for mu in self.mus]
            found = [median_estimate(row) for row in each]
            beside = mus * (1 + 0.03 * (i - 1.5))
            fmt = f"{'s^Do'[i]}-"
            estimates(ax, beside, found, color=color, label=words, fmt=fmt)
        left = mus / 2 * (1 - 1 / self.patches.n_classes)
        ax.plot(
            [0, *mus], [0, *left], color="0.6", lw=0.8, ls=":", label="one view each"
        )
        ax.set(xlim=(0, None), xticks=mus, xlabel="share μ of one-view rows")
        ax.set_ylabel("error on all rows")
        ax.set_title("Patches, by share")

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        at, only = self.claimed, self.on_single
        single, own = only(r, at, "single"), self.known(r, at)
        words = "single networks fail on many rows of one view"
        yield st.at_most("E1.single", single, 0.85, words, also=(0.75, 0.95))
        seen = r.measured[at]["memorised"][:, 0]
        seen = st.of_teachers(seen, "accuracy on single-view rows of the training set")
        words = "all the same they know those of their training set"
        yield st.at_least("E1.memorised", seen, 0.98, words, also=(0.95, 1.0))
        one = st.of_teachers(own["one"], "share of (network, class), one view known")
        words = "a network knows one view of a class, and not the other"
        yield st.at_least("E1.one", one, 0.5, words, also=(0.25, 0.75))
        differ = st.of_teachers(own["differ"], "share of pairs, different views known")
        words = "which one differs between networks that see the same rows"
        yield st.at_least("E1.differ", differ, 0.3, words, also=(0.2, 0.4))
        words = "an ensemble knows both views"
        both = only(r, at, "ensemble")
        yield st.at_least("E2.ensemble", both, 0.98, words, also=(0.95, 0.99))
        some = st.of_teachers(own["some"], "share of views that some network knows")
        words = "as each is known by some of its networks"
        yield st.at_least("E2.some", some, 0.95, words, also=(0.9, 1.0))
        words = (
            "one network as large as the ensemble does not, at the better of two rates"
        )
        share = self.share(r, at, "together", "slowly")
        yield st.at_most("E2.together", share, 0.5, words, also=(0.25, 0.75))
        words = "a student of the ensemble knows both views"
        told = only(r, at, "distilled")
        yield st.at_least("E3.distilled", told, 0.95, words, also=(0.9, 0.98))
        words = "so does one that learns by a truncated gradient, after the paper's"
        pushed = only(r, at, "truncated")
        yield st.at_least("E3.truncated", pushed, 0.95, words, also=(0.9, 0.98))
        words = "self-distillation gains over labels from the same start"
        gain = only(r, at, "itself") - only(r, at, "labels")
        yield st.positive("E4.gain", gain, words)
        words = (
            "and the ensemble's student gains more by a quarter of the ensemble's gain"
        )
        a, b = (self.share(r, at, arm) for arm in ("distilled", "itself"))
        yield st.at_least("E4.more", a - b, 0.25, words, also=(0.1, 0.5))
        if len(self.mus) > 1:
            low, high = (
                (1 - r.measured[str(mu)]["single"][:, 1]) / mu
                for mu in (self.mus[0], self.mus[-1])
            )
            off = np.maximum(high / low, low / high)
            what = st.of_teachers(off, "ratio >= 1 of error / μ at least and most μ")
            words = "errors of single networks grow in proportion to μ"
            yield st.at_most("E5.mu", what, 1.5, words, also=(1.25, 2.0))
        by = f"by {self.bit_samples:,} samples"
        words = f"on two parities single networks do not know both {by}"
        yield st.at_most(
            "E6.single", only(r, BITS, "single"), 0.85, words, also=(0.75, 0.95)
        )
        words = f"an ensemble does {by}"
        yield st.at_least(
            "E6.ensemble", only(r, BITS, "ensemble"), 0.98, words, also=(0.95, 0.99)
        )
        words = f"and its student does not {by}"
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
                if arm != "views"
            }
            for name, found in r.measured.items()
        }


def _words(name: str) -> str:
    return "two parities" if name == BITS else f"patches, μ = {name}"


def _logits(run: Run, seed: int, batch: Batch) -> dict[str, Float[np.ndarray, "B C"]]:
    """Of the final network of every strategy; NaN if it became non-finite."""
    lost = {(a["seed"], a["strategy"]) for a in run.outcome["failed"]}
    at, model = run.trajectory.steps[-1], run.spec.model
    out = {}
    for i, strategy in enumerate(run.spec.strategies):
        net = run.trajectory.read(at, seed=seed, lane=i)
        z = np.asarray(model.apply(net, batch.x).logits)
        out[strategy.name] = z * np.nan if (seed, strategy.name) in lost else z
    return out


def _hits(nets: list[Float[np.ndarray, "B C"]], batch: Batch) -> np.ndarray:
    """1 where a network is right, 0 where not, NaN if it is non-finite, `(n, B)`."""
    z = np.stack(nets)
    right = z.argmax(-1) == np.asarray(batch.y)
    return np.where(np.isfinite(z).all(-1), right, np.nan)


def _accuracy(nets: list[Float[np.ndarray, "B C"]], batch: Batch) -> np.ndarray:
    """On single-view rows and on all, the mean over networks."""
    if "view" in batch.aux:
        single = np.asarray(batch.aux["view"]) >= 0
    else:
        single = (np.asarray(batch.x) == 0).any(-1)
    hit = _hits(nets, batch)
    return np.asarray([hit[:, single].mean(), hit.mean()])


def _by_view(nets: list[Float[np.ndarray, "B C"]], batch: Batch) -> np.ndarray:
    """On the single-view rows of every class and view, `(n, C, 2)`."""
    hit, y, view = (
        _hits(nets, batch),
        np.asarray(batch.y),
        np.asarray(batch.aux["view"]),
    )
    each = [
        [hit[:, (y == c) & (view == v)].mean(1) for v in (0, 1)]
        for c in range(nets[0].shape[1])
    ]
    return np.moveaxis(np.asarray(each), -1, 0)


if __name__ == "__main__":
    MultipleViews.main()
