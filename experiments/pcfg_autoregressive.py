"""Other PCFG settings: next tokens, another grammar, another masking rate.

    python -m experiments.pcfg_autoregressive smoke
    python -m experiments.pcfg_autoregressive cpu --rate.rate 0.5
    python -m experiments.pcfg_autoregressive --help

The comparison of `experiments.pcfg_accuracy` in three more settings, after the appendix
of arXiv 2410.05464: GPT-2 on the tokens that end a nonterminal (with checkpoints taken
twice as fast as the teacher made them, as released), BERT on another grammar, and BERT
at another masking rate.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import pcfg_accuracy, pcfg_setting
from experiments.pcfg_setting import Setting, task_text
from sandbox.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sandbox.train.progress import Progress

PARTS = ("autoregressive", "grammar", "rate")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The study's knobs: one setting a part.

    Attributes:
      autoregressive: next tokens.
      grammar: masked tokens of another grammar.
      rate: masked tokens at another rate.
      tau: teacher temperature of the taught students.
    """

    autoregressive: Setting
    grammar: Setting
    rate: Setting
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Builds every part once, so that a bad value is refused at once."""
        require(
            self.autoregressive.task == "next_token",
            f"autoregressive.task must be next_token, got {self.autoregressive.task}.",
        )
        for name in PARTS:
            self.part(name)

    def part(self, name: str) -> pcfg_accuracy.Config:
        """The study of accuracy that a part is."""
        return pcfg_accuracy.Config(setting=getattr(self, name), taus=(self.tau,))


def _parts(base: Setting, *, level: int) -> Config:
    return Config(
        autoregressive=replace(
            base,
            grammar="cfg3f",
            task="next_token",
            level=level,
            progressive_speed=2 * base.progressive_speed,
            progressive_every=2 * base.progressive_every,
        ),
        grammar=replace(base, grammar="cfg3i"),
        rate=replace(base, rate=0.15),
    )


def smoke() -> Config:
    """Level 10, one layer, two seeds."""
    return _parts(
        replace(pcfg_setting.smoke(), teacher_steps=300, student_steps=300), level=1
    )


def cpu() -> Config:
    """From level 13: cfg3f next tokens, cfg3i, and cfg3b with 15% masked."""
    base = replace(
        pcfg_setting.cpu(),
        teacher_steps=1600,
        student_steps=800,
        progressive_every=100,
        progressive_speed=2.0,
        hold=250,
        n_seeds=3,
    )
    return _parts(base, level=1)


def paper() -> Config:
    """Whole strings, four layers, 32 heads to 8; ends of depth 3 (13 to 15)."""
    return replace(_parts(pcfg_setting.paper(), level=3), tau=0.0)


PRESETS = {"smoke": smoke, "cpu": cpu, "paper": paper}


@dataclass(frozen=True)
class Result:
    """The parts by name.

    Attributes:
      config: what was run.
      parts: each a result of `experiments.pcfg_accuracy`.
    """

    config: Config
    parts: dict[str, pcfg_accuracy.Result]


def run(config: Config, *, root: Path, progress: "Progress | None" = None) -> Result:
    """Trains what is missing and opens the rest."""
    parts = {
        name: pcfg_accuracy.run(config.part(name), root=root, progress=progress)
        for name in PARTS
    }
    return Result(config, parts)


def draw(result: Result) -> "Figure":
    """A panel of curves for every part."""
    from matplotlib.figure import Figure

    from sandbox.plotting.style import WIDE, styled

    with styled():
        fig = Figure(figsize=(WIDE, 2.6), layout="constrained")
        axes = fig.subplots(1, len(PARTS))
        for ax, part in zip(axes, result.parts.values(), strict=True):
            pcfg_accuracy.draw_curves(ax, part, result.config.tau)
            where, what = task_text(part.config.setting).rsplit(", ", 1)
            ax.set_title(f"{where}\n{what}", fontsize=7)
        handles = axes[0].get_legend_handles_labels()
        fig.legend(*handles, loc="outside upper left", ncols=6)
    return fig


def main() -> None:
    """Runs the study from the command line and draws its figure."""
    from experiments.command import study_main

    study_main("pcfg_autoregressive", PRESETS, run, draw, __doc__)


if __name__ == "__main__":
    main()
