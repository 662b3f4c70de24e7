"""What is seen of a string, as leaf weights for the exact predictor.

A leaf weight is P(what is seen at a position | clean token there), up to a factor.

Example:
    >>> from sandbox.tasks.channel import Channel
    >>> Channel(rate=0.3).unknown(3)[:, 0].round(3).tolist()  # clean token 0
    [0.74, 0.01, 0.01, 0.24]
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from sandbox.errors import require
from sandbox.store.bounds import Within, check_fields
from sandbox.types import Array


@dataclass(frozen=True)
class Channel:
    """How a masked-language-model batch hides tokens, position by position.

    A position is selected with probability `rate`; a selected token is replaced by
    MASK with probability `mask`, by a uniformly drawn terminal (perhaps itself) with
    probability `random`, and otherwise left as it is.

    Attributes:
      rate: share of selected positions.
      mask: share of the selected ones that show MASK.
      random: share of the selected ones that show a random terminal.
    """

    rate: Annotated[float, Within(0, 1)] = 0.3
    mask: Annotated[float, Within(0, 1)] = 0.8
    random: Annotated[float, Within(0, 1)] = 0.1

    def __post_init__(self) -> None:
        """Refuses what is no channel."""
        check_fields(self, "channel")
        require(
            self.mask + self.random <= 1 + 1e-12,
            "channel.mask and channel.random are shares of the selected positions and"
            f" may sum to 1 at most, got {self.mask} + {self.random}.",
        )

    def selected(self, n_terminals: int) -> Float[np.ndarray, "seen V"]:
        """P(seen | clean token, selected), `[seen, clean]`; seen = V means MASK."""
        v = n_terminals
        kept = max(1 - self.mask - self.random, 0.0)
        out = np.full((v + 1, v), self.random / v)
        out[:v] += kept * np.eye(v)
        out[v] = self.mask
        return out

    def corrupt(
        self, key: Array, tokens: Int[Array, "B N"], n_terminals: int
    ) -> tuple[Int[Array, "B N"], Bool[Array, "B N"]]:
        """What is seen of tokens (V for MASK), and which positions are selected."""
        shares = np.asarray((self.rate, self.mask, self.random), np.float32)
        return _corrupt(key, tokens, shares, n_terminals)

    def unknown(self, n_terminals: int) -> Float[np.ndarray, "seen V"]:
        """P(seen | clean token) where it is not known whether it was selected."""
        clean = np.eye(n_terminals + 1, n_terminals)
        return self.rate * self.selected(n_terminals) + (1 - self.rate) * clean


@partial(jax.jit, static_argnums=3)
def _corrupt(
    key: Array, tokens: Array, shares: Array, n_terminals: int
) -> tuple[Array, Array]:
    rate, mask, random = shares
    k_select, k_kind, k_token = jax.random.split(key, 3)
    selected = jax.random.uniform(k_select, tokens.shape) < rate
    kind = jax.random.uniform(k_kind, tokens.shape)
    other = jax.random.randint(k_token, tokens.shape, 0, n_terminals, tokens.dtype)
    shown = jnp.where(kind < mask + random, other, tokens)
    shown = jnp.where(kind < mask, n_terminals, shown).astype(tokens.dtype)
    return jnp.where(selected, shown, tokens), selected


@partial(jax.jit, static_argnums=2)
def observed(
    tokens: Int[Array, "*B N"], known: Bool[Array, "*B N"], n_terminals: int
) -> Float[Array, "*B N V"]:
    """Leaf weights where some tokens are known and nothing is seen at the others.

    Args:
      tokens: terminals by number; any number where not known.
      known: which of them are.
      n_terminals: V.
    """
    clean = jax.nn.one_hot(tokens, n_terminals, dtype=float)
    return jnp.where(known[..., None], clean, 1.0)
