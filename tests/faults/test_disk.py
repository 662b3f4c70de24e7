"""Full, read-only and limited disks: one sentence, nothing lost, and on afterwards."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.store.folders import RunFolder
from tests.faults.conftest import PATIENCE, Study

GO_ON = "and run the same command to go on."


@dataclass(frozen=True)
class Disk:
    """A small file system that only the processes run `under` it can see.

    Attributes:
      study: on that disk, as these tests reach it.
      inside: the folder of the study as its processes see it.
      under: runs a command there.
    """

    study: Study
    inside: Path
    under: list[str]

    def run(self, what: str, *, code: int = 0) -> str:
        at = (str(self.inside / "runs"), str(self.inside))
        return self.study.run(what, code=code, under=self.under, at=at)

    def error(self, what: str) -> str:
        """The one sentence that a sitting ends with."""
        line = self.run(what, code=2).splitlines()[-1]
        assert line.startswith("error: cannot ") and line.endswith(GO_ON), line
        assert str(self.inside) in line
        return line

    def mount(self, options: str) -> None:
        command = ["mount", "-o", f"remount,{options}", str(self.inside)]
        subprocess.run([*self.under, *command], check=True)

    def fill(self, left: int) -> None:
        """Leaves some bytes free."""
        (self.study.folder / "ballast").unlink(missing_ok=True)
        room = os.statvfs(self.study.folder)
        size = room.f_bavail * room.f_bsize - left
        with open(self.study.folder / "ballast", "wb") as f:
            f.write(b"\0" * max(size, 0))

    def free(self) -> None:
        (self.study.folder / "ballast").unlink()


def sound(study: Study) -> None:
    """Every finished run is as its manifest says, and no temporary file is left."""
    for path in study.root.glob("*/*"):
        if (path / "manifest.json").exists():
            assert RunFolder(path).problems() == []
    assert not list(study.folder.rglob("*.tmp"))


@pytest.fixture
def disk(reference: Study, tmp_path: Path) -> Iterator[Disk]:
    """6 MB of memory, in a mount namespace of its own."""
    inside = tmp_path / "disk"
    inside.mkdir()
    program = 'mount -t tmpfs -o size=6m none "$1" && echo ready && exec cat'
    try:
        keeper = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", program, "sh", str(inside)],
            stdin=subprocess.PIPE,  # it ends with this process, however that ends
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare on this machine")
    with keeper:
        assert keeper.stdout is not None
        if keeper.stdout.readline() != "ready\n":
            pytest.skip("this user may not mount a file system")
        outside = Path(f"/proc/{keeper.pid}/root") / inside.relative_to("/")
        study = Study(outside, reference.program, reference.env)
        under = ["nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt"]
        yield Disk(study, inside, under)
        keeper.kill()


@pytest.mark.slow
def test_a_full_disk(disk: Disk, reference: Study) -> None:
    """No room for the teacher's checkpoints; after some is freed, the same bits."""
    disk.fill(0)  # not even for the note in the lock
    line = disk.error("study")
    assert "/runs/teacher/" in line and "free some space" in line
    sound(disk.study)
    disk.fill(120_000)
    line = disk.error("study")
    assert "/ckpt/step_" in line and "No space left on device; free some space" in line
    sound(disk.study)
    disk.free()
    disk.run("study")
    assert disk.study.contents() == reference.contents()


@pytest.mark.slow
def test_a_read_only_disk(disk: Disk, reference: Study) -> None:
    """Nothing can be begun there, but what is finished can be opened."""
    disk.run("teacher")
    disk.mount("ro")
    before = disk.study.contents()
    line = disk.error("study")
    assert "Read-only file system; make the file system writable" in line
    assert disk.run("teacher") == ""
    assert disk.study.contents() == before


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(reference: Study, tmp_path: Path) -> None:
    """`ulimit -f`: the figure is too large, and the earlier one stays."""
    study = reference.copy(tmp_path / "study")
    (svg,) = (study.folder / "figures").rglob("*.svg")
    svg.write_bytes(b"an earlier figure")
    kept = study.contents()
    under = ["prlimit", "--fsize=20000"]
    line = study.run(code=2, under=under).splitlines()[-1]
    assert line.startswith(f"error: cannot write {svg}: File too large; raise")
    assert line.endswith(GO_ON)
    assert study.contents() == kept
    sound(study)
    study.run()
    assert study.contents() == reference.contents()


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_disks_that_fill_up_anywhere(
    disk: Disk, reference: Study, injected: Callable[..., None]
) -> None:
    """A random amount of room for every sitting, until the study is done."""
    rng, times, where = random.Random(2), 0, set()
    left, done = 60_000, False
    while not done:
        disk.fill(left)
        with disk.study.start(under=disk.under, at=_places(disk)) as process:
            _, err = process.communicate(timeout=PATIENCE)
        sound(disk.study)
        disk.free()
        done = process.returncode == 0
        if not done:
            assert process.returncode == 2, err
            line = err.splitlines()[-1]
            assert line.startswith("error: cannot ") and line.endswith(GO_ON), line
            name = line.split(": ")[1].rpartition("/")[2]
            where.add(name.partition("_0")[0].partition("-0")[0])
            times += 1
        left = rng.randint(8_192, 120_000)
    assert disk.study.contents() == reference.contents()
    injected(
        "S7",
        "a full disk at any write",
        times,
        f"one sentence, nothing lost, same bits after freeing ({', '.join(where)})",
    )


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_disk_without_inodes(
    disk: Disk, reference: Study, injected: Callable[..., None]
) -> None:
    limits = (3, 4, 5, 6, 8, 20, 45, 50, 53)
    for n in limits:
        disk.mount(f"nr_inodes={n}")
        line = disk.error("study")
        assert "No space left on device; free some space" in line
        sound(disk.study)
    disk.mount("nr_inodes=1000")
    disk.run("study")
    assert disk.study.contents() == reference.contents()
    injected("S7", "no inode left", len(limits), "one sentence, same bits after")


def _places(disk: Disk) -> tuple[str, str]:
    return str(disk.inside / "runs"), str(disk.inside)
