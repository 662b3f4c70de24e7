"""How long a run will take here, measured on the program that will run."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sandbox.train.engine import Engine
from sandbox.train.lanes import most_active, teacher_places
from sandbox.train.spec import RunSpec
from sandbox.train.teaching import Members, init_key


def seconds_per_sample(spec: RunSpec, *, seconds: float = 2.0) -> float:
    """Wall seconds that one sample of every lane takes, compilation excluded.

    Trains a throw-away state for about `seconds` with as many distinct teacher
    checkpoints as strategies could need at once; nothing is stored.

    Args:
      spec: the record of the run.
      seconds: how long to measure.
    """
    engine = Engine(spec)
    state = engine.init()
    k, teacher = most_active(spec.strategies), None
    if spec.teacher is not None and k:
        keys = jnp.stack([init_key(s, "teacher") for s in spec.seeds])
        one = jax.vmap(spec.teacher.spec.model.init)(keys)
        teacher = jax.tree.map(lambda p: jnp.repeat(p[:, None], k, 1), one)
    places = np.maximum(teacher_places(spec.strategies), 0)
    index: Any = np.tile(places, (spec.n_seeds, 1))
    m = max(s.source.n_members for s in spec.strategies)
    if m > 1:
        index = np.tile(np.arange(m, dtype=np.int32), (*index.shape, 1))
        index = Members(index, np.full(index.shape, 1 / m, spec.dtype))
    state = jax.block_until_ready(engine.run(state, 0, 1, teacher, index))
    done, begin = 0, time.monotonic()
    while done == 0 or time.monotonic() - begin < seconds:
        state = jax.block_until_ready(engine.run(state, 0, 1, teacher, index))
        done += 1
    return (time.monotonic() - begin) / (done * spec.segment)
