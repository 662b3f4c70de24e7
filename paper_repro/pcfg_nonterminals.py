"""N-grams and nonterminals along training: claim G5."""

from pathlib import Path

import numpy as np

from experiments import pcfg_accuracy, pcfg_nonterminals
from experiments.pcfg_nonterminals import Result, gain
from paper_repro.claims import Claim, claim
from paper_repro.pcfg_report import PcfgReport
from sandbox.theory.ranks import rank_correlation


def reproduce(scale: str, root: Path) -> PcfgReport:
    """Runs what is missing, draws and evaluates."""
    result = pcfg_nonterminals.run(pcfg_nonterminals.PRESETS[scale](), root=root)
    return PcfgReport(
        study="pcfg_nonterminals",
        scale=scale,
        config=result.config,
        figure=pcfg_nonterminals.draw(result),
        claims=[order_of_ngrams(result), *order_of_levels(result), students(result)],
        probe_seconds=result.seconds,
        trained=result.teachers,
        taught=result.runs,
        lost=result.lost,
        extra={"measured": numbers(result)},
    )


def or_zero(r: float) -> float:
    """No order where all are alike."""
    return 0.0 if np.isnan(r) else r


def order_of_ngrams(result: Result) -> Claim:
    """Longer n-grams peak later."""
    windows = result.config.accuracy.setting.windows
    each = []
    for p in result.ngrams:
        peak = [p.steps[p.values[f"m_robust/{n}/median"].argmax()] for n in windows]
        each.append(or_zero(rank_correlation(np.asarray(windows), np.asarray(peak))))
    return claim(
        "G5.ngrams",
        "reliance on longer n-grams peaks later",
        each,
        kind="at_least",
        bound=0.8,
        rule="Spearman of n and the step of the peak of M_robust(n), n = 2..5, >= .8",
        expected="an n-gram curriculum",
        students=False,
    )


def order_of_levels(result: Result) -> list[Claim]:
    """Lower levels are found first, by the raw accuracy and by the gain."""
    out = []
    curves = {
        "levels": result.along["attention/nonterminal"],
        "levels_gain": gain(result.along, "nonterminal"),
    }
    for name, all_levels in curves.items():
        y = all_levels[..., result.levels]
        share = 0.8 * y[:, -1:]
        first = np.argmax(y >= share, 1)  # (S, levels)
        step = np.where(y[:, -1] > 0, result.steps[first], np.inf)
        height = -result.levels  # above the tokens; the root is highest
        what = "accuracy" if name == "levels" else "gain over the majority"
        out.append(
            claim(
                f"G5.{name}",
                "nonterminals of lower levels are found first",
                [or_zero(rank_correlation(height, s)) for s in step],
                kind="at_least",
                bound=0.8,
                rule=f"Spearman of height, step to 80% of the final {what}, >= .8",
                expected="level by level",
                students=False,
            )
        )
    return out


def students(result: Result) -> Claim:
    """Progressive students hold more nonterminals than one-shot ones."""
    tau = result.config.accuracy.taus[0]
    y = {
        name: result.students[pcfg_accuracy.lane_name(name, tau)]
        for name in ("progressive", "one_shot")
    }
    mean = {
        name: v["attention/nonterminal"][:, result.levels].mean(-1)
        for name, v in y.items()
    }
    return claim(
        "G5.students",
        "progressive students show more nonterminals than one-shot ones",
        mean["progressive"] - mean["one_shot"],
        kind="at_least",
        bound=0.0,
        rule="median of the difference of mean nonterminal accuracy >= 0, paired",
        expected="higher",
        students=True,
    )


def numbers(result: Result) -> dict[str, object]:
    """Accuracy by level: of the last teacher checkpoint and of finished students."""

    def rounded(v: np.ndarray) -> list:
        return np.asarray(v).round(4).tolist()

    last = {k: rounded(v[:, -1]) for k, v in result.along.items()}
    keep = ("attention/nonterminal", "linear/nonterminal", "attention/boundary")
    ends = {
        lane: {k: rounded(v[k]) for k in keep} for lane, v in result.students.items()
    }
    along = {k: rounded(result.along[k]) for k in keep}
    return {
        "probed_steps": result.steps.tolist(),
        "teacher_end": last,
        "teacher_along": along,
        "students": ends,
    }
