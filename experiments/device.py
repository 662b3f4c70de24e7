"""What a device does: plain operations, and the library's programs on it.

    python -m experiments.device facts --out facts.json
    python -m experiments.device engines --quick --out engines.json

    facts         copy, matrix products, launches
    engines       batch-1 training by width
    seeds         batch-1 training of several seeds at once
    transformer   training steps of a BERT on strings
    predictor     the exact predictor

On the device that jax uses. A rate is of the median wall time of calls that wait for
their result; the first call, which compiles, is listed apart. OUT is rewritten after
every rate, and those in it are not measured again. The problems are those of
`experiments.bench`, which measures on one core of a CPU.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from jax import lax

# after jax: imported first, they would keep it on the CPU
from experiments.bench import online_sgd, throughput, transformer
from sandbox.command import guarded, parse
from sandbox.errors import require
from sandbox.platforms import platform
from sandbox.store.files import make_folder, read_json, write_json
from sandbox.store.provenance import hardware, versions
from sandbox.tasks.bayes import predict_masked
from sandbox.tasks.bayes_context import draw_strings
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.text import digits, table, unknown


class Rate(NamedTuple):
    """`amount` units over the time of a call, whose result may still be awaited."""

    name: str
    unit: str
    amount: float
    go: Callable[[], Any]


def facts(quick: bool) -> Iterator[Rate]:
    """Plain operations; those of a loop depend on each other, so none are joined."""
    n, numbers, times = (256, 2**16, 100) if quick else (8192, 2**28, 10_000)
    for name in ("bfloat16", "float32"):
        a = jnp.ones((n, n), name)
        go = partial(jax.jit(partial(jnp.dot, precision="highest")), a, a)
        yield Rate(f"{name} product, n = {n:,}", "TFLOP/s", 2e-12 * n**3, go)
    a = jnp.ones(numbers, jnp.float32)
    copied = jax.jit(lambda a: a + 1)  # read once and written once
    yield Rate("copy", "GB/s", 8e-9 * numbers, partial(copied, a))
    small = jnp.ones(128, jnp.float32)
    one = jax.jit(jnp.sin)

    def calls() -> Any:
        out = small
        for _ in range(times):
            out = one(out)
        return out

    yield Rate("calls, one after the other", "1/s", times, calls)
    loop = jax.jit(lambda a: lax.fori_loop(0, times, lambda _, b: jnp.sin(b), a))
    yield Rate("kernels of a loop", "1/s", times, partial(loop, small))


def engines(quick: bool) -> Iterator[Rate]:
    """Steps on labels, the widest first; in a kernel where it can run."""
    sizes = online_sgd.QUICK if quick else online_sgd.Sizes(widths=(100, 1000, 50_000))
    kernel = ("online_triton",) if platform().triton else ()
    for engine in (*kernel, "online_sgd", "generic"):
        for m in reversed(sizes.widths):
            made = online_sgd.engine(sizes, m, engine=engine)
            go = partial(made.go, 1)
            yield Rate(f"{engine}, m = {m:,}", "steps/s", made.steps, go)


def seeds(quick: bool) -> Iterator[Rate]:
    """Steps of all seeds together."""
    sizes = throughput.QUICK if quick else throughput.Sizes()
    d, m = sizes.dims[-1], sizes.widths[-1 if quick else 1]
    for n in sizes.seeds:
        made = throughput.together(sizes, d, m, n)
        go = partial(made.go, 1)
        yield Rate(f"{n} seeds, m = {m}", "steps/s", made.steps, go)


def transformers(quick: bool) -> Iterator[Rate]:
    """Tokens of one micro-batch of like strings, in float32, with dropout."""
    sizes = transformer.Sizes(batch=64, batches=1, heads=(32, 8))
    sizes = transformer.QUICK if quick else sizes
    data = transformer.make_data(sizes)
    for heads in sizes.heads:
        for attention in ("auto", "triton") if platform().triton else ("auto",):
            how = {"attention": attention}
            step = transformer.ours(sizes, heads, data.bucketed, 0.1, **how)
            name = f"{heads} heads" + ", kernels" * (attention == "triton")
            yield Rate(name, "tokens/s", data.real_tokens, partial(step, 1))


def predictor(quick: bool) -> Iterator[Rate]:
    """Strings of cfg3b of which every token is predicted from the others."""
    cases = (
        ((("10", "11"), 4),) if quick else ((("13", "14", "15"), 512), (("22",), 64))
    )
    for start, n in cases:
        arrays = compile_grammar(load_grammar("cfg3b", start))
        drawn = draw_strings(arrays, jax.random.key(0), 0, n)
        given = (drawn.tokens, drawn.valid, drawn.length)
        go = partial(predict_masked, arrays, *given)
        yield Rate(f"{n} strings from {start[0]}", "strings/s", n, go)


KINDS = {
    "facts": facts, "engines": engines, "seeds": seeds, "transformer": transformers,
    "predictor": predictor,
}  # fmt: skip


def measure(
    kind: tyro.conf.Positional[str], *, out: Path, quick: bool = False
) -> Callable[[], None]:
    """What measures, once the command line was read.

    Args:
      kind: one of those above.
      out: the JSON file.
      quick: tiny sizes: does it run at all.
    """
    require(kind in KINDS, unknown("kind", kind, KINDS))
    return partial(_measure, kind, out, quick)


def _measure(kind: str, out: Path, quick: bool) -> None:
    make_folder(out.parent)
    facts = {"kind": kind, "quick": quick, "versions": versions(), **hardware()}
    stored = read_json(out) if out.exists() else {"rates": {}}
    rates = stored.pop("rates")
    if stored != facts:  # another device's
        rates = {}
    for rate in KINDS[kind](quick):
        if rate.name not in rates:
            first, seconds = _time(rate.go, 0.02 if quick else 0.5)
            rates[rate.name] = {
                "rate": rate.amount / seconds,
                "unit": rate.unit,
                "seconds": seconds,
                "first_seconds": first,
            }
            write_json(out, facts | {"rates": rates})
    cells = [
        (name, digits(r["rate"]), r["unit"], f"{r['first_seconds']:.1f}")
        for name, r in rates.items()
    ]
    print(f"{kind} on {', '.join(facts['devices'])}")
    print(table((kind, "rate", "", "first call, s"), cells, right="lrlr"))


def _time(go: Callable[[], Any], least: float) -> tuple[float, float]:
    """Seconds of the first call, and of the median of at least three that follow."""
    took: list[float] = []
    while len(took) < 4 or sum(took[1:]) < least:
        begin = time.perf_counter()
        jax.block_until_ready(go())
        took.append(time.perf_counter() - begin)
    return took[0], statistics.median(took[1:])


def main() -> None:
    """Entry point."""
    prog = "python -m experiments.device"
    guarded(parse(measure, sys.argv[1:], prog=prog, description=__doc__ or ""))


if __name__ == "__main__":
    main()
