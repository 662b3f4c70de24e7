"""Other settings: claim G6 on next tokens, another grammar and another rate."""

from pathlib import Path

from experiments import pcfg_autoregressive
from paper_repro.pcfg_accuracy import claims, table
from paper_repro.pcfg_report import PcfgReport


def reproduce(scale: str, root: Path) -> PcfgReport:
    """Runs what is missing, draws and evaluates."""
    result = pcfg_autoregressive.run(pcfg_autoregressive.PRESETS[scale](), root=root)
    parts = result.parts
    return PcfgReport(
        study="pcfg_autoregressive",
        scale=scale,
        config=result.config,
        figure=pcfg_autoregressive.draw(result),
        claims=[c for n, part in parts.items() for c in claims(part, name=f"G6.{n}")],
        probe_seconds=0.0,
        trained=[t for part in parts.values() for t in part.teachers],
        taught=[s for part in parts.values() for s in part.students],
        lost=[f"{n}: {p}" for n, part in parts.items() for p in part.lost],
        extra={"accuracy": {n: table(part) for n, part in parts.items()}},
    )
