"""One sitting of long work: where it runs, and the signals that end it early.

A command holds `stopped_by_signals()` for its whole life; work that can save what it
has so far holds `collected_signals()` inside it, and looks between its pieces.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from sandbox.errors import Interrupted
from sandbox.store.provenance import versions

HEARTBEAT = 30
"""Seconds without a word from another process of a group after which one ends."""
_GOES_ON = b"interrupted; the same command goes on from what is stored\n"
_DECIDES_BITS = ("jax", "jaxlib", "xla_flags", "device", "devices")


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Lets SIGINT, SIGTERM and SIGUSR1 end the process at once, with exit code 75.

    For a command, wherever it imports, compiles or draws. An exception raised there
    can be swallowed on its way through jax, and Python's own ending can crash on a
    compilation that was cut short; files are whole and locks fall at any moment.
    Only the main thread is told; elsewhere this does nothing.
    """

    def end(number: int, frame: Any) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # it may be in the middle of a write
                stream.flush()
        shown = b"\x1b[?25h" if os.isatty(2) else b""  # the cursor that a bar hid
        with suppress(OSError):
            os.write(2, shown + _GOES_ON)
        os._exit(Interrupted.exit_code)

    with _handled(end, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)):
        yield


@contextmanager
def collected_signals() -> Iterator[list[str]]:
    """Collects SIGINT, SIGTERM and SIGUSR1 until the caller looks; main thread only.

    A signal that comes after the caller's last look is raised again at the end, for
    whoever handled it before.
    """
    caught: list[str] = []

    def note(number: int, frame: Any) -> None:
        caught.append(signal.Signals(number).name)

    with _handled(note, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)):
        yield caught
    if caught:
        signal.raise_signal(signal.Signals[caught[0]])


def stop_after(seconds: float) -> None:
    """Sends this process SIGTERM after so many seconds; 0 for never."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def _handled(
    handler: Callable[[int, Any], None], watched: Sequence[signal.Signals]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, handler) for s in watched}
    try:
        yield
    finally:
        for s, earlier in before.items():
            signal.signal(s, earlier)


def this_sitting() -> dict[str, str]:
    """What this process computes with, and where."""
    import jax  # lazily: commands that train nothing answer at once

    found = versions()
    return {
        **{name: found[name] for name in ("python", "jax", "jaxlib")},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "hostname": socket.gethostname(),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": f"{jax.device_count()}",
    }


def join_sittings(earlier: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The earlier sittings and this one; says so if the last one computed otherwise."""
    now = this_sitting()
    last = earlier[-1] if earlier else now
    changed = [
        f"{name} was {last.get(name)!r}, is {now[name]!r}"
        for name in _DECIDES_BITS
        if last.get(name, now[name]) != now[name]  # earlier versions told no device
    ]
    if changed:
        say(f"going on under another setup: {'; '.join(changed)}")
    return [*map(dict, earlier), now]


def say(line: str) -> None:
    """Prints a line on standard error at once, whole among those of other threads."""
    print(f"{line}\n", end="", file=sys.stderr, flush=True)


@cache
def say_once(line: str) -> None:
    """Says what this process has not said before."""
    say(line)
