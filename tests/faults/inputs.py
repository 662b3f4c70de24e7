"""A small finished run made without training, and what a good answer looks like."""

import json
import struct
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sandbox.cli import main
from sandbox.distill.sources import Final, NShot, PerSeed, Progressive, UntilSaturation
from sandbox.distill.strategy import Anneal, Loss, Strategy, Target
from sandbox.models.mlp import MLP
from sandbox.store.code import Code
from sandbox.store.files import write_atomic, write_json
from sandbox.store.folders import RunFolder
from sandbox.store.metrics import FILE, Metrics
from sandbox.store.trajectories import save_checkpoint
from sandbox.tasks.parity import ExplicitSupport, NoisyParity
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.run import folder_of, identity
from sandbox.train.spec import RunSpec, Stop, TeacherRef

LINES, COLUMNS = 12, 100
"""A screen that an answer must leave room on, as its text is wrapped."""

SPEC = RunSpec(
    kind="teacher",
    task=NoisyParity(d=10, k=2, support=ExplicitSupport(indices=(3, 1)), eps=0.125),
    model=MLP(d=10, hidden=(16,)),
    strategies=(Strategy(name="ce"),),
    stop=Stop(max_samples=1024, accuracy=0.9, factor=1.5),
    eval_every=128,
    checkpoint_every=128,
    n_seeds=2,
    first_seed=3,
)
CODE = Code.of(SPEC).record("")
STUDENT = RunSpec(
    kind="student",
    task=SPEC.task,
    model=MLP(d=10, hidden=(8, 4)),
    strategies=(
        Strategy(name="ce"),
        Strategy(name="final", source=Final(), target=Target(tau=0.0)),
        Strategy(
            name="progressive",
            source=Progressive(every=128, speed=0.5),
            loss=Loss(alpha=Anneal(start=1.0, end=0.0, over=500)),
        ),
        Strategy(
            name="shots", source=NShot(steps=(PerSeed((128, None)), 256), hold=64)
        ),
        Strategy(name="saturation", source=UntilSaturation(every=256, limit=64)),
    ),
    stop=Stop(max_samples=PerSeed((640, 1280))),
    eval_every=64,
    n_seeds=2,
    first_seed=3,
    optimizer=SGD(lr=LearningRate(peak=0.1, warmup=5), momentum=0.5),
    teacher=TeacherRef(spec=SPEC, final=PerSeed((1024, None))),
    engine="generic",
)
STEPS = (0, 512, 1024)


def make_store(root: Path) -> RunFolder:
    """A finished run of `SPEC` with three checkpoints of random parameters."""
    run = folder_of(SPEC, root)
    run.prepare()
    rng = np.random.default_rng(0)
    like = jax.eval_shape(SPEC.model.init, jax.random.key(0))
    for step in STEPS:
        params = jax.tree.map(
            lambda p: rng.normal(size=(2, 1, *p.shape)).astype(np.float32), like
        )
        save_checkpoint(run.path, step, params)
    columns = {"accuracy": rng.random((len(STEPS), 2, 1))}
    metrics = Metrics(np.array(STEPS), SPEC.seeds, ("ce",), columns)
    write_atomic(run.path / FILE, metrics.to_parquet())
    outcome = {"samples": 1024, "lanes": 2, "failed": [], "absent": []}
    write_json(run.path / "outcome.json", outcome)
    write_json(run.path / "config.json", identity(SPEC))
    write_json(run.path / "provenance.json", {"wall_seconds": 1.0})
    run.commit({"kind": "teacher", "code": CODE})
    return run


def recommit(run: RunFolder) -> None:
    """A manifest that fits what the folder holds now, as a forger would write it."""
    (run.path / "manifest.json").unlink(missing_ok=True)
    run.commit({"kind": "teacher", "code": CODE})


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file of that format.

    Args:
      header: JSON data, or its bytes.
      data: what follows it.
      length: what the file says of the header's length; the truth by default.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and time."""
    found = [(p, p.lstat()) for p in root.rglob("*")]
    return {str(p): (s.st_size, s.st_mtime_ns) for p, s in found}


def ask(capsys: Any, *argv: object) -> tuple[int, str, str]:
    """The `sandbox` command: exit code, output, errors."""
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def answered(action: Callable[[], Any], capsys: Any) -> tuple[int, str]:
    """Exit code and message of a command line, which must be one sentence."""
    try:
        code = action()
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    assert not out
    check_answer(err)
    return code, err


def check_answer(text: str) -> None:
    """One `error:` line that fits on a screen and shows nothing of the inside."""
    assert text.startswith("error: ") and text.count("\n") == 1 and text[-1] == "\n"
    assert ceil(len(text) / COLUMNS) <= LINES
    for word in ("Traceback", "tyro", "dummy", "<class", " at 0x", "\x1b"):
        assert word not in text


def probe_refuses(capsys: Any, run: RunFolder, *more: object) -> str:
    """What `sandbox probe` says of a run that it cannot measure, in one sentence."""
    code, out, err = ask(capsys, "probe", run.path, "-p", "alignment", *more)
    told = [line for line in err.splitlines() if not line.startswith("probe ")]
    assert code == 2 and not out
    check_answer("\n".join(told) + "\n")
    return err
