r"""Every local device takes its share of a group's seeds.

Seeds do not talk to each other, so a program for S seeds on D devices is D copies of
the program for S / D seeds, each on its own part of every array with a leading seed
axis. The largest number of local devices that divides S is used; numbers differ from
those of one device by rounding at most, as they do between groups of different size.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "seeds"


def n_sharing(n_seeds: int, n_devices: int) -> int:
    """The most devices, up to `n_devices`, that divide the seeds evenly."""
    return max(n for n in range(1, n_devices + 1) if n_seeds % n == 0)


def seed_mesh(n_seeds: int) -> Mesh | None:
    """Local devices that share the seeds evenly; None where one does it all."""
    devices = jax.local_devices()
    n = n_sharing(n_seeds, len(devices))
    return Mesh(np.asarray(devices[:n]), (AXIS,)) if n > 1 else None


def place(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays with a leading seed axis, each part on its device."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def over_devices(
    fn: Callable[..., Any], mesh: Mesh, split: tuple[bool, ...], donate: bool = False
) -> Callable[..., Any]:
    """`fn` with each device on its own seeds; compiled.

    Args:
      fn: from arguments of S / D seeds to results of S / D seeds.
      mesh: of `seed_mesh`.
      split: which arguments have a leading seed axis; the others go to all devices.
      donate: whether the first argument may be overwritten.
    """
    specs = tuple(PartitionSpec(AXIS) if s else PartitionSpec() for s in split)
    mapped = jax.shard_map(
        fn,
        mesh=mesh,
        in_specs=specs,
        out_specs=PartitionSpec(AXIS),
        check_vma=False,  # nothing is exchanged that could be checked
    )
    return jax.jit(mapped, donate_argnums=0 if donate else ())
