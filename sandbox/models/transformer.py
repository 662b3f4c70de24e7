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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from sandbox.errors import require
from sandbox.models.attention import attend, attention_weights
from sandbox.models.attention_kernel import LARGEST
from sandbox.models.base import Size
from sandbox.models.dropout import Words, drop
from sandbox.platforms import platform
from sandbox.store.bounds import AtLeast, AtMost, Within, check_fields
from sandbox.store.config import later
from sandbox.types import Array, Outputs, Params, Tokens

HIGHEST = lax.Precision.HIGHEST
INIT_SD = 0.02
"""Standard deviation of the initial weights of BERT and of GPT-2."""


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
      inner: width of the MLP where it is no multiple of E; 0 for `mlp_ratio` times E.
      attention: "triton" uses kernels for small heads on an NVIDIA GPU, where they can
        run; they sum in another order, so it is another record.
    """

    kind: Literal["bert", "gpt2"] = "bert"
    vocab: Annotated[int, AtLeast(2), AtMost(2**31 - 1)] = 8
    n_classes: Annotated[int, AtLeast(2)] = 3
    positions: Size = 1024
    layers: Size = 4
    heads: Size = 8
    head_dim: Size = 8
    mlp_ratio: Size = 4
    dropout: Annotated[float, Within(0, 1, "[)")] = 0.0
    tied: bool = True
    compute: Literal["float32", "bfloat16"] = "float32"
    inner: Annotated[int, AtLeast(0)] = later(0)
    attention: Literal["auto", "triton"] = later("auto")

    def __post_init__(self) -> None:
        """Refuses impossible sizes."""
        check_fields(self, "model")
        require(
            self.n_classes <= self.vocab,
            f"model.n_classes must be at most vocab {self.vocab}, because the logits"
            f" are those of the first tokens, got {self.n_classes}.",
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
        return self.inner or self.mlp_ratio * self.width

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
        dtype = jnp.result_type(float)
        e, h, d, f = self.width, self.heads, self.head_dim, self.mlp_width
        bert = self.kind == "bert"
        keys = iter(jax.random.split(key, 6 + 4 * self.layers))
        # GPT-2 keeps the variance of the residual stream: 2 branches a layer add to it.
        branch_sd = INIT_SD if bert else INIT_SD / (2 * self.layers) ** 0.5

        def normal(*shape: int, sd: float = INIT_SD) -> Array:
            return sd * jax.random.normal(next(keys), shape, dtype)

        def dense(*shape: int, n_in: int = 1, sd: float = INIT_SD) -> Params:
            kernel = normal(*shape, sd=sd)
            return {"kernel": kernel, "bias": jnp.zeros(shape[n_in:], dtype)}

        def norm() -> Params:
            return {"scale": jnp.ones(e, dtype), "bias": jnp.zeros(e, dtype)}

        def layer() -> Params:
            return {
                "attention": {
                    "qkv": dense(e, 3, h, d),
                    "out": dense(h, d, e, n_in=2, sd=branch_sd),
                    "norm": norm(),
                },
                "mlp": {
                    "up": dense(e, f),
                    "down": dense(f, e, sd=branch_sd),
                    "norm": norm(),
                },
            }

        token, position = normal(self.vocab, e), normal(self.positions, e)
        embedding: Params = {"token": token, "position": position}
        head: Params = {"norm": norm()}
        if bert:
            embedding |= {"type": normal(e), "norm": norm()}
        layers = {f"layer_{i}": layer() for i in range(self.layers)}
        if bert:
            head |= {"dense": dense(e, e), "bias": jnp.zeros(self.vocab, dtype)}
        elif not self.tied:
            head["decoder"] = normal(self.vocab, e)
        return {"embedding": embedding, "head": head} | layers

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
        half, bert = self.compute == "bfloat16", self.kind == "bert"
        eps = 1e-12 if bert else 1e-5
        words = None
        if key is not None and self.dropout > 0:
            # Of the embedding, of all attention weights, and of all branches.
            b = x.ids.shape[0]
            hidden, weights = b * n + self.width, 2 * b * self.heads * n
            words = Words(key, hidden + self.layers * (weights + 2 * hidden))
        acts: dict[str, Array] = {}

        def keep(name: str, value: Array) -> None:
            if name in taps:
                acts[name] = value

        def dropped(h: Array) -> Array:
            if words is None:
                return h
            rows, columns = words.take(h.shape[0], n), words.take(1, h.shape[2])
            return drop(h, rows[:, -h.shape[1] :], columns, rate=self.dropout)

        def read(h: Array, i: int) -> Array:
            """The positions whose output layer i has to compute."""
            return h[:, -1:] if last and i == self.layers - 1 else h

        def norm(p: Params, h: Array) -> Array:
            return layer_norm(h, p["scale"], p["bias"], eps=eps)

        def attention(p: Params, h: Array, i: int) -> Array:
            q, k, v = _qkv(p["qkv"], h, read(h, i), half=half)
            q = q * self.head_dim**-0.5
            how = {"causal": not bert, "half": half}
            if f"attention_{i}" in taps:
                acts[f"attention_{i}"] = attention_weights(q, k, x.visible, **how)
            own = words and words.take(*q.shape[:2], 2, n)
            how |= self._way(q, k)
            out = attend(q, k, v, x.visible, words=own, rate=self.dropout, **how)
            return dense(jnp.moveaxis(out, 1, 2), p["out"], half=half, n_in=2)

        def mlp(p: Params, h: Array, _: int) -> Array:
            up = jax.nn.gelu(dense(h, p["up"], half=half), approximate=not bert)
            return dense(up, p["down"], half=half)

        embedding, head = params["embedding"], params["head"]
        h = _embedded(embedding["token"], x.ids)
        h = h + embedding["position"][None, :n]
        if bert:
            h = norm(embedding["norm"], h + embedding["type"][None, None])
        keep("embedding", h)
        h = dropped(h)
        keep("residual_0", h)
        for i in range(self.layers):
            p = params[f"layer_{i}"]
            for branch, part in ((attention, p["attention"]), (mlp, p["mlp"])):
                fed = h if bert else norm(part["norm"], h)
                h = read(h, i) + dropped(branch(part, fed, i))
                h = norm(part["norm"], h) if bert else h
            keep(f"residual_{i + 1}", h)
        if bert:
            h = dense(h, head["dense"], half=half)
            h = jax.nn.gelu(h, approximate=False)
        h = norm(head["norm"], h)
        keep("final", h)
        decoder = embedding["token"] if self.tied else head["decoder"]
        logits = jnp.einsum(
            "bne,ve->bnv", h, decoder[: self.n_classes], precision=HIGHEST
        )
        if bert:
            logits = logits + head["bias"][None, None, : self.n_classes]
        return Outputs(logits, acts)

    def _way(self, q: Array, k: Array) -> dict[str, bool]:
        """How attention runs here: in kernels, tile by tile, or all at once."""
        fits = q.shape == k.shape and q.shape[-1] <= LARGEST and q.dtype == jnp.float32
        if self.attention == "triton" and platform().triton and fits:
            return {"triton": True}
        return {"tiled": q.shape[2] >= platform().tile_from}

    def width_axes(self, params: Params) -> Params:
        """Roles of the axes.

        `io` for tokens, positions and the three of query, key and value; `residual` for
        E; `heads_i`, `head_dim` and `mlp_i` inside layer i.
        """

        def roles(path: tuple[Any, ...], _: Any) -> tuple[str, ...]:
            keys = [p.key for p in path]
            i = keys[0].removeprefix("layer_")
            e, h, d, f = "residual", f"heads_{i}", "head_dim", f"mlp_{i}"
            kernels = {
                "qkv": ((e,), ("io", h, d)),
                "out": ((h, d), (e,)),
                "up": ((e,), (f,)),
                "down": ((f,), (e,)),
                "dense": ((e,), (e,)),
            }
            if keys[-2] in kernels:
                read, written = kernels[keys[-2]]
                return written if keys[-1] == "bias" else read + written
            one = {"type": (e,), "bias": ("io",)}
            return (e,) if keys[-2] == "norm" else one.get(keys[-1], ("io", e))

        return jax.tree_util.tree_map_with_path(roles, params)


def _embedded(table: Float[Array, "V E"], ids: Array) -> Float[Array, "B N E"]:
    """Rows of the table; of a small one as a product where additions have no order.

    The gradient of the product is a product too, that of a lookup adds rows wherever
    they belong, on accelerators in no fixed order.
    """
    if table.shape[0] > platform().embedded:
        return table.at[ids].get(mode="clip")
    ids = jnp.clip(ids, 0, table.shape[0] - 1)
    one_hot = jax.nn.one_hot(ids, table.shape[0], dtype=table.dtype)
    return jnp.einsum("bnv,ve->bne", one_hot, table, precision=HIGHEST)


def _qkv(p: Params, h: Array, read: Array, *, half: bool) -> tuple[Array, ...]:
    """Queries of the positions `read`, keys and values of all: `(B, H, N, D)` each."""
    if read is h:
        parts = dense(h, p, half=half)  # (B, N, 3, H, D)
        return tuple(jnp.moveaxis(parts, (2, 3), (0, 2)))
    kernel, bias = p["kernel"], p["bias"]
    q = dense(read, {"kernel": kernel[:, 0], "bias": bias[0]}, half=half)
    kv = dense(h, {"kernel": kernel[:, 1:], "bias": bias[1:]}, half=half)
    return (jnp.moveaxis(q, 2, 1), *jnp.moveaxis(kv, (2, 3), (0, 2)))


def dense(h: Array, p: Params, *, half: bool, n_in: int = 1) -> Array:
    """Contracts the last `n_in` axes of h with the kernel's first, adds the bias."""
    kernel, dtype = p["kernel"], h.dtype
    rows = h.reshape(-1, math.prod(kernel.shape[:n_in]))
    w = kernel.reshape(rows.shape[1], -1)
    if half:
        rows, w = rows.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    out = jnp.dot(rows, w, precision=HIGHEST, preferred_element_type=dtype)
    out = out + p["bias"].reshape(1, -1)
    return out.reshape(*h.shape[: h.ndim - n_in], *kernel.shape[n_in:])


def layer_norm(
    h: Float[Array, "B N E"],
    scale: Float[Array, " E"],
    bias: Float[Array, " E"],
    *,
    eps: float,
) -> Float[Array, "B N E"]:
    """(h - mean) / sqrt(variance + eps) * scale + bias, over the last axis."""
    h = h - h.mean(-1, keepdims=True)
    r = lax.rsqrt((h * h).mean(-1, keepdims=True) + eps)
    return h * r * scale[None, None] + bias[None, None]
