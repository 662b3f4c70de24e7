"""Reads models that Hugging Face transformers saved: BERT and GPT-2, from safetensors.

A folder made by `save_pretrained` holds `config.json` and `model.safetensors`; nothing
else is read, pickles never. Only models that `Transformer` computes exactly are
accepted: another activation, another scaling of scores, an untied BERT decoder, a
missing, misshapen or unknown tensor are errors. Left out, because no logit of these
models depends on them: pooler, next-sentence head, all token types but the first.
Names may be as written today, or as in the files first published (layer norms with
gamma and beta; GPT-2 without the prefix `transformer.`).

Example:
    >>> model, params = load_transformer("checkpoint-8000", tokens=(5, 6, 7, 0, 1))
    >>> model.apply(params, x).logits
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from sandbox.errors import ConfigError, require
from sandbox.models.transformer import Transformer
from sandbox.types import Params

_UNUSED = re.compile(
    r"bert\.pooler\..*|cls\.seq_relationship\..*|bert\.embeddings\.position_ids"
    r"|transformer\.h\.\d+\.attn\.(bias|masked_bias)"
)
"""Buffers, and weights that masked and causal language models do not use."""


class Imported(NamedTuple):
    """A model and its parameters."""

    model: Transformer
    params: Params


class _Family(NamedTuple):
    """What a kind of model is called and must say in its config.

    Attributes:
      architecture: the one class that is accepted.
      names: config fields of layers, heads, width, positions and MLP width.
      fixed: accepted values of other fields, the first being their default.
    """

    architecture: str
    names: tuple[str, str, str, str, str]
    fixed: Mapping[str, tuple[Any, ...]]


_FAMILIES = {
    "bert": _Family(
        "BertForMaskedLM",
        (
            "num_hidden_layers",
            "num_attention_heads",
            "hidden_size",
            "max_position_embeddings",
            "intermediate_size",
        ),
        {
            "hidden_act": ("gelu", "gelu_python"),
            "layer_norm_eps": (1e-12,),
            "position_embedding_type": ("absolute",),
            "tie_word_embeddings": (True,),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
        },
    ),
    "gpt2": _Family(
        "GPT2LMHeadModel",
        ("n_layer", "n_head", "n_embd", "n_positions", "n_inner"),
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "layer_norm_epsilon": (1e-5,),
            "tie_word_embeddings": (True, False),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
    ),
}


def load_transformer(
    folder: str | Path,
    *,
    tokens: Sequence[int] | None = None,
    n_classes: int | None = None,
    dropout: float = 0.0,
    compute: Literal["float32", "bfloat16"] = "float32",
) -> Imported:
    """Reads a saved `BertForMaskedLM` or `GPT2LMHeadModel`.

    Args:
      folder: holds `config.json` and `model.safetensors`.
      tokens: `tokens[i]` is the file's number of our token i; each at most once, and
        those left out are dropped. All, in the file's order, if not given.
      n_classes: logits of our first so many tokens; all if not given.
      dropout: for further training; the rates of the config are not read.
      compute: as in `Transformer`.

    Returns:
      The record and its parameters, in jax's default float dtype.
    """
    folder = Path(folder)
    config = _config(folder / "config.json")
    kind: Any = str(config.get("model_type"))
    require(
        kind in _FAMILIES,
        f"model_type in {folder / 'config.json'} must be bert or gpt2, got {kind!r}.",
    )
    family = _FAMILIES[kind]
    fields = _sizes(config, family, folder)
    tied = config.get("tie_word_embeddings", True)
    vocab = _whole(config, "vocab_size", folder)
    order = _order(tokens, vocab)
    model = Transformer(
        kind=kind,
        vocab=len(order),
        n_classes=len(order) if n_classes is None else n_classes,
        tied=tied,
        dropout=dropout,
        compute=compute,
        **fields,
    )
    with _Reader(folder / "model.safetensors") as read:
        params = (_bert if kind == "bert" else _gpt2)(read, model, vocab, order)
        read.finish()
    return Imported(model, _to_jax(params))


def _config(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"{path} does not exist; name a folder that holds it.")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from error
    require(isinstance(config, dict), f"{path} must hold one JSON object.")
    return config


def _whole(config: Mapping[str, Any], name: str, folder: Path) -> int:
    value = config.get(name)
    require(
        type(value) is int and value >= 1,
        f"{name} in {folder / 'config.json'} must be a whole number of at least 1, got"
        f" {value!r}.",
    )
    return value  # pyright: ignore[reportReturnType]


def _sizes(config: Mapping[str, Any], family: _Family, folder: Path) -> dict[str, int]:
    """Fields of the record; refuses configs whose numbers would differ from ours."""
    where = folder / "config.json"
    saved = config.get("architectures") or []
    require(
        saved == [family.architecture],
        f"architectures in {where} must be [{family.architecture!r}], got {saved!r}.",
    )
    for name, accepted in family.fixed.items():
        value = config.get(name, accepted[0])
        require(
            value in accepted,
            f"{name} in {where} must be {' or '.join(map(repr, accepted))}, got"
            f" {value!r}.",
        )
    layers, heads, width, positions, inner = family.names
    n_heads, e = _whole(config, heads, folder), _whole(config, width, folder)
    require(
        e % n_heads == 0,
        f"{width} in {where} must be a multiple of {heads} {n_heads}, got {e}.",
    )
    f = 4 * e
    if family.architecture == "BertForMaskedLM" or config.get(inner) is not None:
        f = _whole(config, inner, folder)
    require(
        f % e == 0, f"{inner} in {where} must be a multiple of {width} {e}, got {f}."
    )
    return {
        "layers": _whole(config, layers, folder),
        "heads": n_heads,
        "head_dim": e // n_heads,
        "positions": _whole(config, positions, folder),
        "mlp_ratio": f // e,
    }


def _order(tokens: Sequence[int] | None, vocab: int) -> list[int]:
    order = list(range(vocab)) if tokens is None else list(tokens)
    whole = all(isinstance(t, int | np.integer) and 0 <= t < vocab for t in order)
    require(
        whole and len(set(order)) == len(order),
        f"tokens must be different whole numbers in 0..{vocab - 1}, the model's own"
        f" numbers of our tokens, got {order}.",
    )
    return order


class _Reader:
    """Takes named tensors out of a file, and knows which were not taken."""

    def __init__(self, path: Path) -> None:
        require(
            path.is_file(),
            f"{path} does not exist; save the model with safe_serialization and in one"
            " piece.",
        )
        self.path = path
        try:
            self.file = safetensors.safe_open(path, "np")
            names = list(self.file.keys())
        except (safetensors.SafetensorError, OSError) as error:
            raise ConfigError(f"{path} cannot be read: {error}.") from error
        # Old files call the two parameters of a layer norm gamma and beta.
        new = {"gamma": "weight", "beta": "bias"}
        self.stored = {
            re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: new[m[0]], n): n
            for n in names
        }
        # The published GPT-2 files hold the body's names without the model's own.
        if "wte.weight" in names:
            self.stored = {
                n if n.startswith("lm_head.") else f"transformer.{n}": v
                for n, v in self.stored.items()
            }
        self.left = set(self.stored)

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.__exit__(None, None, None)

    def rows(self, name: str) -> int:
        """Length of the first axis; 0 if there is none."""
        found = self.stored.get(name)
        shape = self.file.get_slice(found).get_shape() if found else ()
        return shape[0] if shape else 0

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        """The tensor of this name, as float64; it must have this shape."""
        require(name in self.stored, f"{self.path} has no tensor {name}.")
        found = self.file.get_slice(self.stored[name])
        require(
            tuple(found.get_shape()) == shape,
            f"{name} in {self.path} must have the shape {shape}, got"
            f" {tuple(found.get_shape())}.",
        )
        kind = found.get_dtype()
        require(
            kind in ("F16", "F32", "F64"),
            f"{name} in {self.path} must be stored as a 16, 32 or 64 bit IEEE float,"
            f" got {kind}; save the model as float32.",
        )
        self.left.discard(name)
        return self.file.get_tensor(self.stored[name]).astype(np.float64)

    def same(self, name: str, other: np.ndarray, what: str) -> None:
        """Accepts a stored copy of a tied tensor only if it is one."""
        if name in self.stored:
            require(
                bool(np.array_equal(self(name, *other.shape), other)),
                f"{name} in {self.path} must equal {what}, to which it is tied.",
            )

    def finish(self) -> None:
        """Refuses tensors that were not asked for."""
        left = sorted(n for n in self.left if not _UNUSED.fullmatch(n))
        require(
            not left,
            f"{self.path} holds tensors that this architecture does not have, e.g."
            f" {', '.join(left[:3])}.",
        )


def _norm(read: _Reader, name: str, e: int) -> Params:
    return {"scale": read(f"{name}.weight", e), "bias": read(f"{name}.bias", e)}


def _bert(read: _Reader, model: Transformer, vocab: int, order: list[int]) -> Params:
    e, f, h, d = model.width, model.mlp_width, model.heads, model.head_dim

    def dense(name: str, n_in: int, n_out: int) -> Params:
        kernel = read(f"{name}.weight", n_out, n_in).T  # stored (out, in)
        return {"kernel": kernel, "bias": read(f"{name}.bias", n_out)}

    def layer(i: int) -> Params:
        at = f"bert.encoder.layer.{i}"
        own = f"{at}.attention.self"
        parts = [dense(f"{own}.{n}", e, e) for n in ("query", "key", "value")]
        out = dense(f"{at}.attention.output.dense", e, e)
        return {
            "attention": {
                "qkv": {
                    "kernel": np.stack(
                        [p["kernel"].reshape(e, h, d) for p in parts], 1
                    ),
                    "bias": np.stack([p["bias"].reshape(h, d) for p in parts]),
                },
                "out": out | {"kernel": out["kernel"].reshape(h, d, e)},
                "norm": _norm(read, f"{at}.attention.output.LayerNorm", e),
            },
            "mlp": {
                "up": dense(f"{at}.intermediate.dense", e, f),
                "down": dense(f"{at}.output.dense", f, e),
                "norm": _norm(read, f"{at}.output.LayerNorm", e),
            },
        }

    at, head = "bert.embeddings", "cls.predictions"
    token = read(f"{at}.word_embeddings.weight", vocab, e)
    bias = read(f"{head}.bias", vocab)
    read.same(f"{head}.decoder.weight", token, "the token embedding")
    read.same(f"{head}.decoder.bias", bias, f"{head}.bias")
    types = f"{at}.token_type_embeddings.weight"
    n_types = read.rows(types)
    return {
        "embedding": {
            "token": token[order],
            "position": read(f"{at}.position_embeddings.weight", model.positions, e),
            "type": read(types, n_types, e)[0],
            "norm": _norm(read, f"{at}.LayerNorm", e),
        },
        "head": {
            "dense": dense(f"{head}.transform.dense", e, e),
            "norm": _norm(read, f"{head}.transform.LayerNorm", e),
            "bias": bias[order],
        },
    } | {f"layer_{i}": layer(i) for i in range(model.layers)}


def _gpt2(read: _Reader, model: Transformer, vocab: int, order: list[int]) -> Params:
    e, f, h, d = model.width, model.mlp_width, model.heads, model.head_dim

    def dense(name: str, n_in: int, n_out: int) -> Params:
        kernel = read(f"{name}.weight", n_in, n_out)  # stored (in, out)
        return {"kernel": kernel, "bias": read(f"{name}.bias", n_out)}

    def shaped(p: Params, kernel: tuple[int, ...], bias: tuple[int, ...]) -> Params:
        return {"kernel": p["kernel"].reshape(kernel), "bias": p["bias"].reshape(bias)}

    def layer(i: int) -> Params:
        at = f"transformer.h.{i}"
        qkv = dense(f"{at}.attn.c_attn", e, 3 * e)
        out = dense(f"{at}.attn.c_proj", e, e)
        return {
            "attention": {
                "qkv": shaped(qkv, (e, 3, h, d), (3, h, d)),
                "out": shaped(out, (h, d, e), (e,)),
                "norm": _norm(read, f"{at}.ln_1", e),
            },
            "mlp": {
                "up": dense(f"{at}.mlp.c_fc", e, f),
                "down": dense(f"{at}.mlp.c_proj", f, e),
                "norm": _norm(read, f"{at}.ln_2", e),
            },
        }

    token = read("transformer.wte.weight", vocab, e)
    head: Params = {"norm": _norm(read, "transformer.ln_f", e)}
    if model.tied:
        read.same("lm_head.weight", token, "the token embedding")
    else:
        head["decoder"] = read("lm_head.weight", vocab, e)[order]
    return {
        "embedding": {
            "token": token[order],
            "position": read("transformer.wpe.weight", model.positions, e),
        },
        "head": head,
    } | {f"layer_{i}": layer(i) for i in range(model.layers)}


def _to_jax(params: Params) -> Params:
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), params)
