"""Other PCFG settings: next tokens, another grammar, another masking rate.

    python -m experiments.pcfg_autoregressive smoke
    python -m experiments.pcfg_autoregressive cpu --rate.task.rate 0.5
    python -m experiments.pcfg_autoregressive --help

The comparison of `experiments.pcfg_accuracy` in three more settings, after the appendix
of arXiv 2410.05464: GPT-2 on the tokens that end a nonterminal (with checkpoints taken
twice as fast as the teacher made them, as released), BERT on another grammar, and BERT
at another masking rate.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

import sandbox.study as st
from experiments import pcfg_accuracy as base
from sandbox.errors import require
from sandbox.tasks.next_token import NextToken


def _parts(s: st.Setting, level: int = 1, **changes: Any) -> dict[str, st.Setting]:
    """The three settings; they change the strings of `s`, and what else is named."""
    task: Any = s.task
    strings = {
        "autoregressive": replace(task, grammar="cfg3f", predict="next", level=level),
        "grammar": replace(task, grammar="cfg3i"),
        "rate": replace(task, rate=0.15),
    }
    return {part: replace(s, task=made, **changes) for part, made in strings.items()}


SMOKE = _parts(base.SMOKE, budget=st.Fixed(teacher=300, student=300))
CPU = _parts(
    base.LEVEL_13, budget=st.Fixed(teacher=1600, student=800), hold=250, n_teachers=3
)
PAPER = _parts(base.PAPER, level=3)


class PcfgAutoregressive(st.Study):
    """Further PCFG settings of the appendix of arXiv 2410.05464.

    Attributes:
      autoregressive: next tokens.
      grammar: masked tokens of another grammar.
      rate: masked tokens at another rate.
      tau: teacher temperature of the taught students.
      every: steps between the checkpoints that progressive students use.
      speed: how much faster than the teacher they go through them; both are twice as
        much for next tokens.
    """

    autoregressive: st.Setting = SMOKE["autoregressive"]
    grammar: st.Setting = SMOKE["grammar"]
    rate: st.Setting = SMOKE["rate"]
    tau: float = 1.0
    every: int = 50
    speed: float = 1.0

    presets = {
        "smoke": st.preset("Level 10, one layer, two seeds."),
        "cpu": st.preset(
            "From level 13: cfg3f next tokens, cfg3i, and cfg3b with 15% masked.",
            **CPU,
            every=100,
            speed=2.0,
        ),
        "paper": st.preset(
            "Whole strings, four layers, 32 heads to 8; ends of depth 3 (13 to 15).",
            **PAPER,
            tau=0.0,
            every=200,
        ),
    }
    since = {"any": "2026-11-22 04122fb"}

    @property
    def settings(self) -> Mapping[str, st.Setting]:
        return {name: getattr(self, name) for name in SMOKE}

    def check(self) -> None:
        task = self.autoregressive.made_task
        require(isinstance(task, NextToken), "autoregressive.task must predict next.")
        for setting in self.settings.values():
            self._accuracy(setting)

    def _accuracy(self, s: st.Setting) -> base.PcfgAccuracy:
        """The study of accuracies that a setting is."""
        pace = 2 if isinstance(s.made_task, NextToken) else 1
        every, speed = pace * self.every, pace * self.speed
        return base.PcfgAccuracy(setting=s, taus=(self.tau,), every=every, speed=speed)

    def lanes(self, t: st.Teachers) -> list[st.Lane]:
        return self._accuracy(t.setting).lanes(t)

    def measure(self, r: st.Result) -> dict[str, float | None]:
        return {name: base.ceiling(s) for name, s in self.settings.items()}

    def figure(self, r: st.Result) -> Figure:
        """Accuracy over training in every setting.

        Top-1 accuracy at scored tokens of fresh strings; medians over seeds, bands
        quartiles (extremes of fewer than ten). The exact predictor is not computed for
        next tokens.
        """
        fig, axes = st.panels(1, 3, height=2.7, sharey=True)
        for ax, (name, part) in zip(axes, r.parts.items(), strict=True):
            base.draw_curves(ax, part, self.tau, r.measured[name])
            ax.set_title(str(part.setting).rsplit(", ", 1)[1].capitalize())
        for ax in axes[1:]:
            ax.set_ylabel("")
        names = ", ".join(str(p.setting).rsplit(", ", 1)[0] for p in r.parts.values())
        first = next(iter(r.parts.values()))
        st.note(fig, f"Left to right: {names}; each {st.counts_text(first)}")
        return fig

    def claims(self, r: st.Result) -> Iterator[st.Claim]:
        """G6: the paired differences of G1 in every setting."""
        for name, part in r.parts.items():
            yield from base.differences(part, (self.tau,), f"G6.{name}")

    def facts(self, r: st.Result) -> dict[str, Any]:
        out = {"accuracy": base.table, "strings": base.strings}
        facts = {k: {n: f(p) for n, p in r.parts.items()} for k, f in out.items()}
        return {**facts, "ceiling": r.measured}


if __name__ == "__main__":
    PcfgAutoregressive.main()
