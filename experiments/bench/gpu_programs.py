"""What programs would do on a GPU, from compiling them for one that is not there.

    python -m experiments.bench.gpu_programs --target h100
    python -m experiments.bench.gpu_programs --only parity_mlp --out programs.json

XLA's compiler for GPUs (with Triton and ptxas) runs on any machine that has jax's
cuda13 wheels: `pip install -e '.[cuda13]'` with Python 3.12 or newer, 5 GB. Nothing is
executed. For every program it prints, a step of training or a call:

    kernels    launches, loops counted as often as they run, branches equally often
    GB         operands and results of every kernel, of slices what they hold
    temporary  device memory that XLA reserves beside arguments and results
    spills     whether a kernel keeps what should be in registers in memory
"""

import os
import sys

if "jax" not in sys.modules:  # programs are compiled as they come, none is timed
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()

import argparse
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import (
    AbstractDevice,
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    use_abstract_mesh,
)

from experiments.parity_mlp import ParityMLP
from experiments.parity_transformer import ParityTransformer
from experiments.pcfg_accuracy import PcfgAccuracy
from sandbox.models.transformer import Transformer
from sandbox.platforms import assumed
from sandbox.probes.fourier import FourierProbe
from sandbox.probes.ngram import NgramProbe
from sandbox.probes.offline import _measure_seeds, _prepare
from sandbox.store.files import write_json
from sandbox.study.estimate import parts
from sandbox.tasks.bayes import predict_masked
from sandbox.tasks.masking import MaskedLM
from sandbox.text import table
from sandbox.train.engine import Engine, _evaluate
from sandbox.train.lanes import most_active
from sandbox.train.spec import RunSpec
from sandbox.train.teaching import run_chunk

TARGETS = Path(__file__).parent / "targets"
STUDIES = {
    "parity_mlp": ParityMLP,
    "parity_transformer": ParityTransformer,
    "pcfg_accuracy": PcfgAccuracy,
}
SIZES = {"bf16": 2, "f16": 2, "pred": 1, "u8": 1, "s8": 1, "u16": 2, "s16": 2}
SIZES |= {"f64": 8, "s64": 8, "u64": 8}
FREE = re.compile(
    "parameter|constant|tuple|get-tuple-element|bitcast|after-all|opt-barrier"
    "|partition-id|replica-id|.*-done"
)
"""Instructions that launch nothing."""
SPILLING = "xla_gpu_fail_ptx_compilation_on_register_spilling"
"""Makes XLA refuse a program of which a kernel spills."""


class Cost(NamedTuple):
    """Kernels, and bytes of their operands and results."""

    kernels: float
    bytes: float

    def __add__(self, other: Any) -> "Cost":
        return Cost(*map(sum, zip(self, other, strict=True)))

    def __mul__(self, n: Any) -> "Cost":
        return Cost(self.kernels * n, self.bytes * n)


class Program(NamedTuple):
    """A function of shapes alone, and into how many steps a call is divided."""

    name: str
    function: Any
    args: tuple[Any, ...]
    steps: float


class Instruction(NamedTuple):
    """One line of XLA's text."""

    name: str
    shape: str
    op: str
    operands: list[str]
    line: str


def cost_of(text: str) -> Cost:
    """Of one call of a compiled program, from XLA's text of it.

    A loop whose length is not known there counts once: of training it is the one over
    segments. Branches count equally: they are the lengths that rows are cut to, which
    lie at quantiles.
    """
    computations: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "->" in line:
            name = line.removeprefix("ENTRY").split("(")[0].strip().lstrip("%")
            entry = name if line.startswith("ENTRY") else entry
            computations[name] = []
        elif line.startswith("  ") and " = " in line:
            own, rest = line.strip().removeprefix("ROOT ").split(" = ", 1)
            made = Instruction(own.lstrip("%"), *_parts(rest), line)
            computations[name].append(made)

    def of(name: str) -> Cost:
        total, shapes = Cost(0, 0), {}
        for one in computations[name]:
            shapes[one.name] = one.shape
            if one.op == "while":
                known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', one.line)
                body = of(_called(one.line, "body")[0])
                total += body * (int(known[1]) if known else 1)
            elif one.op == "conditional":
                branches = _called(one.line, "branch_computations")
                branches = branches or [
                    *_called(one.line, "true_computation"),
                    *_called(one.line, "false_computation"),
                ]
                for branch in branches:
                    total += of(branch) * (1 / len(branches))
            elif one.op == "call":
                total += of(_called(one.line, "to_apply")[0])
            elif one.op.startswith("fusion") and one.op != "fusion-done":
                fused = computations[_called(one.line, "calls")[0]]
                total += Cost(1, _fused_bytes(fused))
            elif not FREE.fullmatch(one.op):
                read = sum(_bytes(shapes.get(n, "")) for n in one.operands)
                moved = _bytes(one.shape) + read
                if one.op == "dynamic-slice":
                    moved = 2 * _bytes(one.shape)
                elif one.op == "dynamic-update-slice":
                    moved = 2 * _bytes(shapes[one.operands[1]])
                elif one.op.endswith("-start"):  # its result names the operands too
                    moved = _bytes(one.shape)
                total += Cost(1, moved)
        return total

    return of(entry)


def _called(line: str, key: str) -> list[str]:
    found = re.search(key + r"=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)", line)
    return [n.strip().lstrip("%") for n in found[1].split(",")] if found else []


def _fused_bytes(lines: list[Instruction]) -> int:
    """Bytes that a fusion reads and writes: of what it takes slices of, the slices."""
    by_name = {one.name: one for one in lines}

    def read(name: str, size: int) -> int:
        total = 0
        for user in (one for one in lines if name in one.operands):
            first = name not in user.operands[1:]
            if first and user.op == "bitcast":
                total += read(user.name, size)
            elif first and user.op in ("dynamic-slice", "slice", "gather"):
                total += _bytes(user.shape)
            elif not (first and user.op == "dynamic-update-slice"):
                return size
        return min(total, size)

    def written(one: Instruction) -> int:
        if one.op in ("tuple", "bitcast"):
            return sum(written(by_name[n]) for n in one.operands)
        if one.op == "dynamic-update-slice":
            return _bytes(by_name[one.operands[1]].shape)
        return _bytes(one.shape)

    sizes = {one.name: _bytes(one.shape) for one in lines if one.op == "parameter"}
    root = next(one for one in lines if one.line.strip().startswith("ROOT"))
    return sum(read(*own) for own in sizes.items()) + written(root)


def _parts(rest: str) -> tuple[str, str, list[str]]:
    """Result's shape, operation and operands' names of an instruction."""
    shape, after = _closed(rest) if rest.startswith("(") else rest.split(" ", 1)
    op, _, inside = after.strip().partition("(")
    return shape, op, re.findall(r"%([\w.\-]+)", _closed("(" + inside)[0])


def _closed(text: str) -> tuple[str, str]:
    """What a text opens with a parenthesis, and what follows."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    return text, ""


def _bytes(shape: str) -> int:
    found = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(
        SIZES.get(kind, 4) * prod(int(n) for n in sizes.split(",") if n)
        for kind, sizes in found
    )


def programs(only: str) -> Iterator[Program]:
    """Training, evaluation and probing at paper scale, and the exact predictor."""
    for name, study in STUDIES.items():
        if only and name != only:
            continue
        for part in parts(study.preset("paper"), Path("no-runs")):
            if part.spec.kind == "teacher":
                yield _of_probe(f"{name} {part.what}", part.spec)
            specs = {"": part.spec}
            if isinstance(part.spec.model, Transformer):
                model = replace(part.spec.model, attention="triton")
                specs[", kernel"] = replace(part.spec, model=model)
            elif part.spec.engine_used == "online_sgd":
                specs[", kernel"] = replace(part.spec, engine="online_triton")
            for how, spec in specs.items():
                yield from _of_run(f"{name} {part.what}{how}", spec)
    if not only or only == "bayes":
        task: Any = PcfgAccuracy.preset("paper").setting.made_task
        n = task.positions - 1
        tokens = jax.ShapeDtypeStruct((512, n), jnp.int32)
        known = jax.ShapeDtypeStruct((512, n), bool)
        length = jax.ShapeDtypeStruct((512,), jnp.int32)

        predict = partial(predict_masked, task.arrays)
        args = (tokens, known, length)
        yield Program("exact predictor, 512 strings", predict, args, 1)


def _of_run(name: str, spec: RunSpec) -> Iterator[Program]:
    engine = Engine(spec)
    teacher, index = None, np.zeros(spec.shape, np.int32)
    if spec.teacher is not None:
        one = jax.eval_shape(spec.teacher.spec.model.init, jax.random.key(0))
        many = (spec.shape[0], max(most_active(spec.strategies), 1))
        teacher = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((*many, *a.shape), a.dtype), one
        )
    state = jax.eval_shape(engine.init)
    args = (state, engine.keys, np.uint32(0), np.int32(0))
    args += (teacher, index, engine.lanes, None)
    chunk, steps = partial(run_chunk, engine.kernel, engine.plan), engine.plan.segment
    yield Program(f"{name}: step", chunk, args, steps / spec.batch_size)
    if spec.engine == "online_triton":
        return  # evaluated as without
    params = jax.eval_shape(engine.params, state)
    measure = partial(_evaluate, spec.task, spec.model, spec.eval_points)
    yield Program(f"{name}: evaluation", measure, (params, engine.keys), 1)


def _of_probe(name: str, spec: RunSpec, probe: Any = None) -> Program:
    task: Any = spec.task
    if probe is None and isinstance(task, MaskedLM):
        probe = NgramProbe(task=task, model=spec.model)
    elif probe is None:
        probe = FourierProbe(task, spec.model)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    params = jax.eval_shape(jax.vmap(spec.model.init), keys)
    ready = jax.eval_shape(partial(_prepare, probe), keys)
    args = (params, keys, ready)
    return Program(f"{name}: probe", partial(_measure_seeds, probe), args, 1)


def compiled(program: Program, sharding: NamedSharding, mesh: Any) -> dict[str, Any]:
    """What one program does, as it is printed and stored."""

    def shape(a: Any) -> jax.ShapeDtypeStruct:
        dtype = a.dtype if hasattr(a, "dtype") else np.asarray(a).dtype
        return jax.ShapeDtypeStruct(np.shape(a), dtype, sharding=sharding)

    begin = time.process_time()
    with use_abstract_mesh(mesh):
        traced = jax.jit(program.function).trace(*jax.tree.map(shape, program.args))
        lowered = traced.lower(lowering_platforms=("cuda",))
    spills = False
    try:
        done: Any = lowered.compile({SPILLING: True})
    except jax.errors.JaxRuntimeError as e:
        if "spilling" not in str(e):
            raise
        spills, done = True, lowered.compile()
    seconds = time.process_time() - begin
    memory, cost = done.memory_analysis(), cost_of(done.as_text())
    return {
        "kernels": cost.kernels / program.steps,
        "gb": cost.bytes / program.steps / 1e9,
        "temporary_gb": memory.temp_size_in_bytes / 1e9,
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "spills": spills,
        "compile_cpu_s": seconds,
    }


def main() -> None:
    """Compiles, prints a table, and writes the numbers."""
    known = sorted(p.stem for p in TARGETS.glob("*.txtpb"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=known, default=known[0])
    parser.add_argument("--only", default="", choices=("", *STUDIES, "bayes"))
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    target = (TARGETS / f"{options.target}.txtpb").read_text()
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=target, topology="1x1x1"
        )
    except Exception as e:  # jax raises what its plugin does
        parser.exit(
            0,
            "nothing was compiled: jax has no compiler for GPUs here"
            f" ({str(e).splitlines()[0]:.80}); install the cuda13 extra with Python"
            " 3.12 or newer.\n",
        )
    devices = np.asarray(topology.devices).reshape(1)
    sharding = NamedSharding(Mesh(devices, ("x",)), PartitionSpec())
    card = re.findall(r'name: "(.*)"', target)[0]
    cores = int(re.findall(r"core_count: (\d+)", target)[0])
    mesh = AbstractMesh(
        (1,),
        ("x",),
        axis_types=(AxisType.Auto,),
        abstract_device=AbstractDevice(card, cores, "gpu"),
    )
    found: dict[str, dict[str, Any]] = {}
    with assumed("gpu"):
        for program in programs(options.only):
            found[program.name] = made = compiled(program, sharding, mesh)
            seconds = made["compile_cpu_s"]
            print(f"{program.name}: compiled in {seconds:.0f} s", flush=True)
    headings = ("program", "kernels", "GB", "temporary GB", "spills")
    print(f"\n{card}, jax {jax.__version__}, compiled, not run; a step, or a call:")
    rows = [
        (
            name,
            *(f"{v['kernels']:.2f}", f"{v['gb']:.3g}", f"{v['temporary_gb']:.3g}"),
            "yes" if v["spills"] else "no",
        )
        for name, v in found.items()
    ]
    print(table(headings, rows, right="lrrrl"))
    if options.out:
        record = {"target": card, "jax": jax.__version__, "programs": found}
        write_json(options.out, record)


if __name__ == "__main__":
    main()
