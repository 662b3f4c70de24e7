"""Transformers: against Hugging Face, causality, hidden keys, tiles, dropout, names."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from sandbox.errors import ConfigError
from sandbox.models.imports import load_transformer
from sandbox.models.transformer import Transformer
from sandbox.platforms import PLATFORMS
from sandbox.types import Params, Tokens

TILE_FROM = PLATFORMS["cpu"].tile_from

KINDS = ("bert", "gpt2")

# Half the time of a test is compiling; it need not be fast code.
_CHEAP = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
compiled = partial(jax.jit, compiler_options=_CHEAP)


def small(kind: str, **fields: Any) -> Transformer:
    defaults = dict(layers=2, heads=3, head_dim=4, positions=24, mlp_ratio=2)
    return Transformer(kind=kind, vocab=8, **(defaults | {"n_classes": 8} | fields))


def tokens(b: int, n: int, *, seed: int = 0, visible: float = 0.7) -> Tokens:
    """Rows of random tokens; the first is visible, the last third of row 0 invalid."""
    rng = np.random.default_rng(seed)
    valid = np.ones((b, n), bool)
    valid[0, n - n // 3 :] = False
    seen = valid & (rng.random((b, n)) < visible)
    seen[:, 0] = True
    ids = rng.integers(0, 8, (b, n))
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(valid), jnp.asarray(seen))


def shaken(model: Transformer, seed: int = 0, sd: float = 0.3) -> Params:
    """Parameters far from their initial scale, biases and norms too."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, p: Any) -> jax.Array:
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(mean + sd * rng.normal(size=p.shape), p.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def run(model: Transformer, params: Params, x: Tokens, **options: Any) -> Any:
    """`apply` under jit, as it is always called."""
    return compiled(lambda p: model.apply(p, x, **options))(params)


# ------------------------------------------------------------- against Hugging Face


@pytest.mark.parametrize("kind", KINDS)
def test_same_numbers_as_hugging_face(kind: str, reference_dir: Path) -> None:
    """Logits, hidden states and gradients; sums of some 100 float32 terms."""
    model, params = load_transformer(reference_dir / f"hf_{kind}")
    want = load_file(reference_dir / f"hf_{kind}" / "expected.safetensors")
    x = Tokens(
        jnp.asarray(want["ids"], jnp.int32),
        jnp.asarray(want["valid"]),
        jnp.asarray(want["visible"]),
    )
    size = want["logits"].size
    slope = np.cos(np.arange(size, dtype=np.float32)).reshape(want["logits"].shape)

    def loss(p: Params) -> tuple[jax.Array, Any]:
        out = model.apply(p, x, taps=model.taps)
        return jnp.sum(out.logits * slope * want["valid"][..., None]), out

    grads, out = compiled(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(out.logits, want["logits"], rtol=1e-5, atol=1e-5)
    last = {"bert": "residual_2", "gpt2": "final"}[kind]  # after the last layer norm
    for i, name in enumerate(("residual_0", "residual_1", last)):
        np.testing.assert_allclose(
            out.acts[name], want[f"hidden_{i}"], rtol=1e-5, atol=1e-5
        )
    e = model.width
    layer_0, layer_1 = grads["layer_0"], grads["layer_1"]
    if kind == "bert":
        at = "bert.encoder.layer"
        query = layer_0["attention"]["qkv"]["kernel"][:, 0].reshape(e, e).T
        ours = {
            "bert.embeddings.word_embeddings.weight": grads["embedding"]["token"],
            "bert.embeddings.LayerNorm.weight": grads["embedding"]["norm"]["scale"],
            f"{at}.0.attention.self.query.weight": query,
            f"{at}.1.output.dense.bias": layer_1["mlp"]["down"]["bias"],
        }
    else:
        qkv = layer_0["attention"]["qkv"]["kernel"].reshape(e, 3 * e)
        ours = {
            "transformer.wte.weight": grads["embedding"]["token"],
            "transformer.wpe.weight": grads["embedding"]["position"],
            "transformer.h.0.attn.c_attn.weight": qkv,
            "transformer.h.1.mlp.c_proj.weight": layer_1["mlp"]["down"]["kernel"],
        }
    assert {f"grad/{n}" for n in ours} == {n for n in want if n.startswith("grad/")}
    for name, grad in ours.items():
        expected = want[f"grad/{name}"]
        scale = np.abs(expected).max()
        assert scale > 0.1
        np.testing.assert_allclose(grad / scale, expected / scale, atol=1e-5)


# ---------------------------------------------------------------------- who sees whom


@pytest.mark.parametrize("kind, n", [("bert", 7), ("gpt2", 7), ("gpt2", TILE_FROM)])
@pytest.mark.slow
def test_who_sees_whom_by_gradient(x64: None, kind: str, n: int) -> None:
    """d output_i / d input_j: zero after i if causal and where j is hidden, j != i."""
    model = small(kind, layers=1, positions=n)
    params = shaken(model)
    x = tokens(2, n)

    def out(positions: jax.Array) -> jax.Array:
        embedding = params["embedding"] | {"position": positions}
        logits = model.apply(params | {"embedding": embedding}, x).logits
        return (logits * jnp.cos(jnp.arange(8.0))[None, None]).sum(-1)

    slopes = compiled(jax.jacrev(out))(params["embedding"]["position"])
    seen = np.abs(np.asarray(slopes)).max(-1) > 1e-12  # (B, N, N)
    want = np.broadcast_to(np.asarray(x.visible)[:, None], seen.shape)
    if kind == "gpt2":
        want = want & np.tri(n, dtype=bool)
    np.testing.assert_array_equal(seen, want | np.eye(n, dtype=bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_length_changes_nothing(x64: None, kind: str) -> None:
    """Hidden padding on the right moves no logit of the positions before it."""
    model = small(kind, positions=TILE_FROM + 4, layers=1)
    params = shaken(model)
    x = tokens(2, 10)
    short = run(model, params, x).logits
    n = TILE_FROM + 3  # tile by tile
    padded = Tokens(*(jnp.pad(a, ((0, 0), (0, n - 10))) for a in x))
    long = run(model, params, padded).logits
    np.testing.assert_allclose(long[:, :10], short, atol=1e-11)


# ----------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_dropout_needs_a_key_and_is_a_function_of_it(kind: str) -> None:
    model, x = small(kind, dropout=0.2, layers=1), tokens(2, 9)
    params = shaken(model)
    drop = compiled(lambda key: model.apply(params, x, key=key).logits)
    one, again, other = (np.asarray(drop(jax.random.key(i))) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01

    def program(rate: float, **options: Any) -> str:
        model = small(kind, dropout=rate, layers=1)
        return str(jax.make_jaxpr(lambda p: model.apply(p, x, **options))(params))

    key = jax.random.key(0)
    assert (
        program(0.2) == program(0.0) == program(0.0, key=key) != program(0.2, key=key)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_where_dropout_acts(kind: str) -> None:
    """Embedding and every branch: residual differences have exact zeros at its rate."""
    model, x = small(kind, dropout=0.5, layers=1, heads=8), tokens(4, 24)
    params = shaken(model)
    out = run(model, params, x, key=jax.random.key(3), taps=model.taps)
    before, after = out.acts["embedding"], out.acts["residual_0"]
    dropped = np.asarray(after == 0)
    assert abs(dropped.mean() - 0.5) < 5 * 0.5 / np.sqrt(dropped.size)
    np.testing.assert_allclose(after[~dropped], 2 * before[~dropped], rtol=1e-6)
    if kind == "gpt2":  # two branches: both dropped at a quarter of the entries
        same = np.asarray(out.acts["residual_1"] == after)
        assert abs(same.mean() - 0.25) < 5 * np.sqrt(3 / 16 / same.size)


# -------------------------------------------------------------------- the rest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_bfloat16_is_close(kind: str) -> None:
    """Factors are rounded to 8 bits: logits of size 1 move by some hundredths."""
    model, x = small(kind, layers=1), tokens(2, 9)
    params = shaken(model, sd=0.1)

    def both(model: Transformer) -> Any:
        def loss(p: Params) -> tuple[jax.Array, jax.Array]:
            logits = model.apply(p, x).logits
            assert logits.dtype == jnp.float32
            return jnp.mean(logits**2), logits

        return compiled(jax.grad(loss, has_aux=True))(params)

    grads, logits = both(small(kind, layers=1, compute="bfloat16"))
    want_grads, want = both(model)
    error = np.asarray(logits - want)
    assert 1e-5 < np.sqrt((error**2).mean()) < 0.02 * float(want.std())
    a, b = (
        jnp.concatenate([g.ravel() for g in jax.tree.leaves(t)])
        for t in (grads, want_grads)
    )
    assert a.dtype == jnp.float32
    assert float(jnp.linalg.norm(a - b)) < 0.05 * float(jnp.linalg.norm(b))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.slow
def test_first_classes(tied: bool) -> None:
    """The logits of the first tokens; the other rows of the decoder get no gradient."""
    kind, x = "gpt2", tokens(2, 6)
    params = shaken(small(kind, tied=tied))
    all_8 = run(small(kind, tied=tied), params, x).logits
    model = small(kind, tied=tied, n_classes=3)
    out = run(model, params, x).logits
    assert out.shape == (2, 6, 3)
    np.testing.assert_allclose(out, all_8[..., :3], rtol=1e-6, atol=1e-6)
    if not tied:
        loss = jax.grad(lambda p: jnp.sum(model.apply(p, x).logits ** 2))
        grads = compiled(loss)(params)
        decoder = grads["head"]["decoder"]
        assert bool((decoder[3:] == 0).all()) and bool((decoder[:3] != 0).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_initial_weights(kind: str) -> None:
    """N(0, .02^2); GPT-2's projections into the stream over sqrt(2 layers)."""
    model = Transformer(kind=kind, vocab=32, n_classes=32, layers=2, heads=8)
    params = compiled(model.init)(jax.random.key(0))
    if kind == "gpt2":
        assert "decoder" not in params["head"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        values = np.asarray(leaf).ravel()
        if name.endswith("scale"):
            assert (values == 1).all()
        elif name.endswith("bias"):
            assert (values == 0).all()
        else:
            branch = name.endswith(("out/kernel", "down/kernel"))
            sd = 0.01 if kind == "gpt2" and branch else 0.02
            n = values.size
            assert abs(values.mean()) < 5 * sd / np.sqrt(n), name
            assert abs((values**2).mean() / sd**2 - 1) < 5 * np.sqrt(2 / n), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_taps(kind: str) -> None:
    model, x = small(kind), tokens(2, 9)
    params = shaken(model)
    out = run(model, params, x, taps=model.taps)
    assert set(out.acts) == set(model.taps)
    assert jax.eval_shape(lambda: model.apply(params, x).acts) == {}
    only = jax.eval_shape(lambda: model.apply(params, x, taps=("final",)).acts)
    assert only.keys() == {"final"}
    for name, act in out.acts.items():
        square = name.startswith("attention")
        assert act.shape == ((2, 3, 9, 9) if square else (2, 9, 12)), name
    weights = np.asarray(out.acts["attention_1"])
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    hidden = ~np.asarray(x.visible)[:, None, None, :]
    assert (weights * hidden == 0).all() and (weights >= 0).all()
    decoder = params["embedding"]["token"]
    logits = out.acts["final"] @ decoder.T
    if kind == "bert":
        logits = logits + params["head"]["bias"][None, None]
    np.testing.assert_allclose(logits, out.logits, atol=1e-5)
    with pytest.raises(ConfigError, match="final, got residual_3"):
        model.apply(params, x, taps=("residual_3",))
    # Only a requested tap makes a square array of a long sequence.
    long = tokens(1, TILE_FROM)
    model = small(kind, positions=TILE_FROM, layers=1)
    params = shaken(model)
    square = f"1,3,{TILE_FROM},{TILE_FROM}]"

    def program(*taps: str) -> str:
        f = jax.make_jaxpr(lambda p: model.apply(p, long, taps=taps))
        return str(f(params))

    assert square in program("attention_0") and square not in program("final")


@pytest.mark.parametrize("kind", KINDS)
def test_axes_have_names(kind: str) -> None:
    model = Transformer(kind=kind, layers=2, heads=3, tied=kind == "bert")
    sizes = {"residual": 24, "head_dim": 8}
    for i in range(2):
        sizes |= {f"heads_{i}": 3, f"mlp_{i}": 96}
    params = jax.eval_shape(model.init, jax.random.key(0))
    seen: set[str] = set()

    def check(leaf: jax.Array, names: tuple[str, ...]) -> None:
        assert len(names) == len(leaf.shape)
        for n, name in zip(leaf.shape, names, strict=True):
            assert name == "io" or sizes[name] == n
        seen.update(names)

    jax.tree.map(check, params, model.width_axes(params))
    assert seen == {"io", *sizes}


@pytest.mark.parametrize("kind, n", [("bert", 6), ("gpt2", TILE_FROM)])
@pytest.mark.slow
def test_seeds_by_vmap(kind: str, n: int) -> None:
    model = small(kind, positions=n, layers=1, heads=2, dropout=0.1)
    seeds = [shaken(model, seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *seeds)
    x, keys = tokens(2, n), jax.random.split(jax.random.key(0), 2)
    many = compiled(jax.vmap(lambda p, k: model.apply(p, x, key=k).logits))
    one = compiled(lambda p, k: model.apply(p, x, key=k).logits)
    got = many(stacked, keys)
    for i, p in enumerate(seeds):
        np.testing.assert_allclose(got[i], one(p, keys[i]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "fields, named",
    [
        (dict(kind="t5"), r"model\.kind must be bert or gpt2"),
        (dict(vocab=1), r"model\.vocab"),
        (dict(n_classes=9), r"model\.n_classes must be at most vocab 8"),
        (dict(n_classes=1), r"model\.n_classes"),
        (dict(positions=0), r"model\.positions"),
        (dict(layers=0), r"model\.layers"),
        (dict(heads=True), r"model\.heads"),
        (dict(mlp_ratio=0), r"model\.mlp_ratio"),
        (dict(dropout=1.0), r"model\.dropout"),
        (dict(dropout=float("nan")), r"model\.dropout"),
        (dict(tied=False), r"model\.tied must be true with kind"),
        (dict(compute="float16"), r"model\.compute must be float32 or bfloat16"),
    ],
)
@pytest.mark.usefixtures("no_shapes")
def test_refused(fields: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Transformer(**fields)


def test_too_long() -> None:
    model = small("bert", positions=5)
    params = shaken(model)
    with pytest.raises(ConfigError, match="at least the 6 positions of the input"):
        model.apply(params, tokens(1, 6))
