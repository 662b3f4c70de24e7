r"""A transformer on rows of {-1,+1}^d that answers once, at the last position.

    tokens_i = 0 where x_i = +1, 1 where x_i = -1;  logits = those of position d

This is how Panigrahi et al. (arXiv 2410.05464, section 3) train GPT-2 on sparse parity:
two tokens, a decoder apart from the embedding, and no label at any other position. For
tasks and probes it is a model of rows like any other. Parameters are those of the
`Transformer`, so whatever reads or writes these serves it too.

Example:
    >>> gpt2 = Transformer(kind="gpt2", vocab=2, n_classes=2, positions=16, tied=False)
    >>> model = BitTransformer(d=16, network=gpt2)
    >>> model.apply(model.init(jax.random.key(0)), x).logits.shape
    (B, 2)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from sandbox.errors import require
from sandbox.models.base import Size
from sandbox.models.transformer import Transformer
from sandbox.platforms import platform
from sandbox.store.bounds import check_fields
from sandbox.types import Array, Outputs, Params, Tokens

GPT2 = Transformer(kind="gpt2", vocab=2, n_classes=2, positions=100, tied=False)


@dataclass(frozen=True, kw_only=True)
class BitTransformer:
    """A `Transformer` behind bits and in front of one label.

    Attributes:
      d: input bits.
      network: the transformer; tokens beyond its first two never appear.
    """

    d: Size = 100
    network: Transformer = GPT2

    def __post_init__(self) -> None:
        """Refuses more bits than positions."""
        check_fields(self, "model")
        require(
            self.d <= self.network.positions,
            f"model.network.positions must be at least d = {self.d}, got"
            f" {self.network.positions}.",
        )

    @property
    def n_classes(self) -> int:
        """Number of logits."""
        return self.network.n_classes

    @property
    def dropout(self) -> float:
        """Rate of dropout, where `apply` is given a key."""
        return self.network.dropout

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the activations that `apply` can return.

        They are the network's. Of its last layer nothing but the last position is
        computed, so there the axis of positions (of queries) has size 1.
        """
        return self.network.taps

    def init(self, key: Any) -> Params:
        """Draws the network's parameters."""
        return self.network.init(key)

    def apply(
        self,
        params: Params,
        x: Float[Array, "B d"],
        *,
        key: Any | None = None,
        taps: Sequence[str] = (),
    ) -> Outputs:
        """Logits of the last position and the named activations.

        Many rows without dropout and taps run a part at a time.

        Args:
          params: as `init` makes them.
          x: entries in {-1, +1}.
          key: for dropout; None turns it off.
          taps: names from `self.taps`.
        """

        def logits(row: Float[Array, " d"]) -> Float[Array, " C"]:
            return self.apply(params, row[None]).logits[0]

        rows = platform().bit_rows
        if x.shape[0] > rows and key is None and not taps:
            return Outputs(lax.map(logits, x, batch_size=rows), {})
        ids = (x < 0).astype(jnp.int32)
        everywhere = jnp.ones(ids.shape, bool)
        tokens = Tokens(ids, valid=everywhere, visible=everywhere)
        out = self.network.apply(params, tokens, key=key, taps=taps, last=True)
        return Outputs(out.logits[:, 0], out.acts)

    def width_axes(self, params: Params) -> Params:
        """Roles of the axes, as the network names them."""
        return self.network.width_axes(params)
