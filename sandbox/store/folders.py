"""Run folders: `runs/<kind>/<hash>/`, complete once the manifest is there.

    config.json          the record, with the engine and platform class it ran on
    provenance.json      versions, hardware, wall time, peak memory, command
    outcome.json         samples trained, lanes that failed or were absent
    metrics.parquet      one row a seed, strategy and evaluation
    ckpt/step_*.safetensors   the trajectory, one file a checkpoint; at least the last
    resume-*.safetensors only while unfinished: engine state and metrics so far
    manifest.json        sha256 and size of every file above, its own; the code that
                         made them (`sandbox.store.code`); written last

The hash is the record's content (see `sandbox.store.config`), so a run is found by what
it is and never trained twice. Manifest and resume files name their run, so that one put
into another run's folder is noticed.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sandbox.errors import StoreError
from sandbox.store.code import check_record
from sandbox.store.config import canonical, digest
from sandbox.store.files import (
    make_folder,
    read_json,
    sha256,
    sha256_file,
    sweep_temporary,
    unwritable,
    write_atomic,
    write_json,
)

SCHEMA = 1
"""Bumped when what a record means changes."""
MANIFEST = "manifest.json"
_RESUME = "resume-*.safetensors"
_CHECKPOINT = re.compile(r"ckpt/step_[0-9]{12,18}\.safetensors")
_HASH = re.compile("[0-9a-f]{16}")
_AGAIN = "delete the run folder to make it again"


def default_root() -> Path:
    """`$SANDBOX_RUNS`, else `runs` in the working folder."""
    return Path(os.environ.get("SANDBOX_RUNS") or "runs").expanduser()


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
          StoreError: the run is unfinished, or the manifest is damaged, that of another
            run, or of a newer version.
        """
        return self._manifest()["files"]

    def _manifest(self) -> dict[str, Any]:
        path = self.path / MANIFEST
        if path.is_dir():
            raise StoreError(f"{path} is a folder, not a file; {_AGAIN}.")
        if not self.complete:
            raise StoreError(
                f"{self.path} is not a finished run (it has no {MANIFEST})."
            )
        now = path.stat()
        return _read_manifest(self, (now.st_ino, now.st_size, now.st_mtime_ns))

    def made_by(self) -> dict[str, Any] | None:
        """What is stored of the code that made a finished run or its saved state.

        Empty where it was made before that was stored; None where there is nothing.
        """
        if self.complete:
            return self._manifest()["code"]
        for path in self._resume_files():
            if not self._resume_problem(path):
                return json.loads(_metadata(path)["meta"]).get("code", {})
        return None

    def adopt(self, code: Mapping[str, Any]) -> None:
        """Says of a finished run that other code would have made the same."""
        data = {**self._manifest(), "code": code}
        data.pop("sha256", None)
        write_json(self.path / MANIFEST, {**data, "sha256": _own_sha256(data)})

    def set_aside(self) -> Path:
        """Renames the folder, so that it is called by no hash; where it is then."""
        others = self.path.parent.glob(f"{self.path.name}.before-*")
        last = (p.name.rpartition("-")[2] for p in others)
        number = 1 + max((int(n) for n in last if n.isdecimal()), default=0)
        aside = self.path.with_name(f"{self.path.name}.before-{number}")
        try:
            os.rename(self.path, aside)
        except OSError as e:
            raise unwritable("rename", self.path, e) from e
        return aside

    @property
    def trajectory_hash(self) -> str:
        """Hash of the checkpoints of a finished run, as its manifest lists them."""
        files = self.manifest().items()
        return digest({n: e["sha256"] for n, e in files if _CHECKPOINT.fullmatch(n)})

    def _require_readable(self, data: dict[str, Any]) -> None:
        """Refuses the manifest of a newer version."""
        path = self.path / MANIFEST
        schema = data.get("schema", SCHEMA)
        if isinstance(schema, int) and schema > SCHEMA:
            raise StoreError(
                f"{path} has schema {schema} and this version of sandbox reads schemas"
                f" up to {SCHEMA}; install the newer version that wrote it, or choose"
                " another folder of runs (SANDBOX_RUNS)."
            )

    def _require_own(self, data: dict[str, Any]) -> None:
        """Refuses an altered manifest and that of another run, where it says so."""
        path = self.path / MANIFEST
        if "run" not in data and "sha256" not in data:
            return
        if data.get("sha256") != _own_sha256(data):
            raise StoreError(f"{path} was altered (its own sha256 differs); {_AGAIN}.")
        if self._belongs_to_another(data.get("run")):
            raise StoreError(
                f"{path} is that of run {data.get('run')!s:.40}; put its own back, or"
                f" {_AGAIN}."
            )

    def _belongs_to_another(self, name: Any) -> bool:
        """Whether a file that names its run was put here from another one.

        A folder that is called by no hash is a copy that somebody named as they liked.
        """
        own = self.path.absolute().name
        return bool(_HASH.fullmatch(own)) and name != own

    def check(self, name: str) -> None:
        """Compares one file with the manifest.

        Raises:
          StoreError: the file is missing, truncated or altered; it names the file.
        """
        problem = _problem(self.path / name, self.manifest().get(name))
        if problem:
            raise StoreError(f"{self.path / name} {problem}; {_AGAIN}.")

    def problems(self) -> list[str]:
        """Everything wrong with the folder, one line each; empty if it is sound."""
        try:
            files = self.manifest()
        except StoreError as e:
            return [str(e)]
        found = [(name, _problem(self.path / name, e)) for name, e in files.items()]
        lines = [f"{self.path / name} {p}" for name, p in found if p]
        return lines or (self._problem_of_record() if "config.json" in files else [])

    def _problem_of_record(self) -> list[str]:
        """Whether the config is the record that the folder is called by."""
        config = self.path / "config.json"
        if config.is_dir() or not config.exists():
            return [f"{config} {_problem(config, {})}"]
        try:
            name = digest(read_json(config))
        except StoreError as e:
            return [str(e)]
        except ValueError:  # a number that no record holds
            return [f"{config} was altered: it is no record"]
        if not self._belongs_to_another(name):
            return []
        return [f"{config} was altered: it is the record of run {name}"]

    def unfinished_problems(self) -> list[str]:
        """What is wrong with a run that is neither finished nor being written."""
        if (self.path / MANIFEST).is_dir():
            return [f"{self.path / MANIFEST} is a folder, not a file"]
        if (self.path / "provenance.json").exists():  # the last one before the manifest
            return [f"{self.path / MANIFEST} is missing, though the run was finished"]
        stored = [*self.path.glob(_RESUME), *self.path.glob("ckpt/step_*")]
        found = self._problem_of_record() if stored else []
        for path in self.path.glob(_RESUME):
            if path.is_dir():
                found.append(f"{path} {_problem(path, {})}")
        for path in self._resume_files():
            why = self._resume_problem(path)
            if why:
                found.append(f"{path} {why}")
                continue
            known = json.loads(_metadata(path)["meta"]).get("checkpoints", {})
            return found + [f"{self.path / n} {p}" for n, p in self._changed(known)]
        return found

    def _changed(self, known: Mapping[str, str]) -> list[tuple[str, str]]:
        """Files that are no longer what they were when stored, and what they are."""
        pairs = [(n, _problem(self.path / n, {"sha256": s})) for n, s in known.items()]
        return [(n, problem) for n, problem in pairs if problem]

    def require_unchanged(self, known: Mapping[str, str]) -> None:
        """Refuses files that are no longer what they were when stored.

        Args:
          known: name -> sha256 of what was stored so far.

        Raises:
          StoreError: one of them is missing or altered.
        """
        for name, problem in self._changed(known):
            raise StoreError(
                f"{self.path / name} {problem}; put it back to go on, or {_AGAIN}."
            )

    def hashes(self, pattern: str) -> dict[str, str]:
        """Name -> sha256 of the files that match."""
        found = sorted(p for p in self.path.glob(pattern) if p.is_file())
        return {str(p.relative_to(self.path)): sha256_file(p) for p in found}

    def commit(
        self, extra: Mapping[str, Any], *, known: Mapping[str, str] | None = None
    ) -> None:
        """Writes the manifest over every file present, which completes the run.

        Args:
          extra: what else the manifest says.
          known: name -> sha256 of what was stored on the way.

        Raises:
          StoreError: one of those is no longer what was stored.
        """
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
        for n, stored in (known or {}).items():
            if n not in files or files[n]["sha256"] != stored:
                problem = _problem(self.path / n, {"sha256": stored}) or "was altered"
                raise StoreError(f"{self.path / n} {problem}; {_AGAIN}.")
        about = {"schema": SCHEMA, "run": self.path.absolute().name, **extra}
        data = {**about, "files": files}
        write_json(self.path / MANIFEST, {**data, "sha256": _own_sha256(data)})
        for p in self._resume_files():
            p.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Clears what killed writers left behind; call while holding the lock.

        Raises:
          StoreError: a folder stands where a file belongs, or the other way round.
        """
        folder = self.path / "ckpt"
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file where a folder belongs; remove it.")
        make_folder(folder)
        for p in (*self.path.iterdir(), *folder.iterdir()):
            if p.is_dir() and p.suffix in (".json", ".parquet", ".safetensors"):
                raise StoreError(f"{p} is a folder where a file belongs; remove it.")
        sweep_temporary(self.path)

    def save_resume(
        self, step: int, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> None:
        """Stores the engine's state and metrics so far as one self-checking file."""
        contiguous = {k: np.asarray(v, order="C") for k, v in tensors.items()}
        about = {"meta": json.dumps(meta), "run": self.path.absolute().name}
        data = save(contiguous, metadata=about)
        name = f"resume-{step:012d}-{sha256(data)[:16]}.safetensors"
        write_atomic(self.path / name, data)
        for p in self._resume_files():
            if p.name != name:
                p.unlink(missing_ok=True)

    def load_resume(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The newest intact resume file, or None to start from the beginning.

        Says so on standard error where one cannot be used.
        """
        for path in self._resume_files():
            why = self._resume_problem(path)
            if why:
                line = f"{path} {why}; it is not used"
                print(line, file=sys.stderr, flush=True)
                continue
            with safe_open(path, framework="numpy") as f:
                tensors = {k: f.get_tensor(k) for k in f.keys()}
                return tensors, json.loads(f.metadata()["meta"])
        return None

    def _resume_files(self) -> list[Path]:
        """Newest first."""
        found = [p for p in self.path.glob(_RESUME) if p.is_file()]
        return sorted(found, reverse=True)

    def _resume_problem(self, path: Path) -> str:
        """What is wrong with a resume file; empty if it is sound and this run's."""
        if sha256_file(path)[:16] != path.stem.split("-")[-1]:
            return "was cut or altered (its sha256 is not the one in its name)"
        try:
            about = _metadata(path)
            known = json.loads(about["meta"]).get("checkpoints", {})
            sound = all(_CHECKPOINT.fullmatch(n) for n in known)
            check_record(json.loads(about["meta"]).get("code", {}))
        except (
            *(SafetensorError, KeyError, ValueError, AttributeError, TypeError),
            RecursionError,
        ):
            sound, about = False, {}
        if not sound:
            return "is no saved state"
        run = about.get("run", self.path.absolute().name)  # those of before do not say
        return f"is that of run {run}" if self._belongs_to_another(run) else ""


def _metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file."""
    with safe_open(path, framework="numpy") as f:
        return f.metadata() or {}


def _own_sha256(manifest: Mapping[str, Any]) -> str:
    """sha256 of everything that a manifest says but this; empty if it cannot be."""
    rest = {k: v for k, v in manifest.items() if k != "sha256"}
    try:
        return sha256(canonical(rest).encode())
    except ValueError:  # NaN, which Python reads and JSON has not
        return ""


def _private(name: str) -> bool:
    return name.startswith((".", "resume-")) or name == MANIFEST


def _problem(path: Path, entry: Mapping[str, Any] | None) -> str:
    """What is wrong with a file, as the end of a sentence; empty if it is sound."""
    if entry is None:
        return "is not listed in the run's manifest"
    if path.is_dir() and not path.is_symlink():
        return "is a folder, not a file"
    if not path.is_file() or path.is_symlink():
        return "is missing"
    size = path.stat().st_size
    if size != entry.get("size", size):
        return f"was cut or grown ({size} bytes, {entry.get('size')} expected)"
    try:
        found = sha256_file(path)
    except OSError as e:
        return f"cannot be read ({e.strerror})"
    if found != entry["sha256"]:
        return "was altered (its sha256 is not the one recorded for it)"
    return ""


@lru_cache(maxsize=256)  # whoever reads a checkpoint asks again
def _read_manifest(run: RunFolder, stamp: tuple[int, ...]) -> dict[str, Any]:
    """The manifest of a finished run as it is since `stamp`, not to be changed."""
    path, home = run.path / MANIFEST, run.path.resolve()
    try:
        data = read_json(path)
    except StoreError as e:
        raise StoreError(f"{str(e).removesuffix('.')}; {_AGAIN}.") from e
    files = data.get("files") if isinstance(data, dict) else None
    if not isinstance(files, dict):
        raise StoreError(f"{path} does not list files; {_AGAIN}.")
    run._require_readable(data)
    for name, entry in files.items():
        # One that cannot be printed could steer a terminal, or be no name at all.
        inside = name.isprintable() and (
            (run.path / name).resolve().is_relative_to(home)
        )
        if not inside or not isinstance(entry, dict) or "sha256" not in entry:
            raise StoreError(f"{path} has a bad entry {name!r}; {_AGAIN}.")
    run._require_own(data)
    try:
        return {**data, "code": check_record(data.get("code", {}))}
    except ValueError as e:
        raise StoreError(f"{path} was altered ({e}); {_AGAIN}.") from e
