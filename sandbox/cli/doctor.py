"""`sandbox doctor`: what this machine has, and which extra makes jax use it."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox.command import Root
from sandbox.store.folders import default_root
from sandbox.store.provenance import nvidia
from sandbox.text import size

_DRIVERS = (("cuda13", 580), ("cuda12", 525))
"""Extras and the oldest NVIDIA driver each of them runs on, newest first."""
_PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
_SETTINGS = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "SANDBOX_RUNS")


@dataclass(frozen=True)
class Doctor:
    """Says what this machine offers and whether jax sees it.

    Versions, cores, memory, GPU driver, TPU, and whether runs can be stored. It imports
    jax, so it takes a few seconds.

    Examples:
      sandbox doctor
      sandbox doctor --root /scratch/runs

    Exit code: 0 ready to train, 1 something must be fixed first.
    """

    root: Root = None

    def run(self) -> int:
        """Prints the report."""
        settings = [f"{n}={os.environ[n]}" for n in _SETTINGS if n in os.environ]
        jax_text, devices = _jax()
        runs_text, writable = _runs(self.root or default_root())
        system = (platform.system(), platform.release(), platform.machine())
        told = hasattr(os, "sched_getaffinity")  # not on macOS
        usable = len(os.sched_getaffinity(0)) if told else os.cpu_count()
        for name, text in (
            ("python", f"{platform.python_version()} at {sys.executable}"),
            ("system", " ".join(system)),
            ("cores", f"{usable} usable of {os.cpu_count()}"),
            ("memory", _memory()),
            *([("set", "  ".join(settings))] if settings else []),
            ("jax", jax_text),
            *(("device", d) for d in devices),
            *_accelerators(" ".join(devices)),
            ("runs", runs_text),
        ):
            print(f"{name:<10}{text}")
        return 0 if devices and writable else 1


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    total = size(page * os.sysconf("SC_PHYS_PAGES"))
    try:
        free = size(page * os.sysconf("SC_AVPHYS_PAGES"))
    except (ValueError, OSError):  # macOS does not say
        return total
    return f"{total}, {free} free"


def _jax() -> tuple[str, list[str]]:
    """Version and devices; no device if jax cannot be used."""
    try:
        import jax  # lazily: it may be broken, which is what this command tells

        devices = [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]
    except Exception as e:  # whatever a broken installation raises
        named = os.environ.get("JAX_PLATFORMS", "")
        first = str(e).strip().split("\n")[0] or f"JAX_PLATFORMS={named}; unset it"
        return f"cannot be used ({type(e).__name__}: {first})", []
    found = []
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found), devices


def _accelerators(devices: str) -> list[tuple[str, str]]:
    """What GPU and TPU hardware is there and what to install for it."""
    driver, cards = nvidia()
    lines = [("nvidia", "no driver found")]
    if driver:
        used = "gpu:" in devices or "cuda:" in devices
        lines = [("nvidia", f"driver {driver}" + (f", {cards}" if cards else ""))]
        lines.append(("", "jax uses it" if used else advice(driver)))
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    tpu = "none found"
    if "tpu:" in devices:
        tpu = "jax uses it"
    elif "TPU_NAME" in os.environ or (chips and not driver):
        tpu = f"looks like a TPU machine: {_install('tpu')}"
    return [*lines, ("tpu", tpu)]


def advice(driver: str) -> str:
    """Which extra fits an NVIDIA driver."""
    major = driver.split(".")[0]
    if not major.isdecimal():
        hint = "see the README's GPU lines"
        return f"driver version {driver!r} is not understood; {hint}"
    for extra, oldest in _DRIVERS:
        if int(major) >= oldest:
            return f"jax does not use it: {_install(extra)} (driver >= {oldest})"
    return f"jax cannot use it: update the driver to {_DRIVERS[-1][1]} or newer"


def _install(extra: str) -> str:
    return f'in the checkout, pip install -e ".[{extra}]"'


def _runs(root: Path) -> tuple[str, bool]:
    """Whether runs can be stored under `root`, and how much fits."""
    there = next(p for p in (root.absolute(), *root.absolute().parents) if p.exists())
    note = "" if there == root.absolute() else " (made by the first run)"
    try:
        with tempfile.TemporaryFile(dir=there):
            free = size(shutil.disk_usage(there).free)
    except OSError as e:
        return f"{root} cannot be written ({e.strerror}); set $SANDBOX_RUNS", False
    return f"{root}{note} is writable, {free} free", True
