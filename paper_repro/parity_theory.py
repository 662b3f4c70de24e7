"""The analysed setting: closed forms, and exponents from labels and a checkpoint.

Claim P9 in the setting of the theorem itself: what the first step of a student needs.
"""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import parity_theory
from experiments.parity_theory import SUPERVISIONS, Result
from experiments.parity_theory_measure import CRITERIA, Needed
from paper_repro.claims import Claim, claim, claim_of, number
from paper_repro.measured import Measured
from sandbox.theory.exponents import (
    Exponent,
    difference,
    local_slopes,
    survival_estimate,
)
from sandbox.theory.sample_complexity import Estimate


def reproduce(scale: str, root: Path) -> Measured:
    """Measures everything and draws it."""
    result = parity_theory.run(parity_theory.PRESETS[scale](), root=root)
    return report(result, scale)


def report(result: Result, scale: str) -> Measured:
    """Figure, numbers and claims of a result."""
    return Measured(
        study="parity_theory",
        scale=scale,
        config=result.config,
        figure=parity_theory.draw(result),
        claims=claims(result),
        probe_seconds=result.seconds,
        caption=parity_theory.CAPTION,
        measured=numbers(result),
        summary=tuple(summarize(result)),
    )


def claims(result: Result) -> list[Claim]:
    """Closed forms, gaps of exponents, growth with k, and the control."""
    return [*_closed_forms(result), *_gaps(result), *_growth(result), *_odd(result)]


def _closed_forms(result: Result) -> list[Claim]:
    """Squared deviations of measured population gradients in units of their variance.

    One number a seed, the mean over its problems.
    """
    out = []
    for supervision in SUPERVISIONS:
        rows = [
            n.check.deviation for n in result.needed if n.supervision == supervision
        ]
        out.append(
            claim(
                f"P9.gradient.{supervision}",
                f"population gradients from {supervision} are the closed form's",
                np.mean(rows, axis=0),
                kind="at_most",
                bound=1.1,
                rule="mean squared deviation in standard errors <= 1.1 (1 if exact)",
                expected="not in the paper",
                students=False,
            )
        )
    return out


def _gaps(result: Result) -> list[Claim]:
    """Exponent of labels minus that of the checkpoint, by criterion and k."""
    out = []
    for criterion in CRITERIA:
        for k in result.config.cases:
            if criterion not in result.along(k, "labels")[0].batch:
                continue
            fits = [result.exponent(k, s, criterion) for s in SUPERVISIONS]
            out.append(
                claim_of(
                    f"P9.{criterion}.k{k}",
                    "labels cost a higher power of d than the checkpoint",
                    difference(fits[0], fits[1]),
                    kind="exponent_gap",
                    bound=1.0,
                    rule=f"exponent of the batch in d ({criterion}, k = {k}):"
                    " labels - checkpoint >= 1, lower end > 0",
                    expected="d^(k-1) against poly(d)",
                    trained=_fewest(result, k),
                    students=fits[0].runs + fits[1].runs,
                )
            )
    return out


def _fewest(result: Result, k: int) -> int:
    return min(len(n.share) for s in SUPERVISIONS for n in result.along(k, s))


def _growth(result: Result) -> list[Claim]:
    """How much the checkpoint's exponent grows from the smallest k to the largest."""
    low, high = min(result.config.cases), max(result.config.cases)
    if low == high:
        return []
    a, b = (result.exponent(k, "checkpoint", "aligned") for k in (high, low))
    gap = difference(a, b)
    return [
        claim_of(
            "P9.flat",
            "the checkpoint's exponent does not grow with k",
            gap,
            kind="at_most",
            bound=1.0,
            rule=f"exponent from the checkpoint (aligned), k = {high} minus k = {low}"
            " <= 1, upper end likewise",
            expected=f"0, against {high - low} for labels",
            trained=_fewest(result, high),
            students=a.runs + b.runs,
        )
    ]


def _odd(result: Result) -> list[Claim]:
    """The negative control at an odd d, and the even d beside it."""
    odd, even = result.controls
    k = result.config.control_k
    return [
        claim(
            "P9.odd",
            f"k = {k} shows labels nothing at an odd d, where relu' has no even degree",
            odd.share / (k / odd.d),
            kind="at_most",
            bound=1.5,
            rule=f"median share of the update in S over k/d, d = {odd.d},"
            f" batch {odd.batch:,}, <= 1.5",
            expected="chance (1)",
            students=False,
        ),
        claim(
            "P9.even",
            "with ties, at the even d beside it, the same batch shows the support",
            even.share,
            kind="at_least",
            bound=0.5,
            rule=f"median share of the update in S, d = {even.d},"
            f" batch {even.batch:,}, >= .5",
            expected="not in the paper",
            students=False,
        ),
    ]


def numbers(result: Result) -> dict[str, Any]:
    """Everything as JSON data."""
    return {
        "exponents": [
            {
                "k": k,
                "supervision": s,
                "criterion": c,
                **_exponent(result.exponent(k, s, c)),
                "closed_form": number(result.predicted(k, s, c)),
                "at_the_d_of_labels": _exponent(result.exponent(k, s, c, common=True)),
                "local_slopes": _slopes(result.along(k, s), c),
            }
            for k in result.config.cases
            for s in SUPERVISIONS
            for c in CRITERIA
            if c in result.along(k, s)[0].batch
        ],
        "problems": [_problem(n) for n in result.needed],
        "controls": [
            {
                "k": result.config.control_k,
                "d": c.d,
                "batch": c.batch,
                "closed_form_batch": number(c.predicted),
                "share": _quartiles(c.share),
                "supports_found": int(c.found.sum()),
                "seeds": len(c.found),
            }
            for c in result.controls
        ],
    }


def _exponent(e: Exponent) -> dict[str, Any]:
    return {
        "value": number(e.value),
        "interval": [number(e.lower), number(e.upper)],
        "runs": e.runs,
        "censored": e.censored,
    }


def _slopes(rows: list[Needed], criterion: str) -> list[dict[str, Any]]:
    if len(rows) < 2:
        return []
    counts = [len(n.share) for n in rows]
    x, slopes = local_slopes(
        np.repeat([float(n.d) for n in rows], counts),
        np.concatenate([n.batch[criterion] for n in rows]),
        np.repeat([float(n.cap) for n in rows], counts),
        draws=500,
    )
    return [
        {"d": round(float(d), 1), "slope": number(e.value),
         "interval": [number(e.lower), number(e.upper)]}
        for d, e in zip(x, slopes, strict=True)
    ]  # fmt: skip


def _problem(n: Needed) -> dict[str, Any]:
    check = n.check
    inside, outside = slice(0, n.k), slice(n.k, None)
    return {
        "k": n.k,
        "d": n.d,
        "supervision": n.supervision,
        "seeds": len(n.share),
        "cap": n.cap,
        "batch": {
            c: _median(survival_estimate(b, float(n.cap))) for c, b in n.batch.items()
        },
        "beyond_the_cap": {c: int(np.isinf(b).sum()) for c, b in n.batch.items()},
        "closed_form_batch": {c: number(v) for c, v in n.predicted.items()},
        "teachers_that_separate": n.separable,
        "accuracy_at_infinite_batch": _quartiles(n.ceiling),
        "mean_squared_deviation": _quartiles(check.deviation),
        "mean_size_in_support": {
            "measured": float(np.abs(check.measured[:, inside].mean(0)).mean()),
            "exact": float(np.abs(check.exact[:, inside].mean(0)).mean()),
        },
        "mean_size_outside": {
            "measured": float(np.abs(check.measured[:, outside].mean(0)).mean()),
            "exact": float(np.abs(check.exact[:, outside].mean(0)).mean()),
        },
    }


def _median(e: Estimate) -> dict[str, Any]:
    return {"median": number(e.value), "interval": [number(e.lower), number(e.upper)],
            "runs": e.n}  # fmt: skip


def _quartiles(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.quantile(values, (0.25, 0.5, 0.75))]


def summarize(result: Result) -> list[str]:
    """Exponents and ceilings, a line each."""
    lines = []
    for k in result.config.cases:
        for s in SUPERVISIONS:
            parts = []
            for c in CRITERIA:
                if c in result.along(k, s)[0].batch:
                    e = result.exponent(k, s, c)
                    parts.append(f"{c} {e.value:.2f} [{e.lower:.2f}, {e.upper:.2f}]")
            exact = result.predicted(k, s, "aligned")
            ends = [np.median(n.ceiling) for n in result.along(k, s)]
            lines.append(
                f"k={k}, {s}: exponent {', '.join(parts)} (closed form, aligned:"
                f" {exact:.2f}); accuracy from infinite batches"
                f" {min(ends):.2f} to {max(ends):.2f}"
            )
    return lines
