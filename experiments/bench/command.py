"""What the benchmarks share: their command line, the machine's facts, the JSON file."""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.bench.timing import pin

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "paper_repro" / "results"


def arguments(name: str, doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark understands.

    Args:
      name: module, e.g. "bench_bayes"; its result is `paper_repro/results/NAME.json`.
      doc: what `--help` says.
      rounds: how often everything is timed unless told.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name.replace("_", ".", 1)}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = RESULTS / f"{name}.json"
    arg = parser.add_argument
    arg(
        "--rounds", type=int, default=rounds, help=f"timings of each (default {rounds})"
    )
    arg("--quick", action="store_true", help="tiny sizes: does it run at all")
    arg("--out", type=Path, help=f"default {default.relative_to(ROOT)}")
    parser.set_defaults(default_out=default)
    return parser


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Reads the command line; benchmarks run on the CPU whatever else is there."""
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    if args.out is None and not args.quick:
        args.out = args.default_out
    os.environ["JAX_PLATFORMS"] = "cpu"
    return args


@dataclass(frozen=True)
class Begun:
    """A benchmark on its way, alone on one core.

    Attributes:
      args: its command line.
      core: the one that it is pinned to, or None.
      usable: all cores.
      load: load average before it.
      begin: `time.monotonic()` then.
    """

    args: argparse.Namespace
    core: int | None
    usable: set[int]
    load: float
    begin: float

    def record(
        self, name: str, sizes: Any, versions: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """The facts of the machine and the call, as JSON data."""
        from sandbox.store.provenance import hardware

        return {
            "benchmark": name,
            "quick": self.args.quick,
            "sizes": asdict(sizes),
            "rounds": self.args.rounds,
            "hardware": hardware() | {"cores": len(self.usable)},
            "versions": versions,
            "pinned_to": self.core,
            "load_average": {"before": self.load, "after": os.getloadavg()[0]},
            "wall_seconds": round(time.monotonic() - self.begin, 1),
        }


def start(args: argparse.Namespace) -> Begun:
    """Notes load and time, and pins the process; comes before jax is imported."""
    load, begin = os.getloadavg()[0], time.monotonic()
    core, usable = pin()
    return Begun(args, core, usable, load, begin)


def machine_line(result: Mapping[str, Any], *notes: str) -> str:
    """What a table ends with: processor, load, remarks and time."""
    load = result["load_average"]
    parts = (
        result["hardware"]["cpu"],
        f"load {load['before']:.1f} to {load['after']:.1f}",
        *notes,
        f"{result['wall_seconds']:.0f} s in all",
    )
    return "; ".join(parts)


def write(result: Mapping[str, Any], out: Path | None) -> None:
    """Writes the JSON file, if there is to be one."""
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(f"written to {out}")
