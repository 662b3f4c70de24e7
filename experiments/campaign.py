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
                        (rates, claims, figures, curves of runs) and logs

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
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from glob import escape, glob
from pathlib import Path
from typing import Literal

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
from sandbox.text import printable, table, unknown
from sandbox.train.signals import collected_signals

CHECKOUT = Path(__file__).resolve().parents[1]
PAPER = (
    "seeds", "transformer", "predictor", "parity_curriculum", "parity_transformer",
)  # fmt: skip
"""Parts that the smoke scale does without, for time."""
RUN = ("*/*/config.json", "*/*/metrics.parquet", "*/*/provenance.json")
"""Of every run, also where a study is not finished."""
LOG = 2**18
"""Bytes of the end of a log that are brought home."""


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
      name: of its log and its results.
      command: the arguments of Python, run in the checkout.
      limit: seconds until it is asked to stop.
      makes: patterns of the files to bring home.
      grace: seconds until it is killed then; they are within the budget.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    makes: tuple[str, ...] = ()
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
      What became of each of them.
    """
    end, summary = time.monotonic() + budget, out / "summary.json"
    make_folder(out / "logs")
    make_folder(out / "back")
    with exclusive(out), collected_signals() as caught:
        stored = read_json(summary) if summary.exists() else ()
        found = {row["part"]: Outcome(**row) for row in stored}
        for name, command in ((p.name, list(p.command)) for p in parts):
            if name not in found or found[name].command != command:
                found[name] = Outcome(name, command)
        for part in sorted(parts, key=lambda p: found[p.name].bad):
            left = end - time.monotonic()
            if found[part.name].state == "done" or left <= part.grace or caught:
                continue
            limit = min(part.limit, left - part.grace)
            print(f"{part.name}: {limit:.0f} s of {left:.0f} s left", flush=True)
            found[part.name] = _run(part, out / "logs", limit, caught)
            _write(found.values(), out)
        _write(found.values(), out)
        rows = [(o.part, o.state, f"{o.seconds:.1f}", o.ended) for o in found.values()]
        print(table(("part", "state", "seconds", ""), rows, right="llrl"))
    return [found[p.name] for p in parts]


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
    code, ended = process.wait(), ""
    state = {0: "done", Interrupted.exit_code: "unfinished"}.get(code)
    if state is None:
        state = "killed" if asked else "failed"
        ended = f"exit code {code}" if code > 0 else str(signal.strsignal(-code))
    lines = _end(log).decode(errors="replace").splitlines()
    return Outcome(
        part=part.name,
        command=list(part.command),
        state=state,
        ended=ended,
        seconds=round(time.monotonic() - begin, 1),
        tail=[printable(line, 200) for line in lines[-5:]],
        files=sorted({f for pattern in part.makes for f in glob(pattern)}),
    )


def _end(log: Path) -> bytes:
    with open(log, "rb") as f:
        f.seek(max(log.stat().st_size - LOG, 0))
        return f.read()


def _write(outcomes: Iterable[Outcome], out: Path) -> None:
    """Rewrites the summary and what is brought home."""
    rows = [asdict(o) for o in outcomes]
    made = [Path(f) for row in rows for f in row["files"]]
    results = {f"{f.parent.name}/{f.name}": f.read_bytes() for f in made if f.is_file()}
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
    quick, direct = ((), ("--no-estimate",)) if paper else (("--quick",), ())

    def rates(name: str, limit: float) -> Part:
        made = str(out / "rates" / f"{name}.json")
        command = ("-m", "experiments.device", name, "--out", made, *quick)
        return Part(name, command, limit, (escape(made),))

    def study(name: str, limit: float) -> Part:
        command = ("-m", "paper_repro", name, "--scale", scale, "--root", str(root))
        made = (f"studies/{name}.{scale}*/*", *RUN)  # a GPU's names end in .gpu
        within = tuple(f"{escape(str(root))}/{pattern}" for pattern in made)
        return Part(name, (*command, *direct), limit, within)

    found = str(out / "gpu_tests.xml")
    # warnings on a device that was never seen are no failures
    tests = ("-m", "pytest", "tests/gpu", "-m", "gpu", "-W", "default")
    parts = [
        Part("doctor", ("-m", "sandbox", "doctor", "--root", str(root)), 30),
        rates("facts", 30),
        Part("gpu_tests", (*tests, f"--junitxml={found}"), 80, (escape(found),)),
        rates("engines", 40),
        rates("seeds", 20),
        rates("transformer", 25),
        rates("predictor", 20),
        study("parity_mlp", 160),
        study("parity_curriculum", 60),
        study("pcfg_accuracy", 600),
        study("parity_transformer", 600),
    ]
    return [p for p in parts if paper or p.name not in PAPER]


def campaign(
    *,
    out: Path,
    budget: float = 470.0,
    scale: Literal["smoke", "paper"] = "paper",
    only: tuple[str, ...] = (),
    root: Path | None = None,
) -> Callable[[], list[Outcome]]:
    """What runs the campaign, once the command line was read.

    Args:
      out: where the results go.
      budget: seconds for everything.
      scale: smoke: does it run; paper: the published sizes.
      only: these parts alone.
      root: where runs are stored ($SANDBOX_RUNS, else runs).
    """
    root = (root or default_root()).resolve()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "programs"))
    require(budget > 0, f"--budget must be above 0 seconds, got {budget:g}.")
    parts = make_parts(scale, out.resolve(), root)
    names = [p.name for p in parts]
    for name in only:
        require(name in names, f"--only: {unknown('part', name, names)}")
    parts = [p for p in parts if not only or p.name in only]
    return partial(run_campaign, parts, out.resolve(), budget)


def main() -> None:
    """Entry point."""
    prog = "python -m experiments.campaign"
    action = parse(campaign, sys.argv[1:], prog=prog, description=__doc__ or "")
    outcomes = guarded(action) or []
    if any(o.bad for o in outcomes):
        sys.exit(1)
    if any(o.state != "done" for o in outcomes):
        sys.exit(Interrupted.exit_code)


if __name__ == "__main__":
    main()
