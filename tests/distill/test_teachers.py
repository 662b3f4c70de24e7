"""Who teaches, and teachers that move: identities, and the battery of each."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sandbox.distill.losses import Answers, Loss, Sum
from sandbox.distill.methods import (
    Adapter,
    Averaged,
    Bayes,
    Beside,
    Branched,
    Dynamic,
    Ensemble,
    Expand,
    Fixed,
    Flatten,
    MetaDistil,
    Online,
    Snapshots,
    Sure,
    Tuned,
)
from sandbox.distill.sources import Final, Lane, Member, PerSeed
from sandbox.distill.strategy import Strategy
from sandbox.distill.targets import Target
from sandbox.distill.updates import Step, Trained
from sandbox.distill.views import Identity
from sandbox.errors import ConfigError
from sandbox.models.base import widened
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.tasks.parity import NoisyParity, Parity, RandomSupport
from sandbox.train.battery import battery
from sandbox.train.engine import Engine
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.spec import RunSpec, Stop
from sandbox.types import Tokens

SMALL, WIDE = MLP(d=10, hidden=(8,)), MLP(d=10, hidden=(32,))
LANE = Lane(1, 256)


# ----------------------------------------------------------- stored networks


def test_stored_networks_teach_throughout() -> None:
    fixed = Fixed(step=PerSeed((64, 128)))
    assert fixed.members_at(999, LANE) == (Member(128),)
    assert fixed.checkpoints(LANE) == (128,) and fixed.per_seed() == (fixed.step,)
    last = Snapshots(last=2, every=64)
    assert last.members_at(0, LANE) == (Member(256, 0.5), Member(192, 0.5))
    assert Snapshots(last=1, every=64).members_at(0, LANE) == (Member(256),)
    assert Snapshots(last=3, every=200).checkpoints(LANE) == (256, 56, 0)
    both = Ensemble(n=2)
    assert both.members_at(9, LANE) == (Member(256, 0.5), Member(256, 0.5, lane=1))
    for source in (fixed, last, both):
        assert source.next_switch(0, LANE) is None
        assert source.n_members == len(source.members_at(0, LANE))


@pytest.mark.usefixtures("x64")
def test_the_exact_posterior_teaches() -> None:
    task = NoisyParity(d=5, k=3, eps=0.2)
    cube = task.enumerate()
    assert cube is not None
    z = Bayes(task=task).outputs(None, None, cube.x, None, Identity(), SMALL)
    np.testing.assert_allclose(jax.nn.softmax(z), task.bayes(cube), atol=1e-15)
    sure = Bayes(task=Parity(d=5, k=3))
    z = sure.outputs(None, None, cube.x, None, Identity(), SMALL)
    np.testing.assert_array_equal(jax.nn.softmax(z)[jnp.arange(32), cube.y], 1.0)
    with pytest.raises(ConfigError, match=r"source\.task must equal the run's task"):
        trained(Strategy(name="m", source=Bayes(task=Parity(d=10, k=2))))
    with pytest.raises(ConfigError, match="random support"):
        Bayes(task=Parity(d=5, k=3, support=RandomSupport()))


# --------------------------------------------------------------- expansion


def networks() -> dict[str, Any]:
    size = dict(vocab=8, n_classes=3, positions=6, layers=2, heads=2, head_dim=4)
    return {
        "two layers": MLP(d=10, hidden=(6,)),
        "three layers": MLP(d=10, hidden=(6, 5)),
        "gpt2": Transformer(kind="gpt2", **size),
        "gpt2 untied": Transformer(kind="gpt2", tied=False, **size),
        "bert": Transformer(kind="bert", **size),
    }


def rows(model: Any, key: Any) -> Any:
    if isinstance(model, MLP):
        return jax.random.rademacher(key, (7, 10), float)
    ids = jax.random.randint(key, (3, 6), 0, 8)
    return Tokens(ids, jnp.ones((3, 6), bool), jnp.ones((3, 6), bool))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "r"), [(n, 2 if n == "gpt2" else 3) for n in networks()]
)
def test_an_expanded_teacher_is_its_student(name: str, r: int, key: Any) -> None:
    model = networks()[name]
    params = jax.tree.map(
        lambda a: a + 0.3 * jax.random.normal(jax.random.fold_in(key, a.size), a.shape),
        model.init(key),
    )
    for view in (
        Expand(network=model, r=r, noise=0.0),
        Branched(network=model, r=r, noise=0.0),
    ):
        phi = view.init(key, model, params)
        wide, x = widened(model, r), rows(model, key)
        assert jax.tree.map(jnp.shape, view.teacher(phi)) == jax.tree.map(
            jnp.shape, jax.eval_shape(wide.init, key)
        )
        want = model.apply(params, x).logits
        got = wide.apply(view.teacher(phi), x).logits
        np.testing.assert_allclose(got, want, atol=1e-13 * float(jnp.abs(want).max()))
        rtol = 0 if r == 2 else 3e-16
        same = partial(np.testing.assert_allclose, rtol=rtol)
        jax.tree.map(same, view.student(phi), params)


@pytest.mark.usefixtures("x64")
def test_gradients_of_shared_tensors(key: Any) -> None:
    """D's everywhere, S's in its part alone, divided by r^2 where it is rescaled."""
    model, r = SMALL, 4
    x, y = rows(model, key), jnp.arange(7) % 2

    def ce(net: MLP, params: Any) -> Any:
        return -jnp.mean(
            jax.nn.log_softmax(net.apply(params, x).logits)[jnp.arange(7), y]
        )

    raw = Expand(network=model, r=r, noise=0.3, rate="raw")
    corrected = replace(raw, rate="corrected")
    phi = raw.init(key, model, None)
    narrow = jax.grad(lambda p: ce(model, p))(raw.student(phi))
    for view, back in ((raw, r), (corrected, 1 / r)):
        grad = jax.grad(lambda phi, v=view: ce(model, v.student(phi)))(phi)
        first, last = grad["layer_0"]["kernel"], grad["layer_1"]["kernel"]
        np.testing.assert_allclose(first[:, :8], narrow["layer_0"]["kernel"])
        np.testing.assert_allclose(last[:8], back * narrow["layer_1"]["kernel"])
        assert (first[:, 8:] == 0).all() and (last[8:] == 0).all()


def trained(strategy: Strategy, model: Any = SMALL, **fields: Any) -> Any:
    """Deployed parameters and everything trained, after 128 samples."""
    spec = RunSpec(
        kind="student", task=Parity(d=10, k=3), model=model, strategies=(strategy,),
        stop=Stop(max_samples=128), eval_every=64, eval_points=64, dtype="float64",
        optimizer=SGD(lr=LearningRate(peak=0.1)), engine="generic", **fields,
    )  # fmt: skip
    engine = Engine(spec)
    state = engine.run(engine.init(), 0, 2, None, np.zeros((1, 1), np.int32))
    return engine.params(state), state


@pytest.mark.long
@pytest.mark.usefixtures("x64")
def test_alone_a_shared_student_moves_as_by_itself() -> None:
    plain, _ = trained(Strategy(name="ce"))
    view = Expand(network=SMALL, r=4, noise=0.0)
    shared, state = trained(Strategy(name="ce", view=view))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), shared, plain
    )
    raw, _ = trained(Strategy(name="ce", view=replace(view, rate="raw")))
    gap = jnp.abs(raw["layer_1"]["kernel"] - plain["layer_1"]["kernel"]).max()
    assert gap > 0.01 and state.phi["layer_0"]["kernel"].shape[-1] == 32


# -------------------------------------------------------------------- meta


@pytest.mark.usefixtures("x64")
def test_the_meta_gradient_is_the_difference_quotient(key: Any) -> None:
    """Of linear networks with softmax, one pilot step at rate eta."""
    x, quiz_x = jax.random.normal(key, (2, 20, 3))
    quiz_y = jnp.arange(20) % 2
    params = dict(
        zip(("student", "teacher"), jax.random.normal(key, (2, 3, 2)), strict=True)
    )

    def through(phi: Any, aux: Any, teacher: Any) -> Any:
        p = jax.nn.softmax(x @ phi["teacher"])
        return -jnp.mean(jnp.sum(p * jax.nn.log_softmax(x @ phi["student"]), -1))

    def quiz(phi: Any) -> Any:
        log_q = jax.nn.log_softmax(quiz_x @ phi["student"])
        return -jnp.mean(log_q[jnp.arange(20), quiz_y])

    def pilot_quiz(teacher: Any) -> float:
        phi = {"student": params["student"], "teacher": jnp.asarray(teacher)}
        grad = jax.grad(lambda s: through(phi | {"student": s}, None, None))(
            phi["student"]
        )
        return float(quiz({"student": phi["student"] - 0.7 * grad}))

    rule = optax.identity()
    step = Step(
        lr=jnp.asarray(0.1), t=jnp.uint32(0), view=Beside(network=SMALL),
        transform=rule, loss=through, through=through, quiz=quiz,
        own=lambda *_: jnp.zeros(()),
    )  # fmt: skip
    update = MetaDistil(eta=0.7, teacher_lr=1.0, quiz=20)
    begin = Trained(params)
    new, loss = update.step(begin._replace(optimizer=update.init(begin, rule)), step)
    found = np.asarray(params["teacher"] - new.phi["teacher"])
    for i, j in np.ndindex(3, 2):
        e = np.zeros((3, 2))
        e[i, j] = 1e-5
        ends = [pilot_quiz(np.asarray(params["teacher"]) + s * e) for s in (1, -1)]
        assert found[i, j] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-9)
    moved = new.phi | {"student": params["student"]}
    grad = jax.grad(lambda s: through(moved | {"student": s}, None, None))(
        params["student"]
    )
    np.testing.assert_allclose(new.phi["student"], params["student"] - 0.1 * grad)
    assert float(loss) == pytest.approx(float(through(moved, None, None)))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_teacher_that_stays_is_plain_distillation() -> None:
    parts: dict[str, Any] = {"source": Tuned(), "view": Beside(network=WIDE)}
    plain, _ = trained(Strategy(name="m", **parts), batch_size=8, block=8)
    for still in (MetaDistil(eta=0.0, quiz=8), MetaDistil(teacher_lr=0.0, quiz=8)):
        mine, _ = trained(
            Strategy(name="m", update=still, **parts), batch_size=8, block=8
        )
        jax.tree.map(np.testing.assert_array_equal, mine, plain)
    moving = MetaDistil(teacher_lr=5.0, quiz=8)
    mine, _ = trained(Strategy(name="m", update=moving, **parts), batch_size=8, block=8)
    assert (mine["layer_1"]["kernel"] != plain["layer_1"]["kernel"]).any()


# ----------------------------------------------------------- averages, adapters


@pytest.mark.usefixtures("x64")
def test_the_average_moves_as_it_should_on_average() -> None:
    source = Averaged(network=SMALL, least=0.8, over=10**9, share=0.2)
    student = {"a": jnp.ones(3), "b": -jnp.ones((2, 2))}
    teacher = jax.tree.map(jnp.zeros_like, student)
    view = Identity()
    steps = jnp.arange(4000, dtype=jnp.uint32)
    each = jax.vmap(lambda t: source.advance(teacher, student, t, view))(steps)
    for name, one in student.items():
        moved = np.asarray(each[name]).reshape(4000, -1)
        assert set(np.round(np.abs(moved).ravel(), 9)) == {0.0, 0.2}
        error = 0.2 * (0.2 * 0.8 / 4000) ** 0.5
        assert np.mean(moved[:, 0]) == pytest.approx(
            0.2 * 0.2 * float(one.ravel()[0]), abs=5 * error
        )
    assert (each["a"][:, 0] != -each["b"][:, 0, 0]).any()  # tensor by tensor
    late = replace(source, over=64, share=1.0)
    stays = late.advance(teacher, student, jnp.uint32(64), view)
    jax.tree.map(np.testing.assert_array_equal, stays, teacher)


@pytest.mark.usefixtures("x64")
def test_rows_of_unsure_teachers_are_left_out() -> None:
    z = jnp.asarray([[2.0, -2.0], [0.1, -0.1], [0.0, 0.0]])
    p = jax.nn.softmax(z)
    label = jax.nn.one_hot(jnp.array([1, 1, 0]), 2)
    target, keep = Sure(above=0.9, tau=0.5).apply(p, z, label, None)
    np.testing.assert_array_equal(target, jnp.stack([p[0], label[1], label[2]]))
    assert keep is None
    source = Averaged(network=SMALL, period=64)
    one, other = SMALL.init(jax.random.key(0)), SMALL.init(jax.random.key(1))
    x = rows(SMALL, jax.random.key(2))
    out = source.outputs((one, other), None, x, None, Identity(), SMALL)
    a, b = (SMALL.apply(v, x).logits for v in (one, other))
    agree = np.asarray(a.argmax(-1) == b.argmax(-1))
    np.testing.assert_array_equal(out, np.where(agree[:, None], a, 0))
    assert 0 < agree.sum() < 7


def test_an_adapter_starts_as_its_base(key: Any) -> None:
    source, x = Adapter(network=SMALL), rows(SMALL, key)
    own = source.init(key, SMALL)
    frozen = Answers(jax.random.normal(key, (7, 2)))
    z = source.outputs(own, None, x, frozen, Identity(), SMALL)
    np.testing.assert_array_equal(z, frozen.logits)
    label = jax.nn.one_hot(jnp.arange(7) % 2, 2)
    alone = replace(source, kappa=0.0).own_loss(z, label, lambda: 2 * z)
    ce = -jnp.sum(label * jax.nn.log_softmax(z), -1)
    np.testing.assert_allclose(alone, ce, rtol=1e-6)
    assert (source.own_loss(z, label, lambda: 2 * z) > ce).all()


# ------------------------------------------------------------------ battery

SHARED = Expand(network=SMALL, r=4, noise=0.1)
EVERY = {
    "fixed": Strategy(name="m", source=Fixed(step=128)),
    "snapshots": Strategy(name="m", source=Snapshots(last=3, every=64)),
    "ensemble": Strategy(name="m", source=Ensemble(n=2)),
    "bayes": Strategy(name="m", source=Bayes(task=Parity(d=10, k=3))),
    "online": Strategy(name="m", source=Online(network=WIDE)),
    "adapter": Strategy(name="m", source=Adapter(network=SMALL)),
    "averaged": Strategy(
        name="m",
        source=Averaged(network=SMALL, period=64),
        target=Target(transforms=(Sure(),)),
    ),
    "gap": Strategy(
        name="m",
        source=Dynamic(),
        view=SHARED,
        target=Target(transforms=(Flatten(share=0.1),)),
        loss=Sum(losses=(Loss(alpha=1.0), Loss()), weights=(1.0, 3.0)),
    ),
    "branches": Strategy(
        name="m", source=Dynamic(), view=Branched(network=SMALL, r=2, branches=2)
    ),
    "meta": Strategy(
        name="m", source=Tuned(), view=Beside(network=WIDE), update=MetaDistil(quiz=4)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_teacher_passes_the_battery(name: str) -> None:
    battery(EVERY[name])


def test_final_is_the_last_snapshot_alone() -> None:
    assert Final().members_at(7, LANE) == Snapshots(last=1, every=1).members_at(7, LANE)
