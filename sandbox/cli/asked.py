"""What a command asks of a run: a study or a run, lanes, seeds, checkpoints, a file."""

import importlib
import os
import sys
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sandbox.errors import ConfigError, SandboxError, StoreError, require
from sandbox.store.find import resolve
from sandbox.store.folders import RunFolder
from sandbox.store.trajectories import Trajectory
from sandbox.text import meant, unknown

RunOrStudy = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_STUDY")]
Module = Annotated[str | None, tyro.conf.arg(metavar="MODULE", help_behavior_hint="")]
SUMMARY = "summary.csv"
"""What every study that was run has left in its folder."""


def study_or_run(name: str, root: Path) -> Path | RunFolder:
    """What a name means: the folder of a study's results, or a run.

    A study's is called NAME.PRESET under RUNS/studies; the beginning is enough.

    Raises:
      StoreError: nothing, or more than one study or run, is meant.
    """
    with suppress(OSError, ValueError):  # no file can have such a name
        if (Path(name) / SUMMARY).is_file():
            return Path(name)
    studies = sorted(p.parent for p in (root / "studies").glob(f"*/{SUMMARY}"))
    match = [p for p in studies if p.name == name]
    match = match or [p for p in studies if name and p.name.startswith(name)]
    if len(match) > 1:
        names = ", ".join(p.name for p in match)
        raise StoreError(f"{name!r} begins {names}; give more of it.")
    if match:
        return match[0]
    try:
        return resolve(name, root)
    except StoreError as e:
        near = meant(name, [p.name for p in studies])
        if not near:
            raise
        raise StoreError(
            f"no study or run under {root} is called {name!r}{near}"
        ) from e


def lane_of(name: str | None, names: list[str], option: str) -> int:
    """The position of the strategy that an option asks for."""
    words = f"the run trains {', '.join(names)}; choose one of them."
    require(name is not None or len(names) == 1, f"{option}: {words}")
    chosen = names[0] if name is None else name
    require(chosen in names, f"{option}: {unknown('strategy', chosen, names)}")
    return names.index(chosen)


def seeds_of(seed: int | None, strategy: str, run: Any) -> list[int]:
    """The seeds that are asked for, without those that had no teacher."""
    seeds = run.spec.seeds
    words = f"the run has seeds {seeds[0]} to {seeds[-1]}, got {seed}."
    require(seed is None or seed in seeds, f"--seed: {words}")
    absent = {o["seed"] for o in _lanes(run, "absent", strategy)}
    wanted = seeds if seed is None else (seed,)
    kept = [s for s in wanted if s not in absent]
    words = f"strategy {strategy!r} was not trained for {wanted}: no teacher."
    require(bool(kept), f"--seed: {words}")
    for o in _lanes(run, "failed", strategy):
        if o["seed"] in kept:
            text = f"seed {o['seed']} became non-finite at sample {o['sample']}"
            warn(f"{text}; its later checkpoints repeat its last finite parameters.")
    return kept


def _lanes(run: Any, kind: str, strategy: str) -> list[dict[str, Any]]:
    """A strategy's lanes that a run's outcome lists as `absent` or `failed`."""
    lanes = run.outcome.get(kind) if isinstance(run.outcome, dict) else None
    wanted = {"seed", "strategy"} | ({"sample"} if kind == "failed" else set())
    sound = isinstance(lanes, list) and all(
        isinstance(o, dict) and wanted <= o.keys() for o in lanes
    )
    if not sound:
        outcome = run.folder.path / "outcome.json"
        raise StoreError(f"{outcome} does not list the {kind} lanes.")
    return [o for o in lanes or () if o["strategy"] == strategy]


def steps_of(words: tuple[str, ...], folder: RunFolder) -> tuple[int, ...]:
    """The checkpoints that `--steps` asks for, all of them stored."""
    by_number, every = words[:1] == ("every",), 1
    wanted: list[int] = []
    try:
        if by_number:
            (every,) = map(int, words[1:])
        elif words != ("all",):
            wanted = [int(p) for w in words for p in w.replace("_", "").split(",") if p]
    except ValueError as e:
        raise ConfigError(
            "--steps must be all, a list such as 0,20000,40000, or every N, got"
            f" {' '.join(words)[:60]!r}."
        ) from e
    require(every >= 1, f"--steps every N needs N >= 1, got {every}.")
    named = by_number or wanted or words == ("all",)
    require(bool(named), "--steps must name at least one checkpoint.")
    stored, path = Trajectory(folder).steps, folder.path
    if not stored:
        raise StoreError(f"{path} stored no checkpoints, so it cannot be probed.")
    for step in wanted:
        if step not in stored:
            near = min(stored, key=lambda s: abs(s - step))
            raise StoreError(
                f"--steps: {step} is not one of the {len(stored)} checkpoints of"
                f" {path}; the nearest is {near}, the last {stored[-1]}."
            )
    chosen = tuple(s for s in stored if s % every == 0 and (not wanted or s in wanted))
    require(
        not by_number or chosen not in ((), (0,)),
        f"--steps: no checkpoint of {path} after 0 is a multiple of {every};"
        f" they are {stored[min(1, len(stored) - 1)]} apart.",
    )
    return chosen


def study_classes(name: str) -> tuple[type, ...]:
    """The dataclasses that a module defines.

    Only the module named on the command line is imported, never a name from a file.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except SandboxError:
        raise
    except Exception as e:  # the module is the user's, and so is its failure
        raise ConfigError(f"--study: {name} cannot be imported ({e}).") from e
    classes = [c for c in vars(module).values() if isinstance(c, type)]
    own = [c for c in classes if c.__module__ == module.__name__]
    return tuple(filter(is_dataclass, own))


def check_out(out: Path, folder: Path) -> None:
    """Refuses a file that cannot be made, or in a run's folder."""
    require(
        not out.resolve().is_relative_to(folder.resolve()),
        f"--out: {out} is inside {folder}, which must not change.",
    )
    require(not out.is_dir(), f"--out: {out} is a folder; name a file.")
    parent = next(p for p in out.absolute().parents if p.exists())
    require(parent.is_dir(), f"--out: {parent} is not a folder.")


def warn(text: str) -> None:
    """Says on standard error what is no mistake, but might not be meant."""
    print(f"warning: {text}", file=sys.stderr)
