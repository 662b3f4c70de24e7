"""Lanes from several initialisations of one seed."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from sandbox.distill.strategy import Strategy, replicas
from sandbox.models.mlp import MLP
from sandbox.tasks.parity import Parity
from sandbox.train.engine import Engine
from sandbox.train.run import identity
from sandbox.train.spec import RunSpec, Stop
from sandbox.train.teaching import init_key

CE = Strategy(name="ce")
SPEC = RunSpec(
    kind="student",
    task=Parity(d=8, k=2),
    model=MLP(d=8, hidden=(12,)),
    strategies=replicas((CE, replace(CE, name="again")), 3),
    stop=Stop(max_samples=640),
    eval_every=640,
    n_seeds=2,
    first_seed=4,
)


@pytest.mark.parametrize("engine", ["generic", "online_sgd"])
def test_each_lane_starts_where_its_number_says(engine):
    made = Engine(replace(SPEC, engine=engine))
    params = made.params(made.init())
    for s, seed in enumerate(SPEC.seeds):
        for lane, strategy in enumerate(SPEC.strategies):
            expected = SPEC.model.init(init_key(seed, "student", strategy.init))
            jax.tree.map(
                lambda p, e, s=s, lane=lane: np.testing.assert_allclose(
                    p[s, lane], e, rtol=0, atol=1e-7
                ),
                params,
                expected,
            )


def test_equal_numbers_stay_equal_and_different_ones_differ():
    made = Engine(SPEC)
    state = made.run(made.init(), 0, 640 // SPEC.segment, None, np.zeros((2, 6)))
    w = np.asarray(made.params(state)["layer_0"]["kernel"])
    for i in range(3):
        np.testing.assert_array_equal(w[:, 2 * i], w[:, 2 * i + 1])
    assert not np.allclose(w[:, 0], w[:, 2]) and not np.allclose(w[:, 2], w[:, 4])


def test_all_numbers_of_a_seed_have_their_own_key():
    keys = {
        tuple(jax.random.key_data(init_key(seed, kind, i)).tolist())
        for seed in range(4)
        for kind in ("teacher", "student")
        for i in range(4)
    }
    assert len(keys) == 4 * 2 * 4


def test_the_first_initialisation_changes_no_identity():
    plain = replace(SPEC, strategies=(CE,))
    assert identity(plain) == identity(replace(SPEC, strategies=replicas((CE,), 1)))
    assert identity(plain) != identity(replace(SPEC, strategies=(replace(CE, init=1),)))
