"""Reads models that Hugging Face transformers saved: BERT and GPT-2, from safetensors.

A folder made by `save_pretrained` holds `config.json` and `model.safetensors`; nothing
else is read, pickles never. Only models that `Transformer` computes exactly are
accepted: another activation, another scaling of scores, an untied BERT decoder, a
missing, misshapen or unknown tensor and a number that is not finite are errors. Left
out, because no logit of these models depends on them: pooler, next-sentence head, all
token types but the first. Names may be as written today, or as in the files first
published (layer norms with gamma and beta; GPT-2 without the prefix `transformer.`).

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
from sandbox.text import near
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
      architectures: the classes that are accepted, or none named.
      names: config fields of layers, heads, width, positions and MLP width.
      fixed: accepted values of other fields, the first being their default.
      tensors: by part of the parameters; those of a layer after its `layer` prefix.
      dropouts: config fields of rates that a `Transformer` has as one.
    """

    architectures: tuple[str, ...]
    names: tuple[str, str, str, str, str]
    fixed: Mapping[str, tuple[Any, ...]]
    tensors: Mapping[str, str]
    dropouts: tuple[str, ...]


FAMILIES = {
    "bert": _Family(
        ("BertForMaskedLM", "BertForPreTraining"),
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
        {
            "token": "bert.embeddings.word_embeddings",
            "position": "bert.embeddings.position_embeddings",
            "layer": "bert.encoder.layer",
            "qkv": "attention.self.query attention.self.key attention.self.value",
            "out": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm",
            "up": "intermediate.dense",
            "down": "output.dense",
            "mlp_norm": "output.LayerNorm",
            "norm": "cls.predictions.transform.LayerNorm",
            "decoder": "cls.predictions.decoder",
        },
        ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    ),
    "gpt2": _Family(
        ("GPT2LMHeadModel",),
        ("n_layer", "n_head", "n_embd", "n_positions", "n_inner"),
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "layer_norm_epsilon": (1e-5,),
            "tie_word_embeddings": (True, False),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        {
            "token": "transformer.wte",
            "position": "transformer.wpe",
            "layer": "transformer.h",
            "qkv": "attn.c_attn",
            "out": "attn.c_proj",
            "attention_norm": "ln_1",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
            "mlp_norm": "ln_2",
            "norm": "transformer.ln_f",
            "decoder": "lm_head",
        },
        ("embd_pdrop", "attn_pdrop", "resid_pdrop"),
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
    where = Path(folder) / "config.json"
    require(where.is_file(), f"{where} does not exist; name a folder that holds it.")
    try:
        config: Any = json.loads(where.read_text())
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}.") from error
    require(isinstance(config, dict), f"{where} must hold one JSON object.")
    kind: Any = str(config.get("model_type"))
    require(
        kind in FAMILIES,
        f"model_type in {where} must be bert or gpt2, got {kind!r}.",
    )
    family = FAMILIES[kind]
    sizes: dict[str, Any] = {**_sizes(config, family, where)}
    vocab = sizes.pop("vocab")
    order = list(range(vocab) if tokens is None else tokens)
    whole = all(isinstance(t, int | np.integer) and 0 <= t < vocab for t in order)
    require(
        whole and len(set(order)) == len(order),
        f"tokens must be different whole numbers in 0..{vocab - 1}, the model's own"
        f" numbers of our tokens, got {order}.",
    )
    model = Transformer(
        kind=kind,
        vocab=len(order),
        n_classes=len(order) if n_classes is None else n_classes,
        tied=bool(config.get("tie_word_embeddings", True)),  # a file may say 0
        dropout=dropout,
        compute=compute,
        **sizes,
    )
    read = _Reader(where.with_name("model.safetensors"))
    params = read_params(read, model, family.tensors, vocab, order)
    read.finish()
    dtype = jnp.result_type(float)
    return Imported(model, jax.tree.map(lambda a: jnp.asarray(a, dtype), params))


def _sizes(config: Mapping[str, Any], family: _Family, where: Path) -> dict[str, int]:
    """Fields of the record; refuses configs whose numbers would differ from ours."""

    def whole(name: str) -> int:
        value = config.get(name)
        require(
            type(value) is int and value >= 1,
            f"{name} in {where} must be a whole number of at least 1, got {value!r}.",
        )
        return value  # pyright: ignore[reportReturnType]

    saved = config.get("architectures") or [family.architectures[0]]
    require(
        isinstance(saved, list)
        and len(saved) == 1
        and saved[0] in family.architectures,
        f"architectures in {where} must be one of"
        f" {', '.join(family.architectures)}, got {saved!r}.",
    )
    for name, accepted in family.fixed.items():
        value = config.get(name, accepted[0])
        said = f"must be {' or '.join(map(repr, accepted))}, got {value!r}."
        require(value in accepted, f"{name} in {where} {said}")
    layers, heads, width, positions, inner = family.names
    h, e = whole(heads), whole(width)
    said = f"must be a multiple of {heads} {h}, got {e}."
    require(e % h == 0, f"{width} in {where} {said}")
    default = inner == "n_inner" and config.get(inner) is None
    f = 4 * e if default else whole(inner)
    return {
        "head_dim": e // h,
        "mlp_ratio": 1 if f % e else f // e,
        "inner": f if f % e else 0,
        "heads": h,
        "layers": whole(layers),
        "positions": whole(positions),
        "vocab": whole("vocab_size"),
    }


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

    def rows(self, name: str) -> int:
        """Length of the first axis; 0 if there is none."""
        found = self.stored.get(name)
        shape = self.file.get_slice(found).get_shape() if found else ()
        return shape[0] if shape else 0

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        """The tensor of this name, as float64; it must have this shape."""
        if name not in self.stored:
            few = ", ".join(near(name, self.stored, 3))
            held = f"; the nearest that it has are {few}" if few else ""
            raise ConfigError(f"{self.path} has no tensor {name}{held}.")
        found = self.file.get_slice(self.stored[name])
        require(
            tuple(found.get_shape()) == shape,
            f"{name} in {self.path} must have the shape {shape}, got"
            f" {tuple(found.get_shape())}.",
        )
        kind = found.get_dtype()
        require(
            kind in ("F16", "BF16", "F32", "F64"),
            f"{name} in {self.path} must be stored as a 16, 32 or 64 bit float, got"
            f" {kind}; save the model as float32.",
        )
        self.left.discard(name)
        value = self.file.get_tensor(self.stored[name]).astype(np.float64)
        finite = np.isfinite(value.astype(jnp.result_type(float)))
        require(
            bool(finite.all()),
            f"{name} in {self.path} holds {(~finite).sum():,} numbers that are not"
            f" finite (of {finite.size:,}); the model diverged, or was saved in too"
            " few bits.",
        )
        return value

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


def read_params(
    read: Any,
    model: Transformer,
    names: Mapping[str, str],
    vocab: int,
    order: list[int],
) -> Params:
    """The parameters of a model from the tensors of its family.

    Only moves numbers: `sandbox.models.exports` runs it on their places.

    Args:
      read: gives the tensors, as `_Reader` does.
      model: the record.
      names: `tensors` of its family.
      vocab: tokens in the file.
      order: the file's number of each of our tokens.
    """
    e, f, h, d = model.width, model.mlp_width, model.heads, model.head_dim
    bert = model.kind == "bert"

    def dense(name: str, n_in: int, n_out: int) -> Params:
        stored = (n_out, n_in) if bert else (n_in, n_out)
        kernel = read(f"{name}.weight", *stored)
        bias = read(f"{name}.bias", n_out)
        return {"kernel": kernel.T if bert else kernel, "bias": bias}

    def norm(name: str) -> Params:
        return {"scale": read(f"{name}.weight", e), "bias": read(f"{name}.bias", e)}

    def layer(i: int) -> Params:
        at = {part: f"{names['layer']}.{i}.{name}" for part, name in names.items()}
        parts = [f"{names['layer']}.{i}.{name}" for name in names["qkv"].split()]
        qkv = [dense(part, e, 3 * e // len(parts)) for part in parts]
        kernel = np.concatenate([p["kernel"] for p in qkv], 1)
        bias = np.concatenate([p["bias"] for p in qkv])
        out = dense(at["out"], e, e)
        return {
            "attention": {
                "qkv": {
                    "kernel": kernel.reshape(e, 3, h, d),
                    "bias": bias.reshape(3, h, d),
                },
                "out": out | {"kernel": out["kernel"].reshape(h, d, e)},
                "norm": norm(at["attention_norm"]),
            },
            "mlp": {
                "up": dense(at["up"], e, f),
                "down": dense(at["down"], f, e),
                "norm": norm(at["mlp_norm"]),
            },
        }

    decoder, tied = f"{names['decoder']}.weight", f"{names['token']}.weight"
    if model.tied and tied not in read.stored and decoder in read.stored:
        tied = decoder  # one of two names of the same tensor
    token = read(tied, vocab, e)
    position = read(f"{names['position']}.weight", model.positions, e)
    embedding: Params = {"token": token[order], "position": position}
    head: Params = {"norm": norm(names["norm"])}
    if model.tied:
        read.same(decoder, token, "the token embedding")
    else:
        head["decoder"] = read(decoder, vocab, e)[order]
    if bert:
        own, copy = "cls.predictions.bias", "cls.predictions.decoder.bias"
        at, bias = "bert.embeddings", read(copy if copy in read.stored else own, vocab)
        read.same(own, bias, copy)
        types = f"{at}.token_type_embeddings.weight"
        embedding |= {
            "type": read(types, read.rows(types), e)[0],
            "norm": norm(f"{at}.LayerNorm"),
        }
        head |= {
            "dense": dense("cls.predictions.transform.dense", e, e),
            "bias": bias[order],
        }
    layers = {f"layer_{i}": layer(i) for i in range(model.layers)}
    return {"embedding": embedding, "head": head} | layers
