"""What a run of a study leaves behind: figure, claims, and a tidy table.

    <runs>/studies/NAME.PRESET/     figure.png, figure.svg, figure.pdf, figure.md
                                    claims.json, summary.csv

A study with overridden fields adds its hash to the folder's name. `publish` writes the
committed files, `figures/SCALE/NAME.*` and `paper_repro/results/NAME.SCALE.json`. Of a
GPU, all of these names end in `.gpu`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from sandbox.platforms import suffix
from sandbox.plotting import layout
from sandbox.plotting.style import save
from sandbox.store.config import to_json
from sandbox.store.files import make_folder, write_atomic, write_json
from sandbox.store.provenance import git_state, hardware, versions
from sandbox.study.claims import Claim, show
from sandbox.study.result import Result, Taught, caps_of
from sandbox.text import csv_text, number
from sandbox.train.run import Run
from sandbox.train.signals import say

COLUMNS = ("part", "strategy", "seed", "init", "quantity", "value")


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished study.

    Attributes:
      study: its name.
      result: everything it trained and measured.
      config: what was asked for.
      figure: drawn from the store.
      caption: what the figure shows, for a reader of the figure alone.
      claims: evaluated by their rules.
      facts: what the study records besides.
      summary: the same for people, a line each.
      folder: where it is written.
    """

    study: str
    result: Result
    config: Any
    figure: Figure
    caption: str
    claims: Sequence[Claim]
    facts: dict[str, Any] = field(default_factory=dict)
    summary: Sequence[str] = ()
    folder: Path

    def write(self, *, quiet: bool = False) -> None:
        """Writes everything into the study's folder and prints the claims."""
        make_folder(self.folder)
        self._write(self.folder / "figure", self.folder / "claims.json")
        rows = [COLUMNS, *summary_rows(self.result)]
        write_csv(self.folder / "summary.csv", rows)
        for text in layout.cut(self.figure):
            say(f"{self.folder}/figure.png: no room for {text!r}")
        if not quiet:
            self.print_claims()
            print(f"{self.folder}: figure.png, claims.json, summary.csv")

    def publish(self, figures: Path, results: Path) -> None:
        """Writes the files that are committed; only of a preset as it stands."""
        scale = self.result.scale
        assert scale is not None
        stem, path = figures / scale / f"{self.study}{suffix()}", f"{scale}{suffix()}"
        self._write(stem, results / f"{self.study}.{path}.json")
        print(f"published {self.study}.{path}.json and {scale}/{stem.name}.png")

    def _write(self, stem: Path, results: Path) -> None:
        png, *_ = save(self.figure, stem)
        write_atomic(png.with_suffix(".md"), f"{self.caption}\n".encode())
        rows = [c.to_json() for c in self.claims]
        write_json(results, _plain({**self.header(), "claims": rows}))

    def header(self) -> dict[str, Any]:
        """Everything a result file says besides its claims."""
        r = self.result
        runs = r.every_run()
        made = [run.provenance for run in runs]
        wall = sum(p["wall_seconds"] for p in made) + sum(r.seconds)
        here = {"hardware": hardware(), "versions": versions(), "git": git_state()}
        made_by = made or [here]  # without runs, this process made everything
        out = {
            "study": self.study,
            "scale": r.scale,
            "preset": r.preset,
            "config": to_json(self.config),
            "hardware": _one_or_all([p["hardware"] for p in made_by]),
            "versions": _one_or_all([p["versions"] for p in made_by]),
            "commit": _one_or_all([p["git"].get("commit", "unknown") for p in made_by]),
            "wall_seconds": round(wall, 1),
            "runs": [_describe(run, p) for run, p in zip(runs, made, strict=True)],
        }
        if r.teachers or r.plain:
            out["left_out"] = r.missing()
        if r.teachers:
            out["teachers"] = describe_teachers(r)
            out["n90"] = {name: samples_to_90(part) for name, part in r.parts.items()}
        return out | self.facts

    def title(self) -> str:
        """What heads the claims table."""
        r = self.result
        text = f"{self.study}, {r.scale or f'{r.preset} with overrides'}"
        if r.teachers:
            learned = sum(int(t.usable.sum()) for t in r.teachers)
            n = sum(len(t.n90) for t in r.teachers)
            text += f": {learned} of {n} teachers learned"
        return "\n".join((text, *self.summary))

    def print_claims(self) -> None:
        """Prints the claims table and what is left out."""
        print(self.title())
        console = Console()
        if console.width < 120:
            for c in self.claims:
                said = f"{c.verdict:10s} {show(c)}  n={c.teachers}"
                print(f"  {c.id:28s} {said}", f"      {c.rule}", sep="\n")
        elif self.claims:
            names = ("claim", "statement", "rule", "paper", "obtained", "n", "verdict")
            table = Table(*names)
            for c in self.claims:
                row = (c.id, c.statement, c.rule, c.paper, show(c))
                table.add_row(*row, str(c.teachers), c.verdict)
            console.print(table)
        for what in self.result.missing():
            print(f"left out: {what}")


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """A table, its header in the first row."""
    write_atomic(path, csv_text(rows).encode())


def _plain(value: Any) -> Any:
    """Arrays and numbers as JSON can hold them."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return number(value) if isinstance(value, float) else value


def summary_rows(r: Result) -> Iterator[tuple[Any, ...]]:
    """Tidy rows: samples to .90 and last recorded metrics of every run."""
    for part, taught in r.parts.items():
        seeds = [s for t in taught.teachers for s in t.spec.seeds]
        for name in ("teacher", *taught.strategies):
            values = {"n90": taught.n90[name].values}
            for metric in ("accuracy", "loss"):
                last = [y[..., -1] for _, y in taught.curves(name, metric)]
                values[f"final {metric}"] = np.concatenate(last)
            for quantity, rows in values.items():
                for (i, init), v in np.ndenumerate(rows):
                    yield part, name, seeds[i], init, quantity, number(float(v))
    for key, run in r.plain.items():
        for strategy in run.metrics.strategies:
            for metric in ("accuracy", "loss"):
                last = run.metrics.curves(strategy, metric)[:, -1]
                for seed, v in zip(run.metrics.seeds, last, strict=True):
                    value = number(float(v))
                    yield str(key), strategy, seed, 0, f"final {metric}", value
    for piece, arrays in r.values.items():
        for name, array in arrays.items():
            for i, v in enumerate(np.ravel(array)):
                yield piece, "", i, 0, name, number(float(v))


def describe_teachers(r: Result) -> dict[str, Any]:
    """How many teachers were trained and learned, and how each did, by part."""
    blind = [v for t in r.teachers for v in t.chosen.stages.get("blind", ((),))[0]]
    counts = {
        "trained": sum(len(t.n90) for t in r.teachers),
        "learned": sum(int(t.usable.sum()) for t in r.teachers),
    }
    if blind:
        counts["with_blind_checkpoint"] = sum(v is not None for v in blind)
    each = [
        {"part": name, **facts} if len(r.parts) > 1 else facts
        for name, part in r.parts.items()
        for t in part.teachers
        for facts in t.chosen.facts
    ]
    return {**counts, "each": each}


def samples_to_90(part: Taught) -> dict[str, Any]:
    """Samples to .90 of teachers `(T, 1)` and students `(T, I)`, and the caps `(T,)`.

    None where a teacher did not learn or a student has no result, infinite beyond its
    cap: all that ratios and their intervals are computed from.
    """
    out: dict[str, Any] = {}
    for name in ("teacher", *part.strategies):
        caps = [
            caps_of(run) if run else np.full(len(t.n90), np.nan)
            for t, run in zip(part.teachers, part.runs(name), strict=True)
        ]
        out[name] = {"n90": part.n90[name].values, "cap": np.concatenate(caps)}
    return out


def _describe(run: Run, made: dict[str, Any]) -> dict[str, Any]:
    """A run's folder, size, speed and memory; every lane sees every sample."""
    samples, lanes = run.outcome["samples"], run.outcome["lanes"]
    steps, seconds = samples * lanes / run.spec.batch_size, made["wall_seconds"]
    return {
        "run": f"{run.spec.kind}/{run.folder.path.name}",
        "lanes": lanes,
        "samples": samples,
        "wall_seconds": round(seconds, 1),
        "steps_per_second": round(steps / seconds, 1) if seconds else None,
        "peak_memory_mb": made.get("peak_memory_mb"),
        "sittings": len(made.get("sittings", [])),
    } | {k: v for k, v in made.items() if k == "peak_device_memory_mb"}


def _one_or_all(facts: list[Any]) -> Any:
    """The fact all runs share, or the list of different ones."""
    distinct = [f for i, f in enumerate(facts) if f not in facts[:i]]
    return distinct[0] if len(distinct) == 1 else distinct
