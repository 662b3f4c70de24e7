"""What the READMEs say is there, and what they show is run as it is written.

A block after `<!-- long -->` trains at length: its lines are parsed, and estimated if
their command can.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FRONT = ROOT / "README.md"
PAGES = [FRONT, *sorted(ROOT.glob("[efps]*/README.md"))]
_BLOCK = re.compile(r"(?:<!-- (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: the comment above it, its language and its text."""

    mark: str
    language: str
    text: str

    @property
    def lines(self) -> list[list[str]]:
        """Words of every command of a block in the shell's language."""
        found = (shlex.split(line, comments=True) for line in self.text.splitlines())
        return [words for words in found if words]


def blocks(page: Path, language: str) -> list[Block]:
    found = [Block(*m.groups(default="")) for m in _BLOCK.finditer(page.read_text())]
    return [b for b in found if b.language == language]


def test_there_are_five_pages() -> None:
    folders = {"experiments", "figures", "paper_repro", "sandbox"}
    assert {p.parent.name for p in PAGES[1:]} == folders


def test_the_front_page_is_short() -> None:
    text = FRONT.read_text()
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1800
    assert len(text[: text.index("```python")].splitlines()) < 40


def slug(heading: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.parent.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            assert anchor in map(slug, heads), link


CODES = re.compile(r"\b(?:[A-Z]_\w+|n\d+|[A-Z]{2,}|[\dn]-shot)\b|τ")
WORDS = re.compile(
    r"\b(one-shot|progressive|lane|gap|middle|blind|hold|cap|probe|held|point only"
    r"|support|checkpoint|strategy|claim|scale|smoke|teacher|student|task)s?\b",
    re.IGNORECASE,
)
COMMON = set("JAX JIT GPU TPU API ICLR README CHANGELOG CITATION".split())


def test_every_term_is_defined() -> None:
    """In bold or italics in the glossary; in the table, methods have their sources."""
    text = FRONT.read_text()
    glossary = text.split("## The words")[1].split("\n## ")[0]
    defined = " / ".join(re.findall(r"\*{1,2}([^*]+)\*{1,2}", glossary))
    prose = re.sub(r"(?s:```.*?```)|(?m:^\|.*$)|`[^`]*`|\]\([^)]*\)", "", text)
    used = {*CODES.findall(prose), *WORDS.findall(prose)} - COMMON
    assert len(used) > 20
    unknown = {w for w in used if not re.search(rf"\b{w}s?\b|^τ", defined, re.I)}
    assert unknown == set()


def shortened(words: list[str]) -> list[str]:
    """A command that trains at length, as one that only says how long."""
    if words[:2] == ["sandbox", "import"]:  # from a folder that is the reader's
        command = ["from sandbox.cli.imported import Import"]
        command += ["from sandbox.command import parse"]
        command += [f"parse(Import, {words[2:]!r}, prog='')"]
        return ["python", "-c", "; ".join(command)]
    if "launch" in words:
        return words if "--dry-run" in words else [*words, "--dry-run"]
    return [*words, "--estimate"] if words[1].endswith(".py") else words


def run(words: list[str], cwd: Path) -> None:
    """Runs a command, which must end well."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    while "=" in words[0]:
        name, _, value = words[0].partition("=")
        env[name], words = value, words[1:]
    program = {"python": [], "sandbox": ["-m", "sandbox"]}[words[0]]
    done = subprocess.run(
        [sys.executable, *program, *words[1:]],
        capture_output=True, text=True, cwd=cwd, env=env, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", [FRONT, pytest.param(PAGES[1], marks=pytest.mark.slow)], ids=["", "more"]
)
def test_blocks_run_as_written(page: Path, tmp_path: Path) -> None:
    """All of a page in one folder: its Python first, which leaves runs to look at."""
    code = "\n".join(b.text for b in blocks(page, "python"))
    (tmp_path / "page.py").write_text(code)
    run(["python", "page.py"], tmp_path)
    hashes = [p.name for p in sorted((tmp_path / "runs" / "teacher").iterdir())]
    for block in blocks(page, "sh"):
        for words in block.lines:
            if words[0] == "python3":  # the two commands
                continue
            words = [hashes[0] if word == "HASH" else word for word in words]
            run(shortened(words) if block.mark == "long" else words, tmp_path)
