"""The speed benchmark runs and says what it should; its numbers are not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.bench import command
from experiments.bench.report import GOALS, goal_of

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "experiments.bench.online_sgd"]


LIMITS = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def test_the_help_says_what_is_timed() -> None:
    done = subprocess.run(
        [*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "plain scan" in done.stdout and "--no-torch" in done.stdout


@pytest.mark.parametrize("first", ["", "import jax\n"])
def test_limits_stand_before_jax_or_not_at_all(first: str) -> None:
    """jax first is a child, which has the environment that was made for it."""
    code = first + (
        "import json, os\nfrom experiments.bench import GIVEN, online_sgd\n"
        "from jax._src import xla_bridge\nassert not xla_bridge._backends\n"
        "print(json.dumps([dict(os.environ), GIVEN]))"
    )
    plain = {k: v for k, v in os.environ.items() if k not in LIMITS}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=plain, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found, given = json.loads(done.stdout)
    assert {k: found.get(k) for k in LIMITS} == (
        dict.fromkeys(LIMITS) if first else LIMITS
    )
    assert {k: given[k] for k in LIMITS if k in given} == {"JAX_PLATFORMS": "cpu"}


@pytest.mark.parametrize("words", [["--device", "gpu"], ["--device=gpu"]])
def test_a_gpu_is_timed_by_the_wall_and_nothing_is_pinned(words: list[str]) -> None:
    code = (
        f"import json, os, sys, time\nsys.argv[1:] = {words}\n"
        "from experiments.bench import timing\n"
        "c = timing.Candidate(lambda n: time.sleep(n / 50), 1, compiles=False)\n"
        "c.warm_up(0.1)\nc.time()\n"
        "print(json.dumps([dict(os.environ), c.record()[timing.RATE], c.pieces]))"
    )
    plain = {k: v for k, v in os.environ.items() if k not in LIMITS}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=plain, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found, rate, pieces = json.loads(done.stdout)
    assert not LIMITS.keys() & found.keys()
    assert 10 < rate <= 50 and 2 <= pieces < 50


def test_without_a_gpu_none_is_timed() -> None:
    done = subprocess.run(
        [*COMMAND, "--quick", "--device", "gpu"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "jax has no GPU here" in line


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_results_of_a_gpu_stand_beside(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(sys, "argv", ["x", "--device", backend])
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    command.run("it", "", command.Options, lambda _: {}, lambda _: None)
    (made,) = tmp_path.iterdir()
    assert made.name == {"cpu": "bench_it.json", "gpu": "bench_it.gpu.json"}[backend]


@pytest.mark.slow
def test_a_quick_benchmark_writes_every_number(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [*COMMAND, "--quick", "--no-torch", "--rounds", "2", "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "labels, m=16" in done.stdout and "on one stream" in done.stdout
    result = json.loads(out.read_text())
    assert {"hardware", "versions", "roof_gflop_per_s", "wall_seconds"} <= set(result)
    assert result["quick"] and result["rounds"] == 2
    assert [r["row"] for r in result["rows"]] == ["labels", "distill", "lanes"]
    for row in result["rows"]:
        assert 0 < row["floor"]["fraction"]
        for rate in row["rates"].values():
            assert len(rate["cpu_rounds"]) == len(rate["wall_rounds"]) == 2
            assert min(rate["cpu_rounds"]) <= rate["cpu_per_s"]
            assert rate["cpu_per_s"] <= max(rate["cpu_rounds"])
            assert rate["compile_seconds"] >= 0
    labels, _, lanes = result["rows"]
    (ratio,) = labels["ratios"].values()
    medians = [labels["rates"][n]["cpu_per_s"] for n in ("blocked", "generic")]
    assert ratio["obtained"] == pytest.approx(medians[0] / medians[1])
    assert list(lanes["ratios"]) == ["lanes:one"]
    assert result["all_cores"][0]["to_one_core"] > 0


@pytest.mark.parametrize("case", GOALS)
def test_a_goal_is_met_at_its_value(case: tuple[str, int, str]) -> None:
    goal, bar, _ = GOALS[case]
    assert goal_of(*case, goal)["met"] and goal_of(*case, bar)["met_noisy_bar"]
    assert not goal_of(*case, goal - 0.01)["met"]
    assert not goal_of(*case, bar - 0.01)["met_noisy_bar"]
