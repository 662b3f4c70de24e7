"""The table and figure that end a grid, of results that are made up."""

import csv
import dataclasses
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import numpy as np
import pytest
from matplotlib.figure import Figure

from sandbox.study import grid
from sandbox.study.grid import Point, write_grid


@dataclasses.dataclass(frozen=True)
class Part:
    d: int = 8


@dataclasses.dataclass(frozen=True)
class Config:
    tau: float = 1.0
    wide: bool = False
    task: Part = Part()
    teacher: Part = Part()


Rows = dict[tuple[str, str], list[float | str | None]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved; the rows of a result are those it holds."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    figures: list[Figure] = []
    monkeypatch.setattr(grid, "save", lambda fig, stem: figures.append(fig))
    monkeypatch.setattr(grid, "summary_rows", lambda r: r.rows)
    monkeypatch.setattr(grid, "digest", lambda _: "0" * 16)
    monkeypatch.setattr(grid, "to_json", lambda _: {})
    return figures


def report(config: Config, rows: Rows, quantity: str = "n90", cap: float = 1e4) -> Any:
    cells = [
        (part, name, seed, 0, quantity, value)
        for (part, name), values in rows.items()
        for seed, value in enumerate(values)
    ]
    taught = SimpleNamespace(teachers=[SimpleNamespace(caps=lambda: [cap])])
    result = SimpleNamespace(
        rows=cells,
        preset="smoke",
        parts={part: taught for part, _ in rows},
        label=lambda name: f"{name}, middle, tau = {config.tau:g}",
    )
    return SimpleNamespace(config=config, result=result, study="mine")


def lines_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_points_of_some_that_never_learned() -> None:
    point = Point.of([100.0, np.inf, 300.0, np.inf])
    assert point == (np.inf, 100.0, np.inf, 4)
    assert Point.of([100.0, np.inf, 300.0]) == (300.0, 100.0, np.inf, 3)
    assert Point.of([]).n == 0 and np.isnan(Point.of([]).middle)


def test_parts_are_apart_and_one_number_is_an_axis(
    drawn: list[Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = [
        report(
            Config(tau=tau),
            {
                ("easy", "ce"): [100.0, 200.0, 300.0],
                ("easy", "two_shot"): [90.0 * tau, 100.0 * tau, None],
                ("hard", "ce"): [5000.0, "inf", "inf"],
            },
        )
        for tau in (0.25, 1.0, 4.0)
    ]
    write_grid(reports, tmp_path)
    out = capsys.readouterr().out
    assert lines_of(out)[:4] == [
        "samples to accuracy .90: medians over runs (∞: beyond the cap)".split(),
        ["tau", "part", "ce", "two_shot"],
        ["0.25", "easy", "200", "23.8"],
        ["0.25", "hard", "∞", "-"],
    ]
    folder = tmp_path / "studies" / "mine.smoke.grid.00000000"
    header, *rows = csv.reader((folder / "summary.csv").read_text().splitlines())
    assert header[:3] == ["tau", "part", "strategy"] and len(rows) == 27
    easy, hard = drawn[0].axes
    titles = [ax.get_title("left") for ax in (easy, hard)]
    assert titles == ["easy, n = 2 to 3", "hard, n = 3"]
    assert easy.get_xlabel() == "tau" and easy.get_xscale() == "log"
    assert [t.get_text() for t in easy.get_xticklabels()] == ["0.25", "1", "4"]
    assert easy.get_ylabel() == "samples to accuracy .90"
    legend = [t.get_text() for t in drawn[0].legends[0].get_texts()]
    assert legend == ["ce, middle", "two_shot, middle"]  # tau is the axis
    beyond = [line for line in hard.lines if line.get_marker() == "^"]
    assert np.asarray(beyond[0].get_ydata()).tolist() == [1e4] * 3  # at the cap
    assert "hollow" in drawn[0].get_supxlabel()
    assert "hollow" in (folder / "figure.md").read_text()


def test_several_fields_and_many_points(
    drawn: list[Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words on the axis, an accuracy where nothing is counted, 80 columns."""
    names = [f"strategy_{i}" for i in range(14)]
    reports = [
        report(
            Config(wide=wide, task=Part(d), teacher=Part(d + 1)),
            {("", name): [0.5 + d / 100] for name in names},
            "final accuracy",
        )
        for wide in (False, True)
        for d in range(8, 16)
    ]
    write_grid(reports, tmp_path)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert lines_of(out)[1] == "wide task.d teacher.d strategy median n".split()
    assert lines_of(out)[2] == "False 8 9 strategy_0 0.58 1".split()
    (ax,) = drawn[0].axes
    assert ax.get_xlabel() == "wide / task.d / teacher.d"
    assert ax.get_title("left") == "n = 1"
    assert ax.get_xticklabels()[9].get_text() == "True / 9 / 10"
    assert "2 more strategies are in the table" in drawn[0].get_supxlabel()
    drawn[0].canvas.draw()
    boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_what_is_only_computed(
    drawn: list[Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = [
        report(Config(tau=tau), {("bound", ""): [tau]}, "rate") for tau in (1.0, 2.0)
    ]
    for r in reports:
        r.result.parts = {}
    write_grid(reports, tmp_path)
    assert lines_of(capsys.readouterr().out)[1:3] == [["tau", "rate"], ["1", "1"]]
    assert drawn[0].axes[0].get_xscale() == "linear"
