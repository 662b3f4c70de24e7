"""`sandbox export`: stored numbers as tables, a stored model as others read it."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sandbox.cli.asked import (
    SUMMARY,
    Module,
    RunOrStudy,
    check_out,
    lane_of,
    seeds_of,
    steps_of,
    study_classes,
    study_or_run,
)
from sandbox.cli.stored import root_of
from sandbox.command import Root
from sandbox.errors import StoreError, require
from sandbox.store.files import make_folder, read_json, write_atomic
from sandbox.store.folders import RunFolder
from sandbox.store.metrics import read_metrics
from sandbox.text import csv_text, digits, number


@dataclass(frozen=True)
class Export:
    """Writes a run's metrics or a study's results as a table, or a run as a model.

    Examples:
      sandbox export 3f9a --csv
      sandbox export parity_mlp.cpu --latex --out claims.tex
      sandbox export parity_mlp.cpu --json | jq '.claims[].id'
      sandbox export 5c21 --hf bert-on-cfg3b --lane two_shot --seed 2 --step 6400

    Of a run: step, seed, strategy and every metric of every evaluation (--latex, of the
    last one).

    Of a study, which is called by its folder in RUNS/studies or the beginning of it:
    --csv has samples to .90 and last metrics of every run; --latex the claims with
    rule, value, 95% interval, n and verdict, for booktabs; --json both, with
    everything that the study records of its runs.

    --hf writes a transformer as a folder that `from_pretrained` of Hugging Face
    transformers loads: config.json and model.safetensors. Where the task hides masked
    tokens (MaskedLM.hidden), its attention_mask must be 0 at them.
    """

    name: RunOrStudy
    """a run folder or the beginning of its hash; a study such as parity_mlp.cpu"""
    csv: bool = False
    """comma-separated values"""
    latex: bool = False
    """a tabular environment that needs the package booktabs"""
    json: bool = False
    """JSON"""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: print it)"),
    ] = None
    """where the table goes"""
    hf: Annotated[
        Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")
    ] = None
    """write a model in this folder instead, which must be new"""
    lane: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(needed where a run has several)")
    ] = None
    """of --hf: the strategy"""
    seed: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: the first)")
    ] = None
    """of --hf: the seed"""
    step: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: the last)")
    ] = None
    """of --hf: the checkpoint, in samples"""
    study: Module = None
    """of --hf: module that defines the run's own classes"""
    root: Root = None

    def run(self) -> int:
        """Finds what is meant, and writes it."""
        forms = [form for form in _FORMS if getattr(self, form)]
        only = len(forms) + (self.hf is not None) == 1
        require(only, "give one of --csv, --latex, --json and --hf FOLDER.")
        found = study_or_run(self.name, root_of(self.root))
        if self.hf is not None:
            require(self.out is None, "--out is for tables; --hf names its folder.")
            _write_model(self, self.hf, found)
            return 0
        alone = all(v is None for v in (self.lane, self.seed, self.step, self.study))
        require(alone, "--lane, --seed, --step and --study are for --hf.")
        of_study = isinstance(found, Path)
        if self.out is not None:
            check_out(self.out, found if of_study else found.path)
        text = _of_study(found, forms[0]) if of_study else _of_run(found, forms[0])
        if self.out is None:
            sys.stdout.write(text)
            return 0
        make_folder(self.out.parent)
        write_atomic(self.out, text.encode())
        print(f"written to {self.out}")
        return 0


_FORMS = ("csv", "latex", "json")


def _of_run(run: RunFolder, form: str) -> str:
    """The metrics of a run."""
    table = read_metrics(run).table()
    names, rows = table.column_names, table.to_pylist()
    if form == "csv":
        return csv_text([names, *(r.values() for r in rows)])
    if form == "json":
        return _json([{k: _plain(v) for k, v in r.items()} for r in rows])
    last = max((r["step"] for r in rows), default=0)
    cells = [[_tex(v) for v in r.values()] for r in rows if r["step"] == last]
    return latex(names, cells, "rrl" + "r" * (len(names) - 3))


def _of_study(folder: Path, form: str) -> str:
    """The results of a study, from the files in its folder."""
    summary = (folder / SUMMARY).read_text(encoding="utf-8")
    if form == "csv":
        return summary
    if not (folder / "claims.json").exists():
        raise StoreError(f"{folder} is a grid, without claims; --csv exports it.")
    data = read_json(folder / "claims.json")
    if form == "json":
        names, *rows = csv.reader(io.StringIO(summary))
        table = [dict(zip(names, map(_value, r), strict=True)) for r in rows]
        return _json({**data, "summary": table})
    # lazily: it needs the module of claims, which imports jax.
    from sandbox.study.claims import Claim

    claims = [Claim.from_json(row) for row in data["claims"]]
    cells = [
        [
            *(escaped(c.id), escaped(c.rule), _tex(c.obtained)),
            _interval(c.lower, c.upper),
            *(_tex(c.teachers), escaped(c.verdict)),
        ]
        for c in claims
    ]
    names = ("claim", "rule", "value", "95% interval", "n", "verdict")
    return latex(names, cells, r"lp{0.4\linewidth}rrrl")


def _write_model(args: Export, folder: Path, found: Path | RunFolder) -> None:
    """Writes one lane of one seed at one checkpoint."""
    if isinstance(found, Path):
        raise StoreError(f"{found} is a study; --hf writes one of its runs.")
    steps = steps_of(("all",) if args.step is None else (str(args.step),), found)
    classes = study_classes(args.study) if args.study else ()
    # lazily: they import jax, which no table should wait for.
    from sandbox.models.exports import save_transformer
    from sandbox.train.run import open_run

    run = open_run(found.path, extra=classes)
    spec, path, step = run.spec, found.path, steps[-1]
    lane = lane_of(args.lane, [s.name for s in spec.strategies], "--lane")
    name = spec.strategies[lane].name
    wanted = spec.seeds[0] if args.seed is None else args.seed
    (seed,) = seeds_of(wanted, name, run)
    params = run.trajectory.read(step, seed=spec.seeds.index(seed), lane=lane)
    about: dict[str, Any] = {"run": f"{path.parent.name}/{path.name}"}
    about |= {"seed": seed, "strategy": name, "step": step}
    words, tokens = getattr(spec.task, "vocabulary", None), {}
    if words is not None:
        special = ("bos", "eos", "pad", "mask")
        tokens = {f"{w}_token_id": getattr(words, w) for w in special}
        terminals = spec.task.arrays.terminals  # pyright: ignore
        about["tokens"] = [*terminals, *map(str.upper, special)]
    save_transformer(folder, spec.model, params, tokens=tokens, about=about)
    print(f"{folder}: {about['run']}, seed {seed}, strategy {name}, step {step:,}")
    if words is not None:
        named = ", ".join(f"{i} {t}" for i, t in enumerate(about["tokens"]))
        print(f"tokens: {named}; a string begins with BOS")


def latex(names: Sequence[str], rows: Iterable[Sequence[str]], columns: str) -> str:
    """A tabular with booktabs' rules; `rows` are LaTeX, `names` are not."""
    lines = [[escaped(n) for n in names], *rows]
    head, *body = (" & ".join(line) + r" \\" for line in lines)
    begin = (
        "% \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    )
    end = (r"\bottomrule", r"\end{tabular}")
    return "\n".join((*begin, head, r"\midrule", *body, *end, ""))


_TEX = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<=": r"$\le$",
    ">=": r"$\ge$",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    "[": "{[}",  # a row that begins with one would be an argument of \\
    "∞": r"$\infty$",
    "−": "$-$",
    "±": r"$\pm$",
    "τ": r"$\tau$",
    "α": r"$\alpha$",
    "μ": r"$\mu$",
}
_SPECIAL = re.compile("|".join(map(re.escape, sorted(_TEX, key=len, reverse=True))))


def escaped(text: str) -> str:
    """A text as LaTeX prints it; a character that it may lack as its number."""
    shown = " ".join(text.split())
    parts = _SPECIAL.split(shown), _SPECIAL.findall(shown)
    plain = ["".join(map(_letter, part)) for part in parts[0]]
    marks = [*(_TEX[mark] for mark in parts[1]), ""]
    return "".join(p + m for p, m in zip(plain, marks, strict=True))


def _letter(c: str) -> str:
    known = c.isprintable() and (c.isascii() or (c.isalpha() and ord(c) < 0x180))
    return c if known else f"U+{ord(c):04X}"


def _tex(value: Any) -> str:
    """A cell of LaTeX; numbers that there are none of as a dash."""
    if isinstance(value, str):
        return escaped(value)
    if value is None or value != value:
        return "--"
    text = f"{value}" if isinstance(value, int) else digits(value)
    size, _, power = text.replace("∞", r"\infty").partition("e")
    return f"${size} \\times 10^{{{int(power)}}}$" if power else f"${size}$"


def _interval(low: float, high: float) -> str:
    if low != low:
        return "--"
    return f"$[{_tex(low)[1:-1]}, {_tex(high)[1:-1]}]$"


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    return number(value) if isinstance(value, float) else value


def _value(cell: str) -> Any:
    """A cell of a summary: a number where it is one, None where it is empty."""
    try:
        return _plain(int(cell) if cell.isdecimal() else float(cell))
    except ValueError:
        return cell or None
