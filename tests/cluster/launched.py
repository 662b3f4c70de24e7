"""A study launched on a cluster while things go wrong, beside the same study alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["smoke", "--setting.n-teachers", "6", "--setting.group", "1"]


def start(*words: str, root: Path, log: Path, **env: str) -> "subprocess.Popen[bytes]":
    """A command about the study, what it says in a file."""
    command = [sys.executable, "-m", *words, "--root", str(root)]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **env}
    with log.open("wb") as out:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)


def launch(on: str, root: Path, log: Path, **env: str) -> "subprocess.Popen[bytes]":
    """`sandbox launch`, one CPU a group."""
    words = ("sandbox", "launch", "parity_mlp", *WORDS, "--on", on, "--cpus", "1")
    return start(*words, root=root, log=log, **env)


def training(root: Path) -> Iterator[tuple[Path, int]]:
    """Runs in the middle of their training, and who holds them."""
    for folder in root.glob("*/*"):
        begun = any(folder.glob("ckpt/step_*"))
        if begun and not (folder / "manifest.json").exists():
            pid = int((folder / ".lock").read_text() or 0)
            if pid and Path(f"/proc/{pid}").exists():
                yield folder, pid


def wait_for(found: Callable[[], Any], *, seconds: float = 120) -> Any:
    """What is there at last."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if it := found():
            return it
        time.sleep(0.02)
    raise TimeoutError


def environment_of(pid: str) -> str:
    """Of a process; empty where there is none any more."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def kill_all(mark: str) -> None:
    """SIGKILL to every process with a mark in its environment."""
    for path in Path("/proc").glob("[0-9]*"):
        if f"\0{mark}\0" in f"\0{environment_of(path.name)}":
            try:
                os.kill(int(path.name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def stored(root: Path) -> dict[str, bytes]:
    """Metrics, checkpoints and outcomes of all runs, and measurements."""
    names = ("ckpt/*.safetensors", "metrics.parquet", "outcome.json", "values.*")
    kinds = ("teacher", "student", "probe")
    found = (p for k in kinds for n in names for p in root.glob(f"{k}/*/{n}"))
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def check_equal(apart: Path, tmp: Path) -> None:
    """The launched study is that of one process, and no run was made twice."""
    log = tmp / "whole.log"
    whole = start("experiments.parity_mlp", *WORDS, root=tmp / "whole", log=log)
    assert whole.wait() == 0, log.read_text()
    assert stored(apart) == stored(tmp / "whole") != {}
