"""`sandbox runs`: one line a run folder, from JSON alone."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.cli.stored import Root, folders, held, root_of
from sandbox.errors import SandboxError
from sandbox.store.files import read_json
from sandbox.store.folders import RunFolder
from sandbox.text import printable, size, table

_HEADER = (
    *("kind", "hash", "task", "model", "strategies"),
    *("seeds", "samples", "state", "size", "seconds"),
)
_WIDE = 44  # characters of a cell before it is cut
_MOST_JSON = 10**7
"""Bytes of a stored JSON text that are read at most; a real one is far smaller."""


@dataclass(frozen=True)
class Runs:
    """Lists every run folder: what it trains, how far it is and what it takes on disk.

    `held` means that a process is writing it now; `unfinished` that the command which
    started it would resume it; `damaged` that its files cannot be read as a run.

    Examples:
      sandbox runs
      sandbox runs --root /scratch/runs

    Exit code: 0 all could be read, 1 some are damaged, 2 no such folder.
    """

    root: Root = None

    def run(self) -> int:
        """Prints the table; returns 1 if a run in it is damaged."""
        root = root_of(self.root)
        found = folders(root)
        if not found:
            print(f"no runs under {root} yet.")
            return 0
        rows = [_row(r) for r in found]
        print(table(_HEADER, rows, right="llllllrlrr"))
        damaged = sum(row[_HEADER.index("state")] == "damaged" for row in rows)
        if damaged:
            print(f"{damaged} damaged; `sandbox verify` says what is wrong.")
        return 1 if damaged else 0


def _row(run: RunFolder) -> list[str]:
    config, outcome = _read(run.path / "config.json"), _read(run.path / "outcome.json")
    spec = config.get("spec") or _as_spec(config)
    state, samples, seconds = _progress(run, outcome)
    if not isinstance(spec, dict) or not spec:
        spec, state = {}, "damaged"
    cells = [
        *(run.path.parent.name, run.path.name),
        *(_record_text(spec.get("task")), _record_text(spec.get("model"))),
        *(_names(spec.get("strategies")), _seeds(spec)),
        f"{samples:,}" if _is_count(samples) else "?",
        state,
        size(_size(run.path)),
        f"{seconds:,.0f}" if _is_count(seconds) else "?",
    ]
    return [printable(c, _WIDE) for c in cells]


def _record_text(record: Any) -> str:
    """One line of a saved record, e.g. `Parity d=32 k=6 RandomSupport`."""
    if not isinstance(record, dict):
        return "?"
    words = [_word_of(record.get("type", "?"))]
    for name, value in list(record.items())[:20]:
        if isinstance(value, dict):
            words.append(_word_of(value.get("type", "?")))
        elif name != "type":
            parts = value[:20] if isinstance(value, list) else [value]
            words.append(f"{name}={'x'.join(map(_word_of, parts))}")
    return " ".join(words)


def _word_of(value: Any) -> str:
    """A value of a record where a number or a name is expected."""
    return str(value) if isinstance(value, str | int | float | None) else "?"


def _is_plain(path: Path) -> bool:
    """Whether there is a file proper: no link, pipe or folder, which are not read."""
    return path.is_file() and not path.is_symlink()


def _is_count(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and 0 <= value < 2**63


def _names(strategies: Any) -> str:
    named = strategies[:20] if isinstance(strategies, list) else []
    words = [s.get("name", "?") if isinstance(s, dict) else "?" for s in named]
    return ",".join(_word_of(w)[:_WIDE] for w in words) or "?"


def _as_spec(config: dict[str, Any]) -> dict[str, Any]:
    """What the config of a measurement or computation says, as a run's fields."""
    if isinstance(config.get("what"), dict):
        return {"task": config["what"]}
    probe = config.get("probe")
    if not isinstance(probe, dict):
        return {}
    what, run_of = _word_of(probe.get("type", "?")), _word_of(config.get("run", "?"))
    of = {"name": f"{what} of {run_of}"}
    return {"task": probe.get("task"), "model": probe.get("model"), "strategies": [of]}


def _progress(run: RunFolder, outcome: dict[str, Any]) -> tuple[str, Any, Any]:
    """State, samples trained a lane, and wall seconds so far."""
    if not run.complete:
        meta = _resume_meta(run.path)
        state = "held" if held(run) else "unfinished"
        return state, meta.get("t", 0), meta.get("wall", 0.0)
    seconds = _read(run.path / "provenance.json").get("wall_seconds")
    state, failed, lanes = "finished", outcome.get("failed"), outcome.get("lanes")
    if isinstance(failed, list) and failed and _is_count(lanes):
        state += f", {len(failed)}/{lanes} failed"
    return state, outcome.get("samples"), seconds


def _resume_meta(path: Path) -> dict[str, Any]:
    """The JSON beside the newest saved state (a safetensors header), if any."""
    for file in sorted(path.glob("resume-*.safetensors"), reverse=True):
        try:
            if not _is_plain(file):
                continue
            with open(file, "rb") as f:
                length = int.from_bytes(f.read(8), "little")
                header = json.loads(f.read(min(length, _MOST_JSON)))
            return dict(json.loads(header["__metadata__"]["meta"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # being replaced right now, cut short, or no such file at all
    return {}


def _read(path: Path) -> dict[str, Any]:
    """A stored JSON object; empty where there is none that can be read."""
    with suppress(SandboxError, OSError, RecursionError):
        if not _is_plain(path) or path.stat().st_size > _MOST_JSON:
            return {}
        data = read_json(path)
        return data if isinstance(data, dict) else {}
    return {}


def _seeds(spec: dict[str, Any]) -> str:
    first, n = spec.get("first_seed"), spec.get("n_seeds")
    if not isinstance(first, int) or not isinstance(n, int):
        return "?"
    return str(first) if n == 1 else f"{first}-{first + n - 1}"


def _size(path: Path) -> int:
    total = 0
    for p in path.rglob("*"):
        with suppress(OSError):  # a temporary file that was just renamed
            total += p.lstat().st_size if _is_plain(p) else 0
    return total
