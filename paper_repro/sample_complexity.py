"""Sample complexity in the dimension: claim P9, by the exponents of n90."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import sample_complexity
from experiments.sample_complexity import Result, Solved
from experiments.sample_complexity_figure import CAPTION
from experiments.sample_complexity_setting import FITTED
from paper_repro.claims import Claim, claim_of, number
from paper_repro.report import Report
from sandbox.theory.exponents import (
    Exponent,
    difference,
    local_slopes,
    survival_estimate,
)
from sandbox.theory.sample_complexity import Estimate, percentiles

if TYPE_CHECKING:
    from sandbox.train.run import Run


@dataclass(frozen=True, kw_only=True)
class ScalingReport(Report):
    """A finished study of exponents.

    Attributes:
      result: everything that was solved.
    """

    result: Result

    def title(self) -> str:
        """What heads the claims table."""
        counts = [len(s.n90["teacher"]) for s in self.result.solved]
        learned = sum(int(np.isfinite(s.n90["teacher"]).sum()) for s in self.solved)
        return (
            f"{super().title()}: {learned} of {sum(counts)} teachers learned on"
            f" {len(counts)} problems; stopped by {self.result.stopped}"
        )

    @property
    def solved(self) -> list[Solved]:
        """Every problem."""
        return self.result.solved

    def runs(self) -> "list[Run]":
        """Teachers and students of every problem, each run once."""
        out: dict[Path, Run] = {}
        for s in self.solved:
            for run in (
                *(t.run for t in s.teachers),
                *(r for g in s.students for r in g),
            ):
                out.setdefault(run.folder.path, run)
        return list(out.values())

    def facts(self) -> dict[str, Any]:
        """Exponents, local slopes, and every problem's medians."""
        result = self.result
        return {
            "left_out": left_out(self.solved),
            "stopped_by": result.stopped,
            "exponents": {
                str(k): {n: _exponent(result.exponent(k, n)) for n in NAMES}
                for k in result.ks
            },
            "local_slopes": {
                str(k): {n: _slopes(result, k, n) for n in FITTED} for k in result.ks
            },
            "best_holds": {str(k): result.best_holds(k) for k in result.ks},
            "problems": [problem_record(s) for s in self.solved],
        }


NAMES = (*FITTED, "best_hold")
EXPECTED = {
    "P9": "d^(k-1) against poly(d)",
    "P9.one_shot": "d^(k-1) against poly(d)",
}


def reproduce(scale: str, root: Path) -> ScalingReport:
    """Runs what is missing, draws and evaluates."""
    result = sample_complexity.run(sample_complexity.PRESETS[scale](), root=root)
    return ScalingReport(
        study="sample_complexity",
        scale=scale,
        config=result.config,
        figure=sample_complexity.draw(result),
        claims=claims(result),
        probe_seconds=sum(t.probe_seconds for s in result.solved for t in s.teachers),
        caption=CAPTION,
        result=result,
    )


def claims(result: Result) -> list[Claim]:
    """P9 at the main k, and what is reported beside it."""
    k = result.config.main_k
    fits = {n: result.exponent(k, n) for n in NAMES}
    trained = min(len(s.n90["teacher"]) for s in result.along("d", k=k))
    gaps = (
        ("P9", "ce", "two_shot", "labels cost a higher power of d than 2-shot"),
        ("P9.one_shot", "one_shot", "two_shot", "so does the final teacher alone"),
        ("P9.best_hold", "ce", "best_hold", "labels against 2-shot at its best"),
        ("P9.progressive", "ce", "progressive", "labels against the teacher's pace"),
    )
    return [
        *[
            claim_of(
                id,
                statement,
                difference(fits[a], fits[b]),
                kind="exponent_gap",
                bound=1.0,
                rule=f"exponent of n90 in d, k = {k}: {a} - {b} >= 1, lower end > 0",
                expected=EXPECTED.get(id, "not in the paper"),
                trained=trained,
                students=fits[a].runs + fits[b].runs,
            )
            for id, a, b, statement in gaps
        ],
        *_flat_in_k(result),
    ]


def _flat_in_k(result: Result) -> list[Claim]:
    """How much faster the label exponent grows with k than the 2-shot student's."""
    ks = result.ks
    if len(ks) < 2:
        return []
    low, high = ks[0], ks[-1]
    rows = {n: _growth(result, n, low, high) for n in ("ce", "two_shot")}
    value = rows["ce"][0] - rows["two_shot"][0]
    draws = rows["ce"][1] - rows["two_shot"][1]
    teachers = [
        len(s.n90["teacher"]) for k in (low, high) for s in result.along("d", k=k)
    ]
    return [
        claim_of(
            "P9.k",
            "the exponent of labels grows faster with k than that of 2-shot",
            Estimate(value, *percentiles(draws), min(teachers)),
            kind="difference",
            rule=f"growth of the exponent from k = {low} to {high}: ce - two_shot > 0",
            expected=f"{high - low} against 0",
            trained=min(teachers),
            students=0,
        )
    ]


def _growth(result: Result, name: str, low: int, high: int) -> tuple[float, np.ndarray]:
    a, b = result.exponent(high, name), result.exponent(low, name)
    return a.value - b.value, a.draws - b.draws


def left_out(solved: list[Solved]) -> list[str]:
    """A phrase for every problem with teachers that did not learn."""
    out = []
    for s in solved:
        n = s.n90["teacher"]
        lost = int((~np.isfinite(n)).sum())
        if lost:
            p = s.problem
            out.append(f"d={p.d}, k={p.k}: {lost} of {len(n)} teachers did not learn")
    return list(dict.fromkeys(out))


def _exponent(e: Exponent) -> dict[str, Any]:
    """An exponent as JSON data."""
    return {
        "value": number(e.value),
        "interval": [number(e.lower), number(e.upper)],
        "sigma": number(e.sigma),
        "runs": e.runs,
        "censored": e.censored,
    }


def _slopes(result: Result, k: int, name: str) -> list[dict[str, Any]]:
    x, slopes = local_slopes(*result.rows(k, name))
    return [
        {
            "d": round(float(d), 1),
            "slope": number(e.value),
            "interval": [number(e.lower), number(e.upper)],
        }
        for d, e in zip(x, slopes, strict=True)
    ]


def problem_record(s: Solved) -> dict[str, Any]:
    """Medians of n90 and what they cost, strategy by strategy."""
    p, out = s.problem, {}
    for name, n in s.n90.items():
        if name == "two_shot":
            continue
        e = survival_estimate(n, s.caps[name])
        taught = name not in ("teacher", "ce")
        out[name] = {
            "n90": number(e.value),
            "interval": [number(e.lower), number(e.upper)],
            "runs": e.n,
            "censored": int(np.isinf(n).sum()),
            "passes": {  # up to n90; one sample is one pass at batch size 1
                "student_forward": number(e.value),
                "student_backward": number(e.value),
                "teacher_forward": number(e.value) if taught else 0,
            },
        }
    return {"d": p.d, "k": p.k, "width": p.width, "eps": p.eps, "strategies": out}
