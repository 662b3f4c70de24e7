"""Models that Hugging Face saved: what is read, permuted, and refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sandbox.errors import ConfigError
from sandbox.models.imports import load_transformer
from sandbox.models.transformer import Transformer
from sandbox.types import Tokens

KINDS = ("bert", "gpt2")
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def altered(tmp_path: Path, reference_dir: Path) -> Callable[..., Path]:
    """A copy of a reference model with its config or tensors changed."""

    def make(kind: str, config: Change | None = None, tensors: Change | None = None):
        folder = tmp_path / kind
        shutil.copytree(reference_dir / f"hf_{kind}", folder)
        for name, change, read, write in (
            ("config.json", config, _read_json, _write_json),
            ("model.safetensors", tensors, load_file, save_file),
        ):
            if change is not None:
                data = read(folder / name)
                change(data)
                write(data, folder / name)
        return folder

    return make


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _write_json(data: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(data))


def setter(**fields: Any) -> Change:
    return lambda data: data.update(fields)


@pytest.mark.parametrize("kind", KINDS)
def test_record_and_shapes(kind: str, reference_dir: Path) -> None:
    """The parameters of every leaf have the shapes and dtypes that `init` makes."""
    model, params = load_transformer(
        reference_dir / f"hf_{kind}", n_classes=3, dropout=0.1, compute="bfloat16"
    )
    assert model == Transformer(
        kind=kind, vocab=8, n_classes=3, positions=16, layers=2, heads=3, head_dim=8,
        dropout=0.1, tied=kind == "bert", compute="bfloat16",
    )  # fmt: skip
    want = jax.eval_shape(model.init, jax.random.key(0))
    got = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    assert got == want


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_in_our_order(kind: str, reference_dir: Path) -> None:
    """Our token i is theirs `order[i]`: the logits are permuted, and may be fewer."""
    folder, order = reference_dir / f"hf_{kind}", [6, 1, 3, 0, 7]
    theirs, their_params = load_transformer(folder)
    ours, our_params = load_transformer(folder, tokens=order, n_classes=4)
    assert (ours.vocab, ours.n_classes) == (5, 4)
    ids = np.random.default_rng(0).integers(0, 5, (2, 7))
    yes = jnp.ones((2, 7), bool)

    @jax.jit
    def both() -> tuple[jax.Array, jax.Array]:
        foreign = Tokens(jnp.asarray(np.array(order)[ids], jnp.int32), yes, yes)
        own = Tokens(jnp.asarray(ids, jnp.int32), yes, yes)
        a = theirs.apply(their_params, foreign).logits
        return a, ours.apply(our_params, own).logits

    their_logits, our_logits = both()
    np.testing.assert_allclose(our_logits, their_logits[..., order[:4]], atol=1e-5)


def test_float64(x64: None, reference_dir: Path) -> None:
    _, params = load_transformer(reference_dir / "hf_bert")
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float64")}


def test_old_files(altered: Callable[..., Path], reference_dir: Path) -> None:
    """Names of other versions, copies of tied tensors, and unused heads."""

    def older(t: dict[str, Any]) -> None:
        t["bert.embeddings.LayerNorm.gamma"] = t.pop("bert.embeddings.LayerNorm.weight")
        t["bert.embeddings.LayerNorm.beta"] = t.pop("bert.embeddings.LayerNorm.bias")
        token = t["bert.embeddings.word_embeddings.weight"]
        t["cls.predictions.decoder.weight"] = token.copy()
        t["cls.predictions.decoder.bias"] = t["cls.predictions.bias"].copy()
        t["bert.pooler.dense.weight"] = np.ones((24, 24), np.float32)
        t["cls.seq_relationship.bias"] = np.ones(2, np.float32)
        t["bert.embeddings.position_ids"] = np.arange(16)[None]

    got = load_transformer(altered("bert", tensors=older))
    want = load_transformer(reference_dir / "hf_bert")
    assert got.model == want.model
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


def test_gpt2_as_first_published(
    altered: Callable[..., Path], reference_dir: Path
) -> None:
    """Its file names the body's tensors alone, and holds the causal masks."""

    def publish(t: dict[str, Any]) -> None:
        for name in [n for n in t if n.startswith("transformer.")]:
            t[name.removeprefix("transformer.")] = t.pop(name)
        for i in range(2):
            t[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 16, 16), np.float32))

    got = load_transformer(altered("gpt2", tensors=publish))
    want = load_transformer(reference_dir / "hf_gpt2")
    assert got.model == want.model
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


@pytest.mark.parametrize("stored", [True, False])
def test_tied_gpt2(altered: Callable[..., Path], stored: bool) -> None:
    def tie(t: dict[str, Any]) -> None:
        t["lm_head.weight"] = t["transformer.wte.weight"].copy()
        if not stored:
            del t["lm_head.weight"]

    folder = altered("gpt2", setter(tie_word_embeddings=True), tie)
    model, params = load_transformer(folder)
    assert model.tied and "decoder" not in params["head"]


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        ("bert", {"model_type": "roberta"}, "must be bert or gpt2, got 'roberta'"),
        ("bert", {"architectures": ["BertModel"]}, "architectures .*BertForMaskedLM"),
        ("bert", {"architectures": "BertForMaskedLM"}, "architectures .* got"),
        ("bert", {"hidden_act": "relu"}, "hidden_act .*'gelu'"),
        ("bert", {"hidden_act": "gelu_new"}, "hidden_act .*'gelu'"),
        ("bert", {"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type",
        ),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"hidden_size": 25}, "hidden_size .* multiple of num_attention_heads"),
        ("bert", {"intermediate_size": 100}, r"must have the shape \(100, 24\)"),
        ("bert", {"intermediate_size": None}, "intermediate_size .* whole number"),
        ("bert", {"num_hidden_layers": 0}, "num_hidden_layers .* whole number"),
        ("bert", {"num_hidden_layers": 3}, "no tensor bert.encoder.layer.2"),
        ("bert", {"num_hidden_layers": 1}, "does not have, e.g. bert.encoder.layer.1"),
        ("bert", {"vocab_size": 9}, r"word_embeddings.* must have the shape \(9, 24\)"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function .*'gelu_new'"),
        ("gpt2", {"layer_norm_epsilon": 1e-12}, "layer_norm_epsilon"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"tie_word_embeddings": True}, "lm_head.weight .* tied"),
        ("gpt2", {"n_positions": 8}, r"wpe.weight .* \(8, 24\), got \(16, 24\)"),
        ("gpt2", {"n_inner": 48}, "c_fc"),
    ],
)
def test_refused_configs(
    altered: Callable[..., Path], kind: str, fields: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_transformer(altered(kind, setter(**fields)))


@pytest.mark.parametrize(
    "kind, change, message",
    [
        (
            "bert",
            lambda t: t.pop("cls.predictions.bias"),
            "has no tensor cls.predictions.bias",
        ),
        (
            "bert",
            setter(**{"bert.encoder.extra": np.ones(2, np.float32)}),
            "does not have, e.g. bert.encoder.extra",
        ),
        (
            "bert",
            setter(**{"cls.predictions.bias": np.ones(7, np.float32)}),
            r"must have the shape \(8,\), got \(7,\)",
        ),
        (
            "bert",
            setter(**{"cls.predictions.bias": np.ones(8, np.int32)}),
            "64 bit float, got I32",
        ),
        (
            "bert",
            setter(**{"cls.predictions.decoder.weight": np.ones((8, 24), np.float32)}),
            "must equal the token embedding",
        ),
        ("gpt2", lambda t: t.pop("lm_head.weight"), "has no tensor lm_head.weight"),
    ],
)
def test_refused_tensors(
    altered: Callable[..., Path], kind: str, change: Change, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_transformer(altered(kind, tensors=change))


@pytest.mark.parametrize("tokens", [(0, 0, 1), (0, 8), (-1, 0)])
def test_refused_token_maps(tokens: tuple, reference_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokens must be different .* in 0\.\.7"):
        load_transformer(reference_dir / "hf_bert", tokens=tokens)


def test_refused_files(tmp_path: Path, reference_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        load_transformer(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_transformer(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="one JSON object"):
        load_transformer(tmp_path)
    shutil.copy(reference_dir / "hf_bert" / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"model\.safetensors does not exist"):
        load_transformer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_transformer(tmp_path)


# ----------------------------------------------- what others' tools write into a folder


def logits(folder: Path) -> np.ndarray:
    model, params = load_transformer(folder)
    x = np.random.default_rng(0).integers(0, model.vocab, (2, 7))
    yes = jnp.ones((2, 7), bool)
    tokens = Tokens(jnp.asarray(x), yes, yes)
    return np.asarray(jax.jit(model.apply)(params, tokens).logits)


def without(*names: str) -> Change:
    return lambda data: [data.pop(name) for name in names]


def renamed(old: str, new: str) -> Change:
    return lambda data: data.update({new: data.pop(old)})


WTE, LM_HEAD = "transformer.wte.weight", "lm_head.weight"
BIAS = "cls.predictions.bias"
PRETRAINING = {
    "bert.pooler.dense.weight": np.zeros((24, 24), np.float32),
    "bert.pooler.dense.bias": np.zeros(24, np.float32),
    "cls.seq_relationship.weight": np.zeros((2, 24), np.float32),
    "cls.seq_relationship.bias": np.zeros(2, np.float32),
}
SAME = {
    "no architectures": ("bert", without("architectures"), None),
    "for pretraining": (
        "bert",
        setter(architectures=["BertForPreTraining"]),
        lambda data: data.update(PRETRAINING),
    ),
    "untied as 0": ("gpt2", setter(tie_word_embeddings=0), None),
    "another bias": ("bert", None, renamed(BIAS, "cls.predictions.decoder.bias")),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_model_written_otherwise(case: str, altered, reference_dir) -> None:
    kind, config, tensors = SAME[case]
    folder = altered(kind, config, tensors)
    np.testing.assert_array_equal(logits(folder), logits(reference_dir / f"hf_{kind}"))


def test_a_tied_tensor_under_its_other_name(altered, reference_dir) -> None:
    def tie(data: dict[str, Any]) -> None:
        data.pop(LM_HEAD, None)

    both = altered("gpt2", setter(tie_word_embeddings=True), tie)
    expected = logits(both)
    tensors = load_file(both / "model.safetensors")
    renamed(WTE, LM_HEAD)(tensors)
    save_file(tensors, both / "model.safetensors")
    np.testing.assert_array_equal(logits(both), expected)


def test_bfloat16_is_read(altered) -> None:
    def change(kind: type) -> Change:
        def convert(data: dict[str, Any]) -> None:
            for name, v in data.items():
                data[name] = v.astype(ml_dtypes.bfloat16).astype(kind)

        return convert

    folder = altered("bert", None, change(ml_dtypes.bfloat16))
    got = logits(folder)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(
        got, logits(altered("bert", None, change(np.float32)))
    )


def test_an_inner_width_that_is_no_multiple(altered, reference_dir) -> None:
    """Units that are cut away give nothing where their weights were zero."""
    n = json.loads((reference_dir / "hf_bert/config.json").read_text())
    n = n["intermediate_size"] - 2

    def zero(data: dict[str, Any]) -> None:
        for name in data:
            if ".intermediate.dense." in name:
                data[name][n:] = 0

    def cut(data: dict[str, Any]) -> None:
        for name, v in data.items():
            if ".intermediate.dense." in name:
                data[name] = v[:n].copy()
            elif name.endswith("output.dense.weight") and "attention" not in name:
                data[name] = v[:, :n].copy()

    folder = altered("bert", None, zero)
    expected = logits(folder)
    shutil.rmtree(folder)
    got = logits(altered("bert", setter(intermediate_size=n), cut))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(altered, value: float) -> None:
    name = "bert.encoder.layer.0.output.dense.weight"

    def poison(data: dict[str, Any]) -> None:
        data[name] = data[name].copy()
        data[name][0, 0] = value

    with pytest.raises(ConfigError, match=f"{name} in .* holds 1 numbers that are not"):
        load_transformer(altered("bert", None, poison))


def test_a_missing_tensor_is_named_with_the_nearest(altered) -> None:
    name = "bert.encoder.layer.0.output.dense.weight"
    folder = altered("bert", None, renamed(name, name.replace("dense", "dens")))
    with pytest.raises(ConfigError, match=r"has no tensor .*nearest .*output\.dens\."):
        load_transformer(folder)
