"""What a run will take, told or refused before anything of it exists.

    preflight(spec, folder)    # one line, a refusal, or silence

Memory is estimated from shapes alone (nothing is allocated or compiled): the state, the
teacher's checkpoints that are kept and stacked, and the largest of what training, one
evaluation and one save need beside them. It is an estimate of how far the process will
grow, good to a factor of about two, and is compared with the least of what the process
limit, the cgroup and the machine leave.
"""

import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sandbox.errors import ConfigError, StoreError
from sandbox.store.folders import RunFolder
from sandbox.tasks.base import is_sequence_task
from sandbox.train.buckets import micro_size
from sandbox.train.engine import Engine
from sandbox.train.forward import ROWS
from sandbox.train.lanes import CACHE as KEPT
from sandbox.train.lanes import most_active
from sandbox.train.progress import seeds_text
from sandbox.train.signals import say
from sandbox.train.spec import RunSpec
from sandbox.train.teaching import init_key, task_key

OVERHEAD = 300_000_000
"""What starting jax, compiling and the libraries of a first run take at any size."""
TOLD = 1_000_000_000
"""Bytes of checkpoints from which a run says beforehand what it will write."""
COUNTED = 100_000_000
"""Bytes from which free disk is asked; below, free space moves as much by itself."""

_BLOCK_COPIES = 4  # of T x m in the blocked engine: products, gradients, their joining
_STEP_COPIES = 2  # of the state in the generic engine: gradients and the new state
_BACKWARD_COPIES = 3  # of every matrix product of a batch: value, cotangent, gradient
_AGAIN_COPIES = 6  # of the largest that is computed again: attention's N x N scores
_SAVE_COPIES = 3  # of what is written: on the host, serialised, joined
_STACK_COPIES = 2  # of the stacked teachers on the host: rows, and all of them
_COLUMNS, _ARRAY = 10, 200  # recorded columns, and the bytes of a small numpy array


@dataclass(frozen=True)
class Memory:
    """Bytes that a run takes at its peak, by what takes them.

    `training`, `evaluation` and `saving` follow one another, so the largest counts.

    Attributes:
      params: the deployed parameters of every seed and lane: one checkpoint.
      state: the engine's native state of every seed and lane.
      taught: teacher checkpoints stacked for the active lanes, on the device.
      training: temporaries of a chunk.
      evaluation: temporaries of one forward pass, and the deployed parameters.
      cached: teacher checkpoints kept on the host, and their stacking there.
      records: the metrics so far.
      saving: one checkpoint or one resume file being written.
    """

    params: int
    state: int
    taught: int
    training: int
    evaluation: int
    cached: int
    records: int
    saving: int

    @property
    def device(self) -> int:
        """At once on the device."""
        return self.state + max(self.training + self.taught, self.evaluation)

    @property
    def host(self) -> int:
        """At once on the host, where that is not the device."""
        return OVERHEAD + self.cached + self.records + self.saving

    @property
    def total(self) -> int:
        """At once where host and device share their memory."""
        fixed = OVERHEAD + self.state + self.cached + self.records
        return fixed + max(self.training + self.taught, self.evaluation, self.saving)


def peak_memory(spec: RunSpec) -> Memory:
    """Estimates the memory of a run from its shapes."""
    engine = Engine(spec)
    state = jax.eval_shape(engine.begin)
    params = _bytes(jax.eval_shape(engine.params, state))
    lane = params // (spec.n_seeds * len(spec.strategies))
    one, stacked, n_stored = _teacher(spec)
    rows = spec.stop.largest // spec.eval_every + 1 + len(spec.checkpoints_at)
    numbers = spec.n_seeds * len(spec.strategies) * 8
    return Memory(
        params=params,
        state=_bytes(state),
        taught=stacked,
        training=_training(spec, _bytes(state)),
        evaluation=params + lane + _forward(spec, spec.model, spec.eval_points)[0],
        cached=n_stored * spec.n_seeds * one + _STACK_COPIES * stacked,
        records=rows * _COLUMNS * (numbers + _ARRAY),
        saving=params + _SAVE_COPIES * max(params, _bytes(state)),
    )


def _teacher(spec: RunSpec) -> tuple[int, int, int]:
    """Bytes of one teacher, of all active at once, and how many steps are kept."""
    taught = [s.source for s in spec.strategies if s.source.reads]
    if spec.teacher is None or not taught:
        return 0, 0, 0
    lanes = [spec.teacher.lane(i) for i in range(spec.n_seeds)]
    asked = [[set(s.checkpoints(a)) for s in taught] for a in lanes if a is not None]
    key = jax.random.key(0)
    one = _bytes(jax.eval_shape(spec.teacher.spec.model.init, key))
    n_active = most_active(spec.strategies)
    n_stored = min(KEPT, len(set().union(*[step for a in asked for step in a])))
    return one, spec.shape[0] * n_active * one, n_stored


def _training(spec: RunSpec, state: int) -> int:
    """Temporaries of a chunk of the engine in use, and of the teacher's pass."""
    seeds, lanes = spec.shape
    copies = max(s.loss.copies for s in spec.strategies)
    taught = 0
    if spec.teacher is not None:
        model = spec.teacher.spec.model
        one = _bytes(jax.eval_shape(model.init, jax.random.key(0)))
        taught = seeds * (one + _forward(spec, model, (1 + copies) * spec.segment)[0])
    rows = seeds * 2 * _bytes(_inputs(spec, spec.segment))
    if spec.engine_used != "generic":
        width = getattr(spec.model, "hidden", (0,))[0]
        item = np.dtype(spec.dtype).itemsize
        work = _BLOCK_COPIES * seeds * spec.block * lanes * width * item
    else:
        at_once = seeds * lanes
        size = spec.batch_size
        if is_sequence_task(spec.task):  # lanes in turn, a micro-batch at a time
            at_once, size = 1, micro_size(size, spec.micro)
        _, kept, again = _forward(spec, spec.model, (1 + copies) * size)
        batch = _BACKWARD_COPIES * kept + _AGAIN_COPIES * again
        work = _STEP_COPIES * state + at_once * batch
    return rows + max(taught, work)  # a segment is taught before it is trained on


def _inputs(spec: RunSpec, n: int) -> Any:
    """Shapes of n rows of the task."""

    def sample(key: Any) -> Any:
        return spec.task.sample(key, np.uint32(0), n, split=spec.split)

    return jax.eval_shape(sample, task_key(spec.first_seed))


def _forward(spec: RunSpec, model: Any, n: int) -> tuple[int, int, int]:
    """Bytes of a forward pass of n rows.

    Matrix products are buffers of their own; what follows them elementwise is fused.

    Returns:
      What it holds at once, what a gradient keeps, and the largest product that the
      gradient computes again.
    """
    if is_sequence_task(spec.task):
        n = min(n, max(ROWS, micro_size(spec.batch_size, spec.micro)))
    x = _inputs(spec, n).x
    params = jax.eval_shape(model.init, init_key(spec.first_seed, spec.kind))
    traced = jax.make_jaxpr(lambda p, v: model.apply(p, v).logits)(params, x)
    found = list(_results(traced.jaxpr, 1))
    products = sorted(size for name, size, _ in found if name == "dot_general")
    at_once = max([sum(products[-2:]), *(size for _, size, _ in found)])
    kept = sum(s * n for name, s, n in found if name == "dot_general") or at_once
    again = max([s for name, s, n in found if name == "dot_general" and not n] or [0])
    return at_once + _bytes(x), kept + _bytes(x), again


def _results(jaxpr: Any, times: int) -> Iterator[tuple[str, int, int]]:
    """Primitive, bytes and repetitions of everything that a program computes.

    What has a gradient of its own (attention) keeps its results, counted as one
    product, and computes again what is inside, which is repeated 0 times here.
    """
    for eqn in jaxpr.eqns:
        parts = [p for v in eqn.params.values() for p in _programs(v)]
        again = eqn.primitive.name == "custom_vjp_call"
        for part in parts:
            yield from _results(part, times * eqn.params.get("length", 1) * (not again))
        if again:
            yield "dot_general", _bytes([v.aval for v in eqn.outvars]), times
        if not parts or eqn.primitive.name in ("scan", "while"):
            size = _bytes([v.aval for v in eqn.outvars])
            yield eqn.primitive.name, size, times


def _programs(value: Any) -> list[Any]:
    values = value if isinstance(value, tuple | list) else [value]
    found = [getattr(v, "jaxpr", v) for v in values]
    return [v for v in found if hasattr(v, "eqns")]


def _bytes(tree: Any) -> int:
    leaves = [v for v in jax.tree.leaves(tree) if hasattr(v, "shape")]
    sizes = (prod(v.shape) * getattr(v.dtype, "itemsize", 4) for v in leaves)
    return int(sum(sizes))


# ------------------------------------------------------------------ what there is


def available_memory() -> tuple[int, str] | None:
    """Bytes this process may still take and what says so; None where nothing does."""
    return min(_limits(), default=None)


def _limits() -> Iterator[tuple[int, str]]:
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        yield max(soft - _status("VmSize", "/proc/self/status"), 0), "RLIMIT_AS"
    free = _status("MemAvailable", "/proc/meminfo")
    if free:
        yield free, "MemAvailable"
    yield from _cgroup()


def _status(name: str, file: str) -> int:
    """One `name: 12 kB` line in bytes; 0 where there is none."""
    for line in _text(Path(file)).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _cgroup(base: Path = Path("/sys/fs/cgroup")) -> Iterator[tuple[int, str]]:
    """What each cgroup of this process leaves, page cache counted as free."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = base / controllers
        limit, used = ("memory.max", "memory.current")
        if controllers:
            limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        folder = top / name.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(top):
                break
            most, now = _text(place / limit).strip(), _text(place / used).strip()
            if most.isdigit() and now.isdigit() and int(most) < 2**60:
                cache = 0
                for entry in _text(place / "memory.stat").splitlines():
                    if entry.startswith("inactive_file "):
                        cache = int(entry.split()[1])
                yield max(int(most) - int(now) + cache, 0), "cgroup limit"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _device_memory() -> int | None:
    """Bytes that jax may still take on its first device; None where it shares ours."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)


# ------------------------------------------------------------------ the refusal


def preflight(spec: RunSpec, folder: RunFolder) -> None:
    """Refuses a run that would not fit, and says what a large one will write.

    Args:
      spec: the record.
      folder: where its run will be; nothing is written to it.

    Raises:
      ConfigError: the run needs more memory than there is.
      StoreError: its checkpoints need more disk than is free.
    """
    need = peak_memory(spec)
    on_device = _device_memory()
    if on_device is not None:
        _require_memory(spec, need, need.device, on_device, "device memory")
    found = available_memory()
    if found is not None:
        amount = need.total if on_device is None else need.host
        _require_memory(spec, need, amount, *found)
    _require_disk(spec, folder, need.params)


def _require_memory(
    spec: RunSpec, need: Memory, amount: int, available: int, why: str
) -> None:
    if amount <= available:
        return
    fields = []
    if spec.n_seeds > 1:
        fields.append("fewer seeds a group (n_seeds)")
    if len(spec.strategies) > 1:
        fields.append("fewer strategies")
    if need.evaluation > amount / 2:
        fields.append("fewer eval_points")
    if need.taught + need.cached > amount / 2:
        fields.append("a narrower teacher (teacher.spec.model)")
    fields.append("a smaller width (model)")
    raise ConfigError(
        f"the {spec.kind} run of {seeds_text(spec.seeds)} with {len(spec.strategies)}"
        f" strategies would take about {_gb(amount)} of memory, and {_gb(available)}"
        f" are available ({why}); use {' or '.join(fields)}."
    )


def most_checkpoints(spec: RunSpec) -> int:
    """How many checkpoints a run can store: it may stop earlier."""
    last, every = spec.stop.largest, spec.checkpoint_every
    regular = last // every + 1 + (last % every != 0) if every else 1
    return regular + len(spec.checkpoints_at)


def _require_disk(spec: RunSpec, folder: RunFolder, size: int) -> None:
    count = most_checkpoints(spec)
    stored = sum(
        p.stat().st_size for p in (folder.path / "ckpt").glob("step_*") if p.is_file()
    )
    missing = max(count * size - stored, 0)
    place = next(
        p for p in (folder.path, *folder.path.absolute().parents) if p.exists()
    )
    free = shutil.disk_usage(place).free
    if missing > max(free, COUNTED):
        raise StoreError(
            f"{folder.path} would take up to {_gb(missing)} more for checkpoints, and"
            f" {_gb(free)} are free there; free some, set SANDBOX_RUNS to a larger"
            " disk, or use a larger checkpoint_every."
        )
    if count * size > TOLD:
        say(
            f"{spec.kind} {folder.path.name[:6]}: up to {count:,} checkpoints of"
            f" {size / 1e6:,.1f} MB, {_gb(count * size)} in {folder.path}"
        )


def _gb(n: int) -> str:
    return f"{n / 1e9:,.1f} GB"
