"""How long a study will take on this machine, measured before it starts.

What is trained is asked of the study itself: its teachers' records, its lanes for
made-up teachers, and its plain runs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sandbox.study.teachers import Teachers
from sandbox.train.estimate import seconds_per_sample
from sandbox.train.progress import clock
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec


class Part(NamedTuple):
    """Runs of one shape: one record, unfinished ones, samples of each, at most."""

    what: str
    spec: RunSpec
    missing: int
    samples: int | float
    most: int | float


def parts(study: Any, root: Path) -> Iterator[Part]:
    """Everything that a `Study` trains."""
    for name, s in study.settings.items():
        specs = s.teacher_specs(root)
        missing = sum(not folder_of(spec, root).complete for spec in specs)
        whole = specs[0].stop.largest
        n90, limit = (s.one * n for n in s.budget.expects)
        likely = min(specs[0].stop.factor * n90, whole)
        yield Part(f"{name} teachers".strip(), specs[0], missing, likely, whole)
        made_up = Teachers.made_up(s, specs[0])
        for spec in made_up.students(study.lanes(made_up)):
            names = [lane.name for lane in spec.strategies if lane.init == 0]
            words = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
            most = spec.stop.largest
            likely = most * n90 / limit
            what = f"{name} students ({words})".strip()
            yield Part(what, spec, len(specs), likely, most)
    for key, spec in study.plain_runs.items():
        missing = int(not folder_of(spec, root).complete)
        most = spec.stop.largest
        yield Part(key, spec, missing, most / 2, most)


def print_estimate(studies: Mapping[str, Any], root: Path) -> None:
    """Times a few seconds of each kind of run and prints what all of it will take."""
    known: set[RunSpec] = set()
    total, disk = [0.0, 0.0], [0.0, 0.0]
    print("timing a few seconds of every kind of run ...", flush=True)
    for name, study in studies.items():
        found = list(parts(study, root))
        if study.computed is not None:
            n = len(study.computed.pieces())
            print(f"{name}: computes {n} pieces, minutes to an hour; nothing trained.")
        for part in found:
            if part.spec in known:
                continue  # teachers that another study trains too
            known.add(part.spec)
            each = seconds_per_sample(small(part.spec)) * part.missing
            stored = gigabytes_per_sample(part.spec) * part.missing
            ends = (part.samples, part.most)
            total = [a + each * n for a, n in zip(total, ends, strict=True)]
            disk = [a + stored * n for a, n in zip(disk, ends, strict=True)]
            lanes = part.spec.n_seeds * len(part.spec.strategies) * part.missing
            rate = f"{lanes / each:,.0f} samples/s" if part.missing else "finished"
            print(
                f"  {name} {part.what}: {part.missing} runs, {rate} over"
                f" {len(part.spec.strategies)} lanes, about"
                f" {clock(each * part.samples)}, at most {clock(each * part.most)}",
                flush=True,
            )
    if known:
        print(
            f"in all about {clock(total[0])} (at most {clock(total[1])}), counted from"
            " the start of whatever is not finished; probes and evaluations come on"
            f" top. Checkpoints take about {disk[0]:.1f} GB (at most {disk[1]:.1f})."
            " Interrupt whenever you like, the same command goes on.",
            flush=True,
        )


def small(spec: RunSpec) -> RunSpec:
    """A run of sequences a micro-batch at a time, so that a step is soon timed."""
    if not spec.micro or spec.batch_size % spec.micro:
        return spec
    every = spec.micro
    return replace(spec, batch_size=every, block=every, eval_every=every)


def gigabytes_per_sample(spec: RunSpec) -> float:
    """Gigabytes of checkpoints that a run writes for every sample."""
    if not spec.checkpoint_every:
        return 0.0
    shapes = jax.eval_shape(spec.model.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    lanes = spec.n_seeds * len(spec.strategies)
    return size * 4 * lanes / spec.checkpoint_every / 1e9
