"""The jax side of `sandbox.models.transformer`: initial weights and forward pass."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from sandbox.models.attention import attend, attention_weights, use_tiles
from sandbox.models.dropout import Words, drop
from sandbox.types import Array, Outputs, Params, Tokens

if TYPE_CHECKING:
    from sandbox.models.transformer import Transformer

HIGHEST = lax.Precision.HIGHEST
INIT_SD = 0.02
"""Standard deviation of the initial weights of BERT and of GPT-2."""


def init_params(model: "Transformer", key: Array) -> Params:
    """Draws parameters in jax's default float dtype."""
    dtype = jnp.result_type(float)
    e, h, d, f = model.width, model.heads, model.head_dim, model.mlp_width
    bert = model.kind == "bert"
    keys = iter(jax.random.split(key, 6 + 4 * model.layers))
    # GPT-2 keeps the variance of the residual stream: 2 branches a layer add to it.
    branch_sd = INIT_SD if bert else INIT_SD / (2 * model.layers) ** 0.5

    def normal(*shape: int, sd: float = INIT_SD) -> Array:
        return sd * jax.random.normal(next(keys), shape, dtype)

    def dense(shape: tuple[int, ...], n_in: int, sd: float = INIT_SD) -> Params:
        return {"kernel": normal(*shape, sd=sd), "bias": jnp.zeros(shape[n_in:], dtype)}

    def norm() -> Params:
        return {"scale": jnp.ones(e, dtype), "bias": jnp.zeros(e, dtype)}

    def layer() -> Params:
        return {
            "attention": {
                "qkv": dense((e, 3, h, d), 1),
                "out": dense((h, d, e), 2, branch_sd),
                "norm": norm(),
            },
            "mlp": {
                "up": dense((e, f), 1),
                "down": dense((f, e), 1, branch_sd),
                "norm": norm(),
            },
        }

    embedding: Params = {"token": normal(model.vocab, e)}
    embedding["position"] = normal(model.positions, e)
    if bert:
        embedding |= {"type": normal(e), "norm": norm()}
    params = {"embedding": embedding}
    params |= {f"layer_{i}": layer() for i in range(model.layers)}
    if bert:
        bias = jnp.zeros(model.vocab, dtype)
        params["head"] = {"dense": dense((e, e), 1), "norm": norm(), "bias": bias}
        return params
    params["head"] = {"norm": norm()}
    if not model.tied:
        params["head"]["decoder"] = normal(model.vocab, e)
    return params


def run(
    model: "Transformer",
    params: Params,
    x: Tokens,
    *,
    key: Array | None,
    taps: Sequence[str],
    last: bool,
) -> Outputs:
    """The forward pass; see `Transformer.apply`."""
    n = x.ids.shape[1]
    half = model.compute == "bfloat16"
    eps = 1e-12 if model.kind == "bert" else 1e-5
    bert = model.kind == "bert"
    words = None
    if key is not None and model.dropout > 0:
        words = _words(model, key, *x.ids.shape)
    acts: dict[str, Array] = {}

    def keep(name: str, value: Callable[[], Array] | Array) -> None:
        if name in taps:
            acts[name] = value() if callable(value) else value

    def dropped(h: Array) -> Array:
        if words is None:
            return h
        rows, columns = words.take(h.shape[0], n), words.take(1, h.shape[2])
        return drop(h, rows[:, -h.shape[1] :], columns, rate=model.dropout)

    def read(h: Array, i: int) -> Array:
        """The positions whose output layer i has to compute."""
        return h[:, -1:] if last and i == model.layers - 1 else h

    def norm(p: Params, h: Array) -> Array:
        return layer_norm(h, p["scale"], p["bias"], eps=eps)

    def attention(p: Params, h: Array, i: int) -> Array:
        q, k, v = _qkv(p["qkv"], h, read(h, i), half=half)
        q = q * model.head_dim**-0.5
        causal = not bert
        keep(
            f"attention_{i}",
            lambda: attention_weights(q, k, x.visible, causal=causal, half=half),
        )
        out = attend(
            q,
            k,
            v,
            x.visible,
            causal=causal,
            words=words and words.take(*q.shape[:2], 2, n),
            rate=model.dropout,
            tiled=use_tiles(q.shape[2]),
            half=half,
        )
        out = jnp.moveaxis(out, 1, 2)
        out = dense(out, p["out"]["kernel"], p["out"]["bias"], half=half, n_in=2)
        return dropped(out)

    def mlp(p: Params, h: Array, i: int) -> Array:
        del i
        up = dense(h, p["up"]["kernel"], p["up"]["bias"], half=half)
        up = jax.nn.gelu(up, approximate=not bert)
        down = dense(up, p["down"]["kernel"], p["down"]["bias"], half=half)
        return dropped(down)

    h = _embed(params["embedding"], x)
    if bert:
        h = norm(params["embedding"]["norm"], h)
    keep("embedding", h)
    h = dropped(h)
    keep("residual_0", h)
    for i in range(model.layers):
        p = params[f"layer_{i}"]
        for branch, part in ((attention, p["attention"]), (mlp, p["mlp"])):
            if bert:
                h = norm(part["norm"], read(h, i) + branch(part, h, i))
            else:
                h = read(h, i) + branch(part, norm(part["norm"], h), i)
        keep(f"residual_{i + 1}", h)
    head = params["head"]
    if bert:
        h = dense(h, head["dense"]["kernel"], head["dense"]["bias"], half=half)
        h = jax.nn.gelu(h, approximate=False)
    h = norm(head["norm"], h)
    keep("final", h)
    decoder = params["embedding"]["token"] if model.tied else head["decoder"]
    logits = jnp.einsum("bne,ve->bnv", h, decoder[: model.n_classes], precision=HIGHEST)
    if bert:
        logits = logits + head["bias"][None, None, : model.n_classes]
    return Outputs(logits, acts)


def _qkv(p: Params, h: Array, read: Array, *, half: bool) -> tuple[Array, ...]:
    """Queries of the positions `read`, keys and values of all: `(B, H, N, D)` each."""
    kernel, bias = p["kernel"], p["bias"]
    if read is h:
        parts = dense(h, kernel, bias, half=half)  # (B, N, 3, H, D)
        return tuple(jnp.moveaxis(parts, (2, 3), (0, 2)))
    q = dense(read, kernel[:, 0], bias[0], half=half)
    kv = dense(h, kernel[:, 1:], bias[1:], half=half)
    return (jnp.moveaxis(q, 2, 1), *jnp.moveaxis(kv, (2, 3), (0, 2)))


def _words(model: "Transformer", key: Array, b: int, n: int) -> Words:
    """Those of the embedding, of all attention weights, and of all branches."""
    hidden, weights = b * n + model.width, 2 * b * model.heads * n
    return Words(key, hidden + model.layers * (weights + 2 * hidden))


def _embed(p: Params, x: Tokens) -> Float[Array, "B N E"]:
    h = p["token"].at[x.ids].get(mode="clip")
    h = h + p["position"][None, : x.ids.shape[1]]
    return h + p["type"][None, None] if "type" in p else h


def dense(h: Array, kernel: Array, bias: Array, *, half: bool, n_in: int = 1) -> Array:
    """Contracts the last `n_in` axes of h with the kernel's first, adds the bias."""
    dtype, n_out = h.dtype, kernel.ndim - n_in
    lead = h.shape[: h.ndim - n_in]
    rows = h.reshape(-1, math.prod(kernel.shape[:n_in]))
    w = kernel.reshape(rows.shape[1], -1)
    if half:
        rows, w = rows.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    out = jnp.dot(rows, w, precision=HIGHEST, preferred_element_type=dtype)
    out = out + bias.reshape(1, -1)
    return out.reshape(*lead, *kernel.shape[-n_out:])


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
