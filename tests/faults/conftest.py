"""A tiny study in its own processes, faults that reach it, and the table of outcomes.

`python -m pytest -m faults` runs the long tests and writes `OUTCOME.md`.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faults.remove_protections import (
    OUTCOME,
    REFERENCE,
    machine,
    replace_section,
    table,
)

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900.0
"""Seconds after which a process that should have ended has hung."""

CHILD = '''
"""Teachers, probe, students, figures and results; signals reach it where asked.

    child.py WHAT ROOT OUT

STUDY_FAULTS holds `EVENT NAME NTH SIGNAL DELAY;...`: at the NTH time that a file of
that name is opened for writing (open) or put in its place (os.rename), the signal comes
DELAY seconds later, 0 for at once. What happens to files is told in STUDY_EVENTS.
"""

import os
import re
import signal
import sys
import threading
import time

what, root, out = sys.argv[1:]
faults = [f.split() for f in os.environ.get("STUDY_FAULTS", "").split(";") if f]
counts = [0] * len(faults)
log = os.open(os.environ["STUDY_EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def hit(number, delay):
    time.sleep(delay)
    os.write(log, f"fault {number.name} {time.monotonic()}\\n".encode())
    os.kill(os.getpid(), number)


def reach(event, name):
    os.write(log, f"{event} {name}\\n".encode())
    for i, (which, part, nth, number, delay) in enumerate(faults):
        if which == event and part in name:
            counts[i] += 1
            if counts[i] == int(nth):
                args = (signal.Signals[number], float(delay))
                if args[1]:
                    threading.Thread(target=hit, args=args, daemon=True).start()
                else:
                    hit(*args)


def watch(event, args):
    if event not in ("open", "os.rename") or not isinstance(args[0], str | bytes):
        return
    path = os.fsdecode(args[0])
    if path.endswith("sandbox.mplstyle"):
        reach("draw", "figure")
    elif path.endswith(".tmp") and (event == "os.rename" or "w" in str(args[1])):
        short = re.sub(r"^\\.|\\.\\d+\\.tmp$", "", os.path.basename(path))
        reach(event, re.sub(r"^(resume|step).*", r"\\1", short))


sys.addaudithook(watch)
reach("begin", what)

from sandbox.command import guarded


def study():
    reach("inside", what)
    from pathlib import Path

    import sandbox.study as st
    from experiments.parity_mlp import ParityMLP
    from sandbox.tasks.parity import Parity, RandomSupport
    from sandbox.train import loop, resumable
    from sandbox.train.optim import SGD, LearningRate

    seconds = os.environ.get("STUDY_SAVE_SECONDS")
    if seconds:
        resumable.SAVE_SECONDS = float(seconds)
    long = os.environ.get("STUDY_SIZE") == "long"
    setting = st.Setting(
        task=Parity(d=10, k=3, support=RandomSupport()),
        teacher=st.TwoLayer(256 if long else 64),
        student=st.TwoLayer(16),
        teacher_optimizer=SGD(lr=LearningRate(peak=0.005 if long else 0.02)),
        budget=st.UntilLearned(limit=40_960 if long else 10_240, cap=2.0),
        rule=st.ByGap(points=1024, claim_points=1024, degrees=(1, 2)),
        n_teachers=2,
        group=2,
        spacing=256,
        student_every=256,
    )
    if what == "teacher":
        loop.fit(setting.teacher_specs()[0], root=Path(root))
        return
    tiny = st.preset("tiny", setting=setting, argmax_control=False)
    ParityMLP.presets = {"tiny": tiny}
    study = ParityMLP.preset("tiny")
    report = study.report(study.run(root=Path(root), preset="tiny"))
    report.publish(figures=Path(out) / "figures", results=Path(out))


exec(os.environ.get("STUDY_FIRST", ""))
guarded(study)
'''

PROVENANCE = (
    "command",
    "commit",
    "finished_unix",
    "git",
    "peak_memory_mb",
    "sittings",
    "steps_per_second",
    "wall_seconds",
)
"""Fields that say when, where and in how many sittings a result was made."""


@dataclass(frozen=True)
class Study:
    """One study in a folder of its own.

    Attributes:
      folder: holds the store, what is published, and what happened.
      program: the script of the process.
      env: what its processes are told.
    """

    folder: Path
    program: Path
    env: dict[str, str]

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    def start(
        self,
        what: str = "study",
        *,
        faults: str = "",
        env: Mapping[str, str | None] | None = None,
        under: Sequence[str] = (),
        at: tuple[str, str] | None = None,
        **kw: Any,
    ) -> "subprocess.Popen[str]":
        """Starts a process on the study.

        Args:
          what: the whole `study`, or its `teacher` alone.
          faults: see `CHILD`.
          env: changes of the environment; None unsets.
          under: a command that the process is run by.
          at: store and output as they are written on the command line.
          **kw: of `subprocess.Popen`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        places = at or (str(self.root), str(self.folder))
        told = {"STUDY_FAULTS": faults, "STUDY_EVENTS": str(self.told)}
        changed = {**self.env, **told, **(env or {})}
        return subprocess.Popen(
            [*under, sys.executable, str(self.program), what, *places],
            env={k: v for k, v in changed.items() if v is not None},
            **{
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "encoding": "utf-8",
                "errors": "replace",
                **kw,
            },
        )

    def run(self, what: str = "study", *, code: int = 0, **kw: Any) -> str:
        """Runs a process to its end, and returns what it printed on standard error."""
        with self.start(what, **kw) as process:
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
        return err or ""

    @property
    def told(self) -> Path:
        """Where the processes tell what they do: not on a disk that may be full."""
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return self.program.parent / f"events-{name}"

    def events(self) -> list[str]:
        return self.told.read_text().splitlines() if self.told.exists() else []

    def files(self, below: Path | None = None) -> list[Path]:
        """Everything stored and published."""
        below = below or self.folder
        found = (p for p in below.rglob("*") if p.is_file())
        return sorted(p for p in found if p.name != ".lock")

    def contents(self, below: Path | None = None) -> dict[str, str]:
        """Name -> sha256, without the fields that are no bits of a result."""
        below = below or self.folder
        return {str(p.relative_to(below)): _sha256(p) for p in self.files(below)}

    def verify(self) -> subprocess.CompletedProcess[str]:
        """What `sandbox verify` says of the store."""
        return subprocess.run(
            [sys.executable, "-m", "sandbox", "verify", "--root", str(self.root)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def copy(self, folder: Path) -> "Study":
        """The same study, with all it has, elsewhere."""
        shutil.copytree(self.folder, folder)
        return Study(folder, self.program, self.env)


def _sha256(path: Path) -> str:
    data = path.read_bytes()
    if path.name in ("provenance.json", "manifest.json", "parity_mlp.tiny.json"):
        content = json.loads(data)
        if path.name == "manifest.json":
            del content["files"]["provenance.json"]
            content.pop("sha256", None)  # its own
        data = json.dumps(_bits(content), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _bits(data: Any) -> Any:
    """The data without what `PROVENANCE` names, at any depth."""
    if isinstance(data, dict):
        return {k: _bits(v) for k, v in data.items() if k not in PROVENANCE}
    return [_bits(v) for v in data] if isinstance(data, list) else data


@pytest.fixture(scope="session")
def make_reference(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Study]:
    """Runs the study of a size undisturbed, once for all tests and workers.

    What it compiled serves the other processes, which only read it. The runner that
    removes protections keeps the one of the intact project for all its tests.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    shared = Path(os.environ.get(REFERENCE, shared))

    def make(size: str) -> Study:
        place = shared / f"reference-{size}"
        place.mkdir(parents=True, exist_ok=True)
        program = place / "child.py"
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {
            "PYTHONPATH": str(ROOT),
            "STUDY_SIZE": size,
            "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        env.pop("SANDBOX_RUNS", None)
        with open(place / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / "done").exists():
                program.write_text(CHILD)
                Study(place / "study", program, env).run()
                (place / "done").touch()
        only_read = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"}
        return Study(place / "study", program, env | only_read)

    return make


@pytest.fixture(scope="session")
def reference(make_reference: Callable[[str], Study]) -> Study:
    """The finished quick study; tests copy it and leave it as it is."""
    return make_reference("quick")


@pytest.fixture
def study(reference: Study, tmp_path: Path) -> Study:
    """A study that has not begun."""
    return Study(tmp_path / "study", reference.program, reference.env)


# ------------------------------------------------------------- the table of outcomes


@pytest.fixture
def injected(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Tells the table of outcomes what a test did: promise, fault, times, outcome."""

    def tell(promise: str, fault: str, times: int, outcome: str) -> None:
        record_property("fault", (promise, fault, str(times), outcome))

    return tell


ROWS = pytest.StashKey[list[tuple[str, ...]]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compiling the reference counts to the first test that asks for it."""
    for item in items:
        slow = "make_reference" in getattr(item, "fixturenames", ())
        if slow and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and item.get_closest_marker("faults"):
        told = [v for k, v in item.user_properties if k == "fault"]
        for row in told or [("", item.name, "", "")]:
            promise, fault, times, outcome = cast("tuple[str, str, str, str]", row)
            outcome = outcome if report.passed else f"**{report.outcome}**"
            seconds = f"{report.duration:.0f}"
            rows = item.config.stash.setdefault(ROWS, [])
            rows.append((promise, fault, times, outcome, seconds))
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the table if the whole marker was run, whatever came of it."""
    config = session.config
    rows = config.stash.get(ROWS, [])
    whole = (
        config.option.markexpr == "faults"
        and not config.option.keyword
        and config.args_source is pytest.Config.ArgsSource.TESTPATHS
        and exitstatus in (0, 1)
        and session.testscollected > 0
        and not (session.shouldstop or session.shouldfail)
    )
    if rows and whole:
        head = ("promise", "fault", "times", "outcome", "seconds")
        text = "\n".join([machine(), "", *table(head, sorted(rows))])
        replace_section(OUTCOME, "python -m pytest -m faults", text)
