"""Figure 1 (right): claim G1 on PCFG strings with BERT."""

from pathlib import Path

import numpy as np

from experiments import pcfg_accuracy
from experiments.pcfg_accuracy import Result, lane_name
from paper_repro.claims import Claim, claim
from paper_repro.pcfg_report import PcfgReport
from paper_repro.published import PCFG_ACCURACY

PAIRS = (
    ("two_shot_ce", "two_shot", "ce", "2-shot beats CE", "higher"),
    ("one_shot_ce", "one_shot", "ce", "one-shot beats CE", ".77 / .745 at 2k"),
    (
        "progressive_one_shot",
        "progressive",
        "one_shot",
        "progressive beats one-shot",
        ".80 / .77 at 2k",
    ),
)
"""Claims with the accuracies that the paper shows at the end of 2,000 steps."""


def reproduce(scale: str, root: Path) -> PcfgReport:
    """Runs what is missing, draws and evaluates."""
    result = pcfg_accuracy.run(pcfg_accuracy.PRESETS[scale](), root=root)
    published = PCFG_ACCURACY if scale == "paper" else None
    return PcfgReport(
        study="pcfg_accuracy",
        scale=scale,
        config=result.config,
        figure=pcfg_accuracy.draw(result, published=published),
        claims=claims(result),
        probe_seconds=0.0,
        trained=result.teachers,
        taught=result.students,
        lost=result.lost,
        extra={"accuracy": table(result), "ceiling": result.ceiling},
    )


def claims(result: Result, *, name: str = "G1") -> list[Claim]:
    """Paired differences at half and at all of the steps, for every temperature."""
    out, own = [], name == "G1"
    for tau in result.config.taus:
        for key, first, second, statement, expected in PAIRS:
            lanes = [n if n == "ce" else lane_name(n, tau) for n in (first, second)]
            gap = result.accuracy(lanes[0]) - result.accuracy(lanes[1])
            middle = round(0.5 * (gap.shape[1] - 1))
            last = gap.shape[1] - 1
            for when, words, r in (("half", "half", middle), ("end", "all", last)):
                suffix = "" if tau == 1 else ".hard" if tau == 0 else f".tau{tau:g}"
                out.append(
                    claim(
                        f"{name}.{key}.{when}{suffix}",
                        f"{statement} after {words} of the steps",
                        gap[:, r],
                        kind="difference",
                        rule=f"median of accuracy({lanes[0]}) - accuracy({lanes[1]})"
                        " > 0, paired",
                        expected=expected if when == "end" and own else "higher",
                        students=True,
                    )
                )
    return out


def table(result: Result) -> dict[str, dict[str, list[float]]]:
    """Accuracy of every lane at 1/4, 1/2, 3/4 and all of the steps, seed by seed."""
    lanes = {s.name for r in result.students for s in r.spec.strategies}
    out: dict[str, dict[str, list[float]]] = {}
    for lane in sorted(lanes):
        y = result.accuracy(lane)
        at = {f"{q:g}": round(q * (y.shape[1] - 1)) for q in (0.25, 0.5, 0.75, 1.0)}
        out[lane] = {q: [round(float(v), 4) for v in y[:, r]] for q, r in at.items()}
    y = np.stack([t.accuracy for t in result.teachers])
    out["teacher"] = {"1": [round(float(v), 4) for v in y[:, -1]]}
    return out
