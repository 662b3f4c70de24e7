"""The page of all results: whole, true to the result files, and safe from them."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from paper_repro import SCALES, STUDIES, report
from paper_repro import __main__ as command
from sandbox.errors import StoreError

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    p.stem: json.loads(p.read_text())
    for p in (ROOT / "paper_repro" / "results").glob("*.json")
    if p.stem.partition(".")[0] in STUDIES
}
VOID = {"br", "img", "input", "link", "meta", "wbr"}


class Page(HTMLParser):
    """A page whose elements all end; what it refers to, and its rows.

    Attributes:
      tags: every element, with its attributes.
      rows: the text of every cell of a table by its id, row by row.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str | None, list[list[str]]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.rows.setdefault(dict(attrs).get("id"), [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.table[-1][-1] += data

    def all(self, key: str) -> list[str]:
        return [str(attrs[key]) for _, attrs in self.tags if key in attrs]


def read(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def numbers(value: Any) -> Iterator[float | None]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif value is None or value in ("inf", "-inf"):
        yield value if value is None else float(value)
    elif not isinstance(value, str | bool):
        yield float(value)


@pytest.fixture(scope="module")
def pages() -> dict[str, bytes]:
    return report.pages()


@pytest.fixture(scope="module")
def page(pages: dict[str, bytes]) -> Page:
    return Page(pages["index.html"].decode())


def test_everything_a_page_refers_to_is_there(
    page: Page, pages: dict[str, bytes]
) -> None:
    ids = page.all("id")
    assert len(set(ids)) == len(ids)
    loaded = [a["href"] for tag, a in page.tags if tag == "link"] + page.all("src")
    assert not [url for url in loaded if "//" in str(url)]  # nothing from elsewhere
    links = [url for url in (*loaded, *page.all("href")) if url and "://" not in url]
    for url in (unquote(str(url)) for url in links if url != "data:,"):
        assert url[1:] in ids if url.startswith("#") else url in pages, url
    used = {unquote(str(url)) for url in links}
    assert {name for name in pages if name not in used} == {"index.html"}
    assert not re.search(r"url\(|@import|fetch\(|https?:", pages["page.css"].decode())


def test_every_figure_says_what_it_shows(page: Page) -> None:
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    names = [f"{n}{end}" for n in STUDIES for end in (".png", ".*.png")]
    drawn = [p for name in names for p in ROOT.glob(f"figures/*/{name}")]
    assert len(images) == len(drawn)
    alts = [str(image["alt"]) for image in images]
    assert len(set(alts)) == len(alts)
    assert "parity_mlp, cpu: Accuracy against samples" in " ".join(alts)


def test_every_claim_is_a_row(page: Page, pages: dict[str, bytes]) -> None:
    rows = [(n, c) for n, data in FILES.items() for c in data["claims"]]
    assert len(page.rows["all"]) == len(rows) + 1
    shown = {(r[0], r[1], r[2]): r for r in page.rows["all"][1:]}
    told = {
        (r["study"], r["scale"], r["id"]): r for r in read(pages["data/claims.csv"])
    }
    assert shown.keys() == told.keys() and len(shown) == len(rows)
    for name, c in rows:
        study, _, scale = name.partition(".")
        cells, row = shown[study, scale, c["id"]], told[study, scale, c["id"]]
        assert c["rule"] in cells[4] and cells[5] == c["paper"]
        assert row["obtained"] == ("" if c["obtained"] is None else str(c["obtained"]))
        assert row["whole"] == ("" if c["whole"] is None else str(c["whole"]))
        words = {"held": (True, True), "failed": (False, c["whole"])}
        words |= {"point only": (True, c["whole"]), "not run": (None, None)}
        assert words[cells[3][2:]] == (c["point"], c["whole"])
        assert (cells[3][2:] == "held") == (c["whole"] is True and c["point"])


@pytest.mark.parametrize("name", FILES)
def test_tables_hold_the_numbers_of_a_result(
    name: str, pages: dict[str, bytes]
) -> None:
    data = FILES[name]
    assert json.loads(pages[f"data/{name}.json"]) == data
    left_out = ("n90", "config", "hardware", "versions")
    kept = {k: v for k, v in data.items() if k not in left_out}
    rows = read(pages[f"data/{name}.numbers.csv"])
    told = [float(row["value"]) if row["value"] else None for row in rows]
    assert Counter(told) == Counter(numbers(kept))
    places = [tuple(v for k, v in row.items() if k != "value") for row in rows]
    assert len(set(places)) == len(places)
    if "n90" not in data:
        return
    rows = read(pages[f"data/{name}.n90.csv"])
    for row in rows:
        run = data["n90"][row["part"]][row["strategy"]]
        found = run["n90"][int(row["teacher"])][int(row["student"])]
        assert row["n90"] == ("" if found is None else str(found))
    runs = [run for part in data["n90"].values() for run in part.values()]
    assert len(rows) == sum(len(v) for run in runs for v in run["n90"])


def test_a_number_is_found_by_its_name(pages: dict[str, bytes]) -> None:
    rows = read(pages["data/parity_mlp.cpu.numbers.csv"])
    found = {(r["name"], r["index0"]): r["value"] for r in rows}
    data = FILES["parity_mlp.cpu"]
    assert found["teachers/each/n90", "3"] == str(data["teachers"]["each"][3]["n90"])
    assert found["claims/P2/values", "1"] == str(data["claims"][1]["values"][1])


def test_what_was_not_run_says_so(pages: dict[str, bytes]) -> None:
    text = pages["index.html"].decode()
    for study in STUDIES:
        article = text.partition(f'<article id="{study}"')[2].partition("</article>")[0]
        missing = [s for s in SCALES if f"{study}.{s}" not in FILES]
        said = re.findall(r"Not run: ([^.]*)\.", article)
        assert said == [", ".join(missing)] * bool(missing), study


def test_prose_stands_beside_its_study() -> None:
    readme = (
        "# Top\n\n## `a`: more\n\nWhat it asks.\n\ncpu scale:\n\n"
        "<!-- claims a.cpu -->\n| x |\n<!-- /claims -->\n\n"
        "cpu13 scale (level 13):\n\n"
        "<!-- claims a.cpu13 P1 b.cpu -->\n<!-- /claims -->\n\n"
        "- one\n- two\n\n<!-- a comment -->\n\nLast.\n\n## b\nNo table.\n"
    )
    sections = report.sections(readme)
    assert list(sections) == ["a", "b"] and sections["b"] == "No table.\n"
    prose, about = report._prose(sections["a"], "What it asks.")
    assert prose == "- one\n- two\n\nLast."
    assert about == {"a.cpu13": "cpu13 scale (level 13)."}


def test_links_of_prose_stay_on_the_page() -> None:
    text = (
        "[a](../figures/cpu/x.png) [b](../sandbox/types.py) [c](javascript:alert(1)) "
        "[d](https://arxiv.org/abs/1) [e](#methods) ![f](https://x.y/z.png) <b>g</b>"
    )
    made = str(report.markdown(text, {"figures/cpu/x.png"}))
    links = re.findall('(?:href|src)="([^"]*)"', made)
    assert links == ["figures/cpu/x.png", "https://arxiv.org/abs/1", "#methods"]
    assert "&lt;b&gt;" in made and "f" in made


HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"""


def checkout(folder: Path, data: Any, text: str) -> Path:
    """A checkout with one study, whose texts all hold `text`."""
    figures, results = folder / "figures" / "cpu", folder / "paper_repro" / "results"
    figures.mkdir(parents=True)
    results.mkdir(parents=True)
    png = ROOT / "figures" / "cpu" / "parity_mlp.png"
    (figures / "parity_mlp.png").write_bytes(png.read_bytes())
    (figures / "parity_mlp.md").write_text(f"Caption {text}\n\nand {text}")
    (folder / "paper_repro" / "README.md").write_text(f"## parity_mlp\n\nSaid {text}\n")
    (results / "parity_mlp.cpu.json").write_text(json.dumps(data))
    return folder


def with_text(value: Any, text: str) -> Any:
    """Every text of a result with more text, but for infinities."""
    if isinstance(value, dict):
        return {k: with_text(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [with_text(v, text) for v in value]
    return value + text if isinstance(value, str) and value != "inf" else value


def test_a_hostile_result_stays_text(tmp_path: Path) -> None:
    data = {**FILES["parity_mlp.cpu"], "left_out": ["it"], "note": "it"}
    data["config"]["odd"] = data["versions"]["odd"] = "it"
    plain = report.pages(checkout(tmp_path / "a", with_text(data, "it"), "it"))
    texts = checkout(tmp_path / "b", with_text(data, HOSTILE), HOSTILE)
    hostile = report.pages(texts)["index.html"].decode()
    told = [tag for tag, _ in Page(hostile).tags if tag != "wbr"]
    page = Page(plain["index.html"].decode())
    assert told == [tag for tag, _ in page.tags if tag != "wbr"]
    assert "{{ 7 * 7 }}" in hostile and "<script>a" not in hostile
    assert hostile.count("&lt;script&gt;") > 20
    assert {k for _, a in Page(hostile).tags for k in a if k.startswith("on")} == set()


@pytest.mark.parametrize(
    "claim",
    [{"obtained": "<b>"}, {"lower": [1]}, {"teachers": None}],
    ids=["text", "a list", "nothing"],
)
def test_a_result_that_is_none_is_refused(tmp_path: Path, claim: Any) -> None:
    data = json.loads(json.dumps(FILES["parity_mlp.cpu"]))
    data["claims"][0] |= claim
    with pytest.raises(StoreError, match=r"parity_mlp\.cpu\.json is no result file"):
        report.pages(checkout(tmp_path, data, ""))


def test_a_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as e:
        command.main(["report", "--out", str(tmp_path / "file")])
    (line,) = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and "cannot make the folder" in line


@pytest.mark.long
def test_the_command_leaves_the_checkout_clean(
    tmp_path: Path, pages: dict[str, bytes]
) -> None:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True
        ).stdout

    before = git("status", "--porcelain")
    code = (
        "import sys\n"
        "from paper_repro.__main__ import main\n"
        "main(['report'])\n"
        "sys.exit('jax' in sys.modules or 'matplotlib' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "report/index.html\n"
    made = {p.relative_to(tmp_path / "report").as_posix(): p.read_bytes()
            for p in (tmp_path / "report").rglob("*") if p.is_file()}  # fmt: skip
    assert made == pages
    assert git("status", "--porcelain") == before
    if before or (ROOT / ".git").exists():
        assert git("check-ignore", "report/index.html") == "report/index.html\n"
