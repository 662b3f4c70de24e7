"""What the benchmarks share: their command line, the machine's facts, the JSON file."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import jax

from experiments.bench import DEVICE
from sandbox.command import parse
from sandbox.errors import require
from sandbox.platforms import suffix
from sandbox.store.provenance import hardware, versions

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "paper_repro" / "results"


@dataclass(frozen=True)
class Options:
    """What every benchmark understands."""

    rounds: int = 3
    """timings of each"""
    quick: bool = False
    """tiny sizes: does it run at all"""
    device: Literal["cpu", "gpu"] = "cpu"
    """one pinned core in CPU time, or a GPU in wall time, without PyTorch"""
    out: Path | None = None
    """else paper_repro/results/bench_NAME[.gpu].json, or nowhere with --quick"""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"--rounds must be at least 1, got {self.rounds}")
        there = self.device == "cpu" or jax.default_backend() == self.device
        require(there, "--device: jax has no GPU here; `sandbox doctor` says why.")


Given = TypeVar("Given", bound=Options)


@dataclass(frozen=True)
class Begun(Generic[Given]):
    """A benchmark on its way.

    Attributes:
      name: of its module in `experiments.bench`.
      options: its command line.
      core: the one that it is pinned to, None if to none.
      usable: all cores.
      load: load average before it.
      begin: `time.monotonic()` then.
    """

    name: str
    options: Given
    core: int | None
    usable: set[int]
    load: float
    begin: float

    def record(self, sizes: Any, **used: str) -> dict[str, Any]:
        """The facts of the machine and the call, and versions, as JSON data."""
        return {
            "benchmark": self.name,
            "quick": self.options.quick,
            "sizes": asdict(sizes),
            "rounds": self.options.rounds,
            "hardware": hardware() | {"cores": len(self.usable)},
            "versions": versions() | used,
            "pinned_to": self.core,
            "load_average": {"before": self.load, "after": os.getloadavg()[0]},
            "wall_seconds": round(time.monotonic() - self.begin, 1),
        }

    def child(self, environment: Mapping[str, str]) -> Any:
        """What the module's `child(quick, rounds)` returns in a process on all cores.

        jax is imported first there, so that the environment stays as it is given.
        """
        if self.core is not None:  # children inherit it; nothing is timed here
            os.sched_setaffinity(0, self.usable)
        code = (
            f"import json, jax\nfrom experiments.bench.{self.name} import child\n"
            f"print(json.dumps(child({self.options.quick}, {self.options.rounds})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        return json.loads(done.stdout)


def run(
    name: str,
    doc: str | None,
    options: Callable[..., Given],
    measure: Callable[[Begun[Given]], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Reads the command line, measures, prints tables, writes the JSON.

    Args:
      name: of the module; its result is `paper_repro/results/bench_NAME.json`.
      doc: what `--help` says.
      options: what the command line fills.
      measure: everything, as JSON data.
      show: prints it.
    """
    prog = f"python -m experiments.bench.{name}"
    given = parse(options, sys.argv[1:], prog=prog, description=doc or "")
    load, begin, core = os.getloadavg()[0], time.monotonic(), None
    usable = set(range(os.cpu_count() or 1))
    if hasattr(os, "sched_setaffinity"):  # before jax starts its threads
        usable = os.sched_getaffinity(0)
        if DEVICE == "cpu":
            core = max(usable)
            os.sched_setaffinity(0, {core})
    result = measure(Begun(name, given, core, usable, load, begin))
    show(result)
    out = given.out or (
        None if given.quick else RESULTS / f"bench_{name}{suffix()}.json"
    )
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
        print(f"written to {out}")


def machine_line(result: Mapping[str, Any], *notes: str) -> str:
    """What a table ends with: processor, load, remarks and time."""
    load = result["load_average"]
    parts = (
        result["hardware"]["cpu"],
        *(d for d in result["hardware"]["devices"] if not d.startswith("cpu")),
        f"load {load['before']:.1f} to {load['after']:.1f}",
        *notes,
        f"{result['wall_seconds']:.0f} s in all",
    )
    return "; ".join(parts)
