"""The exact predictor on the grammars: ceilings, and the context that it needs.

No claim rests on it; it says what a perfect model would do where the claims on grammars
speak of models.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import pcfg_bayes
from experiments.pcfg_bayes import Result
from paper_repro.measured import Measured

if TYPE_CHECKING:
    from sandbox.tasks.bayes_context import Ceiling


def reproduce(scale: str, root: Path) -> Measured:
    """Computes everything and draws it."""
    result = pcfg_bayes.run(pcfg_bayes.PRESETS[scale](), root=root)
    return report(result, scale)


def report(result: Result, scale: str) -> Measured:
    """Figure and numbers of a result."""
    return Measured(
        study="pcfg_bayes",
        scale=scale,
        config=result.config,
        figure=pcfg_bayes.draw(result),
        claims=(),
        probe_seconds=result.seconds,
        measured=numbers(result),
        summary=tuple(summarize(result)),
    )


def numbers(result: Result) -> dict[str, Any]:
    """Everything as JSON data; context measures are in total variation."""
    windows = result.config.windows
    return {
        "one_masked": {c: _ceiling(v) for c, v in result.ceilings.items()},
        "masked_hidden": {c: _ceiling(v) for c, v in result.masked.items()},
        "by_rate": [
            {
                "case": case,
                "mode": mode,
                "ceilings": [
                    {"rate": rate, **_ceiling(v)}
                    for rate, v in zip(result.config.rates, row, strict=True)
                ],
            }
            for (case, mode), row in result.rates.items()
        ],
        "context": {
            case: {
                "masked_tokens": context.tokens,
                "m_robust": _statistics(context.robust, windows),
                "m_close": _statistics(context.close, windows),
            }
            for case, context in result.contexts.items()
        },
    }


def _ceiling(c: "Ceiling") -> dict[str, Any]:
    return {"accuracy": c.accuracy, "standard_error": c.standard_error,
            "strings": c.strings, "scored": c.scored}  # fmt: skip


def _statistics(values: np.ndarray, windows: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {"n": n, "mean": mean, "quartiles": quartiles}
        for n, (mean, *quartiles) in zip(windows, values.tolist(), strict=True)
    ]


def summarize(result: Result) -> list[str]:
    """A line a case."""
    rate = result.config.rate
    lines = []
    for case, c in result.ceilings.items():
        lines.append(
            f"{case}: ceiling {c.accuracy:.3f} with one token masked,"
            f" {result.masked[case].accuracy:.3f} with {rate:.0%}"
        )
    for case, context in result.contexts.items():
        robust, close = (_means(v, result) for v in (context.robust, context.close))
        lines.append(f"{case}: mean M_robust {robust}; mean M_close {close}")
    return lines


def _means(values: np.ndarray, result: Result) -> str:
    row = zip(result.config.windows, values[:, 0], strict=True)
    return ", ".join(f"{v:.3f} (n={n})" for n, v in row)
