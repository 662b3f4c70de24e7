"""The transformer on bits: the network's own numbers, and a run against a hand loop."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sandbox.distill.sources import Final
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError
from sandbox.models.attention import attend
from sandbox.models.bit_transformer import BitTransformer
from sandbox.models.imports import load_transformer
from sandbox.models.transformer import Transformer
from sandbox.platforms import PLATFORMS
from sandbox.store.config import from_json, to_json
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.loop import fit
from sandbox.train.optim import Adam, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import init_key, task_key
from sandbox.types import Params, Tokens

D = 6
# Half the time of a test is compiling; it need not be fast code.
_CHEAP = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
compiled = partial(jax.jit, compiler_options=_CHEAP)


def network(**fields: Any) -> Transformer:
    sizes: dict[str, Any] = dict(
        kind="gpt2", vocab=2, n_classes=2, positions=D, layers=2, heads=2
    )
    return Transformer(**(sizes | {"head_dim": 3, "mlp_ratio": 2} | fields))


def shaken(model: Any, seed: int = 0) -> Params:
    """Parameters far from their initial scale, biases and norms too."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda p: jnp.asarray(0.5 + 0.4 * rng.normal(size=p.shape), p.dtype), shapes
    )


def bits(n: int, d: int = D) -> jax.Array:
    return jax.random.rademacher(jax.random.key(1), (n, d), float)


def tokens(x: jax.Array) -> Tokens:
    """Written out here once more: +1 is token 0, -1 is token 1, nothing is hidden."""
    ids = jnp.asarray(np.where(np.asarray(x) > 0, 0, 1), jnp.int32)
    yes = jnp.ones(ids.shape, bool)
    return Tokens(ids, yes, yes)


@pytest.mark.parametrize(("kind", "key"), [("gpt2", 5), ("bert", None)])
def test_the_networks_last_position(x64: None, kind: str, key: int | None) -> None:
    """Logits, activations and gradients, in float64 to its rounding.

    What is left out of the last layer (queries, MLP, words of dropout) changes nothing.
    """
    net = network(kind=kind, tied=kind == "bert", dropout=0.3)
    model, x = BitTransformer(d=D, network=net), bits(5)
    params = shaken(model)
    options: dict[str, Any] = {"key": None if key is None else jax.random.key(key)}
    options["taps"] = ("residual_1", "residual_2", "attention_1", "final")

    def squared(run: Any) -> Any:
        def loss(p: Params) -> tuple[jax.Array, Any]:
            logits, acts = run(p)
            return jnp.sum(logits**2 * jnp.arange(1, 3)[None]), (logits, acts)

        return compiled(jax.grad(loss, has_aux=True))(params)

    def whole(p: Params) -> Any:
        out = net.apply(p, tokens(x), **options)
        return out.logits[:, -1], out.acts

    got, (logits, acts) = squared(lambda p: model.apply(p, x, **options))
    want, (all_logits, all_acts) = squared(whole)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
    close(logits, all_logits)
    jax.tree.map(close, got, want)
    close(acts["residual_1"], all_acts["residual_1"])
    for name in ("residual_2", "final"):
        close(acts[name], all_acts[name][:, -1:])
    close(acts["attention_1"], all_acts["attention_1"][:, :, -1:])


@pytest.mark.parametrize(("causal", "tiled"), [(True, True), (False, False)])
def test_queries_of_the_last_positions(causal: bool, tiled: bool) -> None:
    """Fewer queries get what all of them get, also under dropout."""
    n, last = 7, 3
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 2, n, 4))
    visible = jnp.ones((2, n), bool).at[1, 2].set(False)
    words = jax.random.bits(jax.random.key(1), (2, 2, 2, n), jnp.uint32)

    def run(q: jax.Array, tiled: bool) -> jax.Array:
        options: dict[str, Any] = dict(causal=causal, words=words, rate=0.4)
        return compiled(lambda q: attend(q, k, v, visible, tiled=tiled, **options))(q)

    whole, few = run(q, False), run(q[:, :, -last:], tiled)
    np.testing.assert_allclose(few, whole[:, :, -last:], rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole[:, :, -last:], whole[:, :, :last])


def test_plus_is_token_0_and_minus_token_1() -> None:
    model, x = BitTransformer(d=D, network=network(tied=False)), bits(8)
    params = shaken(model)
    table = params["embedding"]["token"]
    other = params | {"embedding": params["embedding"] | {"token": table[::-1]}}
    answer = compiled(lambda p, x: model.apply(p, x).logits)
    logits = answer(params, x)
    np.testing.assert_allclose(answer(other, -x), logits, atol=1e-5)
    assert not np.allclose(answer(params, -x), logits, atol=1e-2)


@pytest.mark.long
def test_many_rows_are_the_same_rows() -> None:
    """More rows than one pass takes, and not a whole number of passes."""
    model = BitTransformer(d=D, network=network())
    x = bits(PLATFORMS["cpu"].bit_rows + 9)
    params = shaken(model)
    answer = compiled(lambda p, x: model.apply(p, x).logits)
    alone = [answer(params, x[i : i + 9]) for i in (0, 40, len(x) - 9)]
    whole = answer(params, x)
    assert whole.shape == (len(x), 2)
    for i, part in zip((0, 40, len(x) - 9), alone, strict=True):
        np.testing.assert_allclose(whole[i : i + 9], part, rtol=1e-4, atol=1e-5)


def test_weights_of_hugging_face_read_bits(reference_dir: Path) -> None:
    """Two of an imported model's tokens stand for the bits; fewer bits than positions.

    The imported model itself is held against Hugging Face's in `test_transformer`.
    """
    two, d = (3, 5), 7
    all_of_it, params = load_transformer(reference_dir / "hf_gpt2")
    net, small = load_transformer(reference_dir / "hf_gpt2", tokens=two, n_classes=2)
    x = bits(6, d)
    ids = jnp.where(x > 0, *two).astype(jnp.int32)
    yes = jnp.ones(ids.shape, bool)
    want = compiled(all_of_it.apply)(params, Tokens(ids, yes, yes)).logits
    want = want[:, -1, jnp.asarray(two)]
    got = compiled(BitTransformer(d=d, network=net).apply)(small, x).logits
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_runs_equal_a_hand_loop(tmp_path: Path) -> None:
    """A teacher by labels and a one-shot student, 24 steps of Adam each, in float64.

    A gradient's rounding moves a weight by at most lr / eps = 100 times as much a step.
    """
    task = Parity(d=D, k=2, support=RandomSupport())
    rate, batch, samples = LearningRate(peak=0.01, warmup=96), 8, 192
    base: dict[str, Any] = dict(
        task=task,
        optimizer=Adam(lr=rate, eps=1e-4),
        stop=Stop(max_samples=samples),
        eval_every=samples,
        eval_points=32,
        batch_size=batch,
        block=batch,
        dtype="float64",
        first_seed=3,
    )
    teacher = RunSpec(
        **base,
        kind="teacher",
        model=BitTransformer(d=D, network=network(layers=1, tied=False)),
        strategies=(Strategy(name="teacher"),),
        checkpoint_every=samples,
    )
    student = RunSpec(
        **base,
        kind="student",
        model=BitTransformer(d=D, network=network(layers=1, heads=1, tied=False)),
        strategies=(Strategy(name="one_shot", source=Final()),),
        teacher=TeacherRef(spec=teacher, final=samples),
    )
    runs = [fit(s, root=tmp_path, progress=Silent()) for s in (teacher, student)]
    assert from_json(RunSpec, to_json(student), extra=BUILT_IN) == student

    with jax.enable_x64(True):
        stored = runs[0].trajectory.read(samples)
        trained = jax.tree.map(lambda p: jnp.asarray(p[0, 0]), stored)
        raw = teacher.model.network  # pyright: ignore[reportAttributeAccessIssue]

        @compiled
        def answers(x: Tokens) -> jax.Array:
            return jax.nn.softmax(raw.apply(trained, x).logits[:, -1])

        def rate_at(step: Any) -> jax.Array:
            return 0.01 * jnp.minimum(1, (batch * jnp.asarray(step, float) + 1) / 96)

        for spec, run, split in zip(
            (teacher, student), runs, ("train", "distill"), strict=True
        ):
            net = spec.model.network  # pyright: ignore[reportAttributeAccessIssue]
            params = net.init(init_key(3, spec.kind))
            steps = optax.adam(rate_at, eps=1e-4)
            state = steps.init(params)

            def loss(p: Params, x: Tokens, target: jax.Array, net: Any = net) -> Any:
                logits = net.apply(p, x).logits[:, -1]
                return optax.softmax_cross_entropy(logits, target).mean()

            slope = compiled(jax.grad(loss))
            for t in range(0, samples, batch):
                rows = task.sample(task_key(3), jnp.uint32(t), batch, split=split)
                hard = jax.nn.one_hot(rows.y, 2)
                target = answers(tokens(rows.x)) if spec is student else hard
                grad = slope(params, tokens(rows.x), target)
                change, state = steps.update(grad, state)
                params = optax.apply_updates(params, change)
            stored = run.trajectory.read(samples)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a[0, 0], b, atol=1e-11),
                stored,
                params,
            )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"d": 0}, "model.d"),
        ({"d": D + 1}, "model.network.positions"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        BitTransformer(**({"d": D, "network": network()} | fields))
