"""Progress of a run: a live bar on a terminal, plain lines elsewhere.

Progress is driven from the host between chunks and cannot change a bit of a result. It
goes to standard error, so that tables can be piped.
"""

import sys
import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rich import progress as columns
from rich.console import Console

from sandbox.train.signals import say


@runtime_checkable
class Progress(Protocol):
    """What the loop tells about a run."""

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        """Work begins, or resumes after `done` of at most `total` units."""
        ...

    def update(self, done: int, note: str) -> None:
        """`done` units are finished."""
        ...

    def close(self, note: str, *, finished: bool = True) -> None:
        """No more is done: all is `finished`, or it was stopped or failed."""
        ...


class Silent:
    """Says nothing."""

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        """Nothing."""

    def update(self, done: int, note: str) -> None:
        """Nothing."""

    def close(self, note: str, *, finished: bool = True) -> None:
        """Nothing."""


class Lines:
    """A plain line at the start, the end, and every few seconds between."""

    def __init__(self, every_seconds: float = 10.0) -> None:
        """Prints at most one line per `every_seconds` while a run goes on."""
        self._every = every_seconds

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        """Prints what is done."""
        self._title, self._total, self._from, self._unit = title, total, done, unit
        self._begin = self._last = time.monotonic()
        resumed = f", resumed at {done:,}" if done else ""
        say(f"{title}: at most {total:,} {unit}{resumed}")

    def update(self, done: int, note: str) -> None:
        """Prints rate and time left, if the last line is old enough."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        rate = (done - self._from) / max(now - self._begin, 1e-9)
        text = f"{self._title}: {done:,}/{self._total:,}"
        if rate > 0:
            left = clock((self._total - done) / rate)
            text += f"  {rate:,.{0 if rate >= 10 else 2}f} {self._unit}/s"
            text += f"  at most {left} left"
        say(f"{text}  {note}")

    def close(self, note: str, *, finished: bool = True) -> None:
        """Prints how long it took."""
        took = clock(time.monotonic() - self._begin)
        outcome = "done in" if finished else "stopped after"
        say(f"{self._title}: {outcome} {took}  {note}")


class Bar:
    """A rich progress bar."""

    def __init__(self) -> None:
        """Prepares the columns."""
        self._bar = columns.Progress(
            columns.TextColumn("{task.description}"),
            columns.BarColumn(bar_width=24),
            columns.MofNCompleteColumn(),
            columns.TextColumn("{task.fields[rate]}"),
            columns.TimeElapsedColumn(),
            columns.TextColumn("at most"),
            columns.TimeRemainingColumn(),
            columns.TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        """Shows a bar."""
        self._from, self._begin, self._unit = done, time.monotonic(), unit
        self._bar.start()
        self._task = self._bar.add_task(
            title, total=total, completed=done, rate="", note=""
        )

    def update(self, done: int, note: str) -> None:
        """Moves the bar."""
        rate = (done - self._from) / max(time.monotonic() - self._begin, 1e-9)
        self._bar.update(
            self._task, completed=done, rate=f"{rate:,.0f} {self._unit}/s", note=note
        )

    def close(self, note: str, *, finished: bool = True) -> None:
        """Leaves the bar on the screen as it is."""
        try:
            note = note if finished else f"stopped  {note}"
            self._bar.update(self._task, note=note)
        finally:
            self._bar.stop()


def default_progress() -> Progress:
    """A bar on a terminal, lines elsewhere."""
    return Bar() if sys.stderr.isatty() else Lines()


def seeds_text(seeds: Sequence[int]) -> str:
    """`seed 3`, or `seeds 0-4`."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"


def clock(seconds: float) -> str:
    """Seconds as `2h05m`, `3m20s` or `12s`."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"
