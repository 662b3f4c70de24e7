"""Models written for Hugging Face transformers: read back, and computed there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from sandbox.errors import ConfigError
from sandbox.models.exports import save_transformer
from sandbox.models.imports import load_transformer
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.types import Params, Tokens

SMALL = Transformer(vocab=16, n_classes=9, positions=12, layers=2, heads=3, head_dim=4)
MODELS = {
    "bert": SMALL,
    "bert, another inner width": replace(SMALL, inner=25, dropout=0.1),
    "gpt2": replace(SMALL, kind="gpt2"),
    "gpt2, untied": replace(SMALL, kind="gpt2", tied=False, mlp_ratio=2),
}


def made(model: Transformer) -> Params:
    """Parameters of which none is as it is initialised."""
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0)))
    draw = np.random.default_rng(1).normal
    moved = [np.float32(p + 0.2 * draw(size=p.shape)) for p in leaves]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model, params = MODELS[name], made(MODELS[name])
    save_transformer(tmp_path / "new" / "folder", model, params)
    got = load_transformer(tmp_path / "new" / "folder", n_classes=model.n_classes)
    apart = {"dropout": 0.0} | ({"mlp_ratio": 1} if model.inner else {})
    assert got.model == replace(model, **apart)
    jax.tree.map(np.testing.assert_array_equal, got.params, params)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_what_transformers_wrote_is_written_again(
    kind: str, tmp_path: Path, reference_dir: Path
) -> None:
    """The same tensors under the same names, and its config where ours says so."""
    theirs = reference_dir / f"hf_{kind}"
    model, params = load_transformer(theirs)
    save_transformer(tmp_path, model, params)
    then = load_file(theirs / "model.safetensors")
    now = load_file(tmp_path / "model.safetensors")
    types = then.pop("bert.embeddings.token_type_embeddings.weight", np.zeros((1, 1)))
    kept = now.pop("bert.embeddings.token_type_embeddings.weight", types)
    assert then.keys() == now.keys() and np.array_equal(types[:1], kept)
    for tensor, value in then.items():
        np.testing.assert_array_equal(value, now[tensor])
    said = json.loads((theirs / "config.json").read_text())
    ours = json.loads((tmp_path / "config.json").read_text())
    own = {"position_embedding_type", "type_vocab_size", "n_inner"}
    own |= {name for name in ours if "drop" in name}
    assert {k: said[k] for k in ours.keys() - own} == {
        k: v for k, v in ours.items() if k not in own
    }


def test_what_has_no_counterpart_is_refused(tmp_path: Path) -> None:
    params = jax.tree.map(np.copy, made(SMALL))
    with pytest.raises(ConfigError, match=r"only a Transformer .* has no MLP"):
        save_transformer(tmp_path, MLP(d=4), {})
    with pytest.raises(ConfigError, match="rounds factors to bfloat16"):
        save_transformer(tmp_path, replace(SMALL, compute="bfloat16"), params)
    params["head"]["bias"][3] = np.nan
    with pytest.raises(ConfigError, match="1 parameters are not finite"):
        save_transformer(tmp_path, SMALL, params)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match="holds something already"):
        save_transformer(tmp_path, SMALL, made(SMALL))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers and torch warn of what they like
@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_the_same(name: str, tmp_path: Path) -> None:
    """Needs torch and transformers, as tests/reference/README.md says."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    model, params = MODELS[name], made(MODELS[name])
    save_transformer(tmp_path, model, params, tokens={"pad_token_id": 11})
    kind = transformers.AutoModelForMaskedLM
    if model.kind == "gpt2":
        kind = transformers.AutoModelForCausalLM
    theirs, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys"))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, model.vocab, (8, model.positions))
    visible = rng.random(ids.shape) > 0.3
    visible[:, 0] = True
    x = Tokens(jnp.asarray(ids), jnp.ones(ids.shape, bool), jnp.asarray(visible))
    ours = np.asarray(jax.jit(model.apply)(params, x).logits)
    with torch.no_grad():
        asked = {"input_ids": ids, "attention_mask": visible.astype(int)}
        tensors = {k: torch.from_numpy(v) for k, v in asked.items()}
        logits = theirs.eval()(**tensors).logits.numpy()[..., : model.n_classes]
    apart = np.abs(logits - ours).max()
    print(f"{name}: logits of size {np.abs(ours).max():.2f} differ by {apart:.1e}")
    assert apart <= 1e-5
