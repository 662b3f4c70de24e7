"""One static page of every result, for a browser without a network.

    python -m paper_repro report               report/index.html
    python -m paper_repro report --out FOLDER

Made of what is committed: result files, figures with their captions, and the prose of
README.md under the heading of each study. The folder holds all that the page shows, and
the numbers as CSV. Same inputs, same bytes.
"""

import ast
import itertools
import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from paper_repro import SCALES, STUDIES
from sandbox.errors import StoreError
from sandbox.store.files import make_folder, read_json, write_atomic
from sandbox.text import csv_text, digits, verdict

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).parent / "page"
VERDICTS = ("held", "point only", "failed", "not run")
CLAIM_COLUMNS = (
    *("study", "scale", "id", "statement", "rule", "paper", "obtained", "lower"),
    *("upper", "students_lower", "students_upper", "teachers", "students", "point"),
    *("whole", "verdict", "sensitivity", "since"),
)
N90_COLUMNS = ("part", "strategy", "teacher", "student", "n90", "cap")

_TABLE = re.compile(r"<!-- claims (\S*)[^>]*-->.*?<!-- /claims -->", re.DOTALL)
_FIGURE = re.compile(r"<!-- figure .*?<!-- /figure -->", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_INFINITE = ("inf", "-inf")
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is asked for.

    Attributes:
      out: the folder that is made; index.html is the page.
    """

    out: Path = Path("report")

    def write(self) -> None:
        """Writes the folder."""
        for name, data in pages().items():
            make_folder((self.out / name).parent)
            write_atomic(self.out / name, data)
        print(self.out / "index.html")


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
      files: its files by suffix, relative to the page.
      caption: Markdown; the first paragraph says what is shown.
      size: width and height in pixels.
    """

    files: dict[str, str]
    caption: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Shown:
    """A study at one scale: its result file, its figure, or both.

    Attributes:
      scale: as in the file's name, e.g. `cpu13` or `paper.gpu`.
      data: the result file.
      claims: its rows, with `study`, `scale` and `verdict`.
      figure: as committed.
      about: Markdown that stands above its claims in the README.
      tables: the CSV files made of its numbers: name -> rows.
    """

    scale: str
    data: dict[str, Any]
    claims: list[dict[str, Any]]
    figure: Figure | None
    about: str
    tables: dict[str, list[Sequence[Any]]]

    @property
    def remarks(self) -> list[str]:
        """What was left out, and what the result file notes."""
        out = [f"left out: {what}" for what in self.data.get("left_out", ())]
        for key, value in self.data.items():
            if key in ("note", "stopped_by"):
                out.append(f"{key.replace('_', ' ')}: {value}")
            elif isinstance(value, dict) and isinstance(value.get("note"), str):
                out.append(f"{key}: {value['note']}")
        return out

    @property
    def facts(self) -> dict[str, list[str]]:
        """What it took, and of what it was made."""
        d = self.data
        runs = [r for r in d.get("runs", ()) if isinstance(r, dict)]
        memory = max((r.get("peak_memory_mb") or 0 for r in runs), default=0)
        took = [f"{seconds(d.get('wall_seconds'))} of computing, {len(runs)} runs"]
        if memory:
            took.append(f"{memory:,} MB of memory at most")
        teachers = d.get("teachers")
        out = {"cost": took}
        if isinstance(teachers, dict) and teachers.get("trained"):
            of = teachers["trained"]
            out["teachers"] = [f"{teachers.get('learned', of)} of {of} learned"]
        made = {k: _listed(d.get(k)) for k in ("commit", "hardware", "versions")}
        return out | {k: [_words(v) for v in vs] for k, vs in made.items() if vs}


@dataclass(frozen=True)
class Chapter:
    """A study.

    Attributes:
      name: of its module.
      question: what it asks, in a line.
      text: Markdown; what its module says it does.
      notes: Markdown; what the README says of it.
      shown: its scales, cpu first, smoke last.
    """

    name: str
    question: str
    text: str
    notes: str
    shown: list[Shown]

    @property
    def missing(self) -> list[str]:
        """The scales without a result."""
        have = {s.scale.partition(".")[0] for s in self.shown if s.data}
        return [s for s in SCALES if s not in have]


def pages(root: Path = ROOT) -> dict[str, bytes]:
    """Every file of the folder by its relative path.

    Args:
      root: the checkout that is shown.

    Raises:
      StoreError: a result file is none.
    """
    readme = root / "paper_repro" / "README.md"
    prose = sections(readme.read_text() if readme.is_file() else "")
    chapters = [_chapter(root, n, q, prose.get(n, "")) for n, q in STUDIES.items()]
    claims = [row for c in chapters for s in c.shown for row in s.claims]
    rows = [CLAIM_COLUMNS, *(list(row.values()) for row in claims)]
    files = {"data/claims.csv": csv_text(rows).encode()}
    for chapter in chapters:
        for s in chapter.shown:
            for path in s.figure.files.values() if s.figure else ():
                files[path] = (root / path).read_bytes()
            stem = f"{chapter.name}.{s.scale}"
            if s.data:
                stored = root / "paper_repro" / "results" / f"{stem}.json"
                files[f"data/{stem}.json"] = stored.read_bytes()
            for kind, table in s.tables.items():
                files[f"data/{stem}.{kind}.csv"] = csv_text(table).encode()
    for name in ("page.css", "page.js"):
        files[name] = (PAGE / name).read_bytes()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "digits": lambda v: "–" if v is None else digits(float(v)),
        "sortable": lambda v: "" if v is None else str(v).replace("inf", "Infinity"),
        "breakable": breakable,
        "seconds": seconds,
        "json": lambda v: json.dumps(v, indent=1, sort_keys=True, ensure_ascii=False),
        "markdown": lambda text: markdown(text, files),
        "plain": lambda text: " ".join(text.partition("\n\n")[0].split()),
    }
    page = environment.get_template("index.html").render(
        chapters=chapters, claims=claims, verdicts=VERDICTS
    )
    return {"index.html": page.encode(), **files}


def breakable(name: object) -> Markup:
    """A name that may be broken after a full stop or underscore before a letter."""
    return Markup(re.sub(r"(?<=[._])(?=[^\W\d])", "<wbr>", str(escape(name))))


def seconds(value: int | float | None) -> str:
    """A duration as `45 s`, `36 min` or `2.2 h`."""
    if value is None:
        return "unknown"
    if value < 100:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"


def _listed(value: Any) -> list[Any]:
    """One fact of all runs, or those of each."""
    return value if isinstance(value, list) else [value] * (value is not None)


def _words(value: Any) -> str:
    """A fact in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')} {_words(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(text: str, files: Iterable[str] = ()) -> Markup:
    """Markdown as HTML; nothing in it is taken as HTML.

    A link or an image is kept where it leads to a heading of the page, to one of
    `files`, or, for a link, to another site.
    """
    tokens = _MARKDOWN.parse(text)
    for token in tokens:
        if token.type.startswith("heading_"):  # below that of a study
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
        for inner in token.children or ():
            key = {"link_open": "href", "image": "src"}.get(inner.type)
            if key is None:
                continue
            url = str(inner.attrs.pop(key))
            local = re.sub(r"^(\.\./)+", "", url)
            away = key == "href" and url.startswith(("https://", "http://"))
            if away or local in files or url.removeprefix("#") in STUDIES:
                inner.attrs[key] = url if away else local
            elif key == "src":
                inner.type, inner.content = "text", inner.content
    html = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    boxed = html.replace("<table>", '<div class="box" tabindex="0"><table>')
    return Markup(boxed.replace("</table>", "</table></div>"))


def sections(readme: str) -> dict[str, str]:
    """What stands under each heading of the second level, by its first word."""
    parts = re.split(r"^## `?(\w+).*\n", readme, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _prose(section: str, question: str) -> tuple[str, dict[str, str]]:
    """A section without figures and claim tables, and what introduces each of those.

    Args:
      section: Markdown.
      question: left out where it is repeated.

    Returns:
      The prose, and by result file the paragraph that ends in a colon above its table.
    """
    marked = _TABLE.sub("\n\n\0\\1\n\n", _FIGURE.sub("", section))
    marked = _COMMENT.sub("", marked)
    paragraphs = [p.strip("\n") for p in re.split(r"\n\s*\n", marked) if p.strip()]
    kept, about = [], {}
    for text, after in itertools.zip_longest(paragraphs, paragraphs[1:], fillvalue=""):
        if text.startswith("\0") or text.strip() == question:
            continue
        if not (after.startswith("\0") and text.endswith(":")):
            kept.append(text)
        elif not re.fullmatch(r"\w+ scale:", text):
            about[after[1:]] = text.removesuffix(":") + "."
    return "\n\n".join(kept), about


def _described(module: Path) -> str:
    """What a study's module says of it: its docstring without usage lines."""
    if not module.is_file():
        return ""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    paragraphs = text.split("\n\n")[1:]
    return "\n\n".join(p for p in paragraphs if not p.startswith("    "))


def _chapter(root: Path, name: str, question: str, section: str) -> Chapter:
    """Everything about one study."""
    results, figures = root / "paper_repro" / "results", root / "figures"
    stored = {p.stem.partition(".")[2]: p for p in results.glob(f"{name}.*.json")}
    drawn = {p.parent.name + p.stem.removeprefix(name): p
             for pattern in (f"*/{name}.png", f"*/{name}.*.png")
             for p in figures.glob(pattern)}  # fmt: skip
    notes, about = _prose(section, question)
    shown = []
    for scale in sorted({*stored, *drawn}, key=_order):
        data: dict[str, Any] = read_json(stored[scale]) if scale in stored else {}
        figure = _figure(root, drawn[scale]) if scale in drawn else None
        try:
            claims = [_row(row, name, scale) for row in data.get("claims", ())]
            tables = _tables(data)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise StoreError(
                f"{stored[scale]} is no result file of a study ({e!r:.80}); "
                f"have it written again: python -m paper_repro {name} --publish."
            ) from e
        shown.append(
            Shown(scale, data, claims, figure, about.get(f"{name}.{scale}", ""), tables)
        )
    text = _described(root / "experiments" / f"{name}.py")
    return Chapter(name, question, text, notes, shown)


def _order(scale: str) -> tuple[int, str]:
    """The phenomenon first, the published size beside it, the pipeline last."""
    ranks = {"cpu": 0, "paper": 1, "smoke": 3}
    return ranks.get(scale.partition(".")[0], 2), scale


def _row(claim: dict[str, Any], study: str, scale: str) -> dict[str, Any]:
    """A claim with where it stands and what it came to; its numbers are numbers."""
    own = {"study": study, "scale": scale, "sensitivity": claim.get("sensitivity", "")}
    own["verdict"] = verdict(claim["point"], claim["whole"])
    row = {k: own[k] if k in own else claim[k] for k in CLAIM_COLUMNS}
    for key in ("obtained", "lower", "upper", "students_lower", "students_upper"):
        float("nan" if row[key] is None else row[key])
    int(row["teachers"])
    return row


def _figure(root: Path, png: Path) -> Figure:
    """A figure with its other forms and its caption."""
    beside = {s: png.with_name(f"{png.stem}.{s}") for s in ("png", "svg", "pdf")}
    files = {s: str(p.relative_to(root)) for s, p in beside.items() if p.is_file()}
    caption = png.with_name(f"{png.stem}.md")
    with open(png, "rb") as f:
        width, height = struct.unpack(">II", f.read(24)[16:])
    text = caption.read_text() if caption.is_file() else ""
    return Figure(files, text, (width, height))


def _tables(data: dict[str, Any]) -> dict[str, list[Sequence[Any]]]:
    """The numbers of a result file as tables."""
    if not data:
        return {}
    n90 = [
        (part, strategy, t, s, value, cap)
        for part, runs in data.get("n90", {}).items()
        for strategy, run in runs.items()
        for t, (row, cap) in enumerate(zip(run["n90"], run["cap"], strict=True))
        for s, value in enumerate(row)
    ]
    left_out = ("n90", "config", "hardware", "versions")
    rest = {k: v for k, v in data.items() if k not in left_out}
    rest["claims"] = {c["id"]: c for c in data.get("claims", ())}
    numbers = list(_numbers(rest))
    most = max((len(index) for _, index, _ in numbers), default=0)
    names = [f"index{i}" for i in range(most)]
    rows = [(n, *i, *[""] * (most - len(i)), v) for n, i, v in numbers]
    tables: dict[str, list[Sequence[Any]]] = {"numbers": [("name", *names, "value")]}
    tables["numbers"] += rows
    return ({"n90": [N90_COLUMNS, *n90]} if n90 else {}) | tables


def _numbers(
    value: Any, name: str = "", index: tuple[int, ...] = ()
) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """Every number below a value: names of objects joined by /, places in lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{name}/{key}" if name else key, index)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _numbers(item, name, (*index, i))
    elif value is None or value in _INFINITE:
        yield name, index, value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, index, value
