"""All that a short rented accelerator is asked for, in one command.

    python -m experiments.campaign --out campaign --scale smoke    any CPU, 3 minutes
    python -m experiments.campaign --out campaign --budget 470     the paper's sizes
    python -m experiments.campaign --out campaign --only facts gpu_tests

Parts run in turn, the most valuable first, each a process of its own under a time
limit. At the limit a part is asked to stop (SIGTERM: it saves what it has), and killed
15 s later. Whatever becomes of one part, the others run. The same command goes on:
what is done is skipped, what failed is tried again after the rest.

    OUT/summary.json    every part's state, seconds and last lines, after each of them
    OUT/logs/           what the parts print
    OUT/back/           what to bring home: the summary, and two archives with results
                        (rates, claims, figures) and logs

Runs and compiled programs stay under --root. Exit code: 0 all is done, 1 something
failed, 75 the same command goes on.
"""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sandbox.command import guarded, parse
from sandbox.errors import Interrupted, require
from sandbox.store.files import (
    exclusive,
    make_folder,
    read_json,
    write_atomic,
    write_json,
)
from sandbox.store.folders import default_root
from sandbox.text import table, unknown
from sandbox.train.signals import collected_signals

CHECKOUT = Path(__file__).resolve().parents[1]
SCALES = ("smoke", "paper")
LIMITS = {
    "doctor": 30, "facts": 30, "gpu_tests": 80, "engines": 40, "seeds": 20,
    "transformer": 25, "predictor": 20, "parity_mlp": 160, "parity_curriculum": 60,
    "pcfg_accuracy": 600, "parity_transformer": 600,
}  # fmt: skip
"""Part -> seconds until it is asked to stop, if so much is left."""
LOG = 2**18
"""Bytes of the end of a log that are brought home."""


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
      name: of its log and its results.
      command: the arguments of Python, run in the checkout.
      limit: seconds until it is asked to stop.
      makes: a file, or a folder of files, to bring home.
      grace: seconds until it is killed then; they are within the budget.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    makes: Path | None = None
    grace: float = 15.0


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
      part: its name.
      command: its command.
      state: done, unfinished (the same command goes on), failed, killed (did not end
        well when asked to stop), or not reached.
      ended: of what failed or was killed, the exit code or signal.
      seconds: that it ran the last time.
      tail: the last lines that it printed.
      files: what there is of what it makes.
    """

    part: str
    command: list[str]
    state: str = "not reached"
    ended: str = ""
    seconds: float = 0.0
    tail: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether it has to be looked at."""
        return self.state in ("failed", "killed")


def run_campaign(parts: Sequence[Part], out: Path, budget: float) -> list[Outcome]:
    """Runs what is not done yet, as far as the budget goes.

    Args:
      parts: the most valuable first.
      out: of summary, logs and what is brought home.
      budget: seconds for all of them.

    Returns:
      What became of every part, in their order.
    """
    end, summary = time.monotonic() + budget, out / "summary.json"
    make_folder(out / "logs")
    make_folder(out / "back")
    with exclusive(out), collected_signals() as caught:
        found = {p.name: Outcome(p.name, list(p.command)) for p in parts}
        for earlier in map(_outcome, read_json(summary) if summary.exists() else ()):
            fresh = found.get(earlier.part)
            if fresh and fresh.command == earlier.command:
                found[earlier.part] = earlier
        for part in sorted(parts, key=lambda p: found[p.name].bad):
            left = end - time.monotonic()
            if found[part.name].state == "done" or left <= part.grace or caught:
                continue
            limit = min(part.limit, left - part.grace)
            print(f"{part.name}: {limit:.0f} s of {left:.0f} s left", flush=True)
            found[part.name] = _run(part, out / "logs", limit, caught)
            _write(found.values(), parts, out)
        _write(found.values(), parts, out)
        rows = [(o.part, o.state, f"{o.seconds:.1f}", o.ended) for o in found.values()]
        print(table(("part", "state", "seconds", ""), rows, right="llrl"))
    return list(found.values())


def _outcome(stored: Mapping[str, object]) -> Outcome:
    return Outcome(**stored)  # pyright: ignore[reportArgumentType]


def _run(part: Part, logs: Path, limit: float, caught: Sequence[str]) -> Outcome:
    """Runs a part in a process group of its own, of which nothing stays behind."""
    begin, log = time.monotonic(), logs / f"{part.name}.log"
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, *part.command], cwd=CHECKOUT, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    while process.poll() is None and time.monotonic() - begin < limit and not caught:
        time.sleep(0.05)
    asked = process.poll() is None
    if asked:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(part.grace)
    with suppress(ProcessLookupError, PermissionError):  # none of its children is left
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    state = {0: "done", Interrupted.exit_code: "unfinished"}.get(code)
    ended = f"exit code {code}" if code > 0 else signal.Signals(-code or 1).name
    return Outcome(
        part=part.name,
        command=list(part.command),
        state=state or ("killed" if asked else "failed"),
        ended="" if state else ended,
        seconds=round(time.monotonic() - begin, 1),
        tail=_end(log).decode(errors="replace").splitlines()[-5:],
        files=[str(p) for p in _files(part)],
    )


def _end(log: Path) -> bytes:
    with open(log, "rb") as f:
        f.seek(max(log.stat().st_size - LOG, 0))
        return f.read()


def _files(part: Part) -> list[Path]:
    if part.makes is None:
        return []
    found = part.makes.iterdir() if part.makes.is_dir() else [part.makes]
    return sorted(p for p in found if p.is_file())


def _write(outcomes: Iterable[Outcome], parts: Sequence[Part], out: Path) -> None:
    """Rewrites the summary and what is brought home."""
    rows = [asdict(o) for o in outcomes]
    results = {f"{p.name}/{f.name}": f.read_bytes() for p in parts for f in _files(p)}
    logs = {f.name: _end(f) for f in sorted((out / "logs").iterdir())}
    write_json(out / "summary.json", rows)
    write_json(out / "back" / "summary.json", rows)
    for name, content in (("results", results), ("logs", logs)):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path, data in content.items():
                member = tarfile.TarInfo(path)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        write_atomic(out / "back" / f"{name}.tar.gz", packed.getvalue())


def make_parts(scale: str, out: Path, root: Path) -> list[Part]:
    """Every part of a scale; paths are absolute."""
    paper = scale == "paper"

    def rates(name: str) -> Part:
        made = out / "rates" / f"{name}.json"
        how = () if paper else ("--quick",)
        command = ("-m", "experiments.device", name, "--out", str(made), *how)
        return Part(name, command, LIMITS[name], made)

    def study(name: str) -> Part:
        how = ("--scale", scale, "--root", str(root))
        how += ("--no-estimate",) if paper else ()
        made = root / "studies" / f"{name}.{scale}"
        command = ("-m", "paper_repro", name, *how)
        return Part(name, command, LIMITS[name], made)

    doctor = ("-m", "sandbox", "doctor", "--root", str(root))
    found = out / "gpu_tests.xml"
    # warnings of a device that was never seen are no failures
    tests = ("-m", "pytest", "tests/gpu", "-m", "gpu", "-W", "default")
    return [
        Part("doctor", doctor, LIMITS["doctor"]),
        rates("facts"),
        Part("gpu_tests", (*tests, f"--junitxml={found}"), LIMITS["gpu_tests"], found),
        *map(rates, ("engines", "seeds")),
        *(map(rates, ("transformer", "predictor")) if paper else ()),
        study("parity_mlp"),
        *((study("parity_curriculum"),) if paper else ()),
        study("pcfg_accuracy"),
        *((study("parity_transformer"),) if paper else ()),
    ]


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is asked for.

    Attributes:
      out: where the results go.
      budget: seconds for everything.
      scale: smoke: does it run; paper: the published sizes.
      only: these parts alone.
      root: where runs are stored ($SANDBOX_RUNS, else runs).
    """

    out: Path
    budget: float = 470.0
    scale: str = "paper"
    only: tuple[str, ...] = ()
    root: Path | None = None

    def __post_init__(self) -> None:
        """Refuses names that do not exist."""
        require(
            self.scale in SCALES, f"--scale: {unknown('scale', self.scale, SCALES)}"
        )
        names = [p.name for p in self.parts()]
        for name in self.only:
            require(name in names, f"--only: {unknown('part', name, names)}")

    def parts(self) -> list[Part]:
        """All of them."""
        root = (self.root or default_root()).resolve()
        return make_parts(self.scale, self.out.resolve(), root)


def campaign(command: Command) -> int:
    """Runs what is asked for; the exit code."""
    programs = (command.root or default_root()).resolve() / "programs"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs))
    parts = [p for p in command.parts() if not command.only or p.name in command.only]
    outcomes = run_campaign(parts, command.out.resolve(), command.budget)
    if any(o.bad for o in outcomes):
        return 1
    return 0 if all(o.state == "done" for o in outcomes) else Interrupted.exit_code


def main() -> None:
    """Entry point."""
    command = parse(
        Command,
        sys.argv[1:],
        prog="python -m experiments.campaign",
        description=__doc__ or "",
    )
    sys.exit(guarded(lambda: campaign(command)))


if __name__ == "__main__":
    main()
