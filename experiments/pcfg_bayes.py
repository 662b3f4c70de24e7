"""What the exact Bayes predictor of a grammar can do, and which context it uses.

    python -m experiments.pcfg_bayes smoke
    python -m experiments.pcfg_bayes cpu --exact.windows 2 3 9
    python -m experiments.pcfg_bayes --help

Nothing is trained, and no claim rests on it; it says what a perfect model would do
where claims on grammars speak of models. A case is a grammar and the level that its
strings start from: `cfg3b/13` starts from 13, 14 or 15.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import sandbox.study as st
from sandbox.errors import require
from sandbox.plotting.curves import end_labels
from sandbox.plotting.style import DEGREE_COLORS
from sandbox.store.bounds import AtLeast, Within, check_fields
from sandbox.tasks.bayes_context import Ceiling, accuracy_ceiling, context_use
from sandbox.tasks.channel import Channel
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_arrays import GrammarArrays, compile_grammar
from sandbox.types import Array

LEVELS = {"13": ("13", "14", "15"), "16": ("16", "17", "18"), "22": ("22",)}
"""Start symbols by the name of their level."""
STRIDE = {"13": 1, "16": 3, "22": 30}
"""Every how many tokens context is measured; 30 as in arXiv 2410.05464."""
COLORS = dict(zip(LEVELS, DEGREE_COLORS, strict=False))
MARKS = dict(zip(LEVELS, "osD", strict=True))
MODES = {"visible": "-", "hidden": "--"}
GRAMMARS = ("cfg3b", "cfg3f", "cfg3g", "cfg3h", "cfg3i")
EVERY = tuple(f"{g}/{level}" for level in LEVELS for g in GRAMMARS)
FEW = tuple(f"cfg3b/{level}" for level in LEVELS)
RATES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)

Arrays = dict[str, np.ndarray]
Share = Annotated[float, Within(0, 1, "(]")]


@dataclass(frozen=True, kw_only=True)
class Exact:
    """What is computed.

    Attributes:
      cases: grammar/level pairs whose ceilings are computed.
      context_cases: those whose use of context is measured.
      rate_cases: those whose ceiling is computed for every masking rate.
      windows: n of the n-gram windows.
      rate: share of selected positions in the ceilings of `cases`.
      rates: shares of selected positions.
      strings: strings drawn for each case of levels 13 and 16.
      long_strings: strings drawn for each case of level 22.
      seed: of the strings and their corruption.
    """

    cases: tuple[str, ...] = ("cfg3b/13", "cfg3f/13")
    context_cases: tuple[str, ...] = ("cfg3b/13",)
    rate_cases: tuple[str, ...] = ("cfg3b/13",)
    windows: tuple[Annotated[int, AtLeast(1)], ...] = (2, 3, 4, 5)
    rate: Share = 0.3
    rates: tuple[Share, ...] = (0.1, 0.3, 0.6)
    strings: Annotated[int, AtLeast(2)] = 128
    long_strings: Annotated[int, AtLeast(2)] = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses unknown cases and empty samples."""
        check_fields(self, "exact")
        for field in ("cases", "context_cases", "rate_cases"):
            for case in getattr(self, field):
                grammar, level = parts(case)
                words = f"exact.{field}: {case!r} is no case; write GRAMMAR/LEVEL with"
                words += f" a level among {', '.join(LEVELS)}, such as cfg3b/13."
                require(bool(grammar) and level in LEVELS, words)

    def pieces(self) -> dict[str, Callable[[], Arrays]]:
        """`CASE alone`, `CASE masked`, `CASE visible`, `CASE hidden`, `CASE context`.

        Ceilings with one token masked; at the selected tokens of a corrupted string,
        those hidden from each other; at every rate, selected tokens visible or hidden;
        and measures of context.
        """
        out: dict[str, Callable[[], Arrays]] = {}
        for case in dict.fromkeys((*self.cases, *self.context_cases, *self.rate_cases)):
            if case in self.cases:
                out[f"{case} alone"] = partial(self._ceilings, case, (None,), False)
                masked = (self.rate,)
                out[f"{case} masked"] = partial(self._ceilings, case, masked, True)
            for mode in MODES if case in self.rate_cases else ():
                rates = (self.rates, mode == "hidden")
                out[f"{case} {mode}"] = partial(self._ceilings, case, *rates)
            if case in self.context_cases:
                out[f"{case} context"] = partial(self._context, case)
        return out

    def _sample(self, case: str) -> tuple[GrammarArrays, Array, int]:
        n = self.long_strings if parts(case)[1] == "22" else self.strings
        return load(case), jax.random.key(self.seed), n

    def _ceilings(
        self, case: str, rates: tuple[float | None, ...], hidden: bool
    ) -> Arrays:
        """The fields of a `Ceiling`, a row a rate; None masks one token."""
        with jax.enable_x64(True):
            found = [
                accuracy_ceiling(
                    *self._sample(case),
                    None if rate is None else Channel(rate=rate),
                    hidden=hidden,
                )
                for rate in rates
            ]
        columns = map(np.asarray, zip(*found, strict=True))
        return dict(zip(Ceiling._fields, columns, strict=True))

    def _context(self, case: str) -> Arrays:
        """How far the exact prediction moves, in total variation.

        Returns:
          `robust`, M_robust, and `close`, M_close: a row a window, with mean, lower
          quartile, median and upper quartile; and `tokens`, how many entered.
        """
        with jax.enable_x64(True):
            moved = context_use(
                *self._sample(case), self.windows, STRIDE[parts(case)[1]]
            )
        quartiles = np.quantile(moved, (0.25, 0.5, 0.75), axis=-1)
        robust, close = np.stack([moved.mean(-1), *quartiles], -1)
        tokens = np.asarray(moved.shape[-1])
        return {"robust": robust, "close": close, "tokens": tokens}


def parts(case: str) -> tuple[str, str]:
    """Grammar and level of a case."""
    grammar, _, level = case.partition("/")
    return grammar, level


@cache
def load(case: str) -> GrammarArrays:
    """The compiled grammar of a case."""
    grammar, level = parts(case)
    return compile_grammar(load_grammar(grammar, LEVELS[level]))


class PcfgBayes(st.Study):
    """The exact predictor of grammars.

    Attributes:
      exact: what is computed.
    """

    exact: Exact = Exact()

    presets = {
        "smoke": st.preset("Two grammars from level 13, a hundred strings."),
        "cpu": st.preset(
            "Five grammars from three levels, 1,024 short and 24 long strings.",
            exact=Exact(
                cases=EVERY,
                context_cases=(*FEW, *(f"{g}/13" for g in GRAMMARS[1:])),
                rate_cases=FEW,
                windows=(2, 3, 4, 5, 6, 7, 9),
                rates=RATES,
                strings=1024,
                long_strings=24,
            ),
        ),
        "paper": st.preset(
            "The same from more strings, and the context of every case.",
            exact=Exact(
                cases=EVERY,
                context_cases=EVERY,
                rate_cases=EVERY,
                windows=(2, 3, 4, 5, 6, 7, 9, 13),
                rates=RATES,
                strings=4096,
                long_strings=192,
            ),
        ),
    }

    @property
    def computed(self) -> Exact:
        return self.exact

    def figure(self, r: st.Result) -> Figure:
        """Ceilings by case and by masking rate, and the use of context.

        Accuracy of the best possible predictor (a) with one token masked and at the
        selected tokens of a corrupted string; (b) against the masking rate of the
        80/10/10 corruption, selected tokens visible to each other or hidden; bars and
        bands are two standard errors over strings. How far the exact prediction moves,
        in total variation, mean over positions, when (c) the n-gram window around a
        masked token is masked as well (M_robust), or (d) everything outside it
        (M_close). Colours: the level strings are drawn from; grey: other grammars.
        """
        fig, ((a, b), (c, d)) = st.panels(2, 2, height=4.8)
        self._draw_ceilings(a, r)
        self._draw_rates(b, r)
        self._draw_context(c, r, "robust", "With the n-gram masked as well")
        self._draw_context(d, r, "close", "With all but the n-gram masked")
        e, handles = self.exact, []
        known = {parts(case)[1] for case in (*e.cases, *e.context_cases)}
        for v in (v for v in LEVELS if v in known):
            style: Any = {"color": COLORS[v], "label": f"strings from level {v}"}
            handles.append(Line2D([], [], marker=MARKS[v], ms=4, **style))
        if len({parts(case)[0] for case in e.context_cases}) > 1:
            label = "other grammars from level 13"
            handles.append(Line2D([], [], color="0.7", label=label))
        st.legend(fig, {str(h.get_label()): h for h in handles})
        few = any(parts(c)[1] == "22" for c in (*e.cases, *e.context_cases))
        n = (
            f"n = {e.strings} strings a point"
            + f" ({e.long_strings} of level 22)" * few
        )
        st.note(fig, f"{n}; bars and bands: two standard errors; c, d: means")
        return fig

    def _draw_ceilings(self, ax: Axes, r: st.Result) -> None:
        names = list(dict.fromkeys(parts(c)[0] for c in self.exact.cases))
        known = [v for v in LEVELS if any(parts(c)[1] == v for c in self.exact.cases)]
        for case in self.exact.cases:
            name, level = parts(case)
            x = names.index(name) + 0.2 * (known.index(level) - (len(known) - 1) / 2)
            color = COLORS[level]
            for piece, fill in (("alone", color), ("masked", "white")):
                y, error = _ceiling(r, f"{case} {piece}")
                style: Any = {"color": color, "mfc": fill, "ms": 4, "lw": 1}
                ax.errorbar([x], y, error, fmt=MARKS[level], **style)
        ax.set_xticks(range(len(names)), names)
        ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(None, 1.01))
        words = "one token masked", f"{self.exact.rate:.0%} of tokens masked"
        handles = [
            Line2D([], [], marker="o", ls="", ms=4, color="0.35", mfc=fill, label=word)
            for fill, word in zip(("0.35", "white"), words, strict=True)
        ]
        ax.legend(handles=handles, loc="lower left")
        ax.set(ylabel="best accuracy", title="Ceiling of every grammar")

    def _draw_rates(self, ax: Axes, r: st.Result) -> None:
        cases, x = self.exact.rate_cases, self.exact.rates
        first = parts(next(iter(cases), ""))[0]
        for case in (c for c in cases if parts(c)[0] == first):
            color = COLORS[parts(case)[1]]
            for mode, style in MODES.items():
                y, error = _ceiling(r, f"{case} {mode}")
                label = mode if case == cases[0] else "_"
                mark = MARKS[parts(case)[1]]
                ax.plot(x, y, style, color=color, marker=mark, ms=2.5, label=label)
                ax.fill_between(x, y - error, y + error, color=color, alpha=0.15, lw=0)
        ax.set(xlim=(0, 1.02), xlabel="masking rate")
        ax.set(ylabel="best accuracy", title=f"Ceiling by masking rate, {first}")
        ax.legend(loc="lower left")

    def _draw_context(self, ax: Axes, r: st.Result, what: str, words: str) -> None:
        cases, x = self.exact.context_cases, self.exact.windows
        first = parts(next(iter(cases), ""))[0]
        ax.set_title(words)
        ends: dict[str, float] = {}
        for case in cases:
            name, level = parts(case)
            mean = r.values[f"{case} context"][what][:, 0]
            if name == first:
                ax.plot(x, mean, f"-{MARKS[level]}", color=COLORS[level], ms=3)
            elif level == "13":
                ax.plot(x, mean, color="0.6", lw=0.8, zorder=1.5)
                ends[name] = mean[-1]
        ax.set(xticks=x, xlabel="n, tokens of the window", ylim=(0, None))
        ax.set_ylabel(rf"$M_\mathrm{{{what}}}(n)$, total variation")
        end_labels(ax, x[-1], list(ends.values()), list(ends))

    def facts(self, r: st.Result) -> dict[str, Any]:
        return {"measured": r.values}

    def summary(self, r: st.Result) -> list[str]:
        lines = []
        for case in self.exact.cases:
            one, many = (_ceiling(r, f"{case} {p}")[0][0] for p in ("alone", "masked"))
            words = f"{one:.3f} with one token masked, {many:.3f} with"
            lines.append(f"{case}: ceiling {words} {self.exact.rate:.0%}")
        for case in self.exact.context_cases:
            words = []
            for what in ("robust", "close"):
                means = r.values[f"{case} context"][what][:, 0]
                row = zip(self.exact.windows, means, strict=True)
                each = ", ".join(f"{v:.3f} (n={n})" for n, v in row)
                words.append(f"mean M_{what} {each}")
            lines.append(f"{case}: {'; '.join(words)}")
        return lines


def _ceiling(r: st.Result, piece: str) -> tuple[np.ndarray, np.ndarray]:
    return r.values[piece]["accuracy"], 2 * r.values[piece]["standard_error"]


if __name__ == "__main__":
    PcfgBayes.main()
