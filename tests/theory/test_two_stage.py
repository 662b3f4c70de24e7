"""The two-stage setting: its steps against autodiff, and what counts as needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.tasks.parity import Parity
from sandbox.theory import two_stage
from sandbox.theory.two_stage import TwoStage, make_students, sweep


def students(d, k, *, teachers, seeds=2):
    pairs = 8 if teachers else 0
    return make_students(Parity(d=d, k=k), range(seeds), pairs=5, teacher_pairs=pairs)


def collect(made, sizes):
    return dict(sweep(made, sizes, np.ones(len(made.w), bool)))


@pytest.mark.parametrize("teachers", [False, True])
def test_batch_gradients_are_those_of_the_hinge_loss(teachers):
    """Autodiff of max(0, 1 - target f) of the explicit mirrored network at f = 0."""
    made = students(9, 4, teachers=teachers)
    sizes = [48, 8192]
    seen = collect(made, sizes)
    assert list(seen) == sizes
    sample = jax.jit(lambda k: made.task.sample(k, 0, sizes[-1], split="distill"))
    for s in range(2):
        rows = sample(made.keys[s])
        x, y = np.asarray(rows.x), 1.0 - 2.0 * np.asarray(rows.y)
        target = made.teachers[s](x) if teachers else y
        w, bias = made.w[s], made.bias[s][None]

        def loss(up, size, x=x, target=target, w=w, bias=bias):
            """The first neuron of every pair has second-layer weight +1."""
            up = jax.nn.relu(x[:size] @ up.T + bias)
            down = jax.nn.relu(x[:size] @ w.T + bias)
            f = (up - down).sum(1)
            return jnp.maximum(0, 1 - target[:size] * f).mean()

        step = jax.jit(jax.grad(loss), static_argnums=1)
        for size in sizes:
            wanted = -step(jnp.asarray(w, jnp.float32), size)
            np.testing.assert_allclose(seen[size][s], wanted, atol=2e-6)


def test_seeds_that_are_done_stand_still():
    made = students(7, 2, teachers=False)
    seen, alive = [], np.ones(2, bool)
    for size, gradient in sweep(made, [4096, 8192, 12288], alive):
        seen.append(gradient * size)
        alive[0] = size < 8192
    np.testing.assert_array_equal(seen[1][0], seen[2][0])
    assert np.abs(seen[2][1] - seen[1][1]).max() > 0


def test_who_teaches_moves_neither_student_nor_stream():
    a, b = (students(9, 2, teachers=t) for t in (False, True))
    np.testing.assert_array_equal(a.w, b.w)
    np.testing.assert_array_equal(a.bias, b.bias)
    assert (jax.random.key_data(a.keys) == jax.random.key_data(b.keys)).all()
    fresh = jax.random.key_data(a.afresh().keys)
    assert (fresh != jax.random.key_data(a.keys)).any(1).all()


def test_the_second_stage_reads_the_support_and_nothing_else():
    made = make_students(Parity(d=33, k=2), range(2), pairs=32, teacher_pairs=0)
    exact, _ = two_stage.population(made)
    assert two_stage.second_stage(made, 0, exact[0]) > 0.99
    wrong = np.roll(exact[0], 7, axis=1)
    assert abs(two_stage.second_stage(made, 0, wrong) - 0.5) < 0.05


def test_batch_sizes_grow_by_about_sqrt_two():
    sizes = two_stage.batch_sizes(300_000)
    assert sizes[0] == 16 and sizes[-1] <= 300_000
    assert all(s % (16 if s < 4096 else 4096) == 0 for s in sizes)
    ratios = np.diff(np.log2([s for s in sizes if s >= 32]))
    assert ratios.max() <= 1.001 and abs(np.mean(ratios) - 0.5) < 0.05


def test_a_batch_counts_if_every_later_one_agrees(monkeypatch):
    """Criteria that flicker: luck at the start is taken back, the last size is not."""
    holds = [[1, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]]

    def fake(_, sizes, alive):
        for size, row in zip(sizes, holds, strict=True):
            on = np.asarray(row, float)[:, None, None]
            on = np.where(alive[:, None, None], on, 0)
            yield size, np.where(np.arange(4) < 2, on, 1 - on) * np.ones((3, 1, 4))

    monkeypatch.setattr(two_stage, "sweep", fake)
    made = students(4, 2, teachers=False, seeds=3)
    can, criteria = np.asarray([True, True, False]), ("support", "aligned")
    sizes = [16, 32, 48, 64, 96]
    batch, share = two_stage.needed_batches(made, sizes, criteria, can)
    assert batch["aligned"].tolist() == [16, 48, np.inf]
    assert batch["support"][:2].tolist() == [16, 48] and np.isnan(batch["support"][2])
    assert share[1, :4].tolist() == [0, 0, 1, 1] and np.isnan(share[1, 4])
    # The same luck with another criterion open: it is taken back.
    holds[0], holds[1] = [1, 0, 0], [0, 0, 1]
    batch, _ = two_stage.needed_batches(made, sizes, criteria, can)
    assert batch["aligned"].tolist() == [64, 48, np.inf]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_k2": (16,)}, "d_k2 must hold odd dimensions above 2 k = 4"),
        ({"d_k4": (7,)}, "d_k4 must hold odd dimensions above 2 k = 8"),
        ({"d_k4": (17, 11)}, "d_k4 must hold 0 or more entries that increase"),
        ({"checkpoint_d": (64,)}, "checkpoint_d must hold odd"),
        ({"accuracy_k": (6,)}, "accuracy_k must name k that have dimensions"),
        ({"label_seeds": 1}, "label_seeds must be at least 2"),
        ({"student_pairs": 0}, "student_pairs must be at least 1"),
        ({"checkpoint_cap": 16}, "checkpoint_cap must be at least 64"),
        ({"control_k": 4}, "control_k and control_d must be odd"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        TwoStage(**change)
