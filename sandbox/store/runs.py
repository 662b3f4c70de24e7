"""Run folders: `runs/<kind>/<hash>/`, complete once the manifest is there.

    config.json          the record, with the engine and platform class it ran on
    provenance.json      versions, hardware, wall time, peak memory, command
    outcome.json         samples trained, lanes that failed or were absent
    metrics.parquet      one row a seed, strategy and evaluation
    ckpt/step_*.safetensors   the trajectory, one file a checkpoint; at least the last
    resume-*.safetensors only while unfinished: engine state and metrics so far
    manifest.json        sha256 and size of every file above; written last

The hash is the record's content (see `sandbox.store.config`), so a run is found by what
it is and never trained twice.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sandbox.errors import StoreError
from sandbox.store.files import (
    read_json,
    sha256,
    sha256_file,
    sweep_temporary,
    write_atomic,
    write_json,
)

SCHEMA = 1
"""Bumped when what a record means changes."""
MANIFEST = "manifest.json"


def default_root() -> Path:
    """`$SANDBOX_RUNS`, else `runs` in the working folder."""
    return Path(os.environ.get("SANDBOX_RUNS", "runs"))


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; reading methods work on complete runs only."""

    path: Path

    @property
    def complete(self) -> bool:
        """Whether the manifest has been written."""
        return (self.path / MANIFEST).is_file()

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Name -> {sha256, size} of every committed file.

        Raises:
          StoreError: the run is unfinished, or the manifest is not one.
        """
        if not self.complete:
            raise StoreError(
                f"{self.path} is not a finished run (it has no {MANIFEST})."
            )
        data = read_json(self.path / MANIFEST)
        files = data.get("files") if isinstance(data, dict) else None
        if not isinstance(files, dict):
            raise StoreError(f"{self.path / MANIFEST} does not list files.")
        for name, entry in files.items():
            inside = (self.path / name).resolve().is_relative_to(self.path.resolve())
            if not inside or not isinstance(entry, dict) or "sha256" not in entry:
                raise StoreError(f"{self.path / MANIFEST}: bad entry {name!r}.")
        return files

    def check(self, name: str) -> None:
        """Compares one file with the manifest.

        Raises:
          StoreError: the file is missing, truncated or altered; it names the file.
        """
        problem = _problem(self.path / name, self.manifest().get(name))
        if problem:
            raise StoreError(
                f"{self.path / name} {problem}; delete the run folder to train it"
                " again."
            )

    def problems(self) -> list[str]:
        """Everything wrong with the folder, one line each; empty if it is sound."""
        try:
            files = self.manifest()
        except StoreError as e:
            return [str(e)]
        found = [(name, _problem(self.path / name, e)) for name, e in files.items()]
        return [f"{self.path / name} {p}" for name, p in found if p]

    def commit(self, extra: Mapping[str, Any]) -> None:
        """Writes the manifest over every file present, which completes the run."""
        names = sorted(
            str(p.relative_to(self.path))
            for p in self.path.rglob("*")
            if p.is_file() and not _private(p.name)
        )
        files = {
            n: {
                "sha256": sha256_file(self.path / n),
                "size": (self.path / n).stat().st_size,
            }
            for n in names
        }
        write_json(self.path / MANIFEST, {"schema": SCHEMA, **extra, "files": files})
        for p in self.path.glob("resume-*.safetensors"):
            p.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Clears what killed writers left behind; call while holding the lock."""
        (self.path / "ckpt").mkdir(parents=True, exist_ok=True)
        sweep_temporary(self.path)

    def save_resume(
        self, step: int, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> None:
        """Stores the engine's state and metrics so far as one self-checking file."""
        from safetensors.numpy import save

        contiguous = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
        data = save(contiguous, metadata={"meta": json.dumps(meta)})
        name = f"resume-{step:012d}-{sha256(data)[:16]}.safetensors"
        write_atomic(self.path / name, data)
        for p in self.path.glob("resume-*.safetensors"):
            if p.name != name:
                p.unlink(missing_ok=True)

    def load_resume(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The newest intact resume file, or None to start from the beginning."""
        from safetensors import safe_open

        for path in sorted(self.path.glob("resume-*.safetensors"), reverse=True):
            if sha256_file(path)[:16] != path.stem.split("-")[-1]:
                continue  # cut short or altered: an older one, or the start, is sound
            with safe_open(path, framework="numpy") as f:
                tensors = {k: f.get_tensor(k) for k in f.keys()}
                return tensors, json.loads(f.metadata()["meta"])
        return None


def _private(name: str) -> bool:
    return name.startswith((".", "resume-")) or name == MANIFEST


def _problem(path: Path, entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "is not listed in the run's manifest"
    if not path.is_file() or path.is_symlink():
        return "is missing"
    size = path.stat().st_size
    if size != entry.get("size"):
        return f"was cut or grown ({size} bytes, {entry.get('size')} expected)"
    if sha256_file(path) != entry["sha256"]:
        return "was altered (its sha256 is not the manifest's)"
    return ""
