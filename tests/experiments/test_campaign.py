"""A part that dies, hangs or stops loses no other part's results."""

import importlib.util
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.campaign import CHECKOUT, Outcome, Part, make_parts, run_campaign
from paper_repro import STUDIES

HANGS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({made!r}, "w").write(str(child.pid))
print("hanging", flush=True)
time.sleep(60)
"""
STOPS = """
import os
made = {made!r}
first = not os.path.exists(made)
open(made, "w").write("half" if first else "whole")
os._exit(75 if first else 0)
"""
SAVES = """
import os, signal, time
def save(number, frame):
    os._exit(75)
signal.signal(signal.SIGTERM, save)
open({made!r}, "w").close()
time.sleep(60)
"""
WRITES = "open({made!r}, 'a').write('x'); print('written')"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
CRASHES = "print('first', flush=True); raise ValueError('no such thing')"


def part(folder: Path, name: str, code: str, limit: float = 30.0) -> Part:
    made = folder / f"{name}.txt"
    command = ("-c", code.format(made=str(made)))
    return Part(name, command, limit, (str(made),), grace=0.3)


def states(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {o.part: o.state for o in outcomes}


def alive(pid: int) -> bool:
    """Neither gone nor dead and waiting for a parent's look."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_other_parts_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    sees = part(tmp_path, "sees", f"print(open({str(out / 'summary.json')!r}).read())")
    parts = [
        part(tmp_path, "dies", DIES),
        part(tmp_path, "hangs", HANGS, limit=1.5),
        part(tmp_path, "crashes", CRASHES),
        part(tmp_path, "stops", STOPS),
        sees,
        part(tmp_path, "writes", WRITES),
    ]
    outcomes = run_campaign(parts, out, 100)
    expected = {
        "dies": "failed", "hangs": "killed", "crashes": "failed",
        "stops": "unfinished", "sees": "done", "writes": "done",
    }  # fmt: skip
    assert states(outcomes) == expected
    ended = {o.part: o.ended for o in outcomes if o.ended}
    assert ended.pop("crashes") == "exit code 1"
    assert ended == {
        name: signal.strsignal(number)
        for name, number in (("dies", signal.SIGSEGV), ("hangs", signal.SIGKILL))
    }
    tails = {o.part: o.tail for o in outcomes}
    assert tails["crashes"][-1] == "ValueError: no such thing"
    assert tails["hangs"] == ["hanging"] and tails["writes"] == ["written"]
    assert not alive(int((tmp_path / "hangs.txt").read_text()))
    # what a part saw was written before it began
    seen = {row["part"]: row["state"] for row in json.loads(read_log(out, "sees"))}
    assert seen == expected | {"sees": "not reached", "writes": "not reached"}
    stored = json.loads((out / "back" / "summary.json").read_text())
    assert [row["part"] for row in stored] == list(expected)
    assert stored == json.loads((out / "summary.json").read_text())
    back = {p.name for p in (out / "back").iterdir()}
    assert back == {"summary.json", "results.tar.gz", "logs.tar.gz"}
    with tarfile.open(out / "back" / "results.tar.gz") as archive:
        member = archive.extractfile(f"{tmp_path.name}/writes.txt")
        assert member and member.read() == b"x"
    printed = capsys.readouterr().out
    assert "crashes  failed" in printed and "exit code 1" in printed

    again = run_campaign(parts, out, 100)  # what failed comes last
    assert states(again) == expected | {"stops": "done"}
    assert (tmp_path / "stops.txt").read_text() == "whole"
    assert (tmp_path / "writes.txt").read_text() == "x"  # not run again
    begun = [l.partition(":")[0] for l in capsys.readouterr().out.splitlines()]
    assert begun[:4] == ["stops", "dies", "hangs", "crashes"]

    run_campaign(parts[4:5], out, 100)  # what is not asked for now stays as it is
    stored = json.loads((out / "summary.json").read_text())
    assert {row["part"]: row["state"] for row in stored} == states(again)
    with tarfile.open(out / "back" / "results.tar.gz") as archive:
        assert f"{tmp_path.name}/writes.txt" in archive.getnames()


def read_log(out: Path, name: str) -> str:
    return (out / "logs" / f"{name}.log").read_text()


def test_nothing_starts_without_budget(tmp_path: Path) -> None:
    parts = [part(tmp_path, "hangs", HANGS), part(tmp_path, "writes", WRITES)]
    begin = time.monotonic()
    outcomes = run_campaign(parts, tmp_path / "out", 1.0)
    assert time.monotonic() - begin < 5
    assert states(outcomes) == {"hangs": "killed", "writes": "not reached"}
    assert not (tmp_path / "writes.txt").exists()
    assert states(run_campaign(parts, tmp_path / "out", 0.2)) == states(outcomes)
    # one's own command is another part
    changed = [parts[0], part(tmp_path, "writes", WRITES + "\n")]
    assert states(run_campaign(changed, tmp_path / "out", 0.2)) == states(outcomes)


def test_an_interrupted_campaign_stops_its_part(tmp_path: Path) -> None:
    ready = tmp_path / "a.txt"
    first = ("-c", SAVES.format(made=str(ready)))
    code = (
        "from pathlib import Path\n"
        "from experiments.campaign import Part, run_campaign\n"
        "from sandbox.command import guarded\n"
        f"parts = [Part('a', {first!r}, 60), Part('b', ('-c', ''), 60)]\n"
        f"guarded(lambda: run_campaign(parts, Path({str(tmp_path / 'out')!r}), 60))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT)
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [r["state"] for r in rows] == ["unfinished", "not reached"], rows


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_commands_are_this_checkouts(tmp_path: Path, scale: str) -> None:
    parts = make_parts(scale, tmp_path / "out", tmp_path / "runs")
    assert len({p.name for p in parts}) == len(parts)
    studies = [p for p in parts if p.command[1] == "paper_repro"]
    assert {p.name for p in studies} <= set(STUDIES) and len(studies) >= 2
    for p in parts:
        assert all(made.startswith(str(tmp_path)) for made in p.makes)
        assert importlib.util.find_spec(p.command[1])
