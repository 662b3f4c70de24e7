"""SIGKILL at any moment: started again, the study ends with the same bits."""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import PATIENCE, Study

SAVES = {"STUDY_SAVE_SECONDS": "0.05"}
"""So that a kill also meets the saving of the state, and loses little."""

RUN = ("config.json", "provenance.json", "manifest.json")
STAGES = (
    ("step", "step", "resume", "metrics.parquet", "outcome.json", *RUN),
    ("resume", "values.safetensors", *RUN),
    ("step", "resume", "metrics.parquet", "outcome.json", *RUN),
    (
        "figure",
        "parity_mlp.png",
        "parity_mlp.svg",
        "parity_mlp.pdf",
        "parity_mlp.tiny.json",
    ),
)
"""What is written or drawn in the teachers, the probe, the students, and after them."""


def kill_at(study: Study, event: str, name: str, nth: int, delay: float) -> bool:
    """Kills a sitting where it writes or draws; False if it came to its end first."""
    faults = f"{event} {name} {nth} SIGKILL {delay:.6f}"
    with study.start(faults=faults, env=SAVES) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGKILL), f"{out}\n{err}"
    return process.returncode != 0


def kill_after(study: Study, seconds: float) -> bool:
    """Kills a sitting some time after its start; False if it had ended by then."""
    with study.start(env=SAVES) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGKILL), f"{out}\n{err}"
    return process.returncode != 0


def stage(study: Study) -> int:
    """Which of `STAGES` a study has come to."""
    kinds = ("teacher", "probe", "student")
    return sum(any(study.root.glob(f"{k}/*/manifest.json")) for k in kinds)


def hit(study: Study) -> str:
    """What a killed sitting was doing, by the last that it told."""
    told = [e for e in study.events() if not e.startswith("fault")]
    event, name = told[-1].split()
    stage = {"open": "writing", "os.rename": "after writing"}.get(event, event)
    return f"{stage} {name}"


def same(study: Study, reference: Study) -> None:
    """Nothing is left over, all is sound, and every file has the same bits."""
    assert study.contents() == reference.contents()
    assert not list(study.folder.rglob("*.tmp"))
    assert not list(study.folder.rglob("resume-*"))
    verified = study.verify()
    assert verified.returncode == 0, verified.stdout


@pytest.mark.slow
def test_three_kills(study: Study, reference: Study) -> None:
    """While the state is saved, between table and manifest, and in a figure's file."""
    assert kill_at(study, "os.rename", "resume", 2, 0)
    assert list(study.folder.rglob(".*.tmp"))
    assert kill_at(study, "open", "manifest.json", 2, 0)
    assert kill_at(study, "os.rename", "parity_mlp.svg", 1, 0)
    assert [p.suffix for p in (study.folder / "figures").rglob(".*")] == [".tmp"]
    study.run()
    same(study, reference)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_fifty_kills(
    make_reference: Callable[[str], Study],
    tmp_path: Path,
    injected: Callable[..., None],
) -> None:
    """Half of them at a random time, half at a random write, each followed by a start.

    A study that comes to its end is compared, and the next one begins.
    """
    reference = make_reference("long")
    rng = random.Random(0)
    begin = time.monotonic()
    Study(tmp_path / "timed", reference.program, reference.env).run()
    whole = time.monotonic() - begin
    hits: Counter[str] = Counter()
    n_studies = 0
    while hits.total() < 50:
        n_studies += 1
        folder = tmp_path / f"study{n_studies}"
        study = Study(folder, reference.program, reference.env)
        killed, write = True, False
        while killed and hits.total() < 50:
            now = stage(study)
            if write := not write:
                name = rng.choice(STAGES[rng.choice([now, now, rng.randint(now, 3)])])
                event = rng.choice(["open", "os.rename"])
                event = "draw" if name == "figure" else event
                many = {"step": 20, "resume": 8}.get(name, 1) if now == 0 else 1
                delay = rng.choice([0.0, rng.uniform(0, 0.003), rng.uniform(0, 0.3)])
                killed = kill_at(study, event, name, rng.randint(1, many), delay)
            else:
                left = whole * (1.0, 0.8, 0.65, 0.5)[now]
                killed = kill_after(study, rng.uniform(0.2, 0.9) * left)
            if killed:
                hits[hit(study)] += 1
        if killed:
            study.run()
        same(study, reference)
    where = ", ".join(f"{n} {what}" for what, n in sorted(hits.items()))
    print(f"{n_studies} studies; killed while {where}")
    for part in ("step", "resume", "manifest", "figure", "parity_mlp"):
        assert any(part in what for what in hits), (part, hits)
    injected(
        "S1",
        "SIGKILL at random moments of a whole study",
        hits.total(),
        f"{n_studies} studies with the bits of an undisturbed one ({where})",
    )
