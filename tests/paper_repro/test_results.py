"""Committed results: intervals follow from what is stored, and tables from them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.parity_theory import FEWEST, SUPERVISIONS
from experiments.sample_complexity import SampleComplexity
from paper_repro import __main__ as command
from paper_repro import report, tables
from sandbox.study.claims import Claim
from sandbox.theory.exponents import Scaling, difference
from sandbox.theory.sample_complexity import median_estimate, ratio

FILES = {
    p.stem: json.loads(p.read_text()) for p in sorted(tables.RESULTS.glob("*.json"))
}
CLAIMS = sorted(
    (name, row["id"]) for name, data in FILES.items() for row in data.get("claims", ())
)
RATIO = re.compile(r"n90\((\w+)\) / n90\((\w+)\)")
SHOWN = r"(∞|-?[\d,]*\.?\d+)"
ESTIMATE = re.compile(rf"{SHOWN}\s+\[{SHOWN},\s+{SHOWN}\]")
SECTIONS = report.sections((tables.ROOT / "paper_repro" / "README.md").read_text())


def array(values: Any) -> np.ndarray:
    """Numbers of a result file: null is NaN, infinities are text."""
    return np.asarray([np.nan if v is None else v for v in np.ravel(values)], float)


@pytest.mark.parametrize(("name", "id"), CLAIMS)
def test_a_row_is_what_its_numbers_say(name: str, id: str) -> None:
    row = next(c for c in FILES[name]["claims"] if c["id"] == id)
    claim = Claim.from_json(row)
    assert claim.to_json() == row
    assert np.isnan(claim.lower) or claim.teachers >= 5
    assert claim.since and (claim.whole is None) == np.isnan(claim.lower)
    assert claim.point or not claim.whole
    if not row["values"]:
        return
    e = median_estimate(array(row["values"]))
    found = (claim.obtained, claim.lower, claim.upper, claim.teachers)
    np.testing.assert_array_equal(tuple(e), found)
    pair = RATIO.search(row["rule"])
    if pair and len(FILES[name]["n90"]) == 1:
        (n90,) = FILES[name]["n90"].values()
        a, b = (
            np.asarray([array(v) for v in n90[who]["n90"]]) for who in pair.groups()
        )
        each = [row[~np.isnan(row)] for row in ratio(a, b)]
        values = [np.median(row) if len(row) else np.nan for row in each]
        np.testing.assert_array_equal(values, array(row["values"]))


@pytest.mark.parametrize("name", ["sample_complexity.cpu", "sample_complexity.smoke"])
def test_exponents_follow_from_what_is_stored(name: str) -> None:
    data = FILES[name]
    study = SampleComplexity.preset(name.partition(".")[2])
    times = {}
    for p in study.problems:
        stored = data["n90"][str(p)].items()
        runs = {who: (array(v["n90"]), array(v["cap"])) for who, v in stored}
        times[p] = study.judged(p, runs)
    result: Any = SimpleNamespace(measured=times)
    made = {c.id: c.to_json() for c in study.claims(result)}
    for row in data["claims"]:
        same = ("obtained", "lower", "upper", "point", "whole", "teachers")
        assert [made[row["id"]][f] for f in same] == [row[f] for f in same]


@pytest.mark.parametrize("name", ["parity_theory.cpu", "parity_theory.smoke"])
def test_exponents_of_batches_follow_from_what_is_stored(name: str) -> None:
    problems = FILES[name]["measured"]["problems"]
    for row in FILES[name]["claims"]:
        found = re.fullmatch(r"P9\.(aligned|support|accuracy)\.k(\d)", row["id"])
        if found is None:
            continue
        criterion, k = found[1], int(found[2])
        runs: dict[str, dict] = {s: {} for s in SUPERVISIONS}
        for p in (p for p in problems if p["k"] == k and criterion in p["batches"]):
            batch = array(p["batches"][criterion])
            runs[p["supervision"]][p["d"]] = batch, np.full(len(batch), float(p["cap"]))
        common = set.intersection(
            *(
                {d for d, (b, _) in r.items() if (~np.isnan(b)).sum() >= FEWEST}
                for r in runs.values()
            )
        )
        if len(common) < 2:
            assert row["point"] is None and "no common d" in row["rule"]
            continue
        fits = [
            Scaling({d: r[d] for d in sorted(common)}).exponent(seed=i)
            for i, r in enumerate(runs.values())
        ]
        assert difference(*fits).value == pytest.approx(row["obtained"])


def test_tables_are_those_of_the_result_files() -> None:
    assert tables.rewrite(check=True) == []


def test_a_table_that_differs_is_noticed(tmp_path: Path, monkeypatch: Any) -> None:
    page = tmp_path / "page.md"
    text = (
        "<!-- claims parity_mlp.cpu P2 parity_width.cpu -->\n<!-- /claims -->\nrest\n"
    )
    page.write_text(text)
    monkeypatch.setattr(tables, "PAGES", (page,))
    assert tables.rewrite(check=True) == [page] and page.read_text() == text
    assert tables.rewrite() == [page] and tables.rewrite(check=True) == []
    rows = [r for r in page.read_text().splitlines() if r.startswith("|")]
    assert [r.split(" | ")[0] for r in rows] == ["| claim", "| ---", "| P2", "| P7"]
    page.write_text(page.read_text().replace("| 20 |", "| 21 |"))
    assert tables.rewrite(check=True) == [page]
    with pytest.raises(KeyError):
        tables.table("parity_mlp.cpu", "P99")


def test_results_of_two_devices_stand_side_by_side(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    text = (tables.RESULTS / "parity_width.cpu.json").read_text()
    for name in ("parity_width.cpu", "parity_width.cpu.gpu", "parity_width.cpu2.gpu"):
        (tmp_path / f"{name}.json").write_text(text)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = tables.table("parity_width.cpu", "P7", "parity_width.cpu.gpu").splitlines()
    labels = [row.split(" | ")[0] for row in rows[2:]]
    assert labels == ["| P7", "| P7 gpu"]
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    command.list_studies()
    (line,) = re.findall(
        r"What does width buy.*\n +results: (.*)", capsys.readouterr().out
    )
    assert line == "cpu, cpu.gpu"


def test_what_is_made_of_figures_and_costs(tmp_path: Path, monkeypatch: Any) -> None:
    """Captions, links from the page's own folder, and times come from the files."""
    for name, caption in (("cpu/parity_mlp", "Two\nlines."), ("smoke/parity_mlp", "")):
        stem = tmp_path / "figures" / name
        stem.parent.mkdir(parents=True)
        stem.with_suffix(".png").touch()
        stem.with_suffix(".pdf").touch()
        if caption:
            stem.with_suffix(".md").write_text(caption)
    monkeypatch.setattr(tables, "FIGURES", tmp_path / "figures")
    page = tmp_path / "paper_repro" / "README.md"
    shown = tables.figure("cpu/parity_mlp", page)
    link = "![parity_mlp, cpu scale](../figures/cpu/parity_mlp.png)"
    assert shown == f"{link}\n\n*Two lines.*\n"
    made = tables.gallery(tmp_path / "figures" / "README.md")
    assert "](cpu/parity_mlp.png)\n\n*Two lines.*" in made
    assert made.endswith(
        "Also: [smoke](smoke/parity_mlp.png), [pdf](cpu/parity_mlp.pdf).\n"
    )
    assert made.count("## ") == 1  # no other study has a figure there
    with pytest.raises(KeyError):
        tables.figure("cpu/nothing", page)
    seconds = FILES["sample_complexity.cpu"]["wall_seconds"]
    (row,) = (r for r in tables.index().splitlines() if "[`sample_complexity`]" in r)
    assert row.endswith(f" | {seconds / 3600:.1f} h | not run |")
    brief = tables.table("parity_regions.cpu", "M1.progressive", brief=True)
    assert brief.splitlines()[2].endswith("| 10 | failed |")


def together(data: Any) -> Iterator[list[float]]:
    """Numbers that a result file holds of one thing: estimates and their intervals."""
    if isinstance(data, dict):
        lists = (v if isinstance(v, list) else [v] for v in data.values())
        own = [x for v in lists if len(v) <= 3 for x in v]
        yield [float(x) for x in own if type(x) in (int, float) or x == "inf"]
        data = list(data.values())
    for each in data if isinstance(data, list) else ():
        yield from together(each)


def over_teachers(data: Any) -> Iterator[list[float]]:
    """Every strategy's samples to .90 over its teacher's, with the interval."""
    for part in data.get("n90", {}).values():
        if "teacher" in part:
            n90 = {
                k: np.asarray([array(row) for row in v["n90"]]) for k, v in part.items()
            }
            for own in n90.values():
                each = np.nanmedian(ratio(own, n90["teacher"]), axis=-1)
                yield list(median_estimate(each))[:3]


def shows(text: str, value: float) -> bool:
    """Whether a number is written to its last digit as `text`."""
    if text == "∞":
        return value == np.inf
    digits = len(text.partition(".")[2])
    off = abs(float(text.replace(",", "")) - value)
    return off <= 0.5 * 10**-digits * (1 + 1e-9)


@pytest.mark.parametrize("study", SECTIONS)
def test_intervals_within_sentences_are_those_of_the_results(study: str) -> None:
    prose = re.sub(r"<!-- claims.*?<!-- /claims -->", "", SECTIONS[study], flags=re.S)
    written = ESTIMATE.findall(prose)
    files = [data for name, data in FILES.items() if name.startswith(f"{study}.")]
    known = [row for data in files for row in together(data)]
    if not all(any(_all_in(three, row) for row in known) for three in written):
        known += [row for data in files for row in over_teachers(data)]
    for three in written:
        assert any(_all_in(three, row) for row in known), three


def _all_in(three: tuple[str, ...], row: list[float]) -> bool:
    return all(any(shows(text, x) for x in row) for text in three)
