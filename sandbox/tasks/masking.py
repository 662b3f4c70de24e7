r"""Masked-token prediction on the strings of a grammar, masked anew for every row.

Every token of a string (never BOS) is selected with probability `rate`, and a selected
token is replaced by MASK, by a uniformly drawn terminal, or left as it is:

    MASK with probability `mask`, random with `random`, kept with 1 - mask - random

The loss is on the selected positions alone. With `hidden`, no position attends to a
selected one, as in the released data of Panigrahi et al. (arXiv 2410.05464): a
selected token then reaches its own prediction only, through the residual path.

Example:
    >>> MaskedLM(grammar=load_grammar("cfg3b", start=("13", "14", "15")), rate=0.3)
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Bool, Float

from sandbox.errors import require
from sandbox.store.bounds import Within
from sandbox.tasks.bayes import predict_corrupted
from sandbox.tasks.channel import Channel
from sandbox.tasks.sequences import GrammarTask, Rows
from sandbox.types import Array, Batch, Tokens


@dataclass(frozen=True, kw_only=True)
class MaskedLM(GrammarTask):
    """Masked-token prediction.

    Attributes:
      grammar: where the strings come from.
      rate: probability that a token is selected.
      mask: probability that a selected token becomes MASK.
      random: probability that it becomes a uniformly drawn terminal.
      hidden: whether selected positions are hidden from attention.
    """

    rate: Annotated[float, Within(0, 1, "(]")] = 0.3
    mask: Annotated[float, Within(0, 1)] = 0.8
    random: Annotated[float, Within(0, 1)] = 0.1
    hidden: bool = True

    def __post_init__(self) -> None:
        """Refuses what is no corruption."""
        super().__post_init__()
        require(
            self.mask + self.random <= 1 + 1e-9,
            f"task.mask + task.random must be at most 1, got {self.mask} +"
            f" {self.random}.",
        )

    def bayes(self, batch: Batch) -> Float[Array, "B N C"]:
        """P(clean token | the corrupted row) at every position, on the host.

        Meaningful at selected positions, which is where it is compared; 0 at BOS and
        after the end. Costs a pass of the exact predictor a string.
        """
        x, c = batch.x, self.n_classes
        inner = x.valid[:, 1:]
        seen = jnp.where(x.ids == self.vocabulary.mask, c, x.ids)[:, 1:]
        p = predict_corrupted(
            self.arrays,
            jnp.where(inner, seen, 0),
            inner.sum(1),
            Channel(rate=self.rate, mask=self.mask, random=self.random),
            hidden=(inner & ~x.visible[:, 1:]) if self.hidden else None,
        )
        return jnp.pad(p, ((0, 0), (1, 0), (0, 0)))

    def _batch(
        self, rows: Rows, key: Any, t0: Any, n: int, split: str
    ) -> tuple[Tokens, Bool[Array, "B N"]]:
        """Selects and corrupts."""
        words = self.words(key, t0, n, split=split, count=3)
        selected = (words[:, 0] < _threshold(self.rate)) & rows.inner
        masked = words[:, 1] < _threshold(self.mask)
        replaced = words[:, 1] >= _threshold(1 - self.random)
        # The high half of a word times C, shifted back: uniform to 2^-16.
        drawn = (words[:, 2] >> 16) * jnp.uint32(self.n_classes) >> 16
        noise = jnp.where(replaced, drawn.astype(jnp.int32), rows.clean)
        noise = jnp.where(masked, self.vocabulary.mask, noise)
        visible = rows.valid & ~selected if self.hidden else rows.valid
        ids = jnp.where(selected, noise, rows.clean)
        return Tokens(ids, rows.valid, visible), selected


def _threshold(p: float) -> Any:
    """The number below which a 32-bit word falls with probability p, to 2^-32."""
    return jnp.uint32(min(round(p * 2**32), 2**32 - 1))
