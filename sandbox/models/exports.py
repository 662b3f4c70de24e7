"""Writes a `Transformer` as Hugging Face transformers saves BERT and GPT-2.

The inverse of `sandbox.models.imports`, from the same table of names: reading is run on
the places of the numbers in the file, and says where each parameter belongs. What is
read back is what was written, to the bit.

Example:
    >>> save_transformer(Path("folder"), model, params)
    >>> load_transformer("folder", n_classes=model.n_classes).params  # the same
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from sandbox.errors import ConfigError, require
from sandbox.models.imports import FAMILIES, read_params
from sandbox.models.transformer import Transformer
from sandbox.store.files import make_folder, write_atomic
from sandbox.types import Params


class _Places:
    """Stands in for a file whose numbers are their own places in it."""

    def __init__(self) -> None:
        self.stored: dict[str, np.ndarray] = {}
        self.size = 0

    def rows(self, name: str) -> int:
        """Of the one tensor that may have any number of them: token types."""
        return 1

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        places = np.arange(self.size, self.size + prod(shape)).reshape(shape)
        self.size += places.size
        self.stored[name] = places
        return places

    def same(self, name: str, other: np.ndarray, what: str) -> None:
        """A tied tensor is stored once."""


def save_transformer(
    folder: Path,
    model: Any,
    params: Params,
    *,
    tokens: Mapping[str, int] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors`, which `from_pretrained` loads.

    Its logits are those of all `vocab` tokens, of which `model` returns the first
    `n_classes`; `attention_mask` is what `Tokens` calls `visible`. The file keeps the
    dtype of the parameters.

    Args:
      folder: new, or empty.
      model: their record.
      params: of one lane.
      tokens: numbers of special tokens, as the config names them: `pad_token_id`, ...
      about: what the config says besides, under `sandbox`.

    Raises:
      ConfigError: transformers has no such model, a number is not finite, or the folder
        holds something.
    """
    require(
        isinstance(model, Transformer),
        f"only a Transformer can be written for Hugging Face transformers, which has no"
        f" {type(model).__name__}.",
    )
    require(
        model.compute == "float32",
        f"the model rounds factors to {model.compute} (model.compute), which"
        " transformers does not do in the same places; its logits would differ.",
    )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} holds something already; name a new folder.")
    family, places = FAMILIES[model.kind], _Places()
    where = read_params(
        places, model, family.tensors, model.vocab, list(range(model.vocab))
    )
    leaves = jax.tree.leaves(params)
    row = np.empty(places.size, np.result_type(*(p.dtype for p in leaves)))
    jax.tree.map(lambda at, p: row.__setitem__(at, np.asarray(p)), where, params)
    bad = int((~np.isfinite(row)).sum())
    require(bad == 0, f"{bad:,} parameters are not finite; the run diverged.")
    layers, heads, width, positions, inner = family.names
    config = {
        "model_type": model.kind,
        "architectures": [family.architectures[0]],
        **{name: accepted[0] for name, accepted in family.fixed.items()},
        **dict.fromkeys(family.dropouts, model.dropout),
        layers: model.layers,
        heads: model.heads,
        width: model.width,
        positions: model.positions,
        inner: model.mlp_width,
        "tie_word_embeddings": model.tied,
        "vocab_size": model.vocab,
        "dtype": str(row.dtype),
        **({"type_vocab_size": 1} if model.kind == "bert" else {}),
        # Their defaults are tokens of another vocabulary.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        **(tokens or {}),
        **({"sandbox": about} if about else {}),
    }
    make_folder(folder)
    tensors = {name: row[at] for name, at in places.stored.items()}
    weights = save(tensors, metadata={"format": "pt"})
    write_atomic(folder / "model.safetensors", weights)
    text = json.dumps(config, indent=2, sort_keys=True)
    write_atomic(folder / "config.json", f"{text}\n".encode())
