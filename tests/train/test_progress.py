"""What a run says while it goes on, rendered: by a made-up clock, at several widths."""

import io
import os
import pty
import re
import subprocess
import sys
from functools import partial

import pytest
from rich.console import Console

from sandbox.train import progress
from sandbox.train.progress import Bar, Lines, Progress
from tests.terminal import read_all

TITLE = "student 3f9a12, seeds 0-19"
LANES = ("ce", "one_shot@12,800", "progressive@409,600", "two_shot_tau0.25@12,800")
NOTE = "  ".join(f"{lane} 0.51" for lane in (*LANES, "argmax@12,800", "snapshots"))


class Clock:
    """The time, which goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def work(shown: Progress, clock: Clock, look=lambda: None, **how: object) -> None:
    """40 s of compiling, then chunks of a million samples a second."""
    shown.start(TITLE, 20_000_000, 0)
    look()
    shown.update(0, NOTE)
    clock.now += 40
    look()
    for i in range(1, 6):
        shown.update(i * 1_000_000, NOTE)
        look()
        clock.now += 1
    shown.close(NOTE, **how)


def test_lines_of_a_pipe(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(Lines(2.0), clock)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out and "\x1b" not in err and max(map(len, lines)) <= 80
    assert lines[0] == f"{TITLE}: at most 20,000,000 samples; compiling"
    # The rate is that of the chunks after the first, 40 s of compiling left aside.
    assert lines[1] == f"{TITLE}: 3M/20M  1M samples/s  at most 17s left"
    assert lines[2].split("  ")[1:] == [f"{lane} 0.51" for lane in LANES[:3]]
    assert [line for line in lines if line.startswith(TITLE)][-1].endswith("in 45s")
    assert "0 samples/s" not in err and err.count("snapshots 0.51") == 3


def test_a_resumed_measurement(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines(0.0)
    lines.start("probe 3f9a12, seed 3", 4, 1, "checkpoints")
    for i in (2, 3):
        clock.now += 100
        lines.update(i, f"checkpoint {i}")
    lines.close("at checkpoint 3", finished=False)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "probe 3f9a12, seed 3: 4 checkpoints, resumed at 1",
        "probe 3f9a12, seed 3: 2/4 checkpoints  checkpoint 2",
        "probe 3f9a12, seed 3: 3/4  1m40s a checkpoint  about 1m40s left  checkpoint 3",
        "probe 3f9a12, seed 3: stopped after 3m20s  at checkpoint 3",
    ]


@pytest.mark.parametrize("width", [40, 80, 132])
def test_frames_of_a_bar(
    width: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every frame is two lines that end before the terminal does."""
    frames: list[list[str]] = []
    screen = io.StringIO()
    made = Console(file=screen, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda stderr: made)
    live = partial(progress.Live, auto_refresh=False)  # no frame but those asked for
    monkeypatch.setattr(progress, "Live", live)
    bar = Bar()

    def look() -> None:
        screen.truncate(screen.seek(0))
        bar._live.refresh()
        frame = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
        frames.append(frame.replace("\r", "").strip("\n").split("\n"))

    work(bar, clock, look, finished=False)
    assert all(len(line) <= width for frame in frames for line in frame)
    assert all(len(frame) == 2 for frame in frames[1:])
    assert "compiling 0s" in frames[0][0] and "compiling 40s" in frames[1][0]
    assert "/s" not in "".join(frames[2])  # one chunk has no rate
    if width >= 80:
        assert frames[2][0].endswith("1M/20M samples")
        assert frames[3][0].endswith("  2M/20M  1M samples/s  at most 18s left")
        assert f"{TITLE}: stopped after 45s" in screen.getvalue()
    assert frames[-1][1].startswith("  ce 0.51  one_shot@12,800 0.51")


SHOWN = """
from sandbox.train.progress import default_progress
told = default_progress()
told.start("student 3f9a12, seeds 0-19", 20_000_000, 0)
for i in range(3):
    told.update(i * 1_000_000, "one_shot@12,800 0.51  " * 9)
told.close("one_shot@12,800 0.51  " * 9)
"""


@pytest.mark.long
def test_a_terminal_of_80_columns() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"}
    command = [sys.executable, "-c", SHOWN]
    with subprocess.Popen(command, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = read_all(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [line for part in text.split("\n") for line in part.split("\r")]
    assert max(map(len, lines)) <= 80 and "━" in text and "compiling" in text
    assert "done in" in text and "…" in text
