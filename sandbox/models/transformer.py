r"""BERT and GPT-2 in one record: post-LN masked models and pre-LN causal ones.

    bert:  h = LN(h + attention(h));  h = LN(h + mlp(h))      every key that is visible
    gpt2:  h = h + attention(LN(h));  h = h + mlp(LN(h))      and not after the query

The numbers are those of Hugging Face's `BertForMaskedLM` and `GPT2LMHeadModel`, which
`sandbox.models.imports` reads: learned positions, erf GELU and layer-norm eps 1e-12 for
BERT, tanh GELU and 1e-5 for GPT-2. BERT adds the embedding of token type 0, normalises
the embedding, and reads its logits through dense, GELU, LayerNorm and the transposed
token embedding with a bias; GPT-2 ends with a LayerNorm and a decoder without bias.

Weights start from N(0, 0.02^2), biases at 0; GPT-2 divides those of the two projections
into the residual stream by sqrt(2 layers). Kernels are stored (in, out), heads apart:

    {"embedding": {"token" (V, E), "position" (P, E), bert: "type" (E,), "norm"},
     "layer_i": {"attention": {"qkv" (E, 3, H, D), "out" (H, D, E), "norm"},
                 "mlp": {"up" (E, F), "down" (F, E), "norm"}},
     "head": {"norm", bert: "dense" (E, E), "bias" (V,); untied: "decoder" (V, E)}}

Example:
    >>> model = Transformer(kind="gpt2", vocab=2, n_classes=2, positions=100, layers=2)
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, tokens, taps=("residual_1",)).acts["residual_1"].shape
    (B, N, 64)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.errors import require
from sandbox.types import Outputs, Params, Tokens

KINDS = ("bert", "gpt2")
COMPUTE = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A transformer over tokens; the hidden size E is `heads * head_dim`.

    Attributes:
      kind: "bert" (post-LN, all visible keys) or "gpt2" (pre-LN, causal).
      vocab: number of tokens V.
      n_classes: logits of the first so many tokens are returned.
      positions: longest sequence.
      layers: number of layers.
      heads: attention heads H of each layer.
      head_dim: size D of a head.
      mlp_ratio: width of the MLP over E.
      dropout: of the embedding, the attention weights and both residual branches, where
        `apply` is given a key.
      tied: whether the decoder is the token embedding; always for BERT.
      compute: "bfloat16" rounds the factors of all products but the decoder's;
        parameters, sums, layer norms, softmax and logits stay in float32.
    """

    kind: str = "bert"
    vocab: int = 8
    n_classes: int = 3
    positions: int = 1024
    layers: int = 4
    heads: int = 8
    head_dim: int = 8
    mlp_ratio: int = 4
    dropout: float = 0.0
    tied: bool = True
    compute: str = "float32"

    def __post_init__(self) -> None:
        """Refuses impossible sizes."""
        for name, low in _LEAST.items():
            v = getattr(self, name)
            require(
                type(v) is int and low <= v < 2**31,
                f"model.{name} must be a whole number of at least {low}, got {v!r}.",
            )
        for name, names in (("kind", KINDS), ("compute", COMPUTE)):
            v = getattr(self, name)
            require(
                v in names, f"model.{name} must be {' or '.join(names)}, got {v!r}."
            )
        require(
            self.n_classes <= self.vocab,
            f"model.n_classes must be at most vocab {self.vocab}, because the logits"
            f" are those of the first tokens, got {self.n_classes}.",
        )
        require(
            type(self.dropout) in (int, float) and 0 <= self.dropout < 1,
            "model.dropout must be a probability below 1, e.g. 0.1, got"
            f" {self.dropout!r}.",
        )
        require(
            isinstance(self.tied, bool),
            f"model.tied must be true or false, got {self.tied!r}.",
        )
        require(
            self.tied or self.kind == "gpt2",
            'model.tied must be true with kind "bert", whose decoder is always the'
            " token embedding.",
        )

    @property
    def width(self) -> int:
        """Hidden size E."""
        return self.heads * self.head_dim

    @property
    def mlp_width(self) -> int:
        """Width F of the MLPs."""
        return self.mlp_ratio * self.width

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the activations that `apply` can return.

        `embedding` is `(B, N, E)` before dropout; `residual_0` the same after it, and
        `residual_i` the stream after i layers (for BERT, normalised); `attention_i` the
        weights `(B, H, N, N)` of layer i without dropout, a square array that is made
        only if asked for; `final` is `(B, N, E)`, what the decoder multiplies.
        """
        return (
            "embedding",
            *(f"residual_{i}" for i in range(self.layers + 1)),
            *(f"attention_{i}" for i in range(self.layers)),
            "final",
        )

    def init(self, key: Any) -> Params:
        """Draws parameters in jax's default float dtype."""
        from sandbox.models.transformer_module import init_params

        return init_params(self, key)

    def apply(
        self,
        params: Params,
        x: Tokens,
        *,
        key: Any | None = None,
        taps: Sequence[str] = (),
        last: bool = False,
    ) -> Outputs:
        """Logits `(B, N, n_classes)` and the named activations.

        Sequences may have any length up to `positions`, whose first embeddings they
        take; on a CPU, long ones run one sentence and head at a time. Positions that
        are not visible still get logits; if no key of a position is visible, its
        attention adds nothing but the bias of the projection.

        Args:
          params: as `init` makes them.
          x: tokens; `valid` is not read.
          key: for dropout; None turns it off.
          taps: names from `self.taps`.
          last: return the logits of the last position only, `(B, 1, n_classes)`, and
            compute no more of the last layer than they need; its activations then
            have one position as well (of attention weights, one query).
        """
        from sandbox.models.transformer_module import run

        unknown = [t for t in taps if t not in self.taps]
        require(
            not unknown,
            f"taps must be among {', '.join(self.taps)}, got {', '.join(unknown)}.",
        )
        n = x.ids.shape[1]
        require(
            n <= self.positions,
            f"model.positions must be at least the {n} positions of the input, got"
            f" {self.positions}.",
        )
        return run(self, params, x, key=key, taps=taps, last=last)

    def width_axes(self, params: Params) -> Params:
        """Roles of the axes.

        `io` for tokens, positions and the three of query, key and value; `residual` for
        E; `heads_i`, `head_dim` and `mlp_i` inside layer i.
        """
        norm = {"scale": ("residual",), "bias": ("residual",)}

        def layer(i: int) -> Params:
            h, f = f"heads_{i}", f"mlp_{i}"
            qkv = ("io", h, "head_dim")
            return {
                "attention": {
                    "qkv": {"kernel": ("residual", *qkv), "bias": qkv},
                    "out": {
                        "kernel": (h, "head_dim", "residual"),
                        "bias": ("residual",),
                    },
                    "norm": norm,
                },
                "mlp": {
                    "up": {"kernel": ("residual", f), "bias": (f,)},
                    "down": {"kernel": (f, "residual"), "bias": ("residual",)},
                    "norm": norm,
                },
            }

        table = ("io", "residual")
        roles = {
            "embedding": {
                "token": table,
                "position": table,
                "type": ("residual",),
                "norm": norm,
            },
            "head": {
                "dense": {"kernel": ("residual", "residual"), "bias": ("residual",)},
                "norm": norm,
                "bias": ("io",),
                "decoder": table,
            },
        }
        named = {
            part: {name: roles[part][name] for name in params[part]} for part in roles
        }
        return named | {f"layer_{i}": layer(i) for i in range(self.layers)}


_LEAST = {
    "vocab": 2,
    "n_classes": 2,
    "positions": 1,
    "layers": 1,
    "heads": 1,
    "head_dim": 1,
    "mlp_ratio": 1,
}
