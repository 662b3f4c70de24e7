"""Next-token prediction on the strings of a grammar.

Position i predicts the token at i + 1 from positions 0 .. i, which a causal model alone
may see. With `level`, only tokens that end a nonterminal of that level are scored, as
in the autoregressive runs of Panigrahi et al. (arXiv 2410.05464): level l is the depth
in the tree, 0 the start symbol.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Int

from sandbox.errors import require
from sandbox.tasks.sequences import GrammarTask, Rows
from sandbox.types import Array, Tokens


@dataclass(frozen=True, kw_only=True)
class NextToken(GrammarTask):
    """Next-token prediction.

    Attributes:
      grammar: where the strings come from.
      level: score only tokens that end a nonterminal of this level; None scores all.
    """

    level: int | None = None

    def __post_init__(self) -> None:
        """Refuses levels that the grammar does not have."""
        super().__post_init__()
        most = self.arrays.n_levels - 1
        require(
            self.level is None or 0 <= self.level <= most,
            f"task.level must be None or lie in 0..{most} for grammar"
            f" {self.grammar.name}, got {self.level!r}.",
        )

    def _targets(self, clean: Int[Array, "B N"]) -> Int[Array, "B N"]:
        """The token that follows each position."""
        return jnp.pad(clean[:, 1:], ((0, 0), (0, 1)))

    def _batch(
        self, rows: Rows, key: Any, t0: Any, n: int, split: str
    ) -> tuple[Tokens, Bool[Array, "B N"]]:
        """The strings as they are."""
        del key, t0, n, split
        scored = rows.inner
        if self.level is not None:
            scored = scored & rows.boundaries[:, self.level]
        scored = jnp.pad(scored[:, 1:], ((0, 0), (0, 1)))
        return Tokens(rows.clean, rows.valid, rows.valid), scored
