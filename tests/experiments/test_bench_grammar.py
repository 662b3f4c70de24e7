"""The benchmark of sampling: what it writes, and that its rivals really run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nltk.grammar import PCFG

from experiments.bench import grammar

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_a_quick_benchmark_writes_every_number(tmp_path) -> None:
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.grammar", "--quick", "--rounds", "2",
         "--out", str(out)],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert {"hardware", "versions", "load_average", "wall_seconds"} <= set(result)
    assert result["quick"] and "nltk" in result["versions"]
    (row,) = result["rows"]
    rates = {name: r["cpu_per_s"] for name, r in row["rates"].items()}
    assert list(rates) == ["labels", "numpy_choice", "python_choices", "tokens"]
    for rate in row["rates"].values():
        assert len(rate["cpu_rounds"]) == 2 and rate["cpu_per_s"] > 0
    against = row["ratios"]["labels:numpy_choice"]
    expected = rates["labels"] / rates["numpy_choice"]
    assert against["obtained"] == pytest.approx(expected)
    assert against["met"] == (expected >= grammar.GOAL)


@pytest.mark.parametrize("make", [grammar.numpy_choice, grammar.python_choices])
def test_the_recursive_samplers_draw_whole_strings(make) -> None:
    """As fast as a tree of the grammar asks for: both are really run."""

    seen = []

    class Watched(PCFG):
        def productions(self, lhs=None, rhs=None, empty=False):
            found = super().productions(lhs, rhs, empty)
            seen.append(lhs)
            return found

    text = "S -> A A [1.0]\nA -> B B [0.5] | B B B [0.5]\nB -> 'b' [1.0]\n"
    candidate = make(Watched.fromstring(text), ("S",))
    if make is grammar.numpy_choice:
        seen.clear()
    candidate.go(3)
    if make is grammar.numpy_choice:
        assert 3 * (1 + 2 + 4) <= len(seen) <= 3 * (1 + 2 + 6)
    else:
        assert set(seen) == {None}
