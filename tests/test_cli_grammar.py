"""`sandbox grammar`: what it prints, and how it refuses."""

import subprocess
import sys

import pytest

from sandbox.cli import describe, main
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_ambiguity import ambiguity
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.grammar_sampler import Tree

NO_JAX = (
    "import sys\nfrom sandbox.cli import main\n"
    "code = main({argv!r})\n"
    "heavy = {{'jax', 'nltk', 'matplotlib'}} & set(sys.modules)\n"
    "sys.exit(f'imported {{heavy}}' if heavy else code)\n"
)


@pytest.mark.parametrize(
    "argv, code, said",
    [
        (["--help"], 0, "--start"),
        (["cfg3z"], 2, "did you mean cfg3"),
        (["cfg3b", "--samples", "x"], 2, "--samples"),
    ],
)
def test_help_and_mistakes_do_not_import_jax(argv, code, said) -> None:
    script = NO_JAX.format(argv=["grammar", *argv])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "FILE_OR_NAME"),
        (["cfg3b", "--sample", "1"], "no option --sample; did you mean --samples?"),
        (["cfg3b", "--samples", "-1"], "--samples must be at least 0"),
        (["cfg3b", "--seed", "-1"], "--seed must lie in"),
        (["cfg3b", "--figure", "x.pdf"], "--figure must end in .png"),
        (["cfg3b", "--start", "23"], "start symbol 23 has no rule"),
    ],
)
def test_mistakes_are_one_line(capsys, argv: list[str], said: str) -> None:
    assert main(["grammar", *argv]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_the_report_of_a_truncated_grammar(capsys, tmp_path) -> None:
    """Every number is the exact one; the figure is written."""
    figure = tmp_path / "lengths.png"
    argv = ["cfg3b", "--start", "7", "8", "--samples", "2", "--figure", str(figure)]
    assert main(["grammar", *argv]) == 0
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
    assert main(["grammar", str(path)]) == 0
    out = capsys.readouterr().out
    assert "spectral radius 0.8;" in out and "expected length: 3 tokens" in out
    assert "ambiguous (exact): continuations of two rules of S" in out
    assert main(["grammar", str(path), "--figure", str(tmp_path / "x.png")]) == 2
    assert "without recursion" in capsys.readouterr().err


def test_undecided_ambiguity_is_estimated(capsys, monkeypatch) -> None:
    """cfg3h from 13: most sampled strings have several trees."""
    few = ambiguity(load_grammar("cfg3h", start="13"), budget=5)
    assert few.verdict == "undecided"
    monkeypatch.setattr(describe, "ambiguity", lambda _: few)
    monkeypatch.setattr(describe, "_tree_counts", lambda _: [1, 2, 3, 1])
    low = load_grammar("cfg3h", start="13")
    text = describe.about_ambiguity(low, compile_grammar(low))
    assert "undecided after" in text and "estimate: 2 of 20 sampled" in text


def test_the_histogram_is_the_distribution() -> None:
    arrays = compile_grammar(load_grammar("cfg3b", start="13"))
    lines = [line.split() for line in describe.histogram(arrays, 0)]
    shown = {int(line[0]): float(line[1]) for line in lines}
    for n, share in shown.items():
        exact = arrays.level_length_distribution[0, n]
        assert share == pytest.approx(exact, abs=5e-5)
    assert sum(shown.values()) == pytest.approx(1, abs=1e-3)
    bars = [len(line[2]) if len(line) > 2 else 0 for line in lines]
    assert max(bars) == describe.BAR


def test_trees_are_indented() -> None:
    leaf = Tree("a", ())
    tree = Tree("S", (Tree("A", (leaf, leaf)), leaf, Tree("B", (Tree("C", (leaf,)),))))
    assert list(describe.tree_lines(tree)) == [
        "S",
        "  A -> a a",
        "  a",
        "  B",
        "    C -> a",
    ]
