"""What a result must say about where it came from."""

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "safetensors", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python, this project and what it computes with."""
    out = {"python": platform.python_version()}
    for name in ("distillation-sandbox", *_PACKAGES):
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and jax devices."""
    import jax

    devices = jax.devices()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
        ),
        "platform": jax.default_backend(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in devices],
    }


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
    """Commit and whether the tree differs from it; empty outside a checkout."""
    if shutil.which("git") is None:
        return {}

    def ask(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = ask("rev-parse", "HEAD")
    if not commit:
        return {}
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain"))}


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
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
