"""Command lines: what they give, and the one sentence that they refuse with."""

import contextlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from sandbox import command
from sandbox.command import guarded, parse, parse_config
from sandbox.errors import StoreError, require


@dataclass(frozen=True)
class Part:
    """A part of a config.

    Attributes:
      k: how many.
    """

    k: int = 3
    rule: Literal["cpu", "paper"] = "cpu"
    degrees: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        require(self.k > 0, f"part.k must be positive, got {self.k}.")


@dataclass(frozen=True)
class Config:
    """A config."""

    part: Part = field(default_factory=Part)
    tau: float = 1.0
    in_turn: bool = False

    def __post_init__(self) -> None:
        require(self.tau >= 0, f"tau must be at least 0, got {self.tau}.")


@dataclass(frozen=True)
class Options:
    """What else can be asked for."""

    root: Path | None = None
    """where runs are stored"""
    estimate: bool = False
    """say how long"""
    grid: tuple[str, ...] = ()
    """combinations of values"""


@dataclass(frozen=True)
class Flat:
    """A command of its own."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    probes: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-p"])]
    seed: int | None = None


TEXT = "Measures,\nand says so.\n\n    python -m x smoke\n\nexamples:\n  x  y\n"
PRESETS = {"smoke": ("Tiny.", Config()), "cpu": ("Small.", Config(tau=2.0))}


def read(line: str) -> tuple[str, list[Config], Options]:
    return parse_config(
        PRESETS, line.split(), prog="x", description=TEXT, options=Options()
    )


def test_a_preset_and_overrides_of_its_fields() -> None:
    assert read("smoke") == ("smoke", [Config()], Options())
    assert read("cpu --part.k 4")[1] == [Config(Part(k=4), tau=2.0)]
    name, (config,), options = read(
        "smoke --tau inf --in_turn --part.degrees 2 3 --root a --estimate"
    )
    assert name == "smoke" and options == Options(Path("a"), True)
    assert config == Config(Part(degrees=(2, 3)), float("inf"), True)


def test_a_grid_is_the_product_of_typed_values() -> None:
    _, found, _ = read("smoke --part.k 5 --grid tau=0.25,1 part.degrees=1:2,3")
    assert found == [
        Config(Part(5, degrees=degrees), tau)
        for tau in (0.25, 1.0)
        for degrees in ((1, 2), (3,))
    ]
    assert [c.in_turn for c in read("smoke --grid in-turn=True,False")[1]] == [1, 0]


MISTAKES = [
    ("", "a preset comes first: one of smoke, cpu (see `x --help`)"),
    ("--tau 3", "a preset comes first"),
    ("smok", "there is no preset 'smok'; did you mean smoke?"),
    ("huge", "there is no preset 'huge'; it is one of smoke, cpu"),
    ("smoke extra", "unrecognized arguments: extra (see `x smoke --help`)"),
    ("smoke --tua 1", "there is no option --tua; did you mean --tau?"),
    ("smoke --k 1", "there is no option --k; did you mean --part.k?"),
    ("smoke --part.kk 1", "there is no option --part.kk; did you mean --part.k?"),
    ("smoke --no-estimate", "did you mean --estimate?"),
    ("smoke --" + "x" * 5000, "there is no option --xxx"),
    ("smoke --tau", "--tau: expected one argument"),
    ("smoke --tau x", "--tau: could not convert string to float: 'x'"),
    ("smoke --tau -1", "tau must be at least 0, got -1.0.\n"),
    ("smoke --part.k 0", "part.k must be positive, got 0.\n"),
    ("smoke --part.k " + "9" * 5000, "--part.k: "),
    ("smoke --part.rule papr", "--part.rule: there is no choice 'papr'; did you mean"),
    ("smoke --part.rule x", "--part.rule: there is no choice 'x'; it is one of cpu, p"),
    ("smoke --part.degrees 1 x", "--part.degrees: "),
    ("smoke --in-turn 1", "unrecognized arguments: 1"),
    ("smoke --grid tau", "--grid: expected FIELD=VALUE,VALUE, got 'tau'"),
    ("smoke --grid tua=1", "--grid: there is no option --tua; did you mean --tau?"),
    ("smoke --grid root=a", "--grid: there is no option --root"),
    ("smoke --grid tau=1,x", "--tau: could not convert string to float: 'x'"),
    ("smoke --grid part.k=1,0", "part.k must be positive, got 0."),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[m[0][:40] for m in MISTAKES])
def test_a_mistake_is_one_sentence(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as e:
        read(line)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and not out and words in err
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 1000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "FILE and --probes/-p must be given"),
        ("a --prob b", "there is no option --prob; did you mean --probes?"),
        (
            "a -p b --seed None",
            "--seed: no type matching INT could be",
        ),
    ],
)
def test_a_command_of_its_own(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(Flat, ["a", "-p", "b", "c"], prog="x") == Flat("a", ("b", "c"))
    with pytest.raises(SystemExit) as e:
        parse(Flat, line.split(), prog="x")
    assert e.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--help", ["x PRESET", "Tiny.", "Small.", "--root PATH", "say how long"]),
        ("cpu --help", ["x cpu", "Small.", "--part.k", "how many. (default: 3)"]),
    ],
)
def test_help_teaches(
    line: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as e:
        read(line)
    out, err = capsys.readouterr()
    assert e.value.code == 0 and not err
    assert all(w in out for w in words)
    assert (TEXT in out) == (line == "--help")


def test_without_the_hook_there_is_still_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "on_parse_error", contextlib.nullcontext)
    with pytest.raises(SystemExit) as e:
        read("smoke --tua 1")
    assert e.value.code == 2 and "--tua" in capsys.readouterr().err


def test_errors_meant_for_the_user_end_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise StoreError("lost\x1b[31m\nit.")

    with pytest.raises(SystemExit) as e:
        guarded(fail)
    assert e.value.code == 2
    assert capsys.readouterr().err == "error: lost?[31m?it.\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "from sandbox.command import guarded;"
        "guarded(lambda: [print(str(9) * 999) for _ in range(999)])"
    )
    done = subprocess.run(
        f"{sys.executable} -c '{code}' | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert not done.stderr and len(done.stdout) == 1000
