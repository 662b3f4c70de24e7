"""How long a run will take here, measured on the program that will run."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from sandbox.train.engine import Engine
from sandbox.train.lanes import teacher_places
from sandbox.train.spec import RunSpec
from sandbox.train.teaching import init_key


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
    places = teacher_places(spec.strategies)
    k, teacher = max(places) + 1, None
    if spec.teacher is not None and k:
        keys = jnp.stack([init_key(s, "teacher") for s in spec.seeds])
        one = jax.vmap(spec.teacher.spec.model.init)(keys)
        teacher = jax.tree.map(lambda p: jnp.repeat(p[:, None], k, 1), one)
    index = np.tile(np.maximum(places, 0), (spec.n_seeds, 1))
    state = jax.block_until_ready(engine.run(state, 0, 1, teacher, index))
    done, begin = 0, time.monotonic()
    while done == 0 or time.monotonic() - begin < seconds:
        state = jax.block_until_ready(engine.run(state, 0, 1, teacher, index))
        done += 1
    return (time.monotonic() - begin) / (done * spec.segment)
