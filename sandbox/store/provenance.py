"""What a result must say about where it came from."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sandbox import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "safetensors", "pyarrow")
_CHECKOUT = Path(__file__).resolve().parents[2]


def versions() -> dict[str, str]:
    """Versions of Python, this project and what it computes with."""
    out = {"python": platform.python_version(), "sandbox": __version__}
    for name in _PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and jax devices."""
    import jax  # lazily: versions alone are asked for by what must answer at once

    devices = jax.devices()
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "platform": jax.default_backend(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in devices],
    }


def _cores() -> int:
    """Cores this process may use; where that is not told, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    """Physical memory; None where the system does not tell."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return round(size / 2**30, 1)


def _peak_memory_mb() -> int:
    """Largest resident size so far; macOS counts bytes, Linux KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_state() -> dict[str, Any]:
    """Commit of the library's checkout and whether its files differ from it.

    Empty where the library is installed without a checkout, or git gives no answer.
    """
    if not (_CHECKOUT / ".git").exists():
        return {}
    try:
        commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(changes)}


def _git(*args: str) -> str:
    done = subprocess.run(
        ["git", *args],
        cwd=_CHECKOUT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def provenance(*, wall_seconds: float) -> dict[str, Any]:
    """Everything recorded beside a run that does not decide its bits."""
    return {
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
        "command": sys.argv,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "finished_unix": int(time.time()),
        "wall_seconds": round(wall_seconds, 2),
        "peak_memory_mb": _peak_memory_mb(),
    }
