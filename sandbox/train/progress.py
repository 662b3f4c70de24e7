"""Progress of a run: a live bar on a terminal, plain lines elsewhere.

Progress is driven from the host between chunks and cannot change a bit of a result. It
goes to standard error, so that tables can be piped.
"""

import sys
import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sandbox.text import count
from sandbox.train.signals import say

_COLUMNS = 80
"""Most characters of a plain line, where words allow."""


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


class _Pace:
    """How far work is, how fast it goes, and what is left of it.

    Until the first chunk is done, what takes the time is compiling: nothing is said
    about the rate, which is measured from there.
    """

    def __init__(self, title: str, total: int, done: int, unit: str) -> None:
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self.one = unit.removesuffix("s")
        self.counts_samples = unit == "samples"
        self.begin = time.monotonic()
        self._mark: tuple[int, float] | None = None  # where the rate is measured from
        self._now = self.begin

    def move(self, done: int) -> bool:
        """Notes what is done; whether that is the first chunk."""
        self._now, first = time.monotonic(), self._mark is None and done > self.done
        if first:
            self._mark = done, self._now
        self.done = done
        return first

    def __str__(self) -> str:
        """E.g. `3.4M/20M  12.3k samples/s  at most 22m30s left`."""
        if self._mark is None:
            what = "compiling" if self.counts_samples else f"the first {self.one}"
            return f"{what} {clock(time.monotonic() - self.begin)}"
        text = f"{count(self.done)}/{count(self.total)}"
        done, seconds = self.done - self._mark[0], self._now - self._mark[1]
        if done <= 0 or seconds <= 0:
            return f"{text} {self.unit}"
        rate = done / seconds
        a_second = f"{count(rate)} {self.unit}/s"
        pace = a_second if rate >= 1 else f"{clock(1 / rate)} a {self.one}"
        about = "at most" if self.counts_samples else "about"  # training may end early
        return f"{text}  {pace}  {about} {clock((self.total - self.done) / rate)} left"

    def outcome(self, finished: bool) -> str:
        """What is said at the end."""
        took = clock(time.monotonic() - self.begin)
        return f"{self.title}: {'done in' if finished else 'stopped after'} {took}"


class Lines:
    """A plain line at the start, the end, and every few seconds between.

    What a run notes of its lanes stands in lines of its own below.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        """Prints at most one line per `every_seconds` while a run goes on."""
        self._every = every_seconds

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        """Prints what there is to do, and that it compiles."""
        self._pace = _Pace(title, total, done, unit)
        self._last = self._pace.begin
        most = "at most " if self._pace.counts_samples else ""
        resumed = f", resumed at {done:,}" if done else ""
        compiling = "; compiling" if self._pace.counts_samples else ""
        say(f"{title}: {most}{total:,} {unit}{resumed}{compiling}")

    def update(self, done: int, note: str) -> None:
        """Prints rate and time left, if the last line is old enough."""
        now = time.monotonic()
        if self._pace.move(done):
            self._last = now
        if now - self._last >= self._every:
            self._last = now
            self._say(f"{self._pace.title}: {self._pace}", note)

    def close(self, note: str, *, finished: bool = True) -> None:
        """Prints how long it took."""
        self._say(self._pace.outcome(finished), note)

    def _say(self, line: str, note: str) -> None:
        """Within 80 columns, parted between lanes, in one piece."""
        if len(line) + 2 + len(note) <= _COLUMNS:
            say(f"{line}  {note}".rstrip())
            return
        lines = [line, ""]
        for part in note.split("  "):
            if len(lines[-1]) + 2 + len(part) > _COLUMNS and lines[-1]:
                lines.append("")
            lines[-1] += f"  {part}"
        say("\n".join(lines))


class Bar:
    """A bar on one line of a terminal, and what a run notes of its lanes below."""

    def __init__(self) -> None:
        """Shows nothing yet."""
        self._note = self._outcome = ""
        self._console = Console(stderr=True)

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        """Shows a bar."""
        self._pace = _Pace(title, total, done, unit)
        self._live = Live(get_renderable=self._shown, console=self._console)
        self._live.start(refresh=True)

    def update(self, done: int, note: str) -> None:
        """Moves the bar."""
        self._pace.move(done)
        self._note = note

    def close(self, note: str, *, finished: bool = True) -> None:
        """Leaves on the screen how long it took, and the lanes."""
        try:
            self._note, self._outcome = note, self._pace.outcome(finished)
        finally:
            self._live.stop()

    def _shown(self) -> Group:
        """Title, bar and pace, as far as the terminal is wide; the lanes below."""
        lanes = [_line(f"  {self._note}", self._console.width)] if self._note else []
        if self._outcome:
            return Group(_line(self._outcome, self._console.width), *lanes)
        text = str(self._pace)
        room = self._console.width - len(text) - 2
        title = _line(self._pace.title, max(room, 8))
        parts: list[RenderableType] = [title, Text(text, no_wrap=True)]
        width = min(24, room - len(title) - 2)
        if width >= 4:
            bar = ProgressBar(self._pace.total, self._pace.done, width=width)
            parts.insert(1, bar)
        row = Table.grid(padding=(0, 2))
        row.add_row(*parts)
        return Group(row, *lanes)


def _line(text: str, width: int) -> Text:
    """Text that ends where the terminal does."""
    line = Text(text, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


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
