r"""ReLU multi-layer perceptron with PyTorch's default initialisation.

    h_0 = relu(x W_0 + b_0), ..., logits = h_{n-1} W_n + b_n

Every weight and every bias is drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as
`torch.nn.Linear` does. Kernels are stored `(fan_in, fan_out)`, the transpose of
PyTorch's. Parameters: `{"layer_0": {"kernel", "bias"}, ..., "layer_n": {...}}`.

Example:
    >>> model = MLP(d=32, hidden=(1000,), n_classes=2)
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, x, taps=("hidden_0",)).acts["hidden_0"].shape
    (B, 1000)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float

from sandbox.errors import require
from sandbox.types import Array, Outputs, Params

WIDE = 4000
"""Hidden width from which a two-layer forward pass is tiled over hidden units."""
MANY_ROWS = 64
"""Rows from which tiling pays; below, a plain pass is as fast and cheaper to derive."""
TILE = 500
"""Hidden units of one tile: 1024 rows of it fit in a core's second-level cache."""


def _is_size(value: object) -> bool:
    return type(value) is int and value < 2**31


@dataclass(frozen=True, kw_only=True)
class MLP:
    """An MLP with one or more hidden layers.

    Attributes:
      d: input bits.
      hidden: width of every hidden layer.
      n_classes: number of logits.
    """

    d: int = 100
    hidden: tuple[int, ...] = (100,)
    n_classes: int = 2

    def __post_init__(self) -> None:
        """Refuses empty layers."""
        for name in ("d", "n_classes"):
            v = getattr(self, name)
            require(_is_size(v), f"model.{name} must be a whole number, got {v!r}.")
        require(self.d >= 1, f"model.d must be at least 1, got {self.d}.")
        require(
            isinstance(self.hidden, tuple) and all(_is_size(m) for m in self.hidden),
            "model.hidden must be a tuple of whole numbers, e.g. (100,), got"
            f" {self.hidden!r}.",
        )
        require(
            len(self.hidden) >= 1,
            "model.hidden must name at least one layer width, e.g. (100,).",
        )
        require(
            all(m >= 1 for m in self.hidden),
            f"model.hidden must hold widths of at least 1, got {self.hidden}.",
        )
        require(
            self.n_classes >= 2,
            f"model.n_classes must be at least 2, got {self.n_classes}.",
        )

    @property
    def two_layer_relu(self) -> bool:
        """Whether the exact blocked online-SGD engine applies to this network."""
        return len(self.hidden) == 1

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the activations that `apply` can return."""
        return tuple(f"hidden_{i}" for i in range(len(self.hidden)))

    def init(self, key: Any) -> Params:
        """Draws parameters in jax's default float dtype."""
        import jax.numpy as jnp

        from sandbox.models.mlp_module import MLPModule

        x = jnp.zeros((1, self.d))
        return MLPModule(self.hidden, self.n_classes).init(key, x)["params"]

    def apply(
        self,
        params: Params,
        x: Float[Array, "B d"],
        *,
        key: Any | None = None,
        taps: Sequence[str] = (),
    ) -> Outputs:
        """Logits and activations; wide two-layer networks run tile by tile.

        Args:
          params: as `init` makes them.
          x: inputs.
          key: unused (there is no dropout).
          taps: names from `self.taps`.
        """
        del key
        from sandbox.models.mlp_module import MLPModule, tiled_logits

        unknown = [t for t in taps if t not in self.taps]
        require(
            not unknown,
            f"taps must be among {', '.join(self.taps)}, got {', '.join(unknown)}.",
        )
        wide = self.two_layer_relu and self.hidden[0] >= WIDE
        if wide and not taps and x.shape[0] >= MANY_ROWS:
            return Outputs(tiled_logits(params, x, tile=TILE), {})
        logits, acts = MLPModule(self.hidden, self.n_classes).run(params, x)
        return Outputs(logits, {t: acts[t] for t in taps})

    def width_axes(self, params: Params) -> Params:
        """Roles of the axes: `io` for inputs and outputs, `hidden_i` for widths."""
        names = ["io", *self.taps, "io"]
        return {
            f"layer_{i}": {"kernel": (names[i], names[i + 1]), "bias": (names[i + 1],)}
            for i in range(len(params))
        }
