"""The recurrence of a block in a Triton kernel, interpreted."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.strategy import Strategy
from sandbox.models.mlp import MLP
from sandbox.platforms import PLATFORMS
from sandbox.tasks.parity import Parity
from sandbox.train import online_kernel
from sandbox.train.engine import Engine
from sandbox.train.online_kernel import Block, fits, recurrence
from sandbox.train.spec import RunSpec, Stop
from sandbox.types import Array


@pytest.mark.parametrize(("lanes", "m", "size"), [(1, 37, 32), (3, 20, 24)])
def test_ten_thousand_steps_as_in_float64(lanes: int, m: int, size: int) -> None:
    """Plain SGD, sample by sample, written with numpy alone.

    The recurrence of every block from there to 1e-6. Left to itself for all steps, it
    differs by what 10,000 roundings of float32 parameters come to.
    """
    rng = np.random.default_rng(m)
    d, steps, eta = 12, 10_032, 0.02
    x = np.concatenate([rng.choice([-1.0, 1.0], (steps, d)), np.ones((steps, 1))], 1)
    y = (x[:, 0] * x[:, 1] > 0)[:, None] * np.linspace(0.6, 1, lanes)
    w = rng.normal(0, 0.3, (d + 1, lanes, m))
    u, c = rng.normal(0, 0.3, (lanes, m)), rng.normal(0, 0.3, lanes)
    highest = partial(jnp.dot, precision="highest")

    @jax.jit
    def block(w: Array, u: Array, c: Array, x: Array, y: Array) -> tuple[Array, ...]:
        rate = jnp.full(y.shape, eta, jnp.float32)
        done = recurrence(highest(x, w), highest(x, x.T), u, c, y, rate)
        return w - highest(x.T, done[0]), *done[1:]

    def f32(*arrays: np.ndarray) -> list[Array]:
        return [jnp.asarray(a, jnp.float32) for a in arrays]

    def error(got: Array, want: np.ndarray) -> float:
        want = want.reshape(got.shape)
        return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())

    alone = f32(w.reshape(d + 1, -1), u, c)
    for lo in range(0, steps, size):
        rows = x[lo : lo + size], y[lo : lo + size]
        found = block(*f32(w.reshape(d + 1, -1), u, c, *rows))
        alone = block(*alone, *f32(*rows))[:3]
        margins = []
        for x_t, y_t in zip(*rows, strict=True):
            h = np.einsum("d,dlm->lm", x_t, w)
            a = np.maximum(h, 0)
            margins.append((u * a).sum(1) + c)
            dz = eta * (1 / (1 + np.exp(-margins[-1])) - y_t)
            w = w - np.einsum("d,lm->dlm", x_t, np.where(h > 0, dz[:, None] * u, 0))
            u, c = u - 2 * dz[:, None] * a, c - 2 * dz
        expected = (w, u, c, np.stack(margins))
        assert max(map(error, found, expected)) < 1e-6, lo
    assert max(map(error, alone, expected)) < 5e-5


def test_waiting_for_parts_that_never_come_ends_in_nan() -> None:
    """Interpreted programs run one after the other, so the first waits in vain."""
    block = Block(size=4, m=8, width=4, parts=2, spins=3)
    args = (jnp.ones((4, 8)), jnp.eye(4), jnp.ones((1, 8)), jnp.zeros(1))
    rates = jnp.ones((4, 1)), jnp.full((4, 1), 0.1)
    margins = recurrence(*args, *rates, block)[3]
    assert np.isnan(margins).all()


def test_what_fits() -> None:
    assert fits(64, 50_000, 1) and not fits(64, 50_000, 2)
    assert fits(64, 1000, 10**6) and not fits(128, 10, 1)
    assert Block.of(64, 50_000) == Block(64, 50_000, 512, 98, online_kernel.SPINS)


def spec(**changes: object) -> RunSpec:
    return RunSpec(
        kind="teacher",
        task=Parity(d=10, k=3),
        model=MLP(d=10, hidden=(24,)),
        strategies=(Strategy(name="teacher"),),
        n_seeds=2,
        stop=Stop(max_samples=2048),
        eval_every=1024,
        **changes,
    )


def test_the_engine_trains_in_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds at once, against the engine without kernels."""
    cpu = PLATFORMS["cpu"]
    end = []
    for engine in ("online_sgd", "online_triton"):
        with monkeypatch.context() as m:
            used = []
            real = online_kernel.recurrence

            def counted(*args: Array, used: list = used, real=real) -> object:
                used.append(1)
                with monkeypatch.context() as inner:  # interpreted, not compiled
                    inner.setitem(PLATFORMS, "cpu", cpu)
                    return real(*args)

            m.setitem(PLATFORMS, "cpu", cpu._replace(triton=True))
            m.setattr(online_kernel, "recurrence", counted)
            made = Engine(spec(engine=engine))
            index = np.zeros((2, 1), np.int32)
            n = 2048 // made.plan.segment
            end.append(made.params(made.run(made.init(), 0, n, None, index)))
            assert bool(used) == (engine == "online_triton")
    for a, b in zip(*map(jax.tree.leaves, end), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
