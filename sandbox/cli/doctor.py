"""`sandbox doctor`: what this machine has, and which extra makes jax use it."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sandbox.cli.folders import Root
from sandbox.store.folders import default_root
from sandbox.text import size

_DRIVERS = (("cuda13", 580), ("cuda12", 525))
"""Extras and the oldest NVIDIA driver each of them runs on, newest first."""
_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
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
        lines, ready = report(self.root or default_root())
        for name, text in lines:
            print(f"{name:<10}{text}")
        return 0 if ready else 1


def report(root: Path) -> tuple[list[tuple[str, str]], bool]:
    """Pairs of (what, finding), and whether one can train here."""
    lines = [
        ("python", f"{platform.python_version()} at {sys.executable}"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("cores", _cores()),
        ("memory", _memory()),
    ]
    settings = [f"{n}={os.environ[n]}" for n in _SETTINGS if n in os.environ]
    if settings:
        lines.append(("set", "  ".join(settings)))
    jax_text, devices = _jax()
    lines.append(("jax", jax_text))
    lines += [("device", d) for d in devices]
    lines += _accelerators(" ".join(devices))
    runs_text, writable = _runs(root)
    lines.append(("runs", runs_text))
    return lines, bool(devices) and writable


def _cores() -> str:
    usable = getattr(os, "sched_getaffinity", None)
    n = len(usable(0)) if usable else os.cpu_count()
    return f"{n} usable of {os.cpu_count()}"


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
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax

        devices = [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]
    except Exception as e:  # whatever a broken installation raises
        first = str(e).strip().split("\n")[0]
        return f"cannot be used ({type(e).__name__}: {first})", []
    plugins = [f"{n} {v}" for n in _PLUGINS if (v := _version(n))]
    text = ", ".join(
        [f"jax {jax.__version__}", f"jaxlib {_version('jaxlib')}", *plugins]
    )
    return text, devices


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _accelerators(devices: str) -> list[tuple[str, str]]:
    """What GPU and TPU hardware is there and what to install for it."""
    lines = []
    driver, cards = nvidia()
    if driver:
        used = "gpu:" in devices or "cuda:" in devices
        lines.append(("nvidia", f"driver {driver}" + (f", {cards}" if cards else "")))
        lines.append(("", "jax uses it" if used else advice(driver)))
    else:
        lines.append(("nvidia", "no driver found"))
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    if "tpu:" in devices:
        lines.append(("tpu", "jax uses it"))
    elif "TPU_NAME" in os.environ or (chips and not driver):
        lines.append(("tpu", f"looks like a TPU machine: {_install('tpu')}"))
    else:
        lines.append(("tpu", "none found"))
    return lines


def nvidia() -> tuple[str, str]:
    """Driver version and cards; empty where there is no NVIDIA driver."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version,name,memory.total"]
        try:
            done = subprocess.run(
                [*query, "--format=csv,noheader"],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is not None and done.returncode == 0 and done.stdout.strip():
            cards = [line.split(", ", 1) for line in done.stdout.strip().split("\n")]
            return cards[0][0], "; ".join(c[-1] for c in cards)
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "", ""
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return (found.group(1), "") if found else ("", "")


def advice(driver: str) -> str:
    """Which extra fits an NVIDIA driver."""
    try:
        major = int(driver.split(".")[0])
    except ValueError:
        return (
            f"driver version {driver!r} is not understood; see the README's GPU lines"
        )
    for extra, oldest in _DRIVERS:
        if major >= oldest:
            return f"jax does not use it: {_install(extra)} (driver >= {oldest})"
    oldest = min(v for _, v in _DRIVERS)
    return f"jax cannot use it: update the driver to {oldest} or newer"


def _install(extra: str) -> str:
    return f'in the checkout, pip install -e ".[{extra}]"'


def _runs(root: Path) -> tuple[str, bool]:
    """Whether runs can be stored under `root`, and how much fits."""
    there = root.absolute()
    while not there.exists():
        there = there.parent
    note = "" if there == root.absolute() else " (made by the first run)"
    try:
        with tempfile.TemporaryFile(dir=there):
            free = size(shutil.disk_usage(there).free)
    except OSError as e:
        return f"{root} cannot be written ({e.strerror}); set $SANDBOX_RUNS", False
    return f"{root}{note} is writable, {free} free", True
