"""Forged manifests, saved states, tables and measurements, whose checksums all fit."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from sandbox.distill.strategy import Anneal, Loss, Strategy, Target
from sandbox.errors import ConfigError, StoreError
from sandbox.store.files import read_json, sha256
from sandbox.store.folders import RunFolder
from sandbox.store.metrics import FILE, read_metrics
from sandbox.study import Setting, UntilLearned
from sandbox.train.spec import Stop
from tests.faults.inputs import (
    SPEC,
    ask,
    check_answer,
    make_store,
    probe_refuses,
    recommit,
    safetensors,
)

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_store(tmp_path_factory.mktemp("made") / "runs")


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of a store that a test may damage."""
    shutil.copytree(made.path.parent.parent, tmp_path / "runs")
    return RunFolder(tmp_path / "runs" / made.path.parent.name / made.path.name)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a\n\x1b[2Jb"])
def test_a_manifest_of_impossible_names(
    run: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.path / "manifest.json"
    data = json.loads(path.read_text())
    data["files"][name] = {"sha256": "0", "size": 1}
    del data["sha256"], data["run"]
    path.write_text(json.dumps(data))
    code, out, _ = ask(capsys, "verify", run.path)
    assert code == 1 and "bad entry" in out and "\x1b" not in out
    assert "bad entry" in probe_refuses(capsys, run)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("manifest.json", lambda p: p.write_text("[" * 10**5), "nested too deeply"),
        ("config.json", lambda p: p.write_text("[" * 10**5), "nested too deeply"),
        ("config.json", lambda p: p.write_text('{"a": 1, "a": 2}'), "names 'a' twice"),
        ("x.json", os.mkfifo, "is not a file"),
        ("x.json", Path.mkdir, "is not a file"),
    ],
)
def test_no_json(
    run: RunFolder,
    name: str,
    damage: Callable[[Path], Any],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(run.path / name)
    with pytest.raises(StoreError, match=words) as e:
        read_json(run.path / name)
    assert str(run.path / name) in str(e.value)
    if name == "config.json":
        recommit(run)
    if name != "x.json":
        assert words in probe_refuses(capsys, run)
        code, out, _ = ask(capsys, "verify", run.path)
        assert code == 1 and str(run.path / name) in out


STATES = {
    "no safetensors": b"garbage",
    "no meta": safetensors({}),
    "a number": safetensors({"__metadata__": {"meta": "7"}}),
    "deep": safetensors({"__metadata__": {"meta": "[" * 10**5}}),
    "a number of checkpoints": safetensors(
        {"__metadata__": {"meta": '{"checkpoints": 7}'}}
    ),
    "a checkpoint outside": safetensors(
        {"__metadata__": {"meta": '{"checkpoints": {"../../../secret": "0"}}'}}
    ),
    "a checkpoint of no name": safetensors(
        {"__metadata__": {"meta": '{"checkpoints": {"\\u0000": "0"}}'}}
    ),
    "a checksum that is a list": safetensors(
        {"__metadata__": {"meta": '{"checkpoints": {"a": []}}'}}
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_saved_state_whose_name_fits(
    run: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = STATES[name]
    for gone in ("manifest.json", "provenance.json"):
        (run.path / gone).unlink()
    path = run.path / f"resume-000000000512-{sha256(data)[:16]}.safetensors"
    path.write_bytes(data)
    assert run.load_resume() is None
    assert str(path) in capsys.readouterr().err
    code, out, _ = ask(capsys, "verify", run.path)
    assert code == 1 and out.startswith(str(path))


@pytest.mark.parametrize(
    "data", [b"", b"PAR1" + bytes(300) + b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1"]
)
def test_a_table_of_garbage(run: RunFolder, data: bytes) -> None:
    (run.path / FILE).write_bytes(data)
    recommit(run)
    with pytest.raises(StoreError, match=f"{FILE} is no table of metrics"):
        read_metrics(run)


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        safetensors(
            {"alignment": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        )
        + bytes(4),
    ],
)
def test_a_measurement_of_garbage(
    run: RunFolder, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(capsys, "probe", run.path, "-p", "alignment")[0] == 0
    (path,) = (run.path.parent.parent / "probe").iterdir()
    (path / "values.safetensors").write_bytes(data)
    about = {"kind": "probe", "code": RunFolder(path).made_by()}
    (path / "manifest.json").unlink()
    RunFolder(path).commit(about)
    assert "values.safetensors is no measurement" in probe_refuses(capsys, run)


RECORDS: list[tuple[Callable[[], Any], str]] = [
    (lambda: Target(tau=INF), "target.tau must be at least 0"),
    (lambda: Target(tau="1"), "target.tau must be at least 0"),
    (
        lambda: Target(tau=Anneal(start=1.0, end=NAN, over=5)),
        "anneal.end must be a finite number",
    ),
    (lambda: Loss(alpha="0"), "loss.alpha must lie in [0, 1], got '0'"),
    (lambda: Loss(tau_student=INF), "loss.tau_student must be positive and finite"),
    (lambda: Loss(scale=INF), "loss.scale must be positive and finite"),
    (lambda: Strategy(name=3), "strategy.name must be a text"),
    (lambda: Strategy(name="a\nb"), "strategy.name must be a text"),
    (lambda: Stop(max_samples=64, accuracy="0.9"), "stop.accuracy must lie in (0, 1]"),
    (lambda: Stop(max_samples=64, factor="2"), "stop.factor must be at least 1"),
    (
        lambda: SPEC.__class__(**vars(SPEC) | {"n_seeds": 2**40}),
        "n_seeds must be at most",
    ),
    (
        lambda: Setting(task=SPEC.task, budget=UntilLearned(factor=INF)),
        "budget.factor must be a finite number",
    ),
    (
        lambda: Setting(task=SPEC.task, budget=UntilLearned(cap=INF)),
        "budget.cap must be positive and finite",
    ),
    (
        lambda: Setting(task=SPEC.task, hold=-5),
        "setting.hold must be at least 0, got -5",
    ),
]


@pytest.mark.parametrize(("build", "words"), RECORDS, ids=[r[1] for r in RECORDS])
def test_a_record_refuses(
    build: Callable[[], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError) as e:
        build()
    assert words in str(e.value)
    check_answer(f"error: {e.value}\n")
