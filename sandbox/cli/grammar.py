"""`sandbox grammar`: the arguments, checked before jax starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sandbox.errors import require
from sandbox.tasks.grammar import load_grammar


@dataclass(frozen=True)
class Describe:
    """What is in a grammar: sizes, exact lengths, entropy, ambiguity, sample strings.

    All numbers are exact unless they are said to be estimates. Levels are depths in the
    derivation tree. A grammar that recurses has neither levels nor samples; its
    expected length and entropy are printed.

    Examples:
      sandbox grammar cfg3b
      sandbox grammar cfg3b --start 13 14 15 --samples 5
      sandbox grammar my.pcfg --figure lengths.png
      sandbox grammar recursive.pcfg --at-most 16
    """

    grammar: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE_OR_NAME")]
    """a file in nltk's PCFG syntax, or the name of a packaged grammar such as cfg3b"""
    start: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SYMBOL [SYMBOL ...]")] = ()
    """start from these symbols instead"""
    at_most: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: any)")] = 0
    """given that a string has at most so many tokens, as a recursive grammar needs"""
    samples: int = 3
    """strings to print"""
    seed: int = 0
    """of the strings"""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """draw the lengths: .png, and .svg"""

    def run(self) -> int:
        """Checks the arguments and prints."""
        n, seed, figure = self.samples, self.seed, self.figure
        require(n >= 0, f"--samples must be at least 0, got {n}.")
        require(seed in range(2**31), f"--seed must lie in 0..2^31-1, got {seed}.")
        png = figure is None or figure.suffix == ".png"
        require(png, f"--figure must end in .png, got {figure}.")
        grammar = load_grammar(self.grammar, self.start or None)
        if self.at_most:
            grammar = grammar.at_most(self.at_most)
        drawn = figure is None or not grammar.recursive
        require(drawn, "--figure needs a grammar without recursion.")
        # lazily: it imports jax, which no mistake should wait for.
        from sandbox.cli.describe import describe

        describe(grammar, n_samples=n, seed=seed, figure=figure)
        return 0
