"""Methods against identities, enumeration and plain numpy; each passes the battery."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.losses import Answers, Loss, Objective, Sum, Taught, delta, value
from sandbox.distill.methods import (
    TAID,
    ClassMeans,
    Damaged,
    Decoupled,
    DroppedHeads,
    Features,
    Flips,
    LogitMatching,
    OtherSupport,
    OwnWeight,
    SkipWrong,
    Smooth,
    SubNetwork,
    SwapWrong,
    TopK,
    WeightNoise,
)
from sandbox.distill.sources import Final, Lane, Member, Progressive
from sandbox.distill.strategy import Strategy
from sandbox.distill.targets import Anneal, Known, Target, Transform, soften
from sandbox.errors import ConfigError
from sandbox.models.bit_transformer import BitTransformer
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.probes.knowledge import split
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.train.battery import battery

N = 50
PACE = Progressive(every=64)


def drawn(c: int, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits of student and teacher, and labels."""
    rng = np.random.default_rng(seed)
    z, t = 3 * rng.normal(size=(2, N, c))
    return jnp.asarray(z), jnp.asarray(t), jnp.asarray(np.eye(c)[rng.integers(0, c, N)])


def said(logits: Any, label: Any, tau: float = 1.0, **more: Any) -> Taught:
    n = label.shape[:-1]
    answers = Answers(logits, more.pop("acts", None), more.pop("extra", None))
    own = {"tau": jnp.full(n, tau), "t": jnp.zeros(n, int), "target": Target()} | more
    return Taught(answers=answers, label=label, **own)


def known(logits: Any, label: Any, **more: Any) -> Known:
    weight = jnp.ones(len(label))
    return Known(logits, label, weight, p=soften(logits, weight), **more)


# ------------------------------------------------------------------ targets


@pytest.mark.usefixtures("x64")
def test_swapped_wrong_targets() -> None:
    """The label is on top, entries are permuted; at tau = 0 the target is the label."""
    _, t, label = drawn(4)
    p = soften(t, jnp.ones(N))
    q, keep = SwapWrong().apply(p, t, label, None)
    assert keep is None
    np.testing.assert_array_equal(jnp.argmax(q, -1), jnp.argmax(label, -1))
    np.testing.assert_array_equal(jnp.sort(q), jnp.sort(p))
    hard, _ = SwapWrong().apply(soften(t, jnp.zeros(N)), t, label, None)
    np.testing.assert_array_equal(hard, label)


@pytest.mark.usefixtures("x64")
def test_parts_of_the_target_from_their_definition() -> None:
    _, t, label = drawn(4)
    seen = known(t, label)
    p, y = np.asarray(seen.p), np.asarray(label).argmax(-1)
    parts = (OwnWeight(), ClassMeans(), Smooth(), TopK(k=2))
    own, means, smooth, top = (
        np.asarray(part.apply(seen.p, t, label, seen)[0]) for part in parts
    )
    eps = np.mean([1 - p[i, y[i]] for i in range(N)])
    for i in range(N):
        wrong = [c for c in range(4) if c != y[i]]
        np.testing.assert_allclose(own[i][y[i]], p[i, y[i]], atol=1e-15)
        rest = (1 - p[i, y[i]]) / 3
        np.testing.assert_allclose(own[i][wrong], [rest] * 3, atol=1e-15)
        np.testing.assert_allclose(means[i], p[y == y[i]].mean(0), atol=1e-14)
        np.testing.assert_allclose(smooth[i][wrong], [eps / 3] * 3, atol=1e-14)
        largest = np.sort(p[i])[::-1]
        np.testing.assert_allclose(
            np.sort(top[i])[::-1], [*largest[:2], *[largest[2:].mean()] * 2], atol=1e-15
        )
    for q in (own, means, smooth, top):
        np.testing.assert_allclose(jnp.sum(q, -1), 1, atol=1e-14)
    np.testing.assert_array_equal(TopK(k=4).apply(seen.p, t, label, None)[0], seen.p)


@pytest.mark.usefixtures("x64")
def test_two_classes_have_no_relations() -> None:
    """Of two classes the label's own weight is all there is; means know y alone."""
    _, t, label = drawn(2)
    seen = known(t, label)
    own, _ = OwnWeight().apply(seen.p, t, label, None)
    np.testing.assert_allclose(own, seen.p, atol=1e-16)
    means, _ = ClassMeans().apply(seen.p, t, label, seen)
    for c in (0, 1):
        rows = np.asarray(means)[np.asarray(label)[:, c] == 1]
        np.testing.assert_array_equal(rows, rows[:1].repeat(len(rows), 0))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_gradient_splits_into_three(c: int, weight: float) -> None:
    z, t, label = drawn(c)
    p, q = soften(t, jnp.ones(N)), jax.nn.softmax(z)
    terms = split(p, q, label, weight)
    whole = q - (1 - weight) * label - weight * p
    np.testing.assert_allclose(sum(terms.values()), whole, atol=1e-12)
    if c == 2:
        for name in ("universe", "domain"):
            np.testing.assert_allclose(terms[name], 0, atol=1e-12)
    hard = split(label, q, label)  # a sure teacher: the label's gradient alone
    np.testing.assert_allclose(hard["instance"], q - label, atol=1e-15)


def test_skipping_wrong_rows_keeps_half_of_degree_one() -> None:
    """E[1[y^ = y] y x_i] = (E[y x_i] + E[y^ x_i]) / 2, over the whole cube."""
    x = np.asarray(list(itertools.product([-1.0, 1.0], repeat=6)))
    y = x[:, :4].prod(1)
    logit = y + x @ np.asarray([0.9, 0.8, 0.7, 0.9, 0.05, 0.0])
    hat = np.where(logit >= 0, 1.0, -1.0)
    assert 0.05 < np.mean(hat != y) < 0.5
    t = jnp.asarray(np.stack([logit, -logit], -1))
    label = jnp.asarray(np.stack([y > 0, y < 0], -1).astype(float))
    _, keep = SkipWrong().apply(soften(t, jnp.ones(64)), t, label, None)
    left = (np.asarray(keep) * y) @ x / 64
    np.testing.assert_allclose(left, (hat @ x / 64) / 2, atol=1e-7)
    assert np.abs(left[:4]).min() > 0.02  # some is there


# ------------------------------------------------------------------- losses


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [2, 5])
def test_decoupled_terms_add_up_to_the_divergence(c: int) -> None:
    z, t, label = drawn(c)
    loss, numbers = Decoupled(others=None), ()
    got = loss.value(Answers(z), loss.supervise(label, said(t, label), numbers), None)
    p, log_q = jax.nn.softmax(t), jax.nn.log_softmax(z)
    kl = jnp.sum(p * (jnp.log(p) - log_q), -1)
    np.testing.assert_allclose(got, kl, atol=1e-12)
    far = Decoupled(others=3.0)
    other = far.value(Answers(z), far.supervise(label, said(t, label), numbers), None)
    assert np.allclose(other, got) == (c == 2)
    sup = far.supervise(label, said(50 * label, label), numbers)  # a sure teacher
    assert jnp.isfinite(far.delta(z, sup)).all()


@pytest.mark.usefixtures("x64")
def test_logits_and_moving_targets() -> None:
    z, t, label = drawn(3)
    loss = LogitMatching(weight=0.5)
    sup = loss.supervise(label, said(t, label), ())
    gap = (z - z.mean(-1, keepdims=True)) - (t - t.mean(-1, keepdims=True))
    np.testing.assert_allclose(loss.delta(z, sup), 0.5 * gap, atol=1e-12)
    shifted = loss.value(Answers(z + 7), sup, None)
    np.testing.assert_allclose(shifted, loss.value(Answers(z), sup, None), atol=1e-12)
    taid = TAID(share=Anneal(start=0.0, end=1.0, over=64))
    end, start = ((t, jnp.full(N, s)) for s in (1.0, 0.0))
    p = jax.nn.softmax(t)
    np.testing.assert_allclose(taid.delta(z, end), jax.nn.softmax(z) - p, atol=1e-12)
    np.testing.assert_allclose(taid.delta(z, start), 0, atol=1e-12)
    assert taid.compiled == TAID(share=0.0) and taid.ramps == (taid.share,)


@pytest.mark.usefixtures("x64")
def test_hinton_at_high_temperature_matches_logits() -> None:
    """T^2 KL at T -> infinity has the gradient of centred squares over C."""
    z, t, label = drawn(4)
    loss = Loss(tau_student=1e4, scale=1e8)
    sup = loss.supervise(label, said(t, label, tau=1e4), (jnp.zeros(N),))
    gap = (z - z.mean(-1, keepdims=True)) - (t - t.mean(-1, keepdims=True))
    np.testing.assert_allclose(delta(loss, z, sup), gap / 4, atol=2e-3)


@pytest.mark.usefixtures("x64")
def test_sums_are_sums() -> None:
    z, t, label = drawn(3)
    ramp = Anneal(start=0.0, end=2.0, over=10)
    both = Sum(losses=(Loss(alpha=0.3), LogitMatching()), weights=(1.5, ramp))
    assert both.on_logits and both.shift_free and both.ramps == (1.5, ramp, 0.3)
    numbers = [jnp.full(N, v) for v in (1.5, 0.7, 0.3)]
    sup = both.supervise(label, said(t, label), numbers)
    got = both.value(Answers(z), sup, None)
    parts = [
        part.value(Answers(z), part.supervise(label, said(t, label), own), None)
        for part, own in ((Loss(), numbers[2:]), (LogitMatching(), ()))
    ]
    np.testing.assert_allclose(got, 1.5 * parts[0] + 0.7 * parts[1], atol=1e-12)
    with pytest.raises(ConfigError, match="one entry for each"):
        Sum(losses=(Loss(),), weights=(1.0, 2.0))
    with pytest.raises(ConfigError, match="one term that makes"):
        Sum(losses=(Flips(), Flips(n=2)), weights=(1.0, 1.0))


# -------------------------------------------------------------------- flips


def cube(d: int) -> np.ndarray:
    return np.asarray(list(itertools.product([1.0, -1.0], repeat=d)))


@pytest.mark.usefixtures("x64")
def test_signed_flips_see_no_coefficient_in_anothers_place() -> None:
    """Summed over all bits: sum_A |A| (q^(A) - p^(A))^2, by enumeration."""
    d = 5
    x, rng = cube(d), np.random.default_rng(0)
    networks = [rng.normal(size=(32, 2)) for _ in range(2)]  # one row of logits each
    index = {tuple(row): i for i, row in enumerate(x)}
    loss = Flips(n=d, match="signed")

    def answers(table: np.ndarray) -> Answers:
        rows = np.stack([x * (1 - 2 * e) for e in np.eye(d)], 1)
        extra = [[table[index[tuple(r)]] for r in row] for row in rows]
        return Answers(jnp.asarray(table), None, jnp.asarray(extra))

    s, t = map(answers, networks)
    label = jnp.asarray(np.eye(2)[np.zeros(32, int)])
    sup = loss.supervise(label, said(t.logits, label, extra=t.extra), ())
    got = float(jnp.mean(loss.value(s, sup, None)))
    gap = [np.asarray(jax.nn.softmax(a.logits))[:, 1] for a in (s, t)]
    want = 0.0
    for n in range(d + 1):
        for a in itertools.combinations(range(d), n):
            chi = x[:, a].prod(1)
            want += n * np.mean((gap[0] - gap[1]) * chi) ** 2
    np.testing.assert_allclose(got, want, atol=1e-14)
    for match in ("signed", "absolute", "magnitude"):
        same = Flips(n=d, match=match)
        own = same.supervise(label, said(s.logits, label, extra=s.extra), ())
        np.testing.assert_allclose(same.value(s, own, None), 0, atol=1e-15)


def test_changed_rows(key: jax.Array) -> None:
    """Each differs from the row in one bit, another one each; tokens move within."""
    x = jnp.ones(8)
    rows = Flips(n=5).inputs(key, x)
    where = np.argwhere(np.asarray(rows) != 1)
    assert rows.shape == (5, 8) and len(set(where[:, 1])) == len(where) == 5


# --------------------------------------------------------------- extraction


@pytest.mark.long
@pytest.mark.usefixtures("x64")
def test_all_directions_kept_is_feature_matching(key: jax.Array) -> None:
    """With the right head: (s - h)' C^-1 (s - h), C the covariance of h."""
    h, s = jax.random.normal(key, (2, 400, 6)) ** 2
    loss = Features(layers=("a",), project="components", dims=6)
    label = jax.nn.one_hot(jnp.zeros(400, int), 2)
    stats = loss.statistics(Known(label, label, jnp.ones(400), {"a": h}))
    seen = Known(label, label, jnp.ones(400), stats=stats)
    taught = said(label, label, acts={"a": h}, known=seen)
    sup = loss.supervise(label, taught, ())
    got = loss.value(Answers(label, {"a": s}), sup, stats)
    inverse = np.linalg.inv(np.cov(np.asarray(h).T, bias=True))
    want = 0.1 * np.einsum("ni,ij,nj->n", s - h, inverse, s - h)
    np.testing.assert_allclose(got, want, rtol=1e-9)
    white = replace(loss, project="random", dims=4)
    ((v, m),) = white.statistics(Known(label, label, jnp.ones(400), {"a": h}))
    g = h @ v + m[None]
    np.testing.assert_allclose(jnp.var(g, 0), 1, rtol=1e-9)
    np.testing.assert_allclose(jnp.mean(g, 0), 0, atol=1e-9)


def test_layers_are_matched_in_turn_and_then_the_output(key: jax.Array) -> None:
    loss = Features(layers=("a", "b"), dims=2, hold=10)
    label = jax.nn.one_hot(jnp.zeros(3, int), 2)
    acts = {n: jax.random.normal(key, (3, 4)) for n in ("a", "b")}
    stats = loss.statistics(Known(label, label, jnp.ones(3), acts))
    seen = Known(label, label, jnp.ones(3), stats=stats)
    taught = replace(
        said(label, label, acts=acts, known=seen), t=jnp.array([0, 10, 20])
    )
    _, on, last, _ = loss.supervise(label, taught, ())
    np.testing.assert_allclose(on, [[0.1, 0, 0], [0, 0.1, 0]])
    np.testing.assert_array_equal(last, [0, 0, 1])


# ------------------------------------------------------------------ damaged


def numpy_params(model: Any) -> Any:
    return jax.tree.map(np.asarray, model.init(jax.random.key(3)))


@pytest.mark.long
def test_damaged_networks(key: jax.Array) -> None:
    model, rng = MLP(d=6, hidden=(40,)), np.random.default_rng
    params, x = numpy_params(model), jnp.asarray(cube(6), jnp.float32)
    before = jax.tree.map(np.copy, params)
    z = model.apply(params, x).logits
    whole = model.apply(SubNetwork(share=1.0).apply(params, rng(0)), x).logits
    np.testing.assert_allclose(jnp.std(whole - z, 0), 0, atol=1e-6)  # but for a shift
    part = SubNetwork(share=0.25).apply(params, rng(0))["layer_1"]["kernel"]
    kept = (part != 0).all(1)
    assert kept.sum() == 10
    np.testing.assert_allclose(part[kept], 4 * params["layer_1"]["kernel"][kept])
    noisy = WeightNoise(scale=0.5).apply(params, rng(0))["layer_0"]["kernel"]
    w = params["layer_0"]["kernel"]
    assert 0.4 < (noisy - w).std() / w.std() < 0.6
    order = rng(0).permutation(6)
    moved = model.apply(OtherSupport().apply(params, rng(0)), x).logits
    back = model.apply(params, x[:, np.argsort(order)]).logits
    np.testing.assert_allclose(moved, back, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, params, before)  # nothing in place
    bert = Transformer(
        kind="bert", vocab=8, n_classes=3, positions=16, layers=2, heads=4, head_dim=4
    )
    whole, cut = numpy_params(bert), DroppedHeads(share=0.5)
    out = cut.apply(whole, rng(0))
    for layer in ("layer_0", "layer_1"):
        kernel = out[layer]["attention"]["out"]["kernel"]
        assert (kernel == 0).all((1, 2)).sum() == 2
    with pytest.raises(ConfigError, match="cuts off no head"):
        DroppedHeads(share=0.5).apply(params, rng(0))
    same = DroppedHeads(share=0.0).apply(whole, rng(0))
    jax.tree.map(np.testing.assert_array_equal, same, whole)
    for damage in (SubNetwork(share=0.5), WeightNoise(scale=1.0), OtherSupport()):
        with pytest.raises(ConfigError, match="MLPs alone"):
            damage.apply(whole, rng(0))


def test_a_damaged_teacher_is_whole_after_its_stage() -> None:
    source, lane = Damaged(damage=WeightNoise(scale=1.0), hold=96), Lane(1, 512)
    assert source.members_at(95, lane) == (Member(512, variant=1),)
    assert source.members_at(96, lane) == (Member(512),)
    assert [source.next_switch(t, lane) for t in (0, 95, 96)] == [96, 96, None]
    params = numpy_params(MLP(d=4, hidden=(3,)))
    a, b, c = (source.prepare(params, 1, s)["layer_0"]["kernel"] for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


# ------------------------------------------------------------------- battery


def with_target(*transforms: Transform, **fields: Any) -> Strategy:
    return Strategy(
        name="m", source=PACE, target=Target(transforms=transforms, **fields)
    )


def with_loss(loss: Any) -> Strategy:
    return Strategy(name="m", source=Final(), loss=loss)


@dataclass(frozen=True, kw_only=True)
class Brier(Objective):
    """A user's own: |q - p|^2 to the teacher's target."""

    on_logits = True
    shift_free = True

    def supervise(self, label: Any, taught: Taught | None, numbers: Any) -> Any:
        assert taught is not None
        return taught.p

    def value(self, out: Answers, sup: Any, aux: Any) -> Any:
        return jnp.sum((jax.nn.softmax(out.logits) - sup) ** 2, -1)


@dataclass(frozen=True)
class Cheap(Brier):
    """One that claims fewer passes than it makes."""

    copies = 2

    def inputs(self, key: Any, x: Any) -> Any:
        return jnp.stack([x, -x])

    @property
    def cost(self) -> Any:
        return Loss().cost


FEATURES = Features(layers=("hidden_0",), dims=4, hold=128)
HARD = Target(tau=0.0, transforms=(SwapWrong(),))
EVERY: dict[str, tuple[Strategy, Strategy | None]] = {
    "swap": (with_target(SwapWrong()), Strategy(name="m", source=PACE, target=HARD)),
    "own loss": (with_loss(Brier()), None),
    "flips": (with_loss(Sum(losses=(Loss(), Flips(n=3)), weights=(1.0, 4.0))), None),
    "own": (with_target(OwnWeight()), None),
    "smooth": (with_target(Smooth()), None),
    "means": (with_target(ClassMeans()), None),
    "top": (with_target(TopK(k=1)), None),
    "skip": (with_target(SkipWrong(), tau=0.0), None),
    "decoupled": (with_loss(Decoupled()), None),
    "logits": (with_loss(LogitMatching()), None),
    "taid": (with_loss(TAID(share=Anneal(start=0.0, end=1.0, over=128))), None),
    "features": (with_loss(Sum(losses=(Loss(), FEATURES), weights=(1.0, 1.0))), None),
    "units": (
        Strategy(name="m", source=Damaged(damage=SubNetwork(share=0.3), hold=128)),
        None,
    ),
    "noise": (
        Strategy(name="m", source=Damaged(damage=WeightNoise(scale=1.0), hold=128)),
        None,
    ),
    "other": (
        Strategy(
            name="m", source=Damaged(damage=OtherSupport(), hold=128), loss=FEATURES
        ),
        None,
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=getattr(pytest.mark, "long" if i < 3 else "slow"))
        for i, n in enumerate(EVERY)
    ],
)
def test_every_method_passes_the_battery(name: str) -> None:
    strategy, off = EVERY[name]
    battery(strategy, off=off)


@pytest.mark.slow
def test_the_battery_on_trees() -> None:
    size = {"d": 12, "n_classes": 8}
    nets = MLP(hidden=(8,), **size), MLP(hidden=(32,), **size)
    task = Hierarchy(d=12, depth=3, feature_complexity=1)
    for name in ("decoupled", "means", "own", "flips"):
        battery(EVERY[name][0], task=task, student=nets[0], teacher=nets[1])


@pytest.mark.slow
def test_the_battery_finds_wrong_costs_and_options() -> None:
    with pytest.raises(AssertionError, match="passes of the student a sample"):
        battery(with_loss(Cheap()))
    with pytest.raises(AssertionError, match="is not cross-entropy"):
        battery(with_loss(Brier()), off=with_loss(Loss()))


def test_plain_losses_are_what_they_were() -> None:
    """`Loss` as an objective gives the bits of its functions."""
    z, t, label = drawn(3)
    loss, alpha = Loss(tau_student=2.0, scale=3.0), jnp.full(N, 0.3)
    sup = loss.supervise(label, said(t, label), (alpha,))
    np.testing.assert_array_equal(
        loss.value(Answers(z), sup, None), value(loss, z, sup)
    )
    np.testing.assert_array_equal(loss.delta(z, sup), delta(loss, z, sup))


@pytest.mark.slow
def test_the_battery_on_transformers() -> None:
    """Features of the last position, of two layers in turn, with GPT-2 on bits."""

    def net(heads: int) -> BitTransformer:
        size = dict(vocab=2, n_classes=2, positions=10, layers=2, head_dim=4)
        return BitTransformer(
            d=10, network=Transformer(kind="gpt2", tied=False, heads=heads, **size)
        )

    layers = ("residual_1", "residual_2")
    features = with_loss(Features(layers=layers, dims=4, hold=64))
    battery(features, student=net(1), teacher=net(2))
