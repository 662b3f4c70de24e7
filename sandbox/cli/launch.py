"""`sandbox launch`: a study's groups on several machines that share its folder."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sandbox.command import Root, parse_config
from sandbox.errors import ConfigError, SandboxError, require
from sandbox.launchers import (
    Launcher,
    Local,
    Ray,
    Slurm,
    carry_out,
    end_with_parent,
    peer,
)
from sandbox.store.files import make_folder
from sandbox.store.folders import default_root
from sandbox.text import printable, unknown

REPORT = "report"
_HELP = """\
usage: sandbox launch STUDY PRESET [--on local|slurm|ray] [--dry-run] [OPTIONS]

Trains the groups of a study (some seeds each, from their teachers to the last
student) by several processes, on one machine or many that share a folder of
runs, and has one of them draw the figure and check the claims.

  sandbox launch parity_mlp cpu --dry-run             groups, cost, disk
  sandbox launch parity_mlp cpu --workers 2           two processes here
  sandbox launch my_idea.py cpu --grid tau=1,4 --on slurm --gpus 1 --hours 2
      --slurm partition=gpu account=theory
  RAY_ADDRESS=head:6379 sandbox launch parity_mlp cpu --on ray

STUDY is a module of experiments/, or a file. Interrupt at any time: what runs
is told to stop, and the same command goes on. `sandbox launch STUDY PRESET
--help` lists all options, those of the study included."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Options.

    Attributes:
      root: where runs are stored; all machines see it.
      on: local (processes here), slurm (jobs) or ray (tasks).
      workers: groups at a time; 0 is one on local, all on slurm. Ray has its own rule.
      gpus: of each process.
      cpus: of each process, on slurm and ray.
      processes: that train one wide network or transformer together, on slurm a node
        each. What cannot be shared, such as groups of several seeds, the first trains.
      hours: of a job on slurm, which is submitted again if that was too short.
      slurm: further options of sbatch, e.g. partition=gpu account=theory.
      dry_run: print groups, cost and disk, and stop.
      only: train these groups in this process, as the launcher's workers do.
      grid: run every combination of these values, e.g. tau=0.25,1 setting.task.d=24,32.
    """

    root: Root = None
    on: Literal["local", "slurm", "ray"] = "local"
    workers: int = 0
    gpus: int = 0
    cpus: int = 2
    processes: int = 1
    hours: float = 4.0
    slurm: tuple[str, ...] = ()
    dry_run: bool = False
    only: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what no launcher could use."""
        for name in ("workers", "gpus"):
            n = getattr(self, name)
            require(n >= 0, f"--{name} must be at least 0, got {n}.")
        for name in ("cpus", "processes"):
            n = getattr(self, name)
            require(n >= 1, f"--{name} must be at least 1, got {n}.")
        require(
            self.on != "ray" or (self.processes == 1 and self.workers == 0),
            "--processes and --workers are for local and slurm; leave them out on ray.",
        )
        h = self.hours
        require(0.1 <= h < 1e5, f"--hours must be at least 0.1, got {h}.")
        wrong = [word for word in self.slurm if "=" not in word]
        require(not wrong, f"--slurm takes NAME=VALUE, got {' '.join(wrong)}.")


def main(words: Sequence[str]) -> int:
    """The command: trains, or has others train, the groups of a study."""
    if not words or words[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if "--only" in words:
        end_with_parent()
        if (here := peer()) is not None:
            # lazily: it imports jax, which nothing may use before
            from sandbox.train.devices import join

            join(*here)
    elif "--dry-run" not in words:
        # lazily: only here, where jax checks records and is to take no GPU
        import jax

        jax.config.update("jax_platforms", "cpu")
    # lazily: what comes before needs no jax
    from sandbox.study.study import Options, print_estimate, run_all

    study = _study(words[0])
    known = {n: (text, study.preset(n)) for n, (text, _) in study.presets.items()}
    prog = f"sandbox launch {words[0]}"
    about = f"{study.name()}, by several processes."
    preset, studies, options = parse_config(
        known, words[1:], prog=prog, description=about, options=Launch()
    )
    root = (options.root or default_root()).absolute()
    groups: dict[str, Callable[[], Any]] = {
        f"{i}:{name}" if len(studies) > 1 else name: partial(train, root)
        for i, s in enumerate(studies)
        for name, train in s.groups().items()
    }
    last = {REPORT: lambda: run_all(preset, studies, Options(root=root))}
    if options.only:
        for name in options.only:
            require(name in groups | last, unknown("group", name, [*groups, *last]))
        _work([(groups | last)[name] for name in options.only])
        return 0
    if options.dry_run:
        print(f"{len(groups)} groups, then the report: {', '.join(groups)}")
        print_estimate({f"{i}:{s.name()}": s for i, s in enumerate(studies)}, root)
        return 0
    rest = [*words, "--root", str(root), "--only"]
    again = [sys.executable, "-m", "sandbox", "launch", *rest]
    for names, n in (groups, options.processes), (last, 1):
        launcher = _launcher(replace(options, processes=n), root)
        failed = carry_out({name: [*again, name] for name in names}, launcher)
        if failed:
            raise SandboxError(
                f"{', '.join(failed)}: see what they printed; the same command trains"
                " what is missing."
            )
    return 0


def _work(groups: Sequence[Callable[[], Any]]) -> None:
    """Trains groups, alone or as one of several processes.

    Ends at once at an error: a signal that comes twice would kill what ends as usual,
    and one of several processes would wait for the others, who wait for it.
    """
    try:
        for train in groups:
            train()
    except SandboxError as e:
        print(f"error: {printable(str(e))}", file=sys.stderr, flush=True)
        os._exit(e.exit_code)
    except Exception:
        if peer() is None:
            raise
        traceback.print_exc()
        os._exit(1)


def _launcher(options: Launch, root: Path) -> Launcher:
    logs = root / "launch"
    make_folder(logs)
    if options.on == "local":
        n, workers = options.processes, max(options.workers, 1)
        return Local(logs, workers, gpus=options.gpus, processes=n)
    if options.on == "ray":
        return Ray(gpus=options.gpus, cpus=options.cpus)
    return Slurm(
        logs,
        workers=options.workers,
        gpus=options.gpus,
        cpus=options.cpus,
        hours=options.hours,
        processes=options.processes,
        more=dict(word.split("=", 1) for word in options.slurm),
    )


def _study(name: str) -> Any:
    """The study of a file, or of a module of experiments/."""
    # lazily: it imports jax
    from sandbox.study.study import study_in

    path = Path(name)
    module = path.stem if path.suffix == ".py" else f"experiments.{name}"
    sys.path.insert(
        0, str(path.parent.absolute() if path.suffix == ".py" else Path.cwd())
    )
    try:
        return study_in(importlib.import_module(module))
    except ModuleNotFoundError as e:
        if e.name not in (module, "experiments"):
            raise
        raise ConfigError(
            f"there is no study {name!r} here: a module of experiments/, or a file."
        ) from e
