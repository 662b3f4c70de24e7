r"""Every local device takes its share of a group's seeds.

Seeds do not talk to each other, so a program for S seeds on D devices is D copies of
the program for S / D seeds, each on its own part of every array with a leading seed
axis. The largest number of local devices that divides S is used; numbers differ from
those of one device by rounding at most, as they do between groups of different size.

One seed of one large model is shared by all devices, those of other processes included
(`Shards`): of a two-layer network every device holds some hidden units, of sequences it
computes some rows of each micro-batch. XLA divides the program by where its arrays are.
Every process runs the same calls then; what a single one decides, by a clock or a
signal, is the first one's (`agreed`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sandbox.errors import SandboxError
from sandbox.models.mlp import MLP
from sandbox.tasks.base import is_sequence_task
from sandbox.train.buckets import micro_size
from sandbox.train.signals import HEARTBEAT, say_once
from sandbox.train.spec import RunSpec

AXIS, PARTS = "seeds", "parts"
UNITS, ROWS = 4096, 8
"""Least hidden units, and sequences of a micro-batch, of a device of several."""


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


@dataclass(frozen=True)
class Shards:
    """The devices that share one model.

    Attributes:
      mesh: all of them, in a row.
      width: hidden units that they share; 0 where they share rows of micro-batches.
    """

    mesh: Mesh
    width: int = 0

    @classmethod
    def of(cls, spec: RunSpec) -> "Shards | None":
        """Devices that share the model of a run; None where one device computes it.

        Several processes share it among all their devices or not at all: then the first
        one computes it, and says so where the model would be large enough.
        """
        model, whole, least = spec.model, 0, UNITS
        if is_sequence_task(spec.task):
            whole, least = micro_size(spec.batch_size, spec.micro), ROWS
        elif isinstance(model, MLP) and model.two_layer_relu:
            whole = model.hidden[0]
        devices, size = jax.devices(), 1
        for n in range(1, min(len(devices), whole // least) + 1):
            size = n if whole % n == 0 else size
        processes, why = jax.process_count(), ""
        if spec.shape != (1, 1):
            why = f"it is padded to {spec.shape[0]} seeds and {spec.shape[1]} lanes"
        elif size < len(devices):
            why = f"{whole} hidden units or sequences, at least {least} each"
        if processes > 1 and why:
            say_once(
                f"{spec.kind}: {len(devices)} devices of {processes} processes cannot"
                f" share it ({why}); one process computes alone."
            )
        if size == 1 or (why and (processes > 1 or spec.shape != (1, 1))):
            return None
        width = 0 if is_sequence_task(spec.task) else whole
        return cls(Mesh(np.asarray(devices[:size]), (PARTS,)), width)

    def sharding(self, shape: tuple[int, ...]) -> NamedSharding:
        """Where an array lies: parted along its last axis of hidden units, or whole."""
        axes: list[str | None] = [None] * len(shape)
        units = [i for i, n in enumerate(shape) if n == self.width]
        if self.width and units:
            axes[units[-1]] = PARTS
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def place(self, tree: Any) -> Any:
        """Arrays that every process has whole, each part on its device."""
        return jax.tree.map(self._put, tree)

    def _put(self, a: Any) -> Any:
        if jax.process_count() == 1:
            return jax.device_put(a, self.sharding(a.shape))
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(self._put(jax.random.key_data(a)))
        host = to_host(a)
        return jax.make_array_from_callback(
            a.shape, self.sharding(a.shape), lambda part: host[part]
        )

    def keep(self, tree: Any) -> Any:
        """The same of results, where they are traced."""

        def kept(a: Any) -> Any:
            return jax.lax.with_sharding_constraint(a, self.sharding(a.shape))

        return jax.tree.map(kept, tree)

    def rows(self, tree: Any) -> Any:
        """Sorted micro-batches `(G, micro, ...)`, every device with rows of each."""
        by_row = NamedSharding(self.mesh, PartitionSpec(None, PARTS))
        return jax.lax.with_sharding_constraint(tree, by_row)


def to_host(tree: Any) -> Any:
    """Arrays of this process, or of all, whole as numpy arrays."""

    def whole(a: Any) -> np.ndarray:
        if isinstance(a, jax.Array) and not (
            a.is_fully_addressable or a.is_fully_replicated
        ):
            return multihost_utils.process_allgather(a, tiled=True)
        return np.asarray(a)

    return jax.tree.map(whole, tree)


def join(address: str, i: int, n: int, *, heartbeat: int = HEARTBEAT) -> None:
    """Makes this process number i of n that compute together; before jax is used.

    Args:
      address: host and port at which the first one is found by the others.
      i: this process.
      n: of how many.
      heartbeat: seconds without a word from another process after which this one ends.

    Raises:
      SandboxError: jax counts others, as it does where it was in use before.
    """
    here = address if i == 0 and address.startswith("127.") else None
    jax.distributed.initialize(
        address,
        n,
        i,
        cluster_detection_method="deactivate",  # Slurm's takes one GPU a process
        heartbeat_timeout_seconds=heartbeat,
        coordinator_bind_address=here,
    )
    found = jax.process_count(), jax.process_index()
    if found != (n, i):
        raise SandboxError(f"this is process {i} of {n}, but jax says {found}.")


def agreed(value: int) -> int:
    """The first process's number, for all that compute together."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))
