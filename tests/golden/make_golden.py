"""Makes the golden store of this version.

    JAX_PLATFORMS=cpu python -m tests.golden.make_golden

Writes `tests/golden/v<schema>/`: a `store` with a teacher of four checkpoints, a group
of students and a measurement, `numbers.json` with what is in it, and `unfinished`, a
store with a run that was interrupted at sample 128. A version of the library is only
ever given a new folder here; those of before stay as they were written, and
`tests/faults/test_golden.py` opens every one of them.

`v1/unfinished` is of commit ee3fb3f, when a saved state did not list its checkpoints.
"""

import hashlib
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sandbox.distill.sources import Final, NShot, PerSeed, Progressive
from sandbox.distill.strategy import Anneal, Loss, Strategy, Target
from sandbox.errors import Interrupted
from sandbox.models.mlp import MLP
from sandbox.probes.fourier import FourierProbe
from sandbox.probes.offline import Measured, measure_trajectory
from sandbox.store.folders import SCHEMA
from sandbox.store.trajectories import flatten
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec, Stop, TeacherRef

HERE = Path(__file__).resolve().parent
BASE: dict[str, Any] = dict(
    task=Parity(d=6, k=2, support=RandomSupport()),
    model=MLP(d=6, hidden=(8,)),
    n_seeds=2,
    eval_every=64,
    eval_points=64,
    block=16,
    optimizer=SGD(lr=LearningRate(peak=0.1)),
)
TEACHER = RunSpec(
    **BASE,
    kind="teacher",
    strategies=(Strategy(name="teacher"),),
    checkpoint_every=64,
    stop=Stop(max_samples=192, accuracy=0.99, factor=2.0),
)
STUDENTS = RunSpec(
    **BASE,
    kind="student",
    strategies=(
        Strategy(name="ce"),
        Strategy(
            name="final",
            source=Final(),
            target=Target(tau=0.0),
            loss=Loss(alpha=Anneal(start=1.0, end=0.0, over=64)),
        ),
        Strategy(name="progressive", source=Progressive(every=64)),
        Strategy(name="2-shot", source=NShot(steps=(PerSeed((128, None)),), hold=64)),
    ),
    stop=Stop(max_samples=PerSeed((128, 192))),
    teacher=TeacherRef(spec=TEACHER, final=192),
)
UNFINISHED = replace(TEACHER, first_seed=2)
PROBE = FourierProbe(TEACHER.task, TEACHER.model, degrees=(1, 2), points=256)


def numbers(teacher: Run, students: Run, measured: Measured) -> dict[str, Any]:
    """What a store holds: identities, curves, and a sha256 of every array."""
    out: dict[str, Any] = {}
    for name, run in (("teacher", teacher), ("students", students)):
        steps = run.trajectory.steps
        params = {s: flatten(run.trajectory.read(s)) for s in steps}
        out[name] = {
            "hash": run.folder.path.name,
            "outcome": run.outcome,
            "steps": run.metrics.steps.tolist(),
            "columns": {  # in the order in which they are stored
                k: _sha(np.moveaxis(v, -1, 0))
                for k, v in sorted(run.metrics.columns.items())
            },
            "accuracy": {
                s: run.metrics.curves(s).tolist() for s in run.metrics.strategies
            },
            "checkpoints": {
                str(s): {k: _sha(v) for k, v in sorted(p.items())}
                for s, p in params.items()
            },
        }
    out["probe"] = {
        "steps": measured.steps.tolist(),
        "values": {k: _sha(v) for k, v in sorted(measured.values.items())},
    }
    # As JSON gives it back: no NaN, which a lane without a teacher has.
    return json.loads(json.dumps(out).replace("NaN", "null"))


def _sha(values: np.ndarray) -> str:
    kind = f"{values.dtype.str}{values.shape}".encode()
    return hashlib.sha256(kind + np.ascontiguousarray(values).tobytes()).hexdigest()


class Stopping(Silent):
    """Interrupts a run at sample 128."""

    def update(self, done: int, note: str) -> None:
        """Sends the signal."""
        if done == 128:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Trains, measures, writes; refuses to touch a store that is there."""
    folder = HERE / f"v{SCHEMA}"
    if folder.exists():
        raise SystemExit(f"{folder} exists; a golden store is never written again.")
    sys.argv = ["make_golden.py"]  # what the store keeps of where it was made
    socket.gethostname = lambda: "golden"
    root = folder / "store"
    teacher = fit(TEACHER, root=root, progress=Silent())
    students = fit(STUDENTS, root=root, progress=Silent())
    measured = measure_trajectory(teacher, PROBE, root=root, progress=Silent())
    try:
        fit(UNFINISHED, root=folder / "unfinished", progress=Stopping())
    except Interrupted as e:
        print(e)
    for lock in folder.rglob(".lock"):
        lock.unlink()
    text = json.dumps(numbers(teacher, students, measured), indent=1, sort_keys=True)
    (folder / "numbers.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
