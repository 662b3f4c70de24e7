"""Which checkpoint teaches best, and which score tells so beforehand?

    python -m experiments.which_teacher smoke
    python -m experiments.which_teacher cpu
    python -m experiments.which_teacher --help

Checkpoints of one trajectory teach students, throughout or for the first stage alone.
Scores of them, from several papers (`sandbox.probes.scores`), are compared with what
the students needed: mutual information (Wang et al., arXiv 2210.06458), supervision
complexity (Harutyunyan et al., 2301.12245), distance from the exact posterior (Menon et
al., 2005.10419), dependence off the support (after Kyono and van der Schaar,
1911.12441), and the degree-1 leak of Panigrahi et al. (2410.05464). With few rows and
noisy labels it is variance that counts; where a weaker teacher beats the converged one
is found by their number. DisWOT (Dong et al., 2303.15678) scores students, not
teachers: by their features before any training.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments import parity_place
from experiments.parity_curriculum import Shares
from sandbox.distill.methods import Bayes
from sandbox.distill.methods import Fixed as Throughout
from sandbox.distill.sources import Final, PerSeed
from sandbox.distill.strategy import Strategy
from sandbox.errors import require
from sandbox.models.base import Size
from sandbox.plotting import curves as plots
from sandbox.plotting.curves import estimates, log_levels, log_ticks
from sandbox.plotting.style import FAMILIES, WIDE, color_of, sequence
from sandbox.probes.scores import (
    Influence,
    Supervision,
    diswot,
    mutual_information,
    risk_terms,
    states,
)
from sandbox.probes.transitions import output_variance
from sandbox.store.bounds import Increasing
from sandbox.tasks.data import Finite
from sandbox.tasks.parity import NoisyParity
from sandbox.theory.ranks import rank_correlation
from sandbox.theory.sample_complexity import LEAST, median_estimate
from sandbox.train.teaching import init_key, task_key

SMOKE = replace(parity_place.SMOKE, lanes=8, n_teachers=2, seed=0, student_every=256)
CPU = replace(parity_place.CPU, lanes=8, seed=0, student_every=2560)
FEW = replace(
    SMOKE,
    task=NoisyParity(d=16, k=4, eps=0.1),
    student=st.TwoLayer(100),
    lanes=6,
    budget=st.UntilLearned(limit=51_200, cap=6.0),
)
PLACES, ROWS = "places", "rows"
SCORES = {
    "leak": "degree-1 gap",
    "variance": "Var p",
    "accuracy": "accuracy",
    "information": "I(Y; F)",
    "kl": "−KL to posterior",
    "bias": "−|p − p*|",
    "risk": "−Var of risk",
    "complexity": "−complexity, τ = 1",
    "complexity_4": "−complexity, τ = 4",
    "simple": "−complexity / size, τ = 1",
    "outside": "−dependence off support",
}
"""Scores, the larger the better a teacher should be, and what figures call them."""
KINDS = {
    "labels": ("labels", FAMILIES["labels"], "s"),
    "bayes": ("exact posterior", "#000000", "o"),
    "final": ("final teacher", FAMILIES["final"], "^"),
    "middle": ("middle, throughout", FAMILIES["parts"], "v"),
    "two_shot": ("middle, then final", color_of("two_shot"), "D"),
}
"""Teachers of few rows, and their colours."""
POINTS = 16_384


class Measured(NamedTuple):
    """What the study measures beside its students.

    Attributes:
      scores: name -> score of every teacher's checkpoints `(T, P)`.
      joint: I(Y; final, checkpoint) in nats, `(T, P)`.
      students: DisWOT of every student by width, `(T,)`.
    """

    scores: dict[str, np.ndarray]
    joint: np.ndarray
    students: dict[int, np.ndarray]


class WhichTeacher(st.Study):
    """Scores of checkpoints against the students they teach.

    Attributes:
      places: parity, teachers and students.
      shares: of the middle checkpoint's samples, near which checkpoints teach.
      widths: of further students, whom DisWOT scores.
      few: noisy parity, whose students see few rows.
      sizes: how many.
    """

    places: st.Setting = SMOKE
    shares: Shares = (0.5, 0.9, 1.0, 1.5)
    widths: Annotated[tuple[Size, ...], Increasing(1)] = (5,)
    few: st.Setting = FEW
    sizes: Annotated[tuple[Size, ...], Increasing(1)] = (1000,)

    presets = {
        "smoke": st.preset("two teachers of d=16, k=4; 1,000 noisy rows."),
        "cpu": st.preset(
            "ten teachers of d=32, k=6; 1,000 to 64,000 noisy rows of d=24, k=4.",
            places=CPU,
            shares=(0.3, 0.6, 0.8, 0.9, 1.0, 1.1, 1.3, 1.7, 2.5),
            widths=(5, 10, 50, 200),
            few=replace(
                FEW,
                task=NoisyParity(d=24, k=4, eps=0.1),
                teacher=st.TwoLayer(1000),
                n_teachers=10,
                group=10,
                spacing=1024,
                student_every=1024,
                budget=st.UntilLearned(limit=204_800, cap=4.0),
            ),
            sizes=(1000, 4000, 16_000, 64_000),
        ),
    }

    since = {"any": "2026-11-28 abb2853"}

    def check(self) -> None:
        ok = isinstance(self.places.rule, st.ByGap)
        require(ok, "places.rule must be ByGap(), which measures correlations.")
        own = self.places.student
        ok = isinstance(own, st.TwoLayer) and own.width not in self.widths
        require(ok, "places.student must be a TwoLayer of a width beside `widths`.")
        require(
            isinstance(self.few.task, NoisyParity),
            f"few.task must be a NoisyParity, got {self.few.task!r:.60}.",
        )

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        more = {
            f"width {n}": replace(self.places, student=st.TwoLayer(n))
            for n in self.widths
        }
        return {PLACES: self.places, ROWS: self.few} | more

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        if t.setting == self.few:
            return [lane for n in self.sizes for lane in self._of_rows(t, n)]
        if t.setting != self.places:
            return [st.progressive(t.spacing)]
        near = {f"{share:g}": t.near(share) for share in self.shares}
        first = [st.two_shot(s, t.hold, name=f"first_{n}") for n, s in near.items()]
        alone = [_throughout(f"fixed_{n}", s) for n, s in near.items()]
        return [st.progressive(t.spacing), *first, *alone]

    def _of_rows(self, t: st.Teachers, n: int) -> Iterator[st.Capped]:
        """Every kind of teacher on the same n rows."""
        middle = t["middle"]
        for s in (
            Strategy(name="labels"),
            Strategy(name="bayes", source=Bayes(task=t.setting.made_task)),
            Strategy(name="final", source=Final()),
            _throughout("middle", middle),
            st.two_shot(middle, t.hold),
        ):
            named = replace(s, name=f"{s.name}_{n}")
            yield st.Capped(named, data=Finite(n=n), whole=True)

    def measure(self, r: st.Result) -> Measured:
        """Scores of the checkpoints that teach, on inputs of their own."""
        rows = [
            self._scores(r, t, s)
            for t in r.parts[PLACES].teachers
            for s in range(len(t.n90))
        ]
        scores = {n: np.stack([own[n] for own, _ in rows]) for n in SCORES}
        joint = np.stack([both for _, both in rows])
        students = {
            n: np.asarray([_diswot(t, s) for t in p.teachers for s in t.spec.seeds])
            for n, p in self.by_width(r).items()
        }
        return Measured(scores, joint, students)

    def by_width(self, r: st.Result) -> dict[int, st.Taught]:
        """Students of the first question by their width, narrow ones first."""
        own = self.places.student
        assert isinstance(own, st.TwoLayer)
        every = {own.width: r.parts[PLACES]}
        every |= {n: r.parts[f"width {n}"] for n in self.widths}
        return dict(sorted(every.items()))

    def _scores(
        self, r: st.Result, t: st.Teachers, s: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Of one teacher's checkpoints, and their information beside the final one."""
        final = t.chosen.stages["final"][0][s]
        near = [t.near(share).values[s] for share in self.shares]
        steps = [step for step in near if step is not None]
        if not t.usable[s] or final is None or len(steps) < len(near):
            none = np.full(len(self.shares), np.nan)
            return dict.fromkeys(SCORES, none), none
        task, model, student = (
            t.setting.made_task,
            t.spec.model,
            t.setting.student.model(t.setting.made_task),
        )
        key = task_key(t.spec.seeds[s])
        batch = task.sample(key, jnp.uint32(0), POINTS, split="probe")
        exact, y = np.asarray(task.bayes(batch), float), np.asarray(batch.y)
        known = sorted(set(steps))
        probes = (
            Supervision(task, model, student=student, points=128),
            Influence(task, model, points=512),
        )
        found = [r.measure(t.run, p, steps=known, seeds=(s,)).values for p in probes]
        inside = np.asarray(task.supports(key)).ravel()
        fresh = student.apply(student.init(key), batch.x).logits
        loss = -np.asarray(jax.nn.log_softmax(fresh), float)

        def answers(step: int) -> np.ndarray:
            net = t.run.trajectory.read(step, seed=s)
            return np.asarray(jax.nn.softmax(model.apply(net, batch.x).logits), float)

        last = states(answers(final))
        degree1, se = (t.measured[n][s][..., 1] for n in ("degree1", "degree1_se"))
        rule = t.setting.rule
        assert isinstance(rule, st.ByGap)
        spread = output_variance(degree1, se, rule.points)
        gap = (t.measured["inside"] - t.measured["outside"])[s]
        out: dict[str, list[float]] = {name: [] for name in SCORES}
        joint = []
        for step in steps:
            i, at = known.index(step), int(np.searchsorted(t.steps, step))
            p = answers(step)
            variance, bias = risk_terms(p, exact, loss)
            own = states(p)
            influence = found[1]["influence"][0, i]
            size = np.sqrt(np.mean((p - 1 / p.shape[1]) ** 2))
            values = {
                "leak": gap[at],
                "variance": spread[at],
                "accuracy": t.accuracy[s, at],
                "information": mutual_information(own, y),
                "kl": (exact * np.log(np.maximum(p, 1e-30))).sum(1).mean(),
                "bias": -bias,
                "risk": -variance,
                "complexity": -found[0]["complexity/1"][0, i],
                "complexity_4": -found[0]["complexity/4"][0, i],
                "simple": -found[0]["complexity/1"][0, i] / size,
                "outside": -np.delete(influence, inside).sum() / influence.sum(),
            }
            for name, value in values.items():
                out[name].append(float(value))
            _, both = np.unique(np.stack([last, own]), axis=1, return_inverse=True)
            joint.append(mutual_information(both.ravel(), y))
        return {n: np.asarray(v) for n, v in out.items()}, np.asarray(joint)

    def times(self, p: st.Taught) -> np.ndarray:
        """Samples to .90 of 2-shot students over the teacher's, `(T, P)`."""
        pace = [p.n90[f"first_{share:g}"] / p.n90.teacher for share in self.shares]
        return np.concatenate([q.values for q in pace], 1)

    def orders(self, r: st.Result) -> dict[str, st.Quantity]:
        """Rank correlation of every score with how soon 2-shot students learn."""
        times = self.times(r.parts[PLACES])
        out = {}
        for name, rows in r.measured.scores.items():
            each = [
                np.nan if np.isnan([v, t]).any() else rank_correlation(v, -t)
                for v, t in zip(rows, times, strict=True)
            ]
            text = f"rank correlation of {SCORES[name]} and speed"
            out[name] = st.of_teachers(each, text)
        return out

    def figure(self, r: st.Result) -> Figure:
        """Students of every checkpoint, scores against them, and few noisy rows.

        (a) Samples to .90 of 2-shot students over their teacher's, by the first
        checkpoint's place (medians and 95% intervals; a triangle at the cap counts as
        not there); dashed, on the right axis, accuracy at the end of students that it
        teaches throughout; dotted, the teacher's pace. (b) Rank correlation, within
        each teacher, of a checkpoint's score (of those with a minus, the least is best)
        and how soon its 2-shot student learns; a dot a teacher, bars the medians; 1 is
        a perfect order. Var p: variance of its output p, F: p in bins, Y: labels, p*:
        the exact posterior. (c) Accuracy on clean labels at the cap of students that
        see so many rows with noisy labels again and again, medians and 95% intervals.
        (d) DisWOT of students of every width against the samples to .90 of progressive
        ones, a mark a student, hollow at the cap where it was not there by then.
        """
        fig = Figure(figsize=(WIDE, 5.6), layout="constrained")
        (a, b), (c, d) = fig.subplots(2, 2, width_ratios=(1, 1.1))
        self._draw_places(a, r)
        self._draw_orders(b, r)
        self._draw_rows(c, r)
        self._draw_students(d, r)
        counts = {name: st.learned(r.parts[name]) for name in (PLACES, ROWS)}
        words = f"a, b, d: {self.places}, n = {counts[PLACES]} teachers"
        words += f"; c: {self.few}, n = {counts[ROWS]}"
        bars = ", bars: 95% intervals" * (min(counts.values()) >= LEAST)
        st.note(fig, f"{words}; medians{bars}")
        return fig

    def _draw_places(self, ax: Axes, r: st.Result) -> None:
        p, budget = r.parts[PLACES], self.places.budget
        assert isinstance(budget, st.UntilLearned)
        found = [median_estimate(column) for column in self.times(p).T]
        estimates(ax, self.shares, found, color=color_of("two_shot"), cap=budget.cap)
        log_levels(ax)
        ax.axhline(1, color="0.6", lw=0.8, ls=":")
        ax.set(xlabel="checkpoint / middle", title="Students of every checkpoint")
        ax.set_ylabel("2-shot: samples to .90 / teacher's", color=color_of("two_shot"))
        other = ax.twinx()
        other.grid(visible=False)
        ends = [np.nanmedian(p.at(f"fixed_{share:g}").values) for share in self.shares]
        color = FAMILIES["parts"]
        other.plot(self.shares, ends, "s--", color=color, ms=3, lw=0.9)
        other.set(ylim=(0.45, 1.02))
        other.set_ylabel("throughout: accuracy", color=color)

    def _draw_orders(self, ax: Axes, r: st.Result) -> None:
        color = FAMILIES["checkpoints"]
        for i, q in enumerate(self.orders(r).values()):
            plots.dots(ax, i, q.values.ravel(), color)
        ax.axvline(0, color="0.6", lw=0.8)
        plots.rows(ax, list(SCORES.values()))
        ax.set(xlim=(-1.05, 1.05), xlabel="rank correlation with speed")
        ax.set_title("Which score orders checkpoints?")

    def _draw_rows(self, ax: Axes, r: st.Result) -> None:
        p = r.parts[ROWS]
        for name, (words, color, mark) in KINDS.items():
            found = [median_estimate(_ends(p, name, n)) for n in self.sizes]
            fmt = f"{mark}-"
            estimates(ax, self.sizes, found, color=color, fmt=fmt, label=words)
        log_ticks(ax, self.sizes)
        ax.set_xticks(self.sizes, [f"{n / 1000:g}k" for n in self.sizes])
        ax.set(xlabel="different rows", ylabel="accuracy on clean labels")
        ax.set_title("With few noisy rows")
        ax.legend()

    def _draw_students(self, ax: Axes, r: st.Result) -> None:
        budget = self.places.budget
        assert isinstance(budget, st.UntilLearned)
        parts = self.by_width(r)
        styles = zip(sequence(len(parts)), cycle("osD^v"), strict=False)
        for (n, p), (color, mark) in zip(parts.items(), styles, strict=True):
            values = r.measured.students[n]
            pace = (p.n90["progressive"] / p.n90.teacher).values.ravel()
            late, x = np.isinf(pace), 1e3 * values
            style = {"color": color, "ms": 3.5}
            ax.plot(x[~late], pace[~late], mark, mew=0, label=f"width {n}", **style)
            ax.plot(
                x[late], np.full(late.sum(), budget.cap), mark, mfc="white", **style
            )
        log_levels(ax)
        ax.set_yticks((1, 1.25, 1.5, 2, 3), ("1", "1.25", "1.5", "2", "3"))
        ax.set(ylabel="progressive: samples to .90 / teacher's")
        ax.set_xlabel("DisWOT at initialisation (thousandths)")
        ax.set_title("Does DisWOT order students?")
        ax.locator_params(axis="x", nbins=5)
        ax.legend(handletextpad=0.2)

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        orders = self.orders(r)
        for name in ("leak", "variance"):
            words = f"{SCORES[name]} ranks checkpoints by how soon their students learn"
            yield st.at_least(f"T1.{name}", orders[name], 0.7, words, also=(0.6, 0.9))
        for name in ("accuracy", "kl", "bias", "information"):
            words = f"{SCORES[name]} does not: the best teacher is not the most exact"
            yield st.at_most(f"T2.{name}", orders[name], 0.3, words, also=(0.0, 0.6))
        for name in ("complexity", "complexity_4", "simple"):
            words = f"{SCORES[name]} ranks checkpoints by how soon their students learn"
            yield st.at_least(f"T3.{name}", orders[name], 0.7, words, also=(0.6, 0.9))
        few, many = self.sizes[0], self.sizes[-1]
        p = r.parts[ROWS]
        words = "with the fewest rows the exact posterior beats labels"
        gain = p.at(f"bayes_{few}") - p.at(f"labels_{few}")
        yield st.positive("T4.bayes", gain, words)
        words = "with the fewest rows the final teacher beats the middle one"
        gain = p.at(f"final_{few}") - p.at(f"middle_{few}")
        yield st.positive("T4.few", gain, words)
        words = "with the most rows the middle teacher, then the final one, wins"
        gain = p.at(f"two_shot_{many}") - p.at(f"final_{many}")
        yield st.positive("T4.many", gain, words)

    def facts(self, r: st.Result) -> dict[str, Any]:
        p, times = r.parts[ROWS], self.times(r.parts[PLACES])
        rows = {
            str(n): {k: np.nanmedian(_ends(p, k, n)) for k in KINDS} for n in self.sizes
        }
        joint = r.measured.joint
        return {
            "pace": dict(
                zip(map(str, self.shares), np.nanmedian(times, 0), strict=True)
            ),
            "orders": {
                n: median_estimate(q.values.ravel()).to_json("rank")
                for n, q in self.orders(r).items()
            },
            "joint_information": [np.nanmin(joint), np.nanmax(joint)],
            "accuracy_by_rows": rows,
            "diswot": {str(n): np.median(v) for n, v in r.measured.students.items()},
        }


def _throughout(name: str, step: int | PerSeed) -> Strategy:
    """One checkpoint for the whole run."""
    return Strategy(name=name, source=Throughout(step=step))


def _ends(p: st.Taught, kind: str, n: int) -> np.ndarray:
    """Accuracy at the end of every student of n rows."""
    return p.at(f"{kind}_{n}").values[:, 0]


def _diswot(t: st.Teachers, seed: int) -> float:
    """Of a student's and its teacher's hidden layer, before any training."""
    task, key = t.setting.made_task, task_key(seed)
    x = task.sample(key, jnp.uint32(0), 256, split="probe").x
    tap = ("hidden_0",)
    nets = (t.spec.model, t.setting.student.model(task))
    keys = (init_key(seed, kind) for kind in ("teacher", "student"))
    acts = [
        np.asarray(net.apply(net.init(k), x, taps=tap).acts[tap[0]], float)
        for net, k in zip(nets, keys, strict=True)
    ]
    return diswot(*acts)


if __name__ == "__main__":
    WhichTeacher.main()
