"""Is the curriculum there only in intermediate checkpoints?

    python -m experiments.final_teacher_only smoke
    python -m experiments.final_teacher_only cpu
    python -m experiments.final_teacher_only --help

Panigrahi et al. (arXiv 2410.05464) answer yes; Gupta and Karmalkar (arXiv 2503.17494)
extract one from the hidden layers of the fully trained teacher. Here students see the
final teacher alone: its outputs, its features, how its outputs change with a bit, parts
of it, or its outputs on biased inputs. Beside them are students of its checkpoints, and
controls: labels on the same biased inputs, features of the untrained teacher, and those
of a teacher of another support.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sandbox.study as st
from experiments import pcfg_accuracy, which_knowledge
from sandbox.distill.losses import Loss, Objective, Sum
from sandbox.distill.methods import (
    Damaged,
    Features,
    Flips,
    LogitMatching,
    OtherSupport,
    SubNetwork,
    WeightNoise,
)
from sandbox.distill.sources import Final, NShot, Source
from sandbox.distill.strategy import Strategy
from sandbox.errors import require
from sandbox.plotting import curves as plots
from sandbox.plotting.style import DEGREE_COLORS, FAMILIES, WIDE, color_of
from sandbox.study.result import caps_of
from sandbox.tasks.data import Phased
from sandbox.tasks.parity import Parity
from sandbox.theory.exponents import Exponent, Scaling, difference
from sandbox.train.teaching import task_key

LAYER = "hidden_0"
SMOKE = replace(which_knowledge.SMOKE, hold=15_360)
CPU = replace(which_knowledge.CPU, hold=61_440)
NAMES = {
    "ce": "labels (CE)",
    "one_shot": "its outputs (one-shot)",
    "logits": "logit matching",
    "features": "its features beside outputs",
    "extraction": "its features, then outputs",
    "components": "components, then outputs",
    "flips": "bit flips, magnitude",
    "flips_absolute": "bit flips, absolute",
    "flips_signed": "bit flips, signed",
    "units_30": "30% of its units, then whole",
    "units_10": "10% of its units, then whole",
    "noise": "noisy weights, then whole",
    "biased": "biased inputs, its outputs",
    "biased_labels": "biased inputs, labels",
    "untrained": "features of untrained",
    "other_support": "features, other support",
    "progressive": "progressive",
    "two_shot": "2-shot, middle",
    "blind": "2-shot, chosen blindly",
}
GROUPS = {
    "labels": (
        *("ce", "one_shot", "untrained", "other_support", "biased_labels"),
        *("outputs", "biased, labels"),
    ),
    "checkpoints": ("progressive", "two_shot", "blind", "middle checkpoint"),
}
"""Strategies and leaks by name of `style.FAMILIES`; the rest are other uses of the
final teacher."""
LEAKS = {
    "units_30": "30% of units",
    "units_10": "10% of units",
    "noise": "noisy weights",
    "untrained": NAMES["untrained"],
    "other_support": NAMES["other_support"],
}
"""What the panel of leaks calls what is taught, where its name does not say it."""
GROWING = ("two_shot", "flips", "extraction", "units_30", "features")
"""Strategies whose exponent in d is measured."""
SHADES = {
    "teacher": ("teacher", "#000000", "o"),
    "two_shot": ("2-shot", color_of("two_shot"), "D"),
    "flips": ("flips", DEGREE_COLORS[4], "s"),
    "extraction": ("features first", DEGREE_COLORS[0], "^"),
    "units_30": ("30% of units", DEGREE_COLORS[3], "v"),
    "features": ("features", DEGREE_COLORS[1], "P"),
}
"""What the panel of exponents calls them, their colours and marks."""
POINTS = 16_384


class Measured(NamedTuple):
    """What the study measures beside its students.

    Attributes:
      leaks: kind of teaching -> degree-1 correlations `(T, 2)`, in and off the support.
      laws: strategy -> samples to .90 by d.
      exponents: fitted to them.
    """

    leaks: dict[str, np.ndarray]
    laws: dict[str, Scaling]
    exponents: dict[str, Exponent]


class FinalTeacherOnly(st.Study):
    """Students of the final teacher alone, and of its checkpoints.

    Attributes:
      setting: parity, teachers and students; `hold` is the first stage of all.
      dims: projections of the teacher's hidden layer; components are a quarter.
      flips: changed bits of each row.
      bias: P(x_i = -1) of the biased inputs.
      cells: (d, k, spacing of checkpoints) of further problems, over which exponents
        in d are fitted; none for none.
      cell_hold: first stage there.
      strings: masked strings of a grammar, at a fixed length; None leaves them out.
    """

    setting: st.Setting = SMOKE
    dims: int = 32
    flips: int = 4
    bias: float = 0.25
    cells: tuple[tuple[int, ...], ...] = ()
    cell_hold: int = 20_480
    strings: st.Setting | None = None

    presets = {
        "smoke": st.preset("d=24, k=6, two teachers of width 500."),
        "cpu": st.preset(
            "d=32, k=6, ten teachers of width 1000; exponents at k=5, d = 16 to 48;"
            " cfg3b from level 13, two teachers.",
            setting=CPU,
            cells=((16, 5, 512), (24, 5, 1024), (32, 5, 2048), (48, 5, 5120)),
            strings=replace(pcfg_accuracy.LEVEL_13, n_teachers=2),
        ),
    }

    since = {
        "any": "2026-11-28 19748b1",
        "F6.features": "2026-11-28 19748b1 (added)",
    }

    def check(self) -> None:
        d = self.setting.made_task.d
        require(
            isinstance(self.setting.task, Parity) and self.setting.hold > 0,
            "setting must be a Parity with a positive hold.",
        )
        require(1 <= self.flips <= d, f"flips must lie in 1..{d}, got {self.flips}.")
        require(
            all(len(cell) == 3 for cell in self.cells)
            and len({cell[0] for cell in self.cells}) == len(self.cells),
            f"cells must hold (d, k, spacing), every d once, got {self.cells}.",
        )

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        cells = {f"d={d}, k={k}": self._cell(d, k, s) for d, k, s in self.cells}
        strings = {} if self.strings is None else {"strings": self.strings}
        return {"main": self.setting, **cells, **strings}

    def _cell(self, d: int, k: int, spacing: int) -> st.Setting:
        """A further problem, evaluated twice as often as checkpoints are stored."""
        hold, own = self.cell_hold, self.setting
        budget = replace(own.budget, limit=200 * spacing, least=3 * hold)
        return replace(
            own,
            task=replace(own.made_task, d=d, k=k),
            budget=budget,
            hold=hold,
            spacing=spacing,
            student_every=min(spacing // 2, 2560),
        )

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        if isinstance(t.setting.task, st.Strings):
            return self._on_strings(t)
        hold, final = t.setting.hold, Final()
        then = Features(layers=(LAYER,), dims=self.dims, hold=hold)
        few = replace(then, project="components", dims=max(self.dims // 4, 1))
        beside = Sum(losses=(Loss(), replace(then, hold=0)), weights=(1.0, 1.0))
        lanes: list[st.Lane] = [
            _with("two_shot", NShot(steps=(t["middle"],), hold=hold)),
            self._flips("flips", Flips(n=self.flips), 4.0),
            _with("extraction", final, then),
            _with("units_30", Damaged(damage=SubNetwork(share=0.3), hold=hold)),
            _with("features", final, beside),
        ]
        if t.setting != self.setting:
            return lanes
        task = replace(t.setting.made_task, p=self.bias)
        biased = Phased(first=task, until=hold)
        untrained = NShot(steps=(0,), hold=hold)
        other = Damaged(damage=OtherSupport(), hold=hold)
        shots = [
            st.progressive(t.spacing),
            _with("blind", NShot(steps=(t["blind"],), hold=hold)),
        ]
        return [
            *(st.ce(), st.one_shot(), *shots, *lanes),
            _with("logits", final, LogitMatching(weight=0.1)),
            _with("components", final, few),
            self._flips("flips_absolute", Flips(n=self.flips, match="absolute"), 1.0),
            self._flips("flips_signed", Flips(n=self.flips, match="signed"), 4.0),
            _with("units_10", Damaged(damage=SubNetwork(share=0.1), hold=hold)),
            _with("noise", Damaged(damage=WeightNoise(scale=1.0), hold=hold)),
            st.Capped(_with("biased", final), data=biased),
            st.Capped(Strategy(name="biased_labels"), data=biased),
            _with("untrained", untrained, then),
            _with("other_support", other, then),
        ]

    def _on_strings(self, t: st.Teachers) -> list[st.Lane]:
        """One replaced token a string; the first stage is divided among the layers."""
        s, final = t.setting, Final()
        assert isinstance(s.teacher, st.Heads)
        layers = tuple(f"residual_{i + 1}" for i in range(s.teacher.layers))
        stage = t.setting.samples(s.hold) // len(layers)
        then = Features(layers=layers, dims=max(self.dims // 2, 1), hold=stage)
        beside = Sum(losses=(Loss(), replace(then, hold=0)), weights=(1.0, 1.0))
        return [
            *(st.ce(), st.one_shot(), _with("progressive", pcfg_accuracy.pace(t))),
            st.two_shot(t["middle"], t.hold),
            _with("extraction", final, then),
            _with("features", final, beside),
            self._flips("flips", Flips(n=1), 4.0),
        ]

    def _flips(self, name: str, flips: Flips, weight: float) -> Strategy:
        loss = Sum(losses=(Loss(), flips), weights=(1.0, weight))
        return _with(name, Final(), loss)

    def measure(self, r: st.Result) -> Measured:
        """What is taught leaks, and how samples to .90 grow with d."""
        found = [
            self._leaks(t, s) for t in r.parts["main"].teachers for s in _usable(t)
        ]
        leaks = {k: np.stack([f[k] for f in found]) for k in (found or [{}])[0]}
        laws = {n: self._law(r, n) for n in ("teacher", *GROWING) if self.cells}
        return Measured(leaks, laws, {n: law.exponent() for n, law in laws.items()})

    def _leaks(self, t: st.Teachers, s: int) -> dict[str, np.ndarray]:
        """Of one teacher, by kind; noise is about 0.8 / sqrt(`POINTS`) = .006."""
        task, model = t.setting.made_task, t.spec.model
        key = task_key(t.spec.seeds[s])
        support = np.asarray(task.supports(key)[0])
        final, middle = (t.chosen.stages[n][0][s] for n in ("final", "middle"))
        uniform = task.sample(key, jnp.uint32(0), POINTS, split="probe")
        skewed = replace(task, p=self.bias)
        few = skewed.sample(key, jnp.uint32(0), POINTS, split="probe")

        assert final is not None and middle is not None  # of those that are usable
        start, half, net = (
            t.run.trajectory.read(step, seed=s) for step in (0, middle, final)
        )

        def out(params: Any, x: Any) -> np.ndarray:
            return np.asarray(jax.nn.softmax(model.apply(params, x).logits)[:, 1:])

        def logits(params: Any, x: Any) -> np.ndarray:
            z = np.asarray(model.apply(params, x).logits)
            z = z[:, 1:] - z[:, :1]
            return z / z.std(0)

        def features(params: Any) -> np.ndarray:
            h = np.asarray(model.apply(params, uniform.x, taps=(LAYER,)).acts[LAYER])
            v = np.random.default_rng(0).standard_normal((h.shape[1], self.dims))
            g = (h - h.mean(0)) @ v
            return g / np.maximum(g.std(0), 1e-12)

        def damaged(damage: Any) -> Any:
            return damage.apply(net, np.random.default_rng(t.spec.seeds[s]))

        x = np.asarray(uniform.x)
        whole = out(net, uniform.x)
        flipped = [out(net, x * (1 - 2 * row)) for row in np.eye(task.d)]
        change = np.stack([np.abs(whole - f).mean() / 2 for f in flipped])
        z = np.asarray(skewed.standardise(few.x))
        kinds = {
            "middle checkpoint": (out(half, uniform.x), x),
            "outputs": (whole, x),
            "logits": (logits(net, uniform.x), x),
            "features": (features(net), x),
            "units_30": (out(damaged(SubNetwork(share=0.3)), uniform.x), x),
            "units_10": (out(damaged(SubNetwork(share=0.1)), uniform.x), x),
            "noise": (out(damaged(WeightNoise(scale=1.0)), uniform.x), x),
            "biased, outputs": (out(net, few.x), z),
            "biased, labels": (np.asarray(few.y)[:, None].astype(float), z),
            "untrained": (features(start), x),
            "other_support": (features(damaged(OtherSupport())), x),
        }
        leaks = {k: np.abs(f.T @ x / len(x)) for k, (f, x) in kinds.items()}
        means = {k: _in_and_off(c.mean(0), support) for k, c in leaks.items()}
        return {**means, "flips": _in_and_off(change, support)}

    def figure(self, r: st.Result) -> Figure:
        """Samples and passes to .90 over the teacher's n90, and what leaks.

        (a) Samples of every student; the teacher was trained to three times its n90
        before. A dot a student, a bar the median where it is within the cap; triangles
        count students that were not there by then. (b) Forward passes of both networks
        and backward ones of the student (counted twice), in units of what the teacher
        took to its n90. (c) Degree-1 correlations (of flips: influences) of what is
        taught, mean over coordinates in the support (filled) and off it (open), medians
        of teachers. Where run: samples to .90 against d, medians, and fitted powers
        (first stages of a fixed length, of all but flips and features, flatten them);
        and accuracy on masked strings at the end, a dot a teacher.
        """
        p = r.parts["main"]
        rows = [n for n in NAMES if n in p.strategies]
        fig = Figure(figsize=(WIDE, 7.4), layout="constrained")
        top, bottom = fig.add_gridspec(2, 1, height_ratios=(1.7, 1))
        n = 1 + (len(self.cells) > 0) + ("strings" in r.parts)
        grids = top.subgridspec(1, 2), bottom.subgridspec(1, n)
        axes = [ax for g in grids for ax in g.subplots(squeeze=False).ravel()]
        st.ratios(axes[0], {"": p}, rows, label=NAMES.__getitem__, color=row_color)
        axes[0].set(title="Samples that students need", xlabel="samples / teacher's")
        passes = {n: self._passes(p, n).ravel() for n in rows}
        plots.strips(
            axes[1],
            list(passes.values()),
            labels=["" for _ in rows],
            colors=[row_color(n) for n in rows],
            cap=max(getattr(p.setting.budget, "cap", 1.0), _largest(passes)),
        )
        axes[1].set(title="Passes that they need", xlabel="passes / teacher's")
        axes[1].axvline(1, color="0.5", lw=0.8, zorder=0)
        _draw_leaks(axes[2], r.measured.leaks)
        if self.cells:
            _draw_exponents(axes[3], r.measured)
        if "strings" in r.parts:
            ax, part = axes[-1], r.parts["strings"]
            st.endings(ax, part, label=NAMES.__getitem__, color=row_color)
            ax.tick_params(axis="y", labelsize=6.5)
            ax.set_title("Masked strings")
        st.families(fig, map(family, rows))
        st.note(fig, f"{st.counts_by_part(r.parts)}; bars: medians; ▸ not by its cap")
        return fig

    def _passes(self, p: st.Taught, name: str) -> Float[np.ndarray, "T I"]:
        """Passes to .90, a backward one counted as two, over the teacher's."""
        own, cost = p.strategies[name].cost, 3.0
        passes = own.student_forward + 2 * own.student_backward + own.teacher_forward
        return (p.n90[name] / p.n90.teacher).values * passes / cost

    def _law(self, r: st.Result, name: str) -> Scaling:
        """Samples to .90 and caps of a strategy by d."""
        runs = {}
        for d, k, _ in self.cells:
            p = r.parts[f"d={d}, k={k}"]
            caps = [caps_of(run) for run in p.runs(name) if run is not None]
            runs[d] = p.n90[name].values[:, 0], np.concatenate(caps)
        return Scaling(runs)

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        """Rules of 2026-11-28, written before the first run."""
        p = r.parts["main"]
        n90, up = p.n90, (sqrt(2), 4.0)
        for name, most in (
            *(("flips", 0.5), ("features", 0.5), ("extraction", 0.5)),
            *(("units_30", 0.75), ("biased", 0.75)),
        ):
            words = f"{NAMES[name]}: students of the final teacher outpace it"
            also = (sqrt(most), most**2)
            yield st.at_most(
                f"F1.{name}", n90[name] / n90.teacher, most, words, also=also
            )
        for name, than in (("one_shot", "extraction"), ("flips_signed", "flips")):
            words = f"{NAMES[name]} is slower than {NAMES[than]}"
            yield st.at_least(f"F2.{name}", n90[name] / n90[than], 2.0, words, also=up)
        words = "on the same biased inputs labels teach as fast as the final teacher"
        ratio = n90["biased_labels"] / n90["biased"]
        also = (sqrt(1.25), 1.25**2)
        yield st.at_most("F3.biased", ratio, 1.25, words, also=also)
        for name in ("untrained", "other_support"):
            words = f"{NAMES[name]} (a control) is slower than {NAMES['extraction']}"
            ratio = n90[name] / n90["extraction"]
            yield st.at_least(f"F4.{name}", ratio, 2.0, words, also=up)
        words = "extraction is as fast as the best checkpoint"
        ratio = n90["extraction"] / n90["two_shot"]
        yield st.at_most("F5.two_shot", ratio, 1.0, words)
        if not self.cells:
            return
        laws, fits = r.measured.laws, r.measured.exponents
        known = [~np.isnan(n) for n, _ in laws["teacher"].runs.values()]
        fewest = min(int(k.sum()) for k in known)
        for name in GROWING[1:]:  # features: added after the first run
            gap = difference(fits["teacher"], fits[name])
            text = f"exponent in d of the teacher - that of {name}"
            what = st.Statistic(gap, text, fewest)
            words = f"{NAMES[name]} grows more slowly in d than the teacher"
            yield st.positive(f"F6.{name}", what, words)

    def facts(self, r: st.Result) -> dict[str, Any]:
        fits = {n: fit.to_json() for n, fit in r.measured.exponents.items()}
        rows = {k: np.median(v, 0) for k, v in r.measured.leaks.items()}
        leaks = {k: {"in": v[0], "off": v[1]} for k, v in rows.items()}
        strings = {}
        if "strings" in r.parts:
            part = r.parts["strings"]
            strings = {n: part.at(n).values.ravel() for n in part.strategies}
        p = r.parts["main"]
        cost = {n: s.cost._asdict() for n, s in p.strategies.items()}
        found = {"leaks": leaks, "passes_a_sample": cost, "exponents": fits}
        return found | {"accuracy_on_strings": strings}


def _with(name: str, source: Source, loss: Objective | None = None) -> Strategy:
    return Strategy(name=name, source=source, loss=loss or Loss())


def family(name: str) -> str:
    """The family of a strategy."""
    return next((f for f, names in GROUPS.items() if name in names), "final")


def row_color(name: str) -> str:
    """The colour of a strategy's family."""
    return FAMILIES[family(name)]


def _usable(t: st.Teachers) -> list[int]:
    """Positions of the teachers that learned and have a middle checkpoint."""
    middle = t.chosen.stages["middle"][0]
    return [int(s) for s in np.flatnonzero(t.usable) if middle[s] is not None]


def _in_and_off(c: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Means over the coordinates in the support, and off it."""
    return np.asarray([c[support].mean(), np.delete(c, support).mean()])


def _largest(passes: Mapping[str, np.ndarray]) -> float:
    every = np.concatenate([v.ravel() for v in passes.values()])
    return float(np.max(every[np.isfinite(every)], initial=1.0))


def _draw_leaks(ax: Axes, leaks: Mapping[str, np.ndarray]) -> None:
    """In (filled) and off (open) the support, a row a kind of teaching."""
    for i, (name, v) in enumerate(leaks.items()):
        (inside, off), color = np.median(v, 0), row_color(name)
        ax.plot([inside, off], [i, i], "-", color="0.7", lw=0.8)
        for x, mfc in ((inside, color), (off, "white")):
            ax.plot(x, i, "o", color=color, mfc=mfc, ms=4)
    for mfc, word in (("0.35", "in support"), ("white", "off")):
        ax.plot([], [], "o", color="0.35", mfc=mfc, ms=4, label=word)
    plots.rows(ax, [LEAKS.get(name, name) for name in leaks])
    ax.set(xscale="log", xlabel="degree-1 correlation", title="What is taught leaks")
    ax.minorticks_off()
    ax.legend(loc="best", handletextpad=0.2)


def _draw_exponents(ax: Axes, m: Measured) -> None:
    """Samples to .90 against d, with the fitted powers."""
    sizes = np.asarray(list(m.laws["teacher"].runs))
    for name, law in m.laws.items():
        median = [np.median(n) for n, _ in law.runs.values()]
        words, color, mark = SHADES[name]
        text = f"{words}: {m.exponents[name].value:.1f}"
        ax.plot(sizes, median, mark, color=color, ms=3.5)
        at = m.exponents[name].at(sizes)
        style = {"color": color, "lw": 0.9, "ms": 3.5}
        ax.plot(sizes, at, "-", **style)
        ax.plot([], [], f"{mark}-", label=text, **style)
    plots.log_levels(ax)
    plots.log_ticks(ax, sizes.tolist())
    ax.set(xlabel="d", ylabel="samples to .90", title="Exponents in d")
    ax.legend(loc="upper left", handlelength=1.2)


if __name__ == "__main__":
    FinalTeacherOnly.main()
