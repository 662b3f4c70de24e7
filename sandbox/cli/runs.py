"""`sandbox runs`: one line a run folder, from JSON alone."""

import argparse
import json
from pathlib import Path
from typing import Any

from sandbox.cli.listing import (
    add_root,
    folders,
    held,
    record_text,
    root_of,
    size_text,
    table,
)
from sandbox.errors import SandboxError
from sandbox.store.files import read_json
from sandbox.store.runs import RunFolder

_HEADER = (
    *("kind", "hash", "task", "model", "strategies"),
    *("seeds", "samples", "state", "size", "seconds"),
)
_WIDE = 44  # characters of a cell before it is cut


def add(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "runs",
        help="list every stored run",
        description=(
            "Lists every run folder: what it trains, how far it is and what it takes on"
            " disk. `held` means that a process is writing it now; `unfinished` that"
            " the command which started it would resume it."
        ),
        epilog="examples:\n  sandbox runs\n  sandbox runs --root /scratch/runs\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_root(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    root = root_of(args)
    found = folders(root)
    if not found:
        print(f"no runs under {root} yet.")
        return 0
    print(table(_HEADER, [_row(r) for r in found], right="llllllrlrr"))
    return 0


def _row(run: RunFolder) -> list[str]:
    config, outcome = _read(run.path / "config.json"), _read(run.path / "outcome.json")
    spec = config.get("spec") or _as_spec(config)
    strategies = spec.get("strategies") or []
    names = ",".join(str(s.get("name", "?")) for s in strategies) or "?"
    state, samples, seconds = _progress(run, outcome)
    cells = [
        *(run.path.parent.name, run.path.name),
        *(record_text(spec.get("task")), record_text(spec.get("model")), names),
        _seeds(spec),
        f"{samples:,}" if samples is not None else "?",
        state if config else "damaged",
        size_text(_size(run.path)),
        f"{seconds:,.0f}" if seconds is not None else "?",
    ]
    return [c if len(c) <= _WIDE else c[: _WIDE - 3] + "..." for c in cells]


def _as_spec(config: dict[str, Any]) -> dict[str, Any]:
    """What a measurement's config says, in the fields of a run's."""
    probe = config.get("probe")
    if not isinstance(probe, dict):
        return {}
    of = {"name": f"{probe.get('type', '?')} of {config.get('run', '?')}"}
    return {"task": probe.get("task"), "model": probe.get("model"), "strategies": [of]}


def _progress(run: RunFolder, outcome: Any) -> tuple[str, int | None, float | None]:
    """State, samples trained a lane, and wall seconds so far."""
    if not run.complete:
        meta = _resume_meta(run.path)
        state = "held" if held(run) else "unfinished"
        return state, int(meta.get("t", 0)), float(meta.get("wall", 0.0))
    seconds = _read(run.path / "provenance.json").get("wall_seconds")
    failed, lanes = len(outcome.get("failed", ())), outcome.get("lanes")
    state = f"finished, {failed}/{lanes} failed" if failed else "finished"
    return state, outcome.get("samples"), seconds


def _resume_meta(path: Path) -> dict[str, Any]:
    """The JSON beside the newest saved state (a safetensors header), if any."""
    for file in sorted(path.glob("resume-*.safetensors"), reverse=True):
        try:
            with open(file, "rb") as f:
                length = int.from_bytes(f.read(8), "little")
                header = json.loads(f.read(min(length, 10**8)))
            return json.loads(header["__metadata__"]["meta"])
        except (OSError, ValueError, KeyError):
            continue  # being replaced right now, or cut short
    return {}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except SandboxError:
        return {}
    return data if isinstance(data, dict) else {}


def _seeds(spec: Any) -> str:
    first, n = spec.get("first_seed"), spec.get("n_seeds")
    if not isinstance(first, int) or not isinstance(n, int):
        return "?"
    return str(first) if n == 1 else f"{first}-{first + n - 1}"


def _size(path: Path) -> int:
    total = 0
    for p in path.rglob("*"):
        try:
            total += p.stat().st_size if p.is_file() else 0
        except OSError:
            continue  # a temporary file that was just renamed
    return total
