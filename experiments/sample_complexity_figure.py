"""The figure of `experiments.sample_complexity`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from experiments.sample_complexity import Result, Solved
from experiments.sample_complexity_setting import FITTED, hold_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = """\
Samples until a network has accuracy .90 on (d, k)-parity, batch 1. Top left: medians
(Kaplan-Meier, so that runs not there by their cap count as they are) with 95% bootstrap
intervals over teachers, each with its own support, weights and samples; a triangle at
the cap where fewer than half arrive; dotted, powers of d through the CE line; dashed,
the length of the 2-shot student's first stage, below which it cannot be. Top middle:
exponents of n90 in d fitted to single runs, censored ones included; dotted, k - 1, what
learning from labels costs asymptotically. Progressive students go at the pace of their
teacher at best and are counted from its start; the 2-shot student's own samples are
counted. Top right: slopes between neighbouring medians, which one fit would hide.
Bottom left: 2-shot with first stages of several lengths (dashed). Bottom middle and
right: student width and label noise at one problem, where they were varied.
"""

LABELS = {
    "teacher": "teacher",
    "ce": "CE (labels)",
    "one_shot": "one-shot",
    "progressive": "progressive",
    "two_shot": "2-shot, fixed first stage",
    "best_hold": "2-shot, best first stage",
}


def draw(result: Result) -> "Figure":
    """Samples against d with exponents and local slopes; first stage, width, noise."""
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    c = result.config
    with styled():
        fig = Figure(figsize=(WIDE, 5.4), layout="constrained")
        (a, b, s), (h, w, e) = fig.subplots(2, 3)
        _draw_scaling(a, result)
        _draw_exponents(b, result)
        _draw_slopes(s, result)
        _draw_holds(h, result)
        d, k, _ = c.base
        _draw_axis(w, result.along("width", d=d, k=k), "width", log=True)
        w.set_xlabel("student width")
        w.set_title(f"student width (d={d}, k={k})")
        _draw_axis(e, result.along("eps", d=d, k=k), "eps", log=False)
        e.set_xlabel("share of flipped labels")
        e.set_title(f"label noise (d={d}, k={k})")
        fig.legend(*b.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return fig


def _medians(
    ax: "Axes",
    x: Sequence[float],
    rows: Sequence[Solved],
    pick: Callable[[Solved], str],
    *,
    color: str,
    label: str,
    **line: object,
) -> None:
    """Kaplan-Meier medians with intervals; a triangle at the cap where none is."""
    import numpy as np

    from sandbox.theory.exponents import survival_estimate

    mid, low, high, at = [], [], [], []
    for v, s in zip(x, rows, strict=True):
        name = pick(s)
        e = survival_estimate(s.n90[name], s.caps[name], draws=500)
        if np.isfinite(e.value):
            at.append(v)
            mid.append(e.value)
            low.append(e.lower if np.isfinite(e.lower) else e.value)
            cap = float(np.max(s.caps[name]))
            high.append(e.upper if np.isfinite(e.upper) else cap)
        elif e.n:
            known = ~np.isnan(s.n90[name])
            ax.plot(v, np.median(s.caps[name][known]), "^", color=color, ms=5, mew=0)
    ax.plot(at, mid, "o-", color=color, label=label, ms=3, **line)  # pyright: ignore
    if at:
        ax.fill_between(at, low, high, color=color, alpha=0.15, lw=0)


def _draw_scaling(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.style import color_of

    k, hold = result.config.main_k, result.config.hold
    rows = result.along("d", k=k)
    d = [s.problem.d for s in rows]
    for name in FITTED:
        _medians(
            ax, d, rows, lambda s, n=name: n, color=color_of(name), label=LABELS[name]
        )
    x = np.asarray([d[0], d[-1]], float)
    ce = result.exponent(k, "ce", draws=0)
    if np.isfinite(ce.value):
        mid = float(np.sqrt(x[0] * x[1]))
        y = float(ce.at(np.asarray(mid)))
        for power, text in ((k - 1, f"$d^{{{k - 1}}}$"), (1, "$d$")):
            ax.plot(x, y * (x / mid) ** power, ":", color="0.35", lw=0.9)
            ax.annotate(text, (x[1], y * (x[1] / mid) ** power), fontsize=6.5)
    ax.axhline(hold, color=color_of("two_shot"), lw=0.6, ls="--")
    _log_axes(ax)
    ax.set_xticks(d, [str(v) for v in d])
    ax.set_xlabel("d")
    ax.set_ylabel("samples to accuracy .90")
    ax.set_title(f"k = {k} (▴ not by the cap)")


def _draw_exponents(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.style import color_of

    ks = result.ks
    names = (*FITTED, "best_hold")
    for i, name in enumerate(names):
        color = color_of("two_shot" if name == "best_hold" else name)
        fits = [result.exponent(k, name) for k in ks]
        x = np.asarray(ks) + 0.09 * (i - (len(names) - 1) / 2)
        y = np.asarray([f.value for f in fits])
        ends = np.asarray([[f.value - f.lower, f.upper - f.value] for f in fits]).T
        ax.errorbar(
            x,
            y,
            np.abs(np.nan_to_num(ends)),
            fmt="o",
            ms=3.5,
            lw=1,
            color=color,
            mfc="white" if name == "best_hold" else color,
            label=LABELS[name],
        )
    ax.plot(ks, [k - 1 for k in ks], ":", color="0.35", lw=0.9)
    ax.annotate("k - 1", (ks[-1], ks[-1] - 1), fontsize=6.5, ha="right", va="bottom")
    ax.axhline(0, color="0.8", lw=0.6)
    ax.set_xticks(ks)
    ax.set_xlabel("k")
    ax.set_ylabel("exponent of n90 in d")
    ax.set_title("fitted exponents, 95%")


def _draw_slopes(ax: "Axes", result: Result) -> None:
    import numpy as np

    from sandbox.plotting.style import color_of
    from sandbox.theory.exponents import local_slopes

    k = result.config.main_k
    for i, name in enumerate(FITTED):
        x, slopes = local_slopes(*result.rows(k, name), draws=500)
        y = np.asarray([e.value for e in slopes])
        ends = np.asarray([[e.value - e.lower, e.upper - e.value] for e in slopes]).T
        good = np.isfinite(y)
        ends = np.where(np.isfinite(ends), np.abs(ends), 0)
        ax.errorbar(
            (x * 1.02 ** (i - 2))[good],
            y[good],
            ends[:, good],
            fmt="o-",
            ms=3,
            lw=0.9,
            color=color_of(name),
        )
    ax.axhline(k - 1, color="0.35", lw=0.9, ls=":")
    ax.axhline(0, color="0.8", lw=0.6)
    d = [s.problem.d for s in result.along("d", k=k)]
    ax.set_xscale("log")
    ax.set_xticks(d, [str(v) for v in d])
    ax.minorticks_off()
    ax.set_xlabel("d")
    ax.set_ylabel("local slope")
    ax.set_title(f"k = {k}: local slopes")


def _draw_holds(ax: "Axes", result: Result) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    k, holds = result.config.main_k, result.config.holds
    rows = result.along("d", k=k)
    d = [s.problem.d for s in rows]
    for i, h in enumerate(holds):
        color = to_hex(colormaps["Purples"](0.4 + 0.55 * i / max(len(holds) - 1, 1)))
        label = f"{h / 1000:.3g}k"
        _medians(ax, d, rows, lambda s, h=h: hold_name(h), color=color, label=label)
        ax.axhline(h, color=color, lw=0.6, ls="--")
    _log_axes(ax)
    ax.set_xticks(d, [str(v) for v in d])
    ax.set_xlabel("d")
    ax.set_ylabel("samples to accuracy .90")
    ax.set_title("2-shot by first stage (- -)")
    ax.legend(loc="upper left", ncols=2, fontsize=6)


def _draw_axis(ax: "Axes", rows: list[Solved], axis: str, *, log: bool) -> None:
    from sandbox.plotting.style import color_of

    if len(rows) < 2:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "not varied", ha="center", va="center", color="0.5")
        return
    x = [float(getattr(s.problem, axis)) for s in rows]
    for name in FITTED[1:]:
        _medians(
            ax, x, rows, lambda s, n=name: n, color=color_of(name), label=LABELS[name]
        )
    _log_axes(ax)
    ax.set_xscale("log" if log else "linear")
    ax.minorticks_off()
    ax.set_xticks(x, [f"{v:g}" for v in x])
    ax.set_ylabel("samples to accuracy .90")


def _log_axes(ax: "Axes") -> None:
    """Both axes logarithmic, samples as 5k or 2M."""
    from sandbox.plotting.curves import log_samples

    ax.set_xscale("log")
    ax.minorticks_off()
    log_samples(ax)
