"""The host loop: between chunks it switches teachers, evaluates, stores and reports.

    run = fit(spec)   # trains, resumes, or just opens what is already there
    run.curves("ce")  # accuracies (S, R)

The jit boundary is a chunk of whole segments (`sandbox.train.engine`). Everything the
host does falls on absolute sample counts fixed by the record, so chunk length, progress
and interruptions cannot change a bit of the result.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import numpy as np

from sandbox.distill.cost import Cost
from sandbox.errors import ConfigError, StoreError
from sandbox.store.code import Code
from sandbox.store.config import digest
from sandbox.store.files import sha256, write_atomic, write_json
from sandbox.store.folders import RunFolder, default_root
from sandbox.store.metrics import FILE, Metrics, read_metrics
from sandbox.store.trajectories import Trajectory, checkpoint_name, save_checkpoint
from sandbox.tasks.base import check_target
from sandbox.train.arithmetic import pinned
from sandbox.train.devices import Shards, agreed, to_host
from sandbox.train.engine import Engine
from sandbox.train.lanes import LABELS, LanePlan, begin_from
from sandbox.train.preflight import preflight
from sandbox.train.progress import Progress, seeds_text
from sandbox.train.resumable import Arrays, Work, carry_out
from sandbox.train.run import Run, checkpoint_shapes, folder_of, identity
from sandbox.train.spec import RunSpec

CHUNK_SECONDS = 0.5


class Evaluation(NamedTuple):
    """What one evaluation of a run found.

    Attributes:
      samples: how many every lane has seen.
      metrics: name -> `(S, L)`, copies; NaN where a lane is absent or has failed.
      seeds: the run's seeds.
      lanes: names of its strategies.
    """

    samples: int
    metrics: dict[str, np.ndarray]
    seeds: tuple[int, ...]
    lanes: tuple[str, ...]

    @property
    def scalars(self) -> dict[str, float]:
        """Means over the seeds that have a result, as `accuracy/one_shot`."""
        columns = {
            f"{name}/{lane}": values[:, i][~np.isnan(values[:, i])]
            for name, values in self.metrics.items()
            for i, lane in enumerate(self.lanes)
        }
        return {name: float(v.mean()) for name, v in columns.items() if len(v)}


@dataclass
class LoopState:
    """All a run needs to go on.

    Attributes:
      engine: the engine's native state (trained tensors, optimizer, bookkeeping).
      t: samples every lane has seen.
      steps: evaluations so far.
      columns: what was recorded there, name -> list of `(S, L)`.
      checkpoints: name -> sha256 of every checkpoint stored so far.
    """

    engine: Any
    t: int = 0
    steps: list[int] = field(default_factory=list)
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)


def fit(
    spec: RunSpec,
    *,
    root: Path | str | None = None,
    progress: Progress | None = None,
    chunk_samples: int | None = None,
    on_eval: Callable[[Evaluation], object] | None = None,
) -> Run:
    """Trains the group of a record, or opens its run if that is already complete.

    `on_eval` is told every evaluation on the host, by the leading process alone; it is
    no part of the run's identity and cannot change a number. Any tracker is fed so:

        with tensorboardX.SummaryWriter("logs") as writer:
            def log(e: Evaluation) -> None:
                for name, value in e.scalars.items():
                    writer.add_scalar(name, value, e.samples)
            fit(spec, on_eval=log)

        with wandb.init(project="parity", mode="offline") as tracker:
            fit(spec, on_eval=lambda e: tracker.log(e.scalars, e.samples, commit=True))

    Every evaluation is told at least once: after a resume the last one before it, and
    what was evaluated after the last saved state, are told again. Of what it raises the
    run ends as of any error, its state saved; it goes on when it is called again. A
    finished run is only opened, and tells nothing: `Run.table` has it all.

    Args:
      spec: the record.
      root: where runs are stored; `$SANDBOX_RUNS` or `runs` by default.
      progress: who is told; a bar or plain lines by default.
      chunk_samples: upper bound on samples between host visits; by default about half a
        second's worth. It never changes the result.
      on_eval: called after each evaluation, that of the untrained network included.

    Returns:
      The finished run.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGUSR1 arrived; call again to go on.
      DivergenceError: every lane became non-finite.
      StoreError: the folder is held by another process, a file cannot be written, or a
        stored one was damaged.
      ConfigError: the run needs more memory than there is.
    """
    root = default_root() if root is None else Path(root)
    with pinned(x64=spec.dtype == "float64"):
        folder = folder_of(spec, root)
        if spec.imported:
            if not folder.complete:
                raise StoreError(
                    f"{folder.path} is not there: nothing trains imported checkpoints;"
                    " `sandbox import` them again."
                )
            return Run(folder, spec)
        if not folder.complete:
            for task in (spec.task, *spec.data.tasks):
                check_target(task)
            preflight(spec, folder)
        inputs = {}
        for ref in filter(None, (spec.teacher, spec.start)):
            other = folder_of(ref.spec, root)
            if other.complete:
                inputs[other.path.name] = other.trajectory_hash
        carry_out(
            folder,
            identity(spec),
            lambda: Training(spec, folder, root, chunk_samples, on_eval),
            kind=spec.kind,
            code=Code.of(Training, spec, inputs=inputs),
            progress=progress,
            together=Shards.of(spec) is not None,
        )
    return Run(folder, spec).raise_if_diverged()


class Training(Work):
    """The training of one group.

    Attributes:
      engine: what computes.
      plan: who teaches.
      state: how far it is.
    """

    unit = "samples"
    host = tuple(f"sandbox.train.{m}" for m in ("loop", "engine", "devices", "lanes"))

    def __init__(
        self,
        spec: RunSpec,
        folder: RunFolder,
        root: Path,
        chunk_samples: int | None,
        on_eval: Callable[[Evaluation], object] | None = None,
    ) -> None:
        """Initialises the lanes.

        Args:
          spec: the record.
          folder: where the run is stored.
          root: where its teacher is.
          chunk_samples: upper bound on samples of a piece.
          on_eval: who is told evaluations.
        """
        self.on_eval, self.told = on_eval, 0
        self.spec, self.folder, self.chunk_samples = spec, folder, chunk_samples
        self.title = f"{spec.kind} {folder.path.name[:6]}, {seeds_text(spec.seeds)}"
        self.total, self.rate = spec.stop.largest, 0.0
        self.engine = Engine(spec, begin_from(spec, root))
        trajectory = None
        if spec.teacher is not None:
            teacher = folder_of(spec.teacher.spec, root)
            trajectory = Trajectory(teacher)
            trajectory.expect(checkpoint_shapes(spec.teacher.spec))
        self.plan = LanePlan(spec, trajectory)
        self.plan.require_stored()
        self.absent = self.plan.absent
        quiz = [s.update.quiz_rows / spec.batch_size for s in spec.strategies]
        costs = np.asarray([s.cost for s in spec.strategies], float)
        costs[:, :2] += np.asarray(quiz)[:, None]  # of the student, there and back
        self.cost = Cost(*costs.T)
        self.state = LoopState(self.engine.init())

    def tell(self) -> None:
        """Hands on the evaluations that are new, after a resume the last one first."""
        state, names = self.state, tuple(s.name for s in self.spec.strategies)
        while self.on_eval is not None and self.told < len(state.steps):
            r = self.told
            found = {n: np.array(rows[r]) for n, rows in state.columns.items()}
            self.on_eval(Evaluation(state.steps[r], found, self.spec.seeds, names))
            self.told = r + 1

    @property
    def programs(self) -> str:
        """Of chunk, evaluation, what they start from, and who teaches when.

        Empty where scores decide who teaches, and after the beginning.
        """
        if self.spec.saturating or self.state.steps:
            return ""
        teacher, index = self.plan.teachers_at(0)
        engine, begin = self.engine, self.state.engine
        if engine.shards is not None:  # of which this process may have a part only
            begin = engine.begin()
        texts = engine.lowered(begin, teacher, index)
        data = jax.random.key_data(engine.keys)
        leaves = jax.tree.leaves((begin, data, engine.lanes, teacher, index))
        sums = [sha256(np.ascontiguousarray(leaf).tobytes()) for leaf in leaves]
        return digest([*map(digest, texts), *sums, *map(str, self.plan.switches())])

    def repeats(self) -> bool:
        """Whether two evaluations and checkpoints, and the end, come out as stored."""
        if self.engine.shards is not None and jax.process_count() > 1:
            raise StoreError(
                f"{self.folder.path} was made by other code; let one process look at it"
                " before several do."
            )
        if not self.folder.complete or not self._ends_as_stored():
            return False
        stored, files = read_metrics(self.folder), self.folder.manifest()
        with TemporaryDirectory() as other:
            self.folder = RunFolder(Path(other))
            self.folder.prepare()
            while len(self.state.steps) < 2 and self.step():
                pass
        rows, known = self.state.columns, stored.columns
        return (
            rows.keys() == known.keys()
            and all(
                np.array_equal(np.stack(found, -1), known[n][..., : len(found)], True)
                for n, found in rows.items()
            )
            and all(
                files.get(name, {}).get("sha256") == written
                for name, written in self.state.checkpoints.items()
            )
        )

    def _ends_as_stored(self) -> bool:
        """Whether the recorded accuracies end the run where it ended."""
        run = Run(self.folder, self.spec)
        if run.outcome["failed"]:
            return False
        steps, accuracy = run.metrics.steps, run.metrics.columns["accuracy"]
        begin = self.state
        ends = []
        for i, t in enumerate(steps.tolist()):
            columns = {"accuracy": [*np.moveaxis(accuracy, -1, 0)[: i + 1]]}
            seen = [int(s) for s in steps[: i + 1]]
            self.state = replace(begin, t=t, steps=seen, columns=columns)
            ends.append(self._done())
        self.state = begin
        return ends.index(True) == len(ends) - 1 if True in ends else False

    @property
    def stored(self) -> dict[str, str]:
        """Name -> sha256 of every checkpoint stored so far."""
        return self.state.checkpoints

    @property
    def at(self) -> int:
        """Samples every lane has seen."""
        return self.state.t

    def step(self) -> bool:
        """Trains a chunk, at first nothing, and does what falls on its end."""
        state = self.state
        if self._done():
            return False
        if state.steps:
            begin, t = time.monotonic(), state.t
            self._advance()
            self.rate = (state.t - t) / max(time.monotonic() - begin, 1e-9)
        self._visit()
        return True

    def _advance(self) -> None:
        """Trains up to the next border, or a chunk towards it."""
        spec, state, t = self.spec, self.state, self.state.t
        border = (t // spec.eval_every + 1) * spec.eval_every
        switch = self.plan.next_switch(t)
        others = (s for s in spec.checkpoints_at if s > t)
        border = min(border, next(others, border), border if switch is None else switch)
        if border <= t or (border - t) % spec.segment:
            raise self._off_border(t, border)
        limit = self.chunk_samples or max(self.rate * CHUNK_SECONDS, spec.segment)
        pieces = max(int(limit) // spec.segment, 1)
        n = min((border - t) // spec.segment, pieces)
        n = agreed(n) if self.engine.shards else n
        teacher, index = self.plan.teachers_at(t)
        state.engine = self.engine.run(state.engine, t, n, teacher, index)
        jax.block_until_ready(state.engine)
        state.t = t + n * spec.segment

    def _off_border(self, t: int, border: int) -> ConfigError:
        """The error for a switch that no whole number of segments leads to."""
        spec, plan = self.spec, self.plan
        who = ""
        for s, i in np.ndindex(plan.position.shape):
            lane = spec.teacher.lane(s) if spec.teacher is not None else None
            if lane is None:
                continue
            lane = lane._replace(
                switched_at=int(plan.switched_at[s, i]),
                position=int(plan.position[s, i]),
            )
            strategy = spec.strategies[i]
            if strategy.source.next_switch(t, lane) == border:
                who = f" of seed {spec.seeds[s]} / {strategy.name} ({strategy.source})"
                break
        return ConfigError(
            f"the teacher switch{who} at sample {border:,} is not a whole number of"
            f" segments of {spec.segment} samples after sample {t:,}; move it to a"
            " multiple of that."
        )

    def _visit(self) -> None:
        """What falls on this sample: evaluation, checkpoint, saturation."""
        spec, state = self.spec, self.state
        if not spec.evaluates(state.t) or state.t in state.steps[-1:]:
            return
        self._record()
        if spec.stores(state.t):
            self._store_checkpoint()
        if spec.saturating:
            accuracy = np.stack(state.columns["accuracy"], -1)
            self.plan.advance(state.t, np.asarray(state.steps), accuracy)

    def _store_checkpoint(self) -> None:
        state = self.state
        params = to_host(self.engine.params(state.engine))
        if jax.process_index() > 0:  # which only takes part in that
            return
        written = save_checkpoint(self.folder.path, state.t, params)
        state.checkpoints[checkpoint_name(state.t)] = written

    def _record(self) -> None:
        state = self.state
        train_loss, state.engine = self.engine.read_loss(state.engine)
        row = {**self.engine.evaluate(state.engine), "train_loss": train_loss}
        bad = self.engine.first_bad(state.engine)
        dead = (bad >= 0) | self.absent
        row = {k: np.where(dead, np.nan, v) for k, v in row.items()}
        seen = np.where(bad >= 0, bad, state.t)  # a failed lane learned no further
        seen = np.where(self.absent, 0, seen).astype(np.int64)
        for name, passes in self.cost._asdict().items():
            if name != "teacher_backward" or passes.any():
                row[name] = np.rint(seen * passes).astype(np.int64)
        row["teacher_step"] = self.plan.steps_at(max(state.t - 1, 0))
        state.steps.append(state.t)
        for name, value in row.items():
            state.columns.setdefault(name, []).append(np.asarray(value))

    def _done(self) -> bool:
        """Whether every seed is done (see `Stop`), or no lane lives."""
        stop, state = self.spec.stop, self.state
        if not state.steps or not self.spec.evaluates(state.t):
            return False  # only at evaluations, so that no chunk decides
        if state.t >= stop.largest:
            return True
        bad = self.engine.first_bad(state.engine)
        if (bad >= 0).any() and ((bad >= 0) | self.absent).all():
            return True
        if stop.accuracy is None:
            return False
        caps = stop.max_samples
        cap = np.asarray(caps if isinstance(caps, int) else caps.values, float)
        return bool((state.t >= np.minimum(cap, self._level_end(bad))).all())

    def _level_end(self, bad: np.ndarray) -> np.ndarray:
        """Where each seed ends by its level, as far as is known: `(S,)`, inf if not.

        A lane that fails is not waited for, unless its seed had given up before.
        """
        stop, state = self.spec.stop, self.state
        give_up = np.inf if stop.give_up is None else stop.give_up
        steps, acc = np.asarray(state.steps), np.stack(state.columns["accuracy"], -1)
        reached = acc >= stop.accuracy
        first = np.where(reached.any(-1), steps[reached.argmax(-1)], np.inf)
        out = self.absent | ((bad >= 0) & (bad < give_up))
        last = np.where(out, 0, first).max(1)  # (S,) last lane to get there
        return np.where(last <= give_up, stop.factor * last, give_up)

    @property
    def note(self) -> str:
        """Each lane's teacher and accuracy."""
        state = self.state
        if not state.steps:
            return ""
        acc = np.asarray(state.columns["accuracy"][-1])
        parts = []
        teachers = self.plan.steps_at(state.t)
        for i, s in enumerate(self.spec.strategies):
            lane = acc[:, i][~np.isnan(acc[:, i])]
            mean = f"{lane.mean():.2f}" if lane.size else "-"
            step = teachers[0, i]
            at = f"@{step:,}" if step > LABELS else ""
            parts.append(f"{s.name}{at} {mean}")
        return "  ".join(parts)

    def saved(self) -> tuple[Arrays, dict[str, Any]]:
        """The engine's native state and the metrics so far."""
        state = self.state
        leaves = jax.tree.leaves(to_host(state.engine))
        tensors = {f"state/{i}": v for i, v in enumerate(leaves)}
        tensors["steps"] = np.asarray(state.steps, np.int64)
        for name, rows in state.columns.items():
            tensors[f"column/{name}"] = np.asarray(rows)
        tensors["lanes/position"] = self.plan.position
        tensors["lanes/switched_at"] = self.plan.switched_at
        meta = {
            "t": state.t,
            "columns": list(state.columns),
            "checkpoints": state.checkpoints,
        }
        return tensors, meta

    def restore(self, tensors: Arrays, meta: dict[str, Any]) -> bool:
        """Takes up a saved state, unless its tensors are not those of this engine."""
        leaves, treedef = jax.tree.flatten(self.state.engine)
        if not self._fits(tensors, meta, leaves):
            return False
        saved = [jax.numpy.asarray(tensors[f"state/{i}"]) for i in range(len(leaves))]
        self.plan.position = tensors["lanes/position"]
        self.plan.switched_at = tensors["lanes/switched_at"]
        self.state = LoopState(
            engine=self.engine.place(jax.tree.unflatten(treedef, saved)),
            t=meta["t"],
            steps=[int(s) for s in tensors["steps"]],
            columns={n: list(tensors[f"column/{n}"]) for n in meta["columns"]},
            checkpoints=self._known_checkpoints(meta),
        )
        self.told = max(len(self.state.steps) - 1, 0)
        return True

    def _known_checkpoints(self, meta: dict[str, Any]) -> dict[str, str]:
        """Name -> sha256 up to a saved state; of one that has none, as they are now."""
        if "checkpoints" in meta:
            return meta["checkpoints"]
        found = self.folder.hashes("ckpt/step_*.safetensors")
        last = checkpoint_name(meta["t"])
        return {name: s for name, s in found.items() if name <= last}

    def _fits(self, tensors: Arrays, meta: dict[str, Any], leaves: list[Any]) -> bool:
        """Whether a saved state has the tensors that this engine would have saved."""
        expected = {f"state/{i}": (v.shape, v.dtype) for i, v in enumerate(leaves)}
        for name in ("position", "switched_at"):
            v = getattr(self.plan, name)
            expected[f"lanes/{name}"] = (v.shape, v.dtype)
        columns = {f"column/{n}" for n in meta.get("columns", [])}
        rest = {k: v for k, v in tensors.items() if k not in columns | {"steps"}}
        return (
            {"t", "columns"} <= meta.keys()
            and columns | {"steps"} <= tensors.keys()
            and {k: (v.shape, v.dtype) for k, v in rest.items()} == expected
        )

    def write(self) -> None:
        """The last checkpoint, the metrics and the outcome."""
        spec, state, path = self.spec, self.state, self.folder.path
        bad = self.engine.first_bad(state.engine)
        names = [s.name for s in spec.strategies]

        def lanes(mask: np.ndarray) -> list[dict[str, Any]]:
            return [
                {"seed": spec.seeds[s], "strategy": names[i], "sample": int(bad[s, i])}
                for s, i in np.argwhere(mask)
            ]

        self._store_checkpoint()
        columns = {n: np.stack(rows, -1) for n, rows in state.columns.items()}
        metrics = Metrics(np.asarray(state.steps), spec.seeds, tuple(names), columns)
        write_atomic(path / FILE, metrics.to_parquet())
        outcome = {
            "samples": state.t,
            "lanes": int(bad.size),
            "failed": lanes((bad >= 0) & ~self.absent),
            "absent": lanes(self.absent),
        }
        write_json(path / "outcome.json", outcome)
