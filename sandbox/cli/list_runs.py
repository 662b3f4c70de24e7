"""`sandbox runs`: what is stored, from JSON alone."""

import json
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from sandbox.cli.stored import held, root_of
from sandbox.command import Root
from sandbox.errors import SandboxError, require
from sandbox.store.files import read_json
from sandbox.store.find import folders
from sandbox.store.folders import RunFolder
from sandbox.text import count, printable, table, unknown

_WIDE = 80
"""Characters of a cell before it is cut, where a line has no end."""
_ROOMY = 116
"""Columns of a terminal from which on hashes and dates are whole."""
_UNSAID = ("type", "n_classes", "vocab", "positions", "head_dim", "mlp_ratio")
_UNSAID += ("mask", "random")
_PLAIN = (0, "", None, True, "float32", "auto", [])
"""Fields, and values of fields, that a record in brief leaves out."""
_MOST_JSON = 10**7
"""Bytes of a stored JSON text that are read at most; a real one is far smaller."""


@dataclass(frozen=True)
class Runs:
    """Lists what is stored: what is trained how, how far it is, its size and date.

    `held` means that a process is writing it now; `unfinished` that the command which
    started it would resume it; `damaged` that its files cannot be read as a run;
    `2/10 failed` that so many lanes (seeds times strategies) became non-finite.
    A terminal shows runs under what they train, named by as much of their hash as
    tells them apart, and more columns where it is wide. A pipe gets one row a run,
    its cells cut at 80 characters, and --json every run with its whole record.

    Examples:
      sandbox runs
      sandbox runs parity one_shot --kind student
      sandbox runs --state unfinished
      sandbox runs --json | jq '.[] | select(.lr < 0.01).hash'

    Exit code: 0 all could be read, 1 some are damaged, 2 no such folder.
    """

    words: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="WORD ...", help_behavior_hint="(default: every run)"),
    ] = ()
    """only runs that say all of these: a task, a strategy, d=32, a hash, ..."""
    kind: Annotated[
        str | None,
        tyro.conf.arg(metavar="KIND", help_behavior_hint="(default: any)"),
    ] = None
    """teacher, student, probe or computed"""
    state: Literal["any", "finished", "failed", "unfinished", "held", "damaged"] = "any"
    """how far it is"""
    json: bool = False
    """as a JSON list, nothing cut"""
    root: Root = None

    def run(self) -> int:
        """Prints the list; returns 1 if a run in it is damaged."""
        root = root_of(self.root)
        rows = [_row(r) for r in folders(root)]
        kinds = sorted({r.kind for r in rows})
        known = self.kind is None or not rows or self.kind in kinds
        require(known, f"--kind: {unknown('kind', str(self.kind), kinds)}")
        shown = [r for r in rows if self._wants(r)]
        if self.json:
            print(json.dumps([r.to_json() for r in shown], indent=1))
        elif not shown:
            print(f"no runs under {root} {'match' if rows else 'yet'}.")
        elif sys.stdout.isatty():
            width = shutil.get_terminal_size().columns
            names = [r.hash for r in rows]
            print(_grouped(shown, 40 if width >= _ROOMY else _digits(names), width))
        else:
            names = ("kind", "hash", "task", "model", "lanes", "tau", "lr", "seeds")
            header = (*names, "samples", "state", "size", "seconds", "date")
            print(table(header, [r.cells(_WIDE) for r in shown]))
        damaged = sum(r.state == "damaged" for r in shown)
        if damaged and not self.json:
            print(f"{damaged} damaged; `sandbox verify` says what is wrong.")
        return 1 if damaged else 0

    def _wants(self, row: "_Row") -> bool:
        text = " ".join(row.cells(1000)).lower()
        return (
            self.kind in (None, row.kind)
            and self.state in ("any", "failed" if row.failed else row.state)
            and all(word.lower() in text for word in self.words)
        )


class _Row(NamedTuple):
    """What is shown of a run; texts are as they were stored."""

    kind: str
    hash: str
    task: str
    model: str
    lanes: list[str]
    tau: list[float]
    lr: float | None
    seeds: str
    samples: int | None
    state: str
    failed: int
    n_lanes: int | None
    size: int
    seconds: float | None
    date: float
    config: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Everything, with the whole record."""
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.date))
        return {**self._asdict(), "date": date}

    def cells(self, most: int) -> list[str]:
        """A row of the table, no cell longer than `most`."""
        cells = [
            *(self.kind, self.hash, self.task, self.model, ",".join(self.lanes)),
            *(",".join(f"{t:g}" for t in self.tau), _real(self.lr), self.seeds),
            _real(self.samples, ","),
            f"{self.failed}/{self.n_lanes} failed" if self.failed else self.state,
            *(count(self.size), _real(self.seconds, ",.0f")),
            time.strftime("%Y-%m-%dT%H:%M", time.localtime(self.date)),
        ]
        return [printable(c, most) or "-" for c in cells]


def _digits(names: Collection[str]) -> int:
    """How much of a hash tells all of them apart; six characters at least."""
    own = {name.partition(".")[0] for name in names}
    return next(n for n in range(6, 99) if len({h[:n] for h in own}) == len(own))


def _grouped(rows: Sequence[_Row], digits: int, width: int) -> str:
    """Runs of one kind, task and model under a line that says so, the newest last."""

    def what(row: _Row) -> str:
        kind, _, task, model, *_ = row.cells(1000)
        return printable(f"{kind}: {task}, {model}", width)

    def line(row: _Row) -> list[str]:
        _, name, _, _, lanes, *cells, seconds, date = row.cells(1000)
        if digits >= 16:
            return [name, *cells, seconds, date, lanes]
        cells[3] = count(row.samples or 0)
        if "." in name:  # kept aside
            cells[4] = name.partition(".")[2]
        return [name[:digits], *cells, _day(row.date), lanes]

    rows = sorted(rows, key=lambda r: (what(r), r.date))
    dates = ("seconds", "date") if digits >= 16 else ("date",)
    names = ("run", "tau", "lr", "seeds", "samples", "state", "size", *dates, "lanes")
    header, *lines = table(names, [line(r) for r in rows], right="llllrlrr").split("\n")
    shown = [header]
    for group, members in groupby(zip(rows, lines, strict=True), lambda m: what(m[0])):
        shown += ["", group, *(text for _, text in members)]
    return "\n".join(printable(text, width) for text in shown)


def _day(date: float) -> str:
    """`Nov 29`; of more than half a year ago `Nov 2026`."""
    recent = time.time() - date < 180 * 86400
    return time.strftime("%b %d" if recent else "%b %Y", time.localtime(date))


def _real(value: int | float | None, how: str = "g") -> str:
    return "" if value is None else f"{value:{how}}"


def _row(run: RunFolder) -> _Row:
    config, outcome = _read(run.path / "config.json"), _read(run.path / "outcome.json")
    spec = config.get("spec") or _as_spec(config)
    state, samples, seconds, date = _progress(run, outcome)
    if not isinstance(spec, dict) or not spec:
        spec, state = {}, "damaged"
    named, failed = spec.get("strategies"), outcome.get("failed")
    strategies = named[:99] if isinstance(named, list) else []
    return _Row(
        kind=run.path.parent.name,
        hash=run.path.name,
        task=_record_text(spec.get("task")),
        model=_record_text(spec.get("model")),
        lanes=[_word_of(_field(s, "name")) for s in strategies],
        tau=sorted({t for s in strategies for t in _tau(s)}),
        lr=_count(_field(spec, "optimizer", "lr", "peak")),
        seeds=_seeds(spec),
        samples=_count(samples),
        state=state,
        failed=len(failed) if isinstance(failed, list) else 0,
        n_lanes=_count(outcome.get("lanes")),
        size=_size(run.path),
        seconds=_count(seconds),
        date=date,
        config=config,
    )


def _record_text(record: Any) -> str:
    """What matters of a saved record, e.g. `Parity d=32 k=6 RandomSupport`."""
    if not isinstance(record, dict):
        return ""
    words = [_word_of(record.get("type", "?"))]
    for name, value in list(record.items())[:20]:
        if isinstance(value, dict):
            words.append(_word_of(value.get("name", value.get("type", "?"))))
        elif name not in _UNSAID and value not in _PLAIN:
            parts = value[:20] if isinstance(value, list) else [value]
            words.append(f"{name}={'x'.join(map(_word_of, parts))}")
    return " ".join(words)


def _field(record: Any, *names: str) -> Any:
    """A field of a saved record, or of a record in it; None where there is none."""
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _tau(strategy: dict[str, Any]) -> list[float]:
    """The temperature of a strategy's teacher, if it has one."""
    source, tau = _field(strategy, "source", "type"), _field(strategy, "target", "tau")
    return [] if _count(tau) is None or source == "Labels" else [tau]


def _word_of(value: Any) -> str:
    """A value of a record where a number or a name is expected."""
    return str(value) if isinstance(value, str | int | float | None) else "?"


def _is_plain(path: Path) -> bool:
    """Whether there is a file proper: no link, pipe or folder, which are not read."""
    return path.is_file() and not path.is_symlink()


def _count(value: Any) -> Any:
    """A number that can be one of a run; None of anything else."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return value if real and 0 <= value < 2**63 else None


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


def _progress(run: RunFolder, outcome: dict[str, Any]) -> tuple[str, Any, Any, float]:
    """State, samples trained a lane, wall seconds so far, and when that was."""
    changed = run.path.stat().st_mtime
    if not run.complete:
        meta = _resume_meta(run.path)
        state = "held" if held(run) else "unfinished"
        return state, meta.get("t", 0), meta.get("wall", 0.0), changed
    made = _read(run.path / "provenance.json")
    date = _count(made.get("finished_unix")) or changed
    samples, seconds = outcome.get("samples"), made.get("wall_seconds")
    return "finished", samples, seconds, date if date < 2**32 else changed


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
        return ""
    return str(first) if n == 1 else f"{first}-{first + n - 1}"


def _size(path: Path) -> int:
    total = 0
    for p in path.rglob("*"):
        with suppress(OSError):  # a temporary file that was just renamed
            total += p.lstat().st_size if _is_plain(p) else 0
    return total
