"""Other signals than answers, and students that shrink: identities and the battery."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.losses import Answers, Loss, Sum
from sandbox.distill.methods import (
    METHODS,
    DroppedHeads,
    Lipschitz,
    NormDirection,
    OneForAll,
    OwnHead,
    Pruned,
    Relations,
    Sampled,
    Truncated,
)
from sandbox.distill.methods.batchwise import spectral
from sandbox.distill.sources import Final
from sandbox.distill.strategy import Strategy
from sandbox.distill.targets import Known
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.train.battery import battery
from sandbox.types import Tokens
from tests.distill import test_methods, test_teachers
from tests.distill.test_methods import N, drawn, said

WIDE = MLP(d=10, hidden=(32,))


# -------------------------------------------------------------------- exits


@pytest.mark.usefixtures("x64")
def test_the_adaptive_target() -> None:
    z, t, label = drawn(4)
    p, log_q = jax.nn.softmax(t), jax.nn.log_softmax(z)

    def value(g: float, taught: Any = t) -> Any:
        loss = OneForAll(g=g)
        return loss.value(
            Answers(z), loss.supervise(label, said(taught, label), ()), None
        )

    np.testing.assert_allclose(value(1.0), -jnp.sum(p * log_q, -1), atol=1e-12)
    sure = value(1.5, 1e3 * label)  # p = e_y: (2^g - 1) times cross-entropy
    ce = -jnp.sum(label * log_q, -1)
    np.testing.assert_allclose(sure, (2**1.5 - 1) * ce, atol=1e-12)
    by_hand = -sum(
        ((p[:, c] + label[:, c]) ** 1.5 - label[:, c]) * log_q[:, c] for c in range(4)
    )
    np.testing.assert_allclose(value(1.5), by_hand, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_exits_add_the_same_loss_of_a_head(key: Any) -> None:
    z, t, label = drawn(3)
    h = jax.random.normal(key, (N, 5))
    loss = OneForAll(exits=("a",))
    shapes = Answers(jnp.zeros((1, 3)), {"a": jnp.zeros((1, 5))})
    ((w, b),) = loss.init_aux(key, shapes, None)
    sup = loss.supervise(label, said(t, label), ())
    alone = OneForAll()
    got = loss.value(Answers(z, {"a": h}), sup, [(w, b + 1)])
    parts = [alone.value(Answers(v), sup, None) for v in (z, h @ w + (b + 1)[None])]
    np.testing.assert_allclose(got, sum(parts), atol=1e-12)
    assert alone.on_logits and not loss.on_logits and loss.has_aux > alone.has_aux


# ----------------------------------------------------------------- features


def features(loss: Any, t: Any, z: Any, label: Any) -> Any:
    """What a loss on features makes of a teacher's features t and answers z."""
    seen = Known(z, label, jnp.ones(len(label)), {"t": t})
    seen = seen._replace(stats=loss.statistics(seen), acts=None)
    return loss.supervise(label, said(z, label, acts={"t": t}, known=seen), ())


@pytest.mark.usefixtures("x64")
def test_norm_and_direction(key: Any) -> None:
    """0 where a feature has its class's direction and is no shorter."""
    _, z, label = drawn(3)
    t, s = jax.random.normal(key, (2, N, 5))
    loss = NormDirection(layer="s", teacher_layer="t")
    e, norm = features(loss, t, z, label)
    y, t_np = np.asarray(label.argmax(-1)), np.asarray(t)
    for i in range(N):
        mean = t_np[y == y[i]].mean(0)
        np.testing.assert_allclose(e[i], mean / np.linalg.norm(mean), atol=1e-12)

    def value(s: Any) -> Any:
        return loss.value(Answers(z, {"s": s}), (e, norm), jnp.eye(5))

    np.testing.assert_allclose(value(e * norm[:, None]), 0, atol=1e-12)
    np.testing.assert_allclose(value(3 * e * norm[:, None]), 0, atol=1e-12)
    np.testing.assert_allclose(value(0.5 * e * norm[:, None]), 0.5, atol=1e-12)
    n = np.linalg.norm(s, axis=1)
    want = 1 - (np.asarray(s) * np.asarray(e)).sum(1) / np.maximum(n, norm)
    np.testing.assert_allclose(value(s), want, atol=1e-12)
    assert np.isfinite(jax.grad(lambda s: value(s).sum())(jnp.zeros((N, 5)))).all()


@pytest.mark.usefixtures("x64")
def test_the_teachers_own_head(key: Any) -> None:
    """It is read off its answers exactly; equal features cost nothing."""
    _, _, label = drawn(3)
    t, s = jax.random.normal(key, (2, N, 5))
    w, b = jax.random.normal(key, (5, 3)), jnp.array([0.3, -1.0, 2.0])
    z = t @ w + b[None]
    loss = OwnHead(layer="s", teacher_layer="t")
    sup = features(loss, t, z, label)
    np.testing.assert_allclose(sup[2][0], jnp.concatenate([w, b[None]]), atol=1e-10)
    same = loss.value(Answers(z, {"s": t}), sup, jnp.eye(5))
    np.testing.assert_allclose(same, 0, atol=1e-18)
    got = loss.value(Answers(z, {"s": s}), sup, jnp.eye(5))
    want = ((s - t) ** 2).mean(-1) + (((s - t) @ w) ** 2).mean(-1)
    np.testing.assert_allclose(got, want, atol=1e-10)


# --------------------------------------------------------------- rows together


@pytest.mark.usefixtures("x64")
def test_relations_do_not_see_rotations(key: Any) -> None:
    z, _, label = drawn(2)
    t = jax.random.normal(key, (N, 4))
    turn, _ = jnp.linalg.qr(jax.random.normal(key, (4, 4)))
    loss = Relations(layer="s", teacher_layer="t", tau=0.7)
    sup = loss.supervise(label, said(z, label, acts={"t": t}), ())
    same = loss.value(Answers(z, {"s": 3 * t @ turn}), sup, None)
    np.testing.assert_allclose(same, 0, atol=1e-12)
    s = jax.random.normal(key, (N, 6)) ** 3
    got = loss.value(Answers(z, {"s": s}), sup, None)

    def likeness(h: Any, i: int) -> Any:
        unit = np.asarray(h) / np.linalg.norm(h, axis=1, keepdims=True)
        others = [j for j in range(N) if j != i]
        d = ((unit[others] - unit[i]) ** 2).sum(1)
        return np.exp(-d / 0.7) / np.exp(-d / 0.7).sum()

    for i in range(3):
        p, q = likeness(t, i), likeness(s, i)
        assert float(got[i]) == pytest.approx((p * np.log(p / q)).sum(), abs=1e-10)


@pytest.mark.usefixtures("x64")
def test_spectral_norms(key: Any) -> None:
    h, z = jax.random.normal(key, (N, 7)), jax.random.normal(key, (N, 3)) ** 3
    want = np.linalg.svd(np.asarray(h.T @ z) / N)[1][0]
    assert float(spectral(h, z)) == pytest.approx(want, rel=1e-6)
    loss = Lipschitz(layer="s", teacher_layer="t")
    _, t, label = drawn(3)
    sup = loss.supervise(label, said(t, label, acts={"t": h}), ())
    got = loss.value(Answers(2 * t, {"s": h}), sup, None)
    np.testing.assert_allclose(got, 1.0, atol=1e-6)  # twice the slope


# ------------------------------------------------------------------- pruning


def small_net(params: Any, mask: Any) -> Any:
    """The MLP of the units that are there."""
    on = np.flatnonzero(np.asarray(mask["hidden_0"]))
    first, last = params["layer_0"], params["layer_1"]
    return {
        "layer_0": {"kernel": first["kernel"][:, on], "bias": first["bias"][on]},
        "layer_1": {"kernel": last["kernel"][on], "bias": last["bias"]},
    }


@pytest.mark.usefixtures("x64")
def test_units_go_by_schedule_and_stay_gone(key: Any) -> None:
    view = Pruned(network=WIDE, kept=0.25, first=64, last=264, memory=2)
    params = WIDE.init(key)
    phi = view.init(key, WIDE, params)
    jax.tree.map(np.testing.assert_array_equal, view.student(phi), params)
    x, gone = jax.random.rademacher(key, (9, 10), float), np.zeros(32, bool)
    for t in range(0, 320, 20):
        own = jax.random.fold_in(key, t)
        grad = jax.tree.map(lambda p, k=own: jax.random.normal(k, p.shape), params)
        phi = view.after_update(phi, jnp.uint32(t), phi | {"params": grad})
        off = np.asarray(phi["mask"]["hidden_0"]) == 0
        share = 0.25 + 0.75 * (1 - np.clip((t - 64) / 200, 0, 1)) ** 3
        assert (~off).sum() == np.ceil(share * 32) and (off | ~gone).all()
        gone = off
    part = small_net(params, phi["mask"])
    small = MLP(d=10, hidden=(8,)).apply(part, x).logits
    np.testing.assert_allclose(
        WIDE.apply(view.student(phi), x).logits, small, atol=1e-12
    )
    grad = jax.grad(lambda p: view.student(p)["layer_0"]["kernel"].sum())(phi)
    assert (grad["mask"]["hidden_0"] == 0).all()
    scale = view.lr_scale(phi)
    assert scale["mask"]["hidden_0"] == 0 and scale["params"]["layer_1"]["bias"] == 1


@pytest.mark.usefixtures("x64")
def test_the_least_sensitive_heads_go(key: Any) -> None:
    model = Transformer(
        kind="bert", vocab=8, n_classes=3, positions=6, layers=1, heads=4, head_dim=2
    )
    view = Pruned(network=model, kept=0.5, last=10, memory=1)
    params = model.init(key)
    phi = view.init(key, model, params)
    grad = jax.tree.map(jnp.ones_like, params)
    phi = view.after_update(phi, jnp.uint32(10), phi | {"params": grad})
    attention = params["layer_0"]["attention"]
    score = jnp.abs(attention["qkv"]["kernel"]).sum((0, 1, 3))
    score += jnp.abs(attention["qkv"]["bias"]).sum((0, 2))
    score += jnp.abs(attention["out"]["kernel"]).sum((1, 2))
    on = np.asarray(phi["mask"]["heads_0"]) > 0
    assert set(np.flatnonzero(on)) == set(np.argsort(-score)[:2].tolist())
    assert phi["mask"]["mlp_0"].sum() == 16 and "residual" not in phi["mask"]
    ids = jax.random.randint(key, (2, 6), 0, 8)
    rows = Tokens(ids, jnp.ones((2, 6), bool), jnp.ones((2, 6), bool))
    cut = view.student(phi)
    less = jax.tree.map(lambda a: a, cut)
    own = less["layer_0"]["attention"]
    own["qkv"] = {
        "kernel": own["qkv"]["kernel"][:, :, on],
        "bias": own["qkv"]["bias"][:, on],
    }
    own["out"] = own["out"] | {"kernel": own["out"]["kernel"][on]}
    # Half of the heads, with the width of all: by hand, since E = heads * head_dim.
    assert own["out"]["kernel"].shape == (2, 2, 8)
    whole = model.apply(cut, rows, taps=("residual_1",)).acts["residual_1"]
    assert np.isfinite(whole).all()


# ------------------------------------------------------------------- battery

PARTS: dict[str, Any] = {"layer": "hidden_0", "teacher_layer": "hidden_0"}
SMALL = MLP(d=10, hidden=(8,))


def with_loss(loss: Any) -> Strategy:
    both = Sum(losses=(Loss(alpha=1.0), loss), weights=(1.0, 1.0))
    return Strategy(name="m", source=Final(), loss=both)


EVERY = {
    "exits": with_loss(OneForAll(g=1.5, exits=("hidden_0",))),
    "direction": with_loss(NormDirection(**PARTS)),
    "head": with_loss(OwnHead(**PARTS)),
    "truncated": with_loss(Truncated()),
    "sampled": Strategy(name="m", source=Final(), loss=Sampled(n=1)),
    "relations": with_loss(Relations(**PARTS)),
    "lipschitz": with_loss(Lipschitz(**PARTS)),
    "pruning": Strategy(
        name="m", source=Final(), view=Pruned(network=SMALL, kept=0.5, last=128)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_signal_passes_the_battery(name: str) -> None:
    battery(EVERY[name], student=SMALL)


def test_every_published_method_is_tried() -> None:
    tried = [s for s, _ in test_methods.EVERY.values()]
    tried += [*test_teachers.EVERY.values(), *EVERY.values()]
    used = {type(part) for s in tried for part in parts(s)}
    assert set(METHODS) - used <= {DroppedHeads}  # of transformers


def parts(strategy: Strategy) -> list[Any]:
    source, losses = strategy.source, getattr(strategy.loss, "losses", (strategy.loss,))
    own = [source, getattr(source, "damage", None), strategy.view, strategy.update]
    return [*strategy.target.transforms, *losses, *own]
