"""The figure of `experiments.parity_theory`."""

from typing import TYPE_CHECKING

from experiments.parity_theory import SUPERVISIONS, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.parity_theory_measure import Needed
    from sandbox.theory.exponents import Exponent

MARKERS = {2: "o", 4: "s", 6: "^"}
STRATEGY = {"labels": "ce", "checkpoint": "two_shot"}
"""Colours are those of the strategies in other figures."""
TEACHERS, FEWEST = 12, 3
"""Teachers shown in the scatter, and runs from which a median is drawn."""
WORDS = {"aligned": "half of the update in S", "support": "top k is S",
         "accuracy": "accuracy .9"}  # fmt: skip


def draw(result: Result) -> "Figure":
    """Closed forms and measured gradients above; needed batches and exponents below."""
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    with styled():
        fig = Figure(figsize=(WIDE, 4.9), layout="constrained")
        (a, b, c), (e, f, g) = fig.subplots(2, 3)
        _draw_coefficients(a, result)
        _draw_degree1(b, result)
        _draw_shares(c, result)
        _draw_batches(e, result, "aligned")
        _draw_batches(f, result, "support")
        _draw_exponents(g, result)
        _draw_legend(fig, result)
    return fig


def _color(supervision: str) -> str:
    from sandbox.plotting.style import color_of

    return color_of(STRATEGY[supervision])


def _draw_legend(fig: "Figure", result: Result) -> None:
    """What colours and markers mean in all panels."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color="0.35", marker=MARKERS[k], ms=4, ls="", label=f"k = {k}")
        for k in result.config.cases
    ]
    words = {"labels": "labels", "checkpoint": "checkpoint after stage one"}
    lines = [
        Line2D([], [], color=_color(s), label=f"taught by: {words[s]}")
        for s in SUPERVISIONS
    ]
    exact = Line2D([], [], color="0.35", ls="--", lw=1, label="closed form")
    fig.legend(
        handles=[*lines, *marks, exact], loc="outside upper left", ncols=len(marks) + 3
    )


def _log_axes(ax: "Axes", d: list[int]) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_xticks(d, [str(v) for v in d])
    ax.set_xlabel("d")


def _ticks(result: Result, supervision: str) -> list[int]:
    """Few dimensions that stand apart on a logarithmic axis."""
    every = sorted({n.d for n in result.needed if n.supervision == supervision})
    out: list[int] = []
    for d in every:
        if not out or d > 1.45 * out[-1]:
            out.append(d)
    return out


def _draw_coefficients(ax: "Axes", result: Result) -> None:
    """Exact |t_{k-1}| and |t_{k+1}|, and measured ones with their errors."""
    import numpy as np

    from sandbox.theory.parity_bounds import coefficient_pair

    for k in result.config.cases:
        rows = result.along(k, "labels")
        every = np.arange(rows[0].d, rows[-1].d + 1, 2)
        exact = np.abs([coefficient_pair(int(d), k) for d in every])
        for j, part in enumerate((slice(0, k), slice(k, None))):
            color = "#f89c20" if j else "0.35"
            ax.plot(every, exact[:, j], "--", lw=1, color=color)
            each = [n.check.measured[:, part].mean(1) for n in rows]
            mean = np.asarray([abs(v.mean()) for v in each])
            error = np.asarray([2 * v.std(ddof=1) / len(v) ** 0.5 for v in each])
            seen = mean > error  # the rest is noise, and has no place on a log axis
            ax.errorbar(
                np.asarray([n.d for n in rows])[seen],
                mean[seen],
                np.minimum(error, 0.99 * mean)[seen],
                fmt=MARKERS[k],
                ms=3.5,
                lw=1,
                mfc="white" if j else color,
                color=color,
            )
    _log_axes(ax, _ticks(result, "labels"))
    ax.set_ylabel("|gradient|, any neuron")
    ax.set_title("labels: in S (●), outside (○)")


def _largest(result: Result, supervision: str) -> "Needed":
    """One problem of k = 4 if there is one, at the largest d that labels have."""
    k = 4 if 4 in result.config.cases else next(iter(result.config.cases))
    d = result.config.cases[k][-1]
    return next(n for n in result.along(k, supervision) if n.d == d)


def _draw_degree1(ax: "Axes", result: Result) -> None:
    """Measured degree-1 coefficients of a few checkpoints against the exact ones."""
    import numpy as np

    n = _largest(result, "checkpoint")
    exact, measured = 2 * n.check.exact[:TEACHERS], 2 * n.check.measured[:TEACHERS]
    ends = np.asarray([exact.min(), exact.max()])
    ax.plot(ends, ends, "--", color="0.35", lw=0.8)
    for part, color, label in (
        (slice(0, n.k), "0.35", "in S"),
        (slice(n.k, None), "#f89c20", "outside"),
    ):
        ax.plot(
            exact[:, part].ravel(), measured[:, part].ravel(), "o", ms=3.5, mew=0,
            color=color, alpha=0.7, label=label,
        )  # fmt: skip
    ax.set_xlabel("exact E[$f_1 x_i$]")
    ax.set_ylabel("measured")
    ax.set_title(f"checkpoints, k = {n.k}, d = {n.d}")
    ax.legend(loc="upper left", handletextpad=0.2)


def _draw_shares(ax: "Axes", result: Result) -> None:
    """Share of the update in S against the batch: median and quartiles of seeds."""
    import numpy as np

    n = _largest(result, SUPERVISIONS[0])
    for supervision in SUPERVISIONS:
        n, color = _largest(result, supervision), _color(supervision)
        b = np.asarray(n.sizes)
        alive = (~np.isnan(n.share)).mean(0) >= 0.9
        low, mid, high = np.nanquantile(n.share[:, alive], (0.25, 0.5, 0.75), axis=0)
        ax.fill_between(b[alive], low, high, color=color, alpha=0.2, lw=0)
        ax.plot(b[alive], mid, color=color)
        ax.plot(b, n.predicted_share, "--", color=color, lw=0.9)
    ax.axhline(0.5, color="0.8", lw=0.8)
    ax.axhline(n.k / n.d, color="0.8", lw=0.8, ls=":")
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_ylim(0, 1)
    ax.set_xlabel("batch")
    ax.set_ylabel("share of the update in S")
    ax.set_title(f"k = {n.k}, d = {n.d}")


def _draw_batches(ax: "Axes", result: Result, criterion: str) -> None:
    """Kaplan-Meier medians of `FEWEST` runs or more, with intervals.

    A hollow triangle at the cap says that there is none.
    """
    import numpy as np

    from sandbox.theory.exponents import survival_estimate

    for k in result.config.cases:
        for supervision in SUPERVISIONS:
            rows, color = result.along(k, supervision), _color(supervision)
            rows = [n for n in rows if _counted(n, criterion) >= FEWEST]
            if not rows:
                continue
            d = np.asarray([n.d for n in rows])
            found = [survival_estimate(n.batch[criterion], float(n.cap)) for n in rows]
            mid = np.asarray([e.value for e in found])
            ends = np.asarray([(e.value - e.lower, e.upper - e.value) for e in found])
            seen = np.isfinite(mid)
            error = np.where(np.isfinite(ends), np.abs(ends), 0)[seen].T
            ax.errorbar(
                d[seen], mid[seen], error, fmt=MARKERS[k], ms=3.5, lw=0.9, color=color
            )
            for n in (n for n, v in zip(rows, mid, strict=True) if np.isinf(v)):
                ax.plot(n.d, n.cap, "^", color=color, mfc="white", ms=5)
            if criterion == "aligned":
                predicted = [n.predicted[criterion] for n in rows]
                ax.plot(d, predicted, "--", color=color, lw=0.9)
            else:
                ax.plot(d[seen], mid[seen], color=color, lw=0.6)
    _log_axes(ax, _ticks(result, "checkpoint"))
    ax.set_ylabel("needed batch")
    ax.set_title(WORDS[criterion])


def _draw_exponents(ax: "Axes", result: Result) -> None:
    """Fitted exponents against k, with intervals."""
    import numpy as np

    shapes = {"aligned": ("o", True), "support": ("D", False), "accuracy": ("*", True)}
    ks = list(result.config.cases)
    for j, supervision in enumerate(SUPERVISIONS):
        color = _color(supervision)
        for i, (criterion, (shape, full)) in enumerate(shapes.items()):
            fits = {
                k: result.exponent(k, supervision, criterion)
                for k in ks
                if criterion in result.along(k, supervision)[0].batch
            }
            shown = {k: e for k, e in fits.items() if _narrow(e)}
            if shown:
                y = np.asarray([e.value for e in shown.values()])
                ends = np.asarray([(e.lower, e.upper) for e in shown.values()]).T
                ax.errorbar(
                    np.asarray(list(shown)) + 0.16 * (i - 1) + 0.05 * j,
                    y,
                    np.abs(ends - y),
                    fmt=shape,
                    ms=6 if shape == "*" else 4,
                    lw=0.9,
                    color=color,
                    mfc=color if full else "white",
                )
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color="0.35", marker=s, ls="", ms=4, label=WORDS[c],
               mfc="0.35" if full else "white")
        for c, (s, full) in shapes.items()
    ]  # fmt: skip
    x = np.asarray(ks, float)
    for y, text in ((x, "$k$"), (x - 1, "$k-1$"), (np.ones_like(x), "1")):
        ax.plot(x, y, ":", color="0.35", lw=0.9)
        ax.annotate(
            text, (x[-1], y[-1]), (8, 0), textcoords="offset points", fontsize=6.5,
            va="center",
        )  # fmt: skip
    ax.axhline(0, color="0.8", lw=0.6)
    ax.set_xlim(ks[0] - 0.6, ks[-1] + 0.9)
    ax.set_xticks(ks)
    ax.set_xlabel("k")
    ax.set_ylabel("exponent of the batch in d")
    ax.set_title("fitted exponents, 95%")
    ax.legend(handles=handles, loc="upper left", fontsize=6)


def _counted(n: "Needed", criterion: str) -> int:
    """Runs that a criterion can be asked of."""
    import numpy as np

    return int((~np.isnan(n.batch[criterion])).sum())


def _narrow(e: "Exponent") -> bool:
    """Whether a fit says something: its interval exists and spans less than 3."""
    return bool(e.upper - e.lower < 3)
