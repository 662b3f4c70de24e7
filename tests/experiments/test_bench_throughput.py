"""The throughput benchmark runs and says what it should; its rates are not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_quick_benchmark_writes_every_number(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.throughput", "--quick", "--rounds",
         "2", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert {"hardware", "versions", "pinned_to", "wall_seconds"} <= set(result)
    assert [r["seeds"] for r in result["rows"]] == [1, 4]
    for row in result["rows"]:
        rates = {name: r["cpu_per_s"] for name, r in row["rates"].items()}
        expected = rates["together"] / rates["one_by_one"]
        assert row["ratio"] == pytest.approx(expected)
        assert all(len(r["cpu_rounds"]) == 2 for r in row["rates"].values())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    used = [r["devices"] for r in result["devices"]]
    assert used == [2**i for i in range(len(used))] and used[-1] <= max(cores, 1)
    assert result["devices"][0]["to_one_device"] == 1
