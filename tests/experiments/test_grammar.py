"""The grammar command and its benchmark: what they print, and how they refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import bench_grammar, grammar
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.grammar_sampler import Tree

ROOT = Path(__file__).parents[2]
NO_JAX = (
    "import sys\nfrom experiments.{module} import main\n"
    "try:\n    code = main({argv!r})\nexcept SystemExit as e:\n    code = e.code or 0\n"
    "heavy = {heavy!r} & set(sys.modules)\n"
    "sys.exit(f'imported {{heavy}}' if heavy else code)\n"
)


@pytest.mark.parametrize(
    "module, argv, code, said",
    [
        ("grammar", ["--help"], 0, "--start"),
        ("bench_grammar", ["--help"], 0, "numpy_choice"),
        ("grammar", ["cfg3z"], 2, "did you mean cfg3"),
        ("grammar", ["cfg3b", "--samples", "x"], 2, "--samples"),
    ],
)
def test_help_and_mistakes_do_not_import_jax(module, argv, code, said) -> None:
    heavy = {"jax", "nltk"}
    script = NO_JAX.format(module=module, argv=argv, heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "FILE_OR_NAME"),
        (["cfg3b", "--sample", "1"], "unrecognized arguments: --sample"),
        (["cfg3b", "--samples", "-1"], "--samples must be at least 0"),
        (["cfg3b", "--seed", "-1"], "--seed must lie in"),
        (["cfg3b", "--figure", "x.pdf"], "--figure must end in .png"),
        (["cfg3b", "--start", "23"], "start symbol 23 has no rule"),
    ],
)
def test_mistakes_are_one_line(capsys, argv: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as e:
        grammar.main(argv)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and not out
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_the_report_of_a_truncated_grammar(capsys, tmp_path) -> None:
    """Every number is the exact one; the figure is written."""
    figure = tmp_path / "lengths.png"
    argv = ["cfg3b", "--start", "7", "8", "--samples", "2", "--figure", str(figure)]
    assert grammar.main(argv) == 0
    out = capsys.readouterr().out
    assert "cfg3b from 7, 8: 4 rules of 2 nonterminals" in out
    assert "expected length: 2.5 tokens, 2 to 3" in out
    assert "entropy of the derivation: 1.38629 nats, 0.554518 nats by" in out
    assert "unambiguous (exact)" in out
    assert "  2   0.5000 ####" in out and "  3   0.5000 ####" in out
    assert figure.read_bytes()[:4] == b"\x89PNG" and "figure: " in out
    _, *found = out.split("\nsample ")
    assert len(found) == 2
    for text in found:
        head, tree = text.strip().splitlines()
        words = head.split("tokens: ")[1]
        assert tree in (f"7 -> {words}", f"8 -> {words}")
        assert f", {len(words.split())} tokens" in head


def test_the_report_of_a_recursive_grammar(capsys, tmp_path) -> None:
    path = tmp_path / "list.pcfg"
    path.write_text("S -> S S [0.4] | A [0.6]\nA -> 'a' [0.5] | 'b' [0.5]\n")
    assert grammar.main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "spectral radius 0.8;" in out and "expected length: 3 tokens" in out
    assert "ambiguous (exact): continuations of two rules of S" in out
    with pytest.raises(SystemExit):
        grammar.main([str(path), "--figure", str(tmp_path / "x.png")])
    assert "without recursion" in capsys.readouterr().err


def test_undecided_ambiguity_is_estimated(capsys, monkeypatch) -> None:
    """cfg3h from 13: most sampled strings have several trees."""
    from sandbox.tasks import grammar_ambiguity as module

    few = module.ambiguity(load_grammar("cfg3h", start="13"), budget=5)
    assert few.verdict == "undecided"
    monkeypatch.setattr(module, "ambiguity", lambda _: few)
    monkeypatch.setattr(grammar, "_tree_counts", lambda _: [1, 2, 3, 1])
    low = load_grammar("cfg3h", start="13")
    text = grammar.about_ambiguity(low, compile_grammar(low))
    assert "undecided after" in text and "estimate: 2 of 20 sampled" in text


def test_the_histogram_is_the_distribution() -> None:
    arrays = compile_grammar(load_grammar("cfg3b", start="13"))
    lines = [line.split() for line in grammar.histogram(arrays, 0)]
    shown = {int(line[0]): float(line[1]) for line in lines}
    for n, share in shown.items():
        exact = arrays.level_length_distribution[0, n]
        assert share == pytest.approx(exact, abs=5e-5)
    assert sum(shown.values()) == pytest.approx(1, abs=1e-3)
    bars = [len(line[2]) if len(line) > 2 else 0 for line in lines]
    assert max(bars) == grammar.BAR


def test_trees_are_indented() -> None:
    leaf = Tree("a", ())
    tree = Tree("S", (Tree("A", (leaf, leaf)), leaf, Tree("B", (Tree("C", (leaf,)),))))
    assert list(grammar.tree_lines(tree)) == [
        "S",
        "  A -> a a",
        "  a",
        "  B",
        "    C -> a",
    ]


def test_a_quick_benchmark_writes_every_number(tmp_path) -> None:
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench_grammar", "--quick", "--rounds", "2",
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
    assert against["met"] == (expected >= bench_grammar.GOAL)


@pytest.mark.parametrize(
    "make", [bench_grammar.numpy_choice, bench_grammar.python_choices]
)
def test_the_recursive_samplers_draw_whole_strings(make) -> None:
    """As fast as a tree of the grammar asks for: both are really run."""
    from nltk.grammar import PCFG

    seen = []

    class Watched(PCFG):
        def productions(self, lhs=None, rhs=None, empty=False):
            found = super().productions(lhs, rhs, empty)
            seen.append(lhs)
            return found

    text = "S -> A A [1.0]\nA -> B B [0.5] | B B B [0.5]\nB -> 'b' [1.0]\n"
    candidate = make(Watched.fromstring(text), ("S",))
    if make is bench_grammar.numpy_choice:
        seen.clear()
    candidate.go(3)
    if make is bench_grammar.numpy_choice:
        assert 3 * (1 + 2 + 4) <= len(seen) <= 3 * (1 + 2 + 6)
    else:
        assert set(seen) == {None}
