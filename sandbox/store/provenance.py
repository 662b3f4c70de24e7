"""What a result must say about where it came from."""

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
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
    """Processor, cores, memory, jax devices and their software."""
    import jax  # lazily: versions alone are asked for by what must answer at once

    devices = jax.devices()
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "platform": jax.default_backend(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in devices],
        **_software(devices[0]),
    }


def nvidia() -> tuple[str, str]:
    """Driver version and cards; empty where there is no NVIDIA driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version,name,memory.total"]
    query.append("--format=csv,noheader")
    with suppress(OSError, subprocess.SubprocessError):
        text = subprocess.check_output(
            query, stderr=subprocess.DEVNULL, text=True, timeout=20
        )
        if text.strip():
            cards = [line.split(", ", 1) for line in text.strip().split("\n")]
            return cards[0][0], "; ".join(c[-1] for c in cards)
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text()
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
        return (found.group(1) if found else ""), ""
    return "", ""


@cache
def _software(device: Any) -> dict[str, Any]:
    """What jax reaches a device by, and of an NVIDIA GPU versions; of a CPU nothing."""
    if device.platform == "cpu":
        return {}
    out = {"runtime": device.client.platform_version, "driver": nvidia()[0]}
    with suppress(Exception):  # not public, and absent but with CUDA's plugin
        from jax._src import lib  # lazily, as jax

        cuda: Any = lib.cuda_versions
        out["cuda"] = cuda.cuda_runtime_get_version()
        out["cudnn"] = cuda.cudnn_get_version()
    return out


def _peak_device_memory() -> dict[str, int]:
    """Most memory that a device held so far; nothing where that is not told."""
    import jax  # lazily: as above

    stats = [d.memory_stats() or {} for d in jax.local_devices()]
    peaks = [s.get("peak_bytes_in_use") for s in stats]
    told = [peak for peak in peaks if peak is not None]
    return {"peak_device_memory_mb": max(told) // 2**20} if told else {}


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
        **_peak_device_memory(),
    }
