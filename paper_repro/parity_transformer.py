"""Figure 1 (middle): claim P4 on sparse parity with transformers."""

from pathlib import Path

from experiments import parity_transformer
from experiments.parity_mlp import Result
from paper_repro.claims import Claim, claim
from paper_repro.parity_report import ParityReport
from paper_repro.published import TRANSFORMER_ACCURACY
from sandbox.theory.sample_complexity import ratio


def reproduce(scale: str, root: Path) -> ParityReport:
    """Runs what is missing, draws and evaluates."""
    result = parity_transformer.run(parity_transformer.PRESETS[scale](), root=root)
    published = TRANSFORMER_ACCURACY if scale == "paper" else None
    return ParityReport(
        study="parity_transformer",
        scale=scale,
        config=result.config,
        figure=parity_transformer.draw(result, published=published),
        claims=claims(result),
        teachers=result.teachers,
        students=result.students,
        caption=parity_transformer.CAPTION,
        probe_seconds=sum(t.probe_seconds for t in result.teachers),
    )


def claims(result: Result) -> list[Claim]:
    """P4; its rules are the same at every scale."""
    progressive = result.n_students("progressive")
    return [
        claim(
            "P4.pace",
            "the progressive student keeps the teacher's pace",
            ratio(progressive, result.n90_teacher[:, None]),
            kind="ratio_at_most",
            bound=2.0,
            rule="median n90(progressive) / n90(teacher) <= 2",
            expected="3.4M-3.8M, teacher 3.2M-3.7M",
            students=True,
        ),
        *[
            claim(
                f"P4.{name}",
                f"{words} learns later than progressive",
                ratio(result.n_students(name), progressive),
                kind="ratio_at_least",
                bound=2.0,
                rule=f"median n90({words}) / n90(progressive) >= 2",
                expected="at chance through 8M",
                students=True,
            )
            for name, words in (("ce", "CE"), ("one_shot", "one-shot (tau 1)"))
        ],
    ]
