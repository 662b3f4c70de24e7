"""One sitting of long work: where it runs, and the signals that end it early."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from sandbox.store.provenance import versions

_DECIDES_BITS = ("jax", "jaxlib", "xla_flags")


@contextmanager
def collected_signals() -> Iterator[list[str]]:
    """Collects SIGINT, SIGTERM and SIGUSR1 until the caller looks; main thread only."""
    caught: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def note(number: int, frame: Any) -> None:
        del frame
        caught.append(signal.Signals(number).name)

    before = {s: signal.signal(s, note) for s in watched}
    try:
        yield caught
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def this_sitting() -> dict[str, str]:
    """What this process computes with, and where."""
    found = versions()
    return {
        **{name: found[name] for name in ("python", "jax", "jaxlib")},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "hostname": socket.gethostname(),
        "platform": jax.default_backend(),
    }


def join_sittings(earlier: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The earlier sittings and this one; says so if the last one computed otherwise."""
    now = this_sitting()
    last = earlier[-1] if earlier else now
    changed = [
        f"{name} was {last.get(name)!r}, is {now[name]!r}"
        for name in _DECIDES_BITS
        if last.get(name) != now[name]
    ]
    if changed:
        say(f"going on under another setup: {'; '.join(changed)}")
    return [*map(dict, earlier), now]


def say(line: str) -> None:
    """Prints a line on standard error at once."""
    print(line, file=sys.stderr, flush=True)
