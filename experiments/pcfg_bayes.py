"""What the exact Bayes predictor of a grammar can do, and which context it uses.

    python -m experiments.pcfg_bayes smoke
    python -m experiments.pcfg_bayes cpu --windows 2 3 9
    python -m experiments.pcfg_bayes --help

Nothing is trained. A case is a grammar and the level that its strings start from:
`cfg3b/13` starts from 13, 14 or 15. Top: the accuracy ceiling of every case with one
token masked, and the ceiling against the masking rate of the 80/10/10 corruption.
Below: how far the exact prediction moves when the n-gram window around a masked token
is masked as well (M_robust), or everything outside it (M_close), in total variation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.errors import require

if TYPE_CHECKING:
    import numpy as np
    from jax import Array
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sandbox.tasks.bayes_context import Ceiling
    from sandbox.tasks.grammar_arrays import GrammarArrays
    from sandbox.train.progress import Progress

LEVELS = {"13": ("13", "14", "15"), "16": ("16", "17", "18"), "22": ("22",)}
"""Start symbols by the name of their level."""
STRIDE = {"13": 1, "16": 3, "22": 30}
"""Every how many tokens context is measured; 30 as in arXiv 2410.05464."""
COLORS = {"13": "#5790fc", "16": "#f89c20", "22": "#7a21dd"}
MODES = {"visible": "-", "hidden": "--"}
ROWS, LONG_ROWS, LONG = 64, 8, 200
"""Strings at a time, and how many where they have more than so many tokens."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs.

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

    cases: tuple[str, ...] = ("cfg3b/13",)
    context_cases: tuple[str, ...] = ("cfg3b/13",)
    rate_cases: tuple[str, ...] = ("cfg3b/13",)
    windows: tuple[int, ...] = (2, 3, 4, 5)
    rate: float = 0.3
    rates: tuple[float, ...] = (0.1, 0.3, 0.6)
    strings: int = 128
    long_strings: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses unknown cases and empty samples."""
        for field in ("cases", "context_cases", "rate_cases"):
            for case in getattr(self, field):
                grammar, _, level = case.partition("/")
                require(
                    bool(grammar) and level in LEVELS,
                    f"{field}: {case!r} is no case; write GRAMMAR/LEVEL with a level"
                    f" among {', '.join(LEVELS)}, such as cfg3b/13.",
                )
        for field in ("strings", "long_strings"):
            value = getattr(self, field)
            require(value > 1, f"{field} must be at least 2, got {value}.")
        require(
            all(n >= 1 for n in self.windows),
            f"windows must be at least 1, got {self.windows}.",
        )
        require(
            all(0 < r <= 1 for r in (self.rate, *self.rates)),
            f"rate and rates must lie in (0, 1], got {self.rate} and {self.rates}.",
        )


def smoke() -> Config:
    """Two grammars from level 13, a hundred strings."""
    return Config(cases=("cfg3b/13", "cfg3f/13"))


GRAMMARS = ("cfg3b", "cfg3f", "cfg3g", "cfg3h", "cfg3i")
EVERY = tuple(f"{g}/{level}" for level in LEVELS for g in GRAMMARS)
FEW = tuple(f"cfg3b/{level}" for level in LEVELS)
RATES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def cpu() -> Config:
    """Five grammars from three levels, thousands of short and tens of long strings."""
    return Config(
        cases=EVERY,
        context_cases=(*FEW, *(f"{g}/13" for g in GRAMMARS[1:])),
        rate_cases=FEW,
        windows=(2, 3, 4, 5, 6, 7, 9),
        rates=RATES,
        strings=1024,
        long_strings=24,
    )


def paper() -> Config:
    """The same from more strings, and the context of every case."""
    return Config(
        cases=EVERY,
        context_cases=EVERY,
        rate_cases=EVERY,
        windows=(2, 3, 4, 5, 6, 7, 9, 13),
        rates=RATES,
        strings=4096,
        long_strings=192,
    )


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


@dataclass(frozen=True)
class Context:
    """Context measures of one case, in total variation.

    Attributes:
      tokens: masked tokens that entered.
      robust: M_robust, one row a window: mean, lower quartile, median, upper quartile.
      close: M_close, the same.
    """

    tokens: int
    robust: "np.ndarray"
    close: "np.ndarray"


@dataclass(frozen=True)
class Result:
    """Everything that was computed.

    Attributes:
      config: what was run.
      ceilings: case -> ceiling with one token masked.
      masked: case -> ceiling at the selected tokens of a corrupted string, those hidden
        from each other.
      rates: (case, "visible" or "hidden") -> ceiling at every rate.
      contexts: case -> its measures.
      seconds: what it took.
    """

    config: Config
    ceilings: "dict[str, Ceiling]"
    masked: "dict[str, Ceiling]"
    rates: "dict[tuple[str, str], list[Ceiling]]"
    contexts: dict[str, Context]
    seconds: float


def load(case: str) -> "GrammarArrays":
    """The compiled grammar of a case."""
    from sandbox.tasks.grammar import load_grammar
    from sandbox.tasks.grammar_arrays import compile_grammar

    grammar, _, level = case.partition("/")
    return compile_grammar(load_grammar(grammar, LEVELS[level]))


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Computes everything; nothing is stored, since it takes minutes.

    Args:
      config: what to compute.
      root: not used; studies that train keep their runs there.
      progress: not used; a line a case is printed.
    """
    del root, progress
    import time

    import jax

    from sandbox.tasks.bayes_context import accuracy_ceiling
    from sandbox.tasks.channel import Channel

    begin = time.monotonic()
    ceilings: dict[str, Ceiling] = {}
    masked: dict[str, Ceiling] = {}
    rates: dict[tuple[str, str], list[Ceiling]] = {}
    contexts: dict[str, Context] = {}
    key = jax.random.key(config.seed)
    every = (*config.cases, *config.context_cases, *config.rate_cases)
    with jax.enable_x64(True):
        for case in dict.fromkeys(every):
            arrays = load(case)
            n = config.long_strings if case.endswith("/22") else config.strings
            if case in config.cases:
                ceilings[case] = accuracy_ceiling(arrays, key, n)
                channel = Channel(rate=config.rate)
                masked[case] = accuracy_ceiling(arrays, key, n, channel, hidden=True)
            for mode in MODES if case in config.rate_cases else ():
                rates[case, mode] = [
                    accuracy_ceiling(
                        arrays, key, n, Channel(rate=rate), hidden=mode == "hidden"
                    )
                    for rate in config.rates
                ]
            if case in config.context_cases:
                contexts[case] = measure(arrays, key, n, config.windows, _stride(case))
            took = time.monotonic() - begin
            print(f"{case}: done after {took:.0f} s", flush=True)
    return Result(config, ceilings, masked, rates, contexts, time.monotonic() - begin)


def _stride(case: str) -> int:
    return STRIDE[case.partition("/")[2]]


def measure(
    arrays: "GrammarArrays",
    key: "Array",
    n_strings: int,
    windows: tuple[int, ...],
    stride: int,
) -> Context:
    """M_robust and M_close of the exact predictor at every `stride`-th token.

    Args:
      arrays: the grammar.
      key: of the strings.
      n_strings: how many; rounded up to whole batches.
      windows: n of the n-gram windows.
      stride: of the positions stride - 1, 2 stride - 1, ... that are measured.
    """
    import jax.numpy as jnp
    import numpy as np

    from sandbox.tasks.bayes_context import draw_strings, predict_at, total_variation
    from sandbox.tasks.windows import window_mask

    longest = arrays.longest
    rows = min(LONG_ROWS if longest > LONG else ROWS, n_strings)
    at = np.arange(stride - 1, longest, stride)
    positions = jnp.asarray(np.broadcast_to(at, (rows, len(at))))
    shape = (rows, len(at), longest)
    robust, close = [], []
    for t0 in range(0, n_strings, rows):
        drawn = draw_strings(arrays, key, t0, rows)

        def predict(
            known: "np.ndarray", tokens: "Array" = drawn.tokens,
            length: "Array" = drawn.length,
        ) -> "Array":  # fmt: skip
            see = jnp.asarray(np.broadcast_to(known, shape))
            return predict_at(arrays, tokens, see, length, positions)

        alone = predict(np.ones(shape, bool))
        used = at[None, :] < np.asarray(drawn.length)[:, None]
        masks = [window_mask(at, n, longest) for n in windows]
        for out, seen in ((robust, [~m for m in masks]), (close, masks)):
            moved = [np.asarray(total_variation(alone, predict(s))) for s in seen]
            out.append(np.stack([m[used] for m in moved]))
    parts = [np.concatenate(values, 1) for values in (robust, close)]
    return Context(parts[0].shape[1], *map(_statistics, parts))


def _statistics(values: "np.ndarray") -> "np.ndarray":
    """Mean and quartiles of each row."""
    import numpy as np

    quartiles = np.quantile(values, (0.25, 0.5, 0.75), axis=1)
    return np.stack([values.mean(1), *quartiles], 1)


def draw(result: Result) -> "Figure":
    """Ceilings by case and by rate above, M_robust and M_close below."""
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    with styled():
        fig = Figure(figsize=(WIDE, 4.8), layout="constrained")
        (a, b), (c, d) = fig.subplots(2, 2)
        _draw_ceilings(a, result)
        _draw_rates(b, result)
        windows = result.config.windows
        _draw_context(c, result, lambda context: context.robust, windows)
        name = next(iter(result.contexts), "").partition("/")[0]
        c.set_title(f"{name}, n-gram window masked as well")
        c.set_ylabel("M_robust(n), total variation")
        _draw_context(d, result, lambda context: context.close, windows)
        d.set_title(f"{name}, all but the n-gram window masked")
        d.set_ylabel("M_close(n), total variation")
        _draw_legend(fig, result)
    return fig


def _draw_legend(fig: "Figure", result: Result) -> None:
    """What colours mean in all panels."""
    from matplotlib.lines import Line2D

    cases = (*result.ceilings, *result.contexts)
    levels = [v for v in LEVELS if any(c.endswith(f"/{v}") for c in cases)]
    lines = [Line2D([], [], color=COLORS[v], marker="o", ms=4) for v in levels]
    labels = [f"strings from level {v}" for v in levels]
    if len({c.partition("/")[0] for c in result.contexts}) > 1:
        lines.append(Line2D([], [], color="0.7"))
        labels.append("other grammars from level 13")
    fig.legend(lines, labels, loc="outside upper left", ncols=4)


def _draw_ceilings(ax: "Axes", result: Result) -> None:
    names = list(dict.fromkeys(c.partition("/")[0] for c in result.ceilings))
    levels = [v for v in LEVELS if any(c.endswith(f"/{v}") for c in result.ceilings)]
    for j, level in enumerate(levels):
        shift = 0.2 * (j - (len(levels) - 1) / 2)
        for found, fill in ((result.ceilings, COLORS[level]), (result.masked, "white")):
            at = [i for i, n in enumerate(names) if f"{n}/{level}" in found]
            row = [found[f"{names[i]}/{level}"] for i in at]
            ax.errorbar(
                [i + shift for i in at],
                [c.accuracy for c in row],
                [2 * c.standard_error for c in row],
                fmt="o",
                color=COLORS[level],
                mfc=fill,
                ms=4,
                lw=1,
            )
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylim(top=1.01)
    ax.set_ylabel("accuracy ceiling")
    ax.set_title(f"one token masked (●), {result.config.rate:.0%} (○)")


def _draw_rates(ax: "Axes", result: Result) -> None:
    import numpy as np

    for (case, mode), row in result.rates.items():
        name, _, level = case.partition("/")
        if name != result.config.rate_cases[0].partition("/")[0]:
            continue
        y = np.asarray([c.accuracy for c in row])
        error = 2 * np.asarray([c.standard_error for c in row])
        label = mode if case == result.config.rate_cases[0] else "_"
        x = result.config.rates
        ax.plot(x, y, MODES[mode], color=COLORS[level], marker="o", ms=2.5, label=label)
        ax.fill_between(x, y - error, y + error, color=COLORS[level], alpha=0.15, lw=0)
    ax.set_xlim(0, 1.02)
    ax.set_xlabel("masking rate (80/10/10)")
    ax.set_ylabel("accuracy ceiling")
    name = next(iter(result.config.rate_cases), "").partition("/")[0]
    ax.set_title(f"{name}, scored at selected tokens")
    ax.legend(loc="lower left")


def _draw_context(
    ax: "Axes",
    result: Result,
    part: "Callable[[Context], np.ndarray]",
    windows: tuple[int, ...],
) -> None:
    """Mean with markers, median dotted, quartiles shaded; other grammars in grey."""
    first = next(iter(result.contexts), "").partition("/")[0]
    for case, context in result.contexts.items():
        name, _, level = case.partition("/")
        mean, low, mid, high = part(context).T
        if name != first:
            if level == "13":
                ax.plot(windows, mean, color="0.7", lw=0.8)
                ax.annotate(
                    f"{name[-1]}", (windows[-1], mean[-1]), (3, 0), fontsize=6,
                    textcoords="offset points", va="center", color="0.5",
                )  # fmt: skip
            continue
        color = COLORS[level]
        ax.plot(windows, mean, "-o", color=color, ms=3)
        ax.plot(windows, mid, ":", color=color, lw=1)
        ax.fill_between(windows, low, high, color=color, alpha=0.12, lw=0)
    ax.set_xticks(windows)
    ax.set_xlabel("n (mean —, median ···, quartiles)")
    ax.set_ylim(bottom=0)


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("pcfg_bayes", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
