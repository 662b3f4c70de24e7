"""The host loop: between chunks it switches teachers, evaluates, stores and reports.

    run = fit(spec)          # trains, resumes, or just opens what is already there
    run.metrics.curves("ce") # accuracies (S, R)

The jit boundary is a chunk of whole segments (`sandbox.train.engine`). Everything the
host does falls on absolute sample counts fixed by the record, so chunk length, progress
and interruptions cannot change a bit of the result.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sandbox.errors import ConfigError, Interrupted
from sandbox.store.files import exclusive, write_atomic, write_json
from sandbox.store.metrics import FILE, Metrics
from sandbox.store.provenance import provenance
from sandbox.store.runs import RunFolder, default_root
from sandbox.store.trajectories import Trajectory, checkpoint_name, save_checkpoint
from sandbox.train.engine import Engine
from sandbox.train.lanes import LABELS, LanePlan
from sandbox.train.preflight import preflight
from sandbox.train.progress import Progress, default_progress, seeds_text
from sandbox.train.run import Run, checkpoint_shapes, folder_of, identity
from sandbox.train.signals import (
    collected_signals,
    join_sittings,
    say,
)
from sandbox.train.spec import RunSpec

SAVE_SECONDS = 10.0
CHUNK_SECONDS = 0.5


@dataclass
class LoopState:
    """All a run needs to go on.

    Attributes:
      engine: the engine's native state (trained tensors, optimizer, bookkeeping).
      t: samples every lane has seen.
      wall: seconds spent so far, over all sittings.
      steps: evaluations so far.
      columns: what was recorded there, name -> list of `(S, L)`.
      sittings: what each sitting computed with, this one last.
      checkpoints: name -> sha256 of every checkpoint stored so far.
    """

    engine: Any
    t: int = 0
    wall: float = 0.0
    steps: list[int] = field(default_factory=list)
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    sittings: list[dict[str, str]] = field(default_factory=list)
    checkpoints: dict[str, str] = field(default_factory=dict)


def fit(
    spec: RunSpec,
    *,
    root: Path | None = None,
    progress: Progress | None = None,
    chunk_samples: int | None = None,
) -> Run:
    """Trains the group of a record, or opens its run if that is already complete.

    Args:
      spec: the record.
      root: where runs are stored; `$SANDBOX_RUNS` or `runs` by default.
      progress: who is told; a bar or plain lines by default.
      chunk_samples: upper bound on samples between host visits; by default about half a
        second's worth. It never changes the result.

    Returns:
      The finished run.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGUSR1 arrived; call again to go on.
      DivergenceError: every lane became non-finite.
      StoreError: the folder is held by another process, a file cannot be written, or a
        stored one was damaged.
      ConfigError: the run needs more memory than there is.
    """
    root = default_root() if root is None else root
    with jax.enable_x64(spec.dtype == "float64"):
        folder = folder_of(spec, root)
        run = Run(folder, spec)
        if not folder.complete:
            preflight(spec, folder)
            with exclusive(folder.path):
                if not folder.complete:
                    teller = default_progress() if progress is None else progress
                    _Loop(spec, folder, root, teller, chunk_samples).run()
    return run.raise_if_diverged()


class _Loop:
    def __init__(
        self,
        spec: RunSpec,
        folder: RunFolder,
        root: Path,
        progress: Progress,
        chunk_samples: int | None,
    ) -> None:
        self.spec, self.folder, self.progress = spec, folder, progress
        self.chunk_samples = chunk_samples
        self.engine = Engine(spec)
        trajectory = None
        if spec.teacher is not None:
            teacher = folder_of(spec.teacher.spec, root)
            trajectory = Trajectory(teacher)
            trajectory.expect(checkpoint_shapes(spec.teacher.spec))
        self.plan = LanePlan(spec, trajectory)
        self.plan.require_stored()
        self.absent = self.plan.absent
        self.taught = np.asarray([s.source.needs_teacher for s in spec.strategies])

    def run(self) -> None:
        with collected_signals() as stop:  # also while it compiles and writes
            self._run(stop)

    def _run(self, stop: list[str]) -> None:
        folder, spec = self.folder, self.spec
        folder.prepare()
        write_json(folder.path / "config.json", identity(spec))
        state = self._restore()
        folder.require_unchanged(state.checkpoints)
        self._drop_checkpoints(state.t if state.steps else -1)
        title = f"{spec.kind} {folder.path.name[:6]}, {seeds_text(spec.seeds)}"
        finished = False
        self.progress.start(title, spec.stop.largest, state.t)
        try:
            self._train(state, stop)
            self._finish(state)
            finished = True
        finally:
            note = self._note(state) if finished else f"at sample {state.t:,}"
            self.progress.close(note, finished=finished)

    def _train(self, state: LoopState, stop: list[str]) -> None:
        """Trains until all seeds are done, or saves and raises at a signal."""
        clock = time.monotonic() - state.wall
        saved, rate = time.monotonic(), 0.0
        if state.t == 0:
            self._visit(state)
        while not stop and not self._done(state):
            begin, t = time.monotonic(), state.t
            self._advance(state, rate)
            rate = (state.t - t) / max(time.monotonic() - begin, 1e-9)
            state.wall = time.monotonic() - clock
            self._visit(state)
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save(state)
                saved = time.monotonic()
        if stop:
            self._save(state)
            raise Interrupted(
                f"stopped at sample {state.t:,} by signal {stop[0]}; its state is"
                f" saved in {self.folder.path}, run the same command to go on."
            )

    def _drop_checkpoints(self, after: int) -> None:
        """Removes what an earlier sitting stored beyond the point it resumes from."""
        for path in (self.folder.path / "ckpt").glob("step_*.safetensors"):
            if int(path.stem.removeprefix("step_")) > after:
                path.unlink()

    def _advance(self, state: LoopState, rate: float) -> None:
        """Trains up to the next border, or a chunk towards it."""
        spec, t = self.spec, state.t
        border = (t // spec.eval_every + 1) * spec.eval_every
        switch = self.plan.next_switch(t)
        if switch is not None and switch < border:
            border = switch
        if border <= t or (border - t) % spec.segment:
            raise self._off_border(t, border)
        limit = self.chunk_samples or max(rate * CHUNK_SECONDS, spec.segment)
        pieces = max(int(limit) // spec.segment, 1)
        n = min((border - t) // spec.segment, pieces)
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

    def _visit(self, state: LoopState) -> None:
        """What falls on this sample: evaluation, checkpoint, saturation, progress."""
        spec = self.spec
        due = state.t % spec.eval_every == 0 and state.t not in state.steps[-1:]
        if due:
            self._record(state)
            if spec.checkpoint_every and state.t % spec.checkpoint_every == 0:
                self._store_checkpoint(state)
            if spec.saturating:
                accuracy = np.asarray(state.columns["accuracy"])
                self.plan.advance(state.t, np.asarray(state.steps), accuracy)
        self.progress.update(state.t, self._note(state))

    def _store_checkpoint(self, state: LoopState) -> None:
        params = self.engine.params(state.engine)
        written = save_checkpoint(self.folder.path, state.t, params)
        state.checkpoints[checkpoint_name(state.t)] = written

    def _record(self, state: LoopState) -> None:
        train_loss, state.engine = self.engine.read_loss(state.engine)
        row = {**self.engine.evaluate(state.engine), "train_loss": train_loss}
        bad = self.engine.first_bad(state.engine)
        dead = (bad >= 0) | self.absent
        row = {k: np.where(dead, np.nan, v) for k, v in row.items()}
        seen = np.where(bad >= 0, bad, state.t)  # a failed lane learned no further
        seen = np.where(self.absent, 0, seen).astype(np.int64)
        row["student_forward"] = row["student_backward"] = seen
        row["teacher_forward"] = np.where(self.taught[None, :], seen, 0)
        row["teacher_step"] = self.plan.steps_at(max(state.t - 1, 0))
        state.steps.append(state.t)
        for name, value in row.items():
            state.columns.setdefault(name, []).append(np.asarray(value))

    def _done(self, state: LoopState) -> bool:
        """Whether every seed is done (see `Stop`), or no lane lives."""
        stop = self.spec.stop
        if state.t % self.spec.eval_every:
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
        return bool((state.t >= np.minimum(cap, self._level_end(state, bad))).all())

    def _level_end(self, state: LoopState, bad: np.ndarray) -> np.ndarray:
        """Where each seed ends by its level, as far as is known: `(S,)`, inf if not.

        A lane that fails is not waited for, unless its seed had given up before.
        """
        stop = self.spec.stop
        give_up = np.inf if stop.give_up is None else stop.give_up
        steps, acc = np.asarray(state.steps), np.asarray(state.columns["accuracy"])
        reached = acc >= stop.accuracy
        first = np.where(reached.any(0), steps[reached.argmax(0)], np.inf)
        out = self.absent | ((bad >= 0) & (bad < give_up))
        last = np.where(out, 0, first).max(1)  # (S,) last lane to get there
        return np.where(last <= give_up, stop.factor * last, give_up)

    def _note(self, state: LoopState) -> str:
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

    def _save(self, state: LoopState) -> None:
        """Stores the state and the metrics so far in one file."""
        leaves = jax.tree.leaves(state.engine)
        tensors = {f"state/{i}": np.asarray(v) for i, v in enumerate(leaves)}
        tensors["steps"] = np.asarray(state.steps, np.int64)
        for name, rows in state.columns.items():
            tensors[f"column/{name}"] = np.asarray(rows)
        tensors["lanes/position"] = self.plan.position
        tensors["lanes/switched_at"] = self.plan.switched_at
        meta = {
            "t": state.t,
            "wall": state.wall,
            "columns": list(state.columns),
            "sittings": state.sittings,
            "checkpoints": state.checkpoints,
        }
        self.folder.save_resume(state.t, tensors, meta)

    def _restore(self) -> LoopState:
        """The newest intact saved state, or a fresh one."""
        fresh = self.engine.init()
        found = self.folder.load_resume()
        leaves, treedef = jax.tree.flatten(fresh)
        if found is not None and not self._fits(*found, leaves):
            say(
                f"{self.folder.path}: the saved state does not fit this version's"
                " engine; starting over"
            )
            found = None
        if found is None:
            return LoopState(fresh, sittings=join_sittings([]))
        tensors, meta = found
        saved = [tensors[f"state/{i}"] for i in range(len(leaves))]
        self.plan.position = tensors["lanes/position"]
        self.plan.switched_at = tensors["lanes/switched_at"]
        return LoopState(
            engine=self.engine.place(
                jax.tree.unflatten(treedef, [jax.numpy.asarray(v) for v in saved])
            ),
            t=meta["t"],
            wall=meta["wall"],
            steps=[int(s) for s in tensors["steps"]],
            columns={n: list(tensors[f"column/{n}"]) for n in meta["columns"]},
            sittings=join_sittings(meta.get("sittings", [])),
            checkpoints=self._known_checkpoints(meta),
        )

    def _known_checkpoints(self, meta: dict[str, Any]) -> dict[str, str]:
        """Name -> sha256 up to a saved state; of one that has none, as they are now."""
        if "checkpoints" in meta:
            return meta["checkpoints"]
        found = self.folder.hashes("ckpt/step_*.safetensors")
        last = checkpoint_name(meta["t"])
        return {name: s for name, s in found.items() if name <= last}

    def _fits(
        self, tensors: dict[str, np.ndarray], meta: dict[str, Any], leaves: list[Any]
    ) -> bool:
        """Whether a saved state has the tensors that this engine would have saved."""
        expected = {f"state/{i}": (v.shape, v.dtype) for i, v in enumerate(leaves)}
        for name in ("position", "switched_at"):
            v = getattr(self.plan, name)
            expected[f"lanes/{name}"] = (v.shape, v.dtype)
        columns = {f"column/{n}" for n in meta.get("columns", [])}
        rest = {k: v for k, v in tensors.items() if k not in columns | {"steps"}}
        return (
            {"t", "wall", "columns"} <= meta.keys()
            and columns | {"steps"} <= tensors.keys()
            and {k: (v.shape, v.dtype) for k, v in rest.items()} == expected
        )

    def _finish(self, state: LoopState) -> None:
        spec, path = self.spec, self.folder.path
        bad = self.engine.first_bad(state.engine)
        names = [s.name for s in spec.strategies]

        def lanes(mask: np.ndarray) -> list[dict[str, Any]]:
            return [
                {"seed": spec.seeds[s], "strategy": names[i], "sample": int(bad[s, i])}
                for s, i in np.argwhere(mask)
            ]

        self._store_checkpoint(state)
        columns = {n: np.asarray(rows) for n, rows in state.columns.items()}
        metrics = Metrics(np.asarray(state.steps), spec.seeds, tuple(names), columns)
        write_atomic(path / FILE, metrics.to_parquet())
        outcome = {
            "samples": state.t,
            "lanes": int(bad.size),
            "failed": lanes((bad >= 0) & ~self.absent),
            "absent": lanes(self.absent),
        }
        write_json(path / "outcome.json", outcome)
        source = {**provenance(wall_seconds=state.wall), "sittings": state.sittings}
        write_json(path / "provenance.json", source)
        self.folder.commit({"kind": spec.kind}, known=state.checkpoints)
