"""Trains small runs from nothing and prints a sha256 of every number they hold.

    python tests/golden/retrain.py                      # of this checkout
    python tests/golden/retrain.py --commit f7be7ce .   # of two, exit 1 if they differ

A commit gets a temporary git worktree; a folder, such as `.`, is used as it is. The
sums are those of one machine and one jax: compare them, do not keep them.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def records() -> dict[str, Any]:
    """Teachers before their students: both engines, MLPs, BERT and GPT-2."""
    # lazily: from the checkout that is asked for, which this script's process need not
    # have on its path
    from sandbox.distill.sources import Final, NShot, Progressive, UntilSaturation
    from sandbox.distill.strategy import Loss, Strategy, Target
    from sandbox.models.mlp import MLP
    from sandbox.models.transformer import Transformer
    from sandbox.tasks.grammar import load_grammar
    from sandbox.tasks.masking import MaskedLM
    from sandbox.tasks.next_token import NextToken
    from sandbox.tasks.parity import Parity, RandomSupport
    from sandbox.train.optim import SGD, Adam, LearningRate
    from sandbox.train.spec import RunSpec, Stop, TeacherRef
    from tests.golden.make_golden import STUDENTS, TEACHER, UNFINISHED

    ce = Strategy(name="ce")
    hard = Target(tau=0.0)

    def pair(name: str, last: int, lanes: tuple[Strategy, ...], **kw: Any) -> Any:
        kw |= {"stop": Stop(max_samples=last)}
        teacher = RunSpec(kind="teacher", strategies=(ce,), **kw)
        ref = TeacherRef(spec=teacher, final=last)
        student = RunSpec(kind="student", strategies=lanes, teacher=ref, **kw)
        return {f"{name} teacher": teacher, f"{name} student": student}

    parity: dict[str, Any] = dict(
        task=Parity(d=12, k=2, support=RandomSupport()),
        model=MLP(d=12, hidden=(32,)),
        n_seeds=2,
        eval_every=64,
        eval_points=512,
        checkpoint_every=64,
        optimizer=SGD(lr=LearningRate(peak=0.1)),
    )
    lanes = (
        ce,
        Strategy(name="final", source=Final(), target=hard, init=1),
        Strategy(name="soft", source=Final(), loss=Loss(alpha=0.3)),
        Strategy(name="progressive", source=Progressive(every=64), target=hard),
        Strategy(name="2-shot", source=NShot(steps=(256,), hold=256)),
        Strategy(name="saturation", source=UntilSaturation(every=64, limit=256)),
    )
    out = {"golden": TEACHER, "golden student": STUDENTS, "golden tail": UNFINISHED}
    out |= pair("blocked", 1024, lanes, engine="online_sgd", **parity)
    out |= pair("generic", 1024, lanes, engine="generic", batch_size=8, **parity)
    grammar = load_grammar("cfg3b", start=("10", "11", "12"))
    for kind, task in (("bert", MaskedLM), ("gpt2", NextToken)):
        task = task(grammar=grammar)
        size = dict(positions=task.positions, layers=1, heads=2, head_dim=4)
        out |= pair(
            kind,
            128,
            (ce, lanes[1], lanes[3]),
            task=task,
            model=Transformer(kind=kind, mlp_ratio=1, dropout=0.1, **size),
            batch_size=8,
            block=8,
            micro=4,
            eval_every=64,
            eval_points=64,
            checkpoint_every=64,
            optimizer=Adam(lr=LearningRate(peak=0.02), clip=1.0),
        )
    del out["gpt2 student"]  # a minute of compiling
    return out


def train(tree: Path) -> dict[str, str]:
    """Trains all records with the `sandbox` of a checkout; name -> sha256."""
    import jax  # lazily: after the environment
    import numpy as np

    import sandbox
    from sandbox.train.loop import fit

    assert Path(sandbox.__path__[0]).resolve() == tree.resolve() / "sandbox", sandbox
    sums = {}

    def add(name: str, values: Any) -> None:
        values = np.ascontiguousarray(values)
        kind = f"{values.dtype.str}{values.shape}".encode()
        sums[name] = hashlib.sha256(kind + values.tobytes()).hexdigest()

    with tempfile.TemporaryDirectory() as root:
        for name, spec in records().items():
            run = fit(spec, root=Path(root))
            add(f"{name} | steps", run.metrics.steps)
            for column in run.metrics.columns:
                for lane in run.metrics.strategies:
                    values = run.metrics.curves(lane, column)
                    add(f"{name} | {column} of {lane}", values)
            for step in run.trajectory.steps:
                leaves = jax.tree.leaves_with_path(run.trajectory.read(step))
                for path, leaf in leaves:
                    add(f"{name} | {step}{jax.tree_util.keystr(path)}", leaf)
    return sums


@contextmanager
def checkout(what: str | Path) -> Iterator[Path]:
    """A folder as it is, or a worktree of a commit for as long as it is needed."""
    if Path(what).is_dir():
        yield Path(what).resolve()
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as parent:
        tree = Path(parent) / "tree"
        subprocess.run(
            [*git, "add", "-q", "--detach", str(tree), str(what)], check=True
        )
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def sums_of(tree: Path, cache: str) -> dict[str, str]:
    """Trains in a process on a checkout; what is compiled there is kept in `cache`."""
    done = subprocess.run(
        [sys.executable, __file__, "--tree", str(tree)],
        env=os.environ
        | {
            "PYTHONPATH": str(tree),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stdout=subprocess.PIPE,
        cwd=tree,
        check=True,
    )
    return json.loads(done.stdout)


def differences(a: dict[str, str], b: dict[str, str]) -> list[str]:
    """What is not the same in two sets of sums, in the order of training."""
    return [
        f"{name}: {'differs' if name in a and name in b else 'only in one'}"
        for name in a | b
        if a.get(name) != b.get(name)
    ]


def main() -> int:
    """Trains, and prints or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", nargs=2, metavar=("A", "B"))
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tree:
        print(json.dumps(train(args.tree), indent=1))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # removes the worktrees
    with ExitStack() as stack:
        trees = [stack.enter_context(checkout(c)) for c in args.commit or [ROOT]]
        # One after the other: a program that both have is compiled once.
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        sums = [sums_of(tree, cache) for tree in trees]
    if args.commit is None:
        print(json.dumps(sums[0], indent=1))
        return 0
    a, b = sums
    found = differences(a, b)
    print(*found, f"{len(a | b)} sums, {len(found)} differ", sep="\n")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
