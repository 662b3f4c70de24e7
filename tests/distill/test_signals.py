"""Other signals than answers, and students that shrink: identities and the battery."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from sandbox.distill.losses import Answers, Loss, Sum
from sandbox.distill.methods import (
    METHODS,
    Augmented,
    Beside,
    Centres,
    DroppedHeads,
    Embedding,
    Inherited,
    Lipschitz,
    NormDirection,
    OneForAll,
    OnPolicy,
    OwnHead,
    Pruned,
    Relations,
    Sampled,
    Truncated,
)
from sandbox.distill.methods.lipschitz import spectral
from sandbox.distill.methods.on_policy import written
from sandbox.distill.methods.pruning import _kept
from sandbox.distill.sources import Final
from sandbox.distill.strategy import Strategy
from sandbox.distill.targets import Known
from sandbox.distill.views import Identity
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.models.towers import TwoTowers
from sandbox.models.transformer import Transformer
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.next_token import NextToken
from sandbox.tasks.parity import Parity
from sandbox.train.battery import battery
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, Adam, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.spec import RunSpec, Stop, TeacherRef
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


def test_units_stay_in_the_order_of_their_scores() -> None:
    """As a stable sort has it: of equal ones the first stay, of silent ones, too."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        score = np.round(rng.exponential(size=40), 1) * rng.integers(0, 2, 40)
        mask, share = rng.integers(0, 2, 40), rng.uniform(0.02, 1)
        first = np.argsort(-np.where(mask > 0, score, -1), kind="stable")
        want = np.zeros(40)
        want[first[: int(np.ceil(np.float32(share) * np.float32(40)))]] = 1
        got = _kept(jnp.float32(score), jnp.float32(mask), jnp.float32(share))
        np.testing.assert_array_equal(got, mask * want)


@pytest.mark.usefixtures("x64")
def test_centres_of_the_classes_that_are_there(key: Any) -> None:
    """0 where the student's logits are its teacher's nearness to them."""
    z, _, label = drawn(3)
    label = jnp.where(label[:, :1] > 0, label, jnp.eye(3)[1])  # no row of class 2
    h = jax.random.normal(key, (N, 5))
    loss = Centres(layer="s", teacher_layer="t")
    sup = loss.supervise(label, said(z, label, acts={"t": h}), ())
    y = np.asarray(label.argmax(-1))
    centres = np.stack([np.asarray(h)[y == c].mean(0) for c in range(2)])
    near = np.asarray(h) @ centres.T

    def value(z: Any) -> Any:
        return loss.value(Answers(z), sup, None)

    same = jnp.concatenate([near, z[:, 2:]], 1)
    np.testing.assert_allclose(value(same), 0, atol=1e-12)
    p, q = (np.asarray(jax.nn.softmax(a / 2, -1)) for a in (near, z[:, :2]))
    np.testing.assert_allclose(value(z), (p * np.log(p / q)).sum(1), atol=1e-12)
    grad = jax.grad(lambda z: value(z).sum())(z)
    assert (grad[:, 2] == 0).all() and (grad[:, :2] != 0).any()


# ------------------------------------------------------------------ drawn rows


@pytest.mark.usefixtures("x64")
def test_drawn_rows_that_tell_most(key: Any) -> None:
    """Their law maximises the mean score less its divergence from the uniform one."""
    _, t, label = drawn(3)
    own, theirs = 3 * jax.random.normal(key, (2, N, 4, 3))
    loss = Augmented(n=4, beta=0.7)
    p = loss.supervise(label, said(t, label, extra=theirs), ())
    np.testing.assert_allclose(p, jax.nn.softmax(theirs), atol=1e-12)
    log_q = jax.nn.log_softmax(own)
    w = np.asarray(loss.weights(log_q, p))
    y = np.asarray(p.argmax(-1))[..., None]
    sure = np.take_along_axis(np.asarray(p), y, -1)[..., 0]
    right = np.take_along_axis(np.exp(np.asarray(log_q)), y, -1)[..., 0]
    score = np.log(sure) + np.log(1 - right)

    def free(w: np.ndarray) -> np.ndarray:
        return (w * score).sum(-1) - (w * np.log(4 * w)).sum(-1) / 0.7

    for other in np.random.default_rng(0).dirichlet(np.ones(4), (50, N)):
        assert (free(w) >= free(other) - 1e-12).all()
    each = -(np.asarray(p) * np.asarray(log_q)).sum(-1)
    got = loss.value(Answers(t, extra=own), p, None)
    np.testing.assert_allclose(got, (w * each).sum(-1), atol=1e-12)
    alike = Augmented(n=4, beta=0.0).value(Answers(t, extra=own), p, None)
    np.testing.assert_allclose(alike, each.mean(-1), atol=1e-12)
    rows = loss.inputs(key, jnp.ones(10))
    assert rows.shape == (4, 10) and set(np.unique(rows)) == {-1.0, 1.0}


# --------------------------------------------------------------------- towers

SPLIT = TwoTowers(d=10, query=4, hidden=(6, 8), dims=3)


@pytest.mark.usefixtures("x64")
def test_scores_differ_by_embeddings_at_most(key: Any) -> None:
    teacher = replace(SPLIT, hidden=(20, 8))
    view, given = Inherited(), teacher.init(key)
    phi = view.init(jax.random.fold_in(key, 1), SPLIT, given)
    x = jax.random.rademacher(key, (50, 10), float)
    s, t = (
        net.apply(params, x, taps=("query", "document"))
        for net, params in ((SPLIT, phi), (teacher, given))
    )
    np.testing.assert_array_equal(s.acts["document"], t.acts["document"])
    gap = s.acts["query"] - t.acts["query"]
    score = s.logits[:, 0] - s.logits[:, 1] - t.logits[:, 0] + t.logits[:, 1]
    most = np.linalg.norm(gap, axis=1) * np.linalg.norm(t.acts["document"], axis=1)
    assert (np.abs(score) <= most + 1e-12).all() and (most > 0).all()
    sup = Embedding().supervise(x, said(t.logits, x, acts=dict(t.acts)), ())
    loss = Embedding().value(Answers(s.logits, dict(s.acts)), sup, None)
    np.testing.assert_allclose(loss, (gap**2).sum(1), atol=1e-12)
    rate = view.lr_scale(phi)
    assert set(jax.tree.leaves(rate["document"])) == {0.0}
    assert set(jax.tree.leaves(rate["query"])) == {1.0}
    with pytest.raises(ConfigError, match="needs the run's start"):
        view.init(key, SPLIT, None)
    with pytest.raises(ConfigError, match="towers of student and start differ"):
        view.init(key, replace(SPLIT, hidden=(6, 9)), given)


@pytest.mark.slow
def test_an_inherited_tower_is_not_trained(tmp_path: Path) -> None:
    """And the student of both learns what its teacher knows."""
    teacher = RunSpec(
        kind="teacher",
        task=Parity(d=10, k=2),
        model=replace(SPLIT, hidden=(20, 8)),
        strategies=(Strategy(name="ce"),),
        stop=Stop(max_samples=6_400),
        eval_every=640,
        checkpoint_every=640,
        optimizer=SGD(lr=LearningRate(peak=0.05)),
    )
    ref = TeacherRef(spec=teacher, final=6_400)
    both = Sum(losses=(Loss(), Embedding()), weights=(1.0, 1.0))
    embed = Strategy(name="embed", source=Final(), view=Inherited(), loss=both)
    more = {"kind": "student", "model": SPLIT, "strategies": (embed,)}
    spec = replace(teacher, **more, teacher=ref, start=ref)
    first, run = (fit(s, root=tmp_path, progress=Silent()) for s in (teacher, spec))
    kept, new = (r.trajectory.read(6_400, seed=0) for r in (first, run))
    same = jax.tree.map(np.array_equal, kept["document"], new["document"])
    assert all(jax.tree.leaves(same))
    curves = [r.metrics.curves(n)[0] for r, n in ((first, "ce"), (run, "embed"))]
    assert curves[0][-1] > 0.95 and curves[1][-1] > curves[0][-1] - 0.05


# ------------------------------------------------------------------ on policy


def test_strings_have_the_probability_that_the_student_gives_them(key: Any) -> None:
    """All 27 of three tokens, by the product of its conditionals; ends are kept."""
    task = NextToken(grammar=load_grammar("cfg3b", start=("7", "8", "9")))
    model = Transformer(
        kind="gpt2", positions=5, vocab=task.vocabulary.size, n_classes=3, heads=1
    )
    params = jax.tree.map(lambda a: 2 * a, model.init(key))
    n, bos, pad = 20_000, task.vocabulary.bos, task.vocabulary.pad
    ids = jnp.broadcast_to(jnp.array([bos, 0, 1, 2, pad]), (n, 5))
    valid = jnp.broadcast_to(jnp.arange(5) < 4, (n, 5))
    found = written(model, params, Tokens(ids, valid, valid), key)
    np.testing.assert_array_equal(found[:, [0, 4]], ids[:, [0, 4]])
    every = np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    rows = jnp.asarray(np.pad(every, ((0, 0), (1, 1)), constant_values=(bos,)))
    z = model.apply(params, Tokens(rows, valid[:27], valid[:27])).logits
    log_q = np.asarray(jax.nn.log_softmax(z[:, :3], -1), float)
    want = np.exp(np.take_along_axis(log_q, every[..., None], -1).sum((1, 2)))
    seen = np.bincount(np.asarray(found[:, 1:4]) @ [9, 3, 1], minlength=27)
    assert abs(want.sum() - 1) < 1e-5 and want.max() > 2 * want.min()
    assert chisquare(seen, n * want / want.sum()).pvalue > 1e-3


def test_a_student_writes_a_share_of_the_rows(key: Any) -> None:
    model = Transformer(kind="gpt2", positions=5, vocab=8, n_classes=3, heads=1)
    valid = jnp.ones((400, 5), bool)
    x = Tokens(jnp.full((400, 5), 7), valid, valid)

    def rows(share: float) -> Any:
        source = OnPolicy(positions=5, share=share)
        drawn = source.inputs(model.init(key), x, key, Identity(), model).ids
        return (drawn != x.ids).any(1)

    assert not rows(0.0).any() and rows(1.0).all()
    assert 0.4 < rows(0.5).mean() < 0.6
    task = NextToken(grammar=load_grammar("cfg3b", start=("7", "8", "9")))
    assert not OnPolicy(positions=task.positions).refuses(task)
    assert "positions must be" in OnPolicy(positions=99).refuses(task)
    assert "next token" in OnPolicy(positions=5).refuses(Parity(d=4, k=2))


@pytest.mark.slow
def test_a_student_that_writes_learns_from_its_teacher(tmp_path: Path) -> None:
    """Without own strings it is distilled as ever: from the same teacher, frozen."""
    task = NextToken(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
    sizes = {"positions": task.positions, "vocab": task.vocabulary.size}
    model = Transformer(kind="gpt2", n_classes=3, heads=2, layers=1, **sizes)
    teacher = RunSpec(
        kind="teacher",
        task=task,
        model=model,
        strategies=(Strategy(name="ce"),),
        stop=Stop(max_samples=6_400),
        eval_every=1_600,
        checkpoint_every=1_600,
        batch_size=32,
        dtype="float64",
        optimizer=Adam(lr=LearningRate(peak=0.01)),
    )
    ref = TeacherRef(spec=teacher, final=6_400)
    fit(teacher, root=tmp_path, progress=Silent())

    def accuracy(source: Any, view: Any, start: Any) -> Any:
        one = Strategy(name="m", source=source, view=view)
        more = {"kind": "student", "strategies": (one,), "teacher": ref}
        spec = replace(teacher, **more, start=start)
        run = fit(spec, root=tmp_path, progress=Silent())
        return run.metrics.curves("m")[0]

    view = Beside(network=model)
    plain = accuracy(Final(), Identity(), None)
    none, all_ = (
        accuracy(OnPolicy(positions=task.positions, share=s), view, ref)
        for s in (0.0, 1.0)
    )
    np.testing.assert_allclose(none, plain, atol=1e-9)
    assert all_[-1] > plain[0] + 0.05


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
    "centres": with_loss(Centres(**PARTS)),
    "augmented": with_loss(Augmented(n=2)),
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
    # of transformers, and of runs that start from another
    assert set(METHODS) - used <= {DroppedHeads, Embedding, Inherited, OnPolicy}


def parts(strategy: Strategy) -> list[Any]:
    source, losses = strategy.source, getattr(strategy.loss, "losses", (strategy.loss,))
    own = [source, getattr(source, "damage", None), strategy.view, strategy.update]
    return [*strategy.target.transforms, *losses, *own]
