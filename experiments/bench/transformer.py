"""Speed of transformer training: ours against Hugging Face's BERT in PyTorch.

    python -m experiments.bench.transformer --rounds 3

A step is forward pass, backward pass, clipping at norm 1 and AdamW, on a micro-batch of
8 strings of the grammar cfg3b, of whose tokens 30% are selected: replaced as in BERT
and hidden from attention. Rates are real tokens (padding is not counted) per second of
process CPU time. Everything is timed in this process, which pins itself to one core
with every thread pool at one thread; engines take turns after a warm-up, whose time
(one pass over the data, and compiling) is listed apart.

All engines train on the same strings. "padded" batches hold them in random order, all
padded to the longest of 1,024 strings, as the released data are. "bucketed" batches
hold strings of like length, cut to the smallest of five lengths that fits: an
effective batch of 512 strings is sorted and split in 64, of which a few, evenly spaced,
are timed.

PyTorch needs the `bench` extra and `pip install transformers`; without, ours is timed
alone.
"""

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import DEVICE
from experiments.bench.command import Begun, Options, machine_line, run
from experiments.bench.timing import (
    RATE,
    WORDS,
    Candidate,
    clock,
    ratio,
    say,
    take_turns,
)
from sandbox.models.transformer import Transformer
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.grammar_sampler import sample_strings
from sandbox.text import table
from sandbox.types import Tokens

BOS, PAD, MASK, VOCAB = 3, 5, 6, 8
GOALS = {
    "padded 0:torch 0": 1.0,
    "bucketed 0:torch 0": 1.3,
    "padded 0.1:torch 0.1": 1.0,
}
"""Ratio of rates -> its goal, at every number of heads."""


@dataclass(frozen=True)
class Sizes:
    """What is timed; the defaults are the real benchmark."""

    grammar: str = "cfg3b"
    layers: int = 4
    heads: tuple[int, ...] = (32, 8)
    positions: int = 1024
    batch: int = 8
    batches: int = 3  # timed, of those of the pool
    pool: int = 512
    longest_of: int = 1024
    selected: float = 0.3
    lengths: tuple[int, ...] = (256, 288, 320, 352, 448)


QUICK = Sizes(layers=1, heads=(2,), batch=2, batches=2, pool=16, longest_of=16)


@dataclass(frozen=True)
class Against(Options):
    """The command line."""

    heads: tuple[int, ...] = ()
    """numbers of heads, else 32 8"""
    no_torch: bool = False
    """leave PyTorch out"""


class Masked(NamedTuple):
    """One micro-batch, `(B, N)` each."""

    ids: np.ndarray
    labels: np.ndarray
    scored: np.ndarray
    valid: np.ndarray
    visible: np.ndarray


class Data(NamedTuple):
    """The same strings twice, in micro-batches."""

    padded: list[Masked]
    bucketed: list[Masked]
    real_tokens: int


def make_data(sizes: Sizes) -> Data:
    """Strings behind BOS, masked; evenly spaced micro-batches of a sorted pool."""
    arrays = compile_grammar(load_grammar(sizes.grammar))
    strings = sample_strings(arrays, jax.random.key(0), 0, sizes.longest_of)
    rng = np.random.default_rng(0)
    length = np.asarray(strings.length) + 1
    longest = int(-(-length.max() // 8) * 8)
    tokens = np.full((sizes.longest_of, max(*sizes.lengths, longest)), PAD, np.int32)
    found = np.asarray(strings.tokens)[:, : longest - 1]
    tokens[:, 0] = BOS
    tokens[:, 1:longest] = np.where(found >= 0, found, PAD)
    length, tokens = length[: sizes.pool], tokens[: sizes.pool]
    order = np.argsort(length, kind="stable").reshape(-1, sizes.batch)
    at = (np.arange(sizes.batches) + 0.5) * len(order) / sizes.batches
    chosen = order[at.astype(int)]
    shuffled = rng.permutation(chosen.reshape(-1)).reshape(chosen.shape)
    masked = _mask(tokens, length, rng, sizes.selected)

    def cut(rows: np.ndarray, n: int) -> Masked:
        return Masked(*(np.ascontiguousarray(a[rows, :n]) for a in masked))

    fitting = [
        min(n for n in sizes.lengths if n >= length[rows].max()) for rows in chosen
    ]
    return Data(
        padded=[cut(rows, longest) for rows in shuffled],
        bucketed=[cut(rows, n) for rows, n in zip(chosen, fitting, strict=True)],
        real_tokens=int(length[chosen].sum()),
    )


def _mask(
    tokens: np.ndarray, length: np.ndarray, rng: np.random.Generator, share: float
) -> Masked:
    """80% of the selected tokens become MASK, 10% a random terminal."""
    valid = np.arange(tokens.shape[1])[None] < length[:, None]
    selected = valid & (rng.random(tokens.shape) < share)
    selected[:, 0] = False
    u = rng.random(tokens.shape)
    ids = np.where(selected & (u < 0.8), MASK, tokens)
    other = rng.integers(0, 3, tokens.shape)
    ids = np.where(selected & (u >= 0.9), other, ids).astype(np.int32)
    return Masked(ids, tokens, selected, valid, valid & ~selected)


def ours(
    sizes: Sizes,
    heads: int,
    batches: Sequence[Masked],
    dropout: float,
    **fields: Any,
) -> Callable[[int], None]:
    """A function that trains our BERT on the batches in turn, n times over."""
    model = Transformer(
        vocab=VOCAB,
        n_classes=VOCAB,
        positions=sizes.positions,
        layers=sizes.layers,
        heads=heads,
        dropout=dropout,
        **fields,
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(1e-4, b1=0.9, b2=0.95, weight_decay=0.0),
    )

    def step(state: Any, b: Masked, key: Any) -> Any:
        params, moments = state

        def loss(p: Any) -> Any:
            x = Tokens(b.ids, b.valid, b.visible)  # pyright: ignore[reportArgumentType]
            logits = model.apply(p, x, key=key).logits
            ce = optax.softmax_cross_entropy_with_integer_labels(logits, b.labels)
            return jnp.sum(ce * b.scored) / jnp.sum(b.scored)

        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    run = jax.jit(step, donate_argnums=0)
    params = model.init(jax.random.key(0))
    state = (params, optimizer.init(params))
    inputs = [jax.tree.map(jnp.asarray, b) for b in batches]
    key = jax.random.key(1)

    def go(n: int) -> None:
        nonlocal state, key
        value = None
        for _ in range(n):
            for b in inputs:
                key, now = jax.random.split(key)
                state, value = run(state, b, now)
        if value is None or not np.isfinite(float(value)):
            raise RuntimeError("the loss became non-finite; its speed means nothing")

    return go


def candidates(
    sizes: Sizes, heads: int, data: Data, torch: Any
) -> dict[str, Candidate]:
    """Every engine at one number of heads, by name."""
    made = {}
    for dropout in (0.0, 0.1):
        for name in ("padded", "bucketed"):
            go = ours(sizes, heads, getattr(data, name), dropout)
            made[f"{name} {dropout:g}"] = Candidate(go, data.real_tokens)
        if torch is not None:
            go = torch.training_loop(
                data.padded,
                layers=sizes.layers,
                heads=heads,
                positions=sizes.positions,
                dropout=dropout,
            )
            made[f"torch {dropout:g}"] = Candidate(go, data.real_tokens, compiles=False)
    return made


def record(heads: int, made: dict[str, Candidate]) -> dict[str, Any]:
    """Rates and ratios against their goals, as JSON data."""
    rates = {name: c.record() for name, c in made.items()}
    ratios = {}
    for pair, goal in GOALS.items():
        one, other = pair.split(":")
        if one in rates and other in rates:
            found = ratio(rates[one], rates[other])
            obtained = statistics.median(found["rounds"])
            found |= {"obtained": obtained, "goal": goal, "met": obtained >= goal}
            ratios[pair] = found
    return {"heads": heads, "rates": rates, "ratios": ratios}


def measure(begun: Begun[Against]) -> dict[str, Any]:
    """Everything, as JSON data."""
    options, used, torch = begun.options, {}, None
    sizes = QUICK if options.quick else Sizes()
    missing = [m for m in ("torch", "transformers") if not importlib.util.find_spec(m)]
    wanted = DEVICE == "cpu" and not options.no_torch
    if wanted and missing:
        say(f"{' and '.join(missing)} not installed: ours is timed alone")
    elif wanted:
        # lazily: torch and transformers are optional
        from experiments.bench import torch_transformer as torch

        used = torch.one_thread()
    data = make_data(sizes)
    rows = {h: candidates(sizes, h, data, torch) for h in options.heads or sizes.heads}
    for heads, made in rows.items():
        for name, c in made.items():
            begin = clock()
            c.go(1)
            c.compile_seconds = clock() - begin  # and one pass
            say(f"ready: {heads} heads, {name}, in {c.compile_seconds:.0f} s")
    take_turns([c for made in rows.values() for c in made.values()], options.rounds)
    result: dict[str, Any] = {
        **begun.record(sizes, **used),
        "padded_to": data.padded[0].ids.shape[1],
        "bucketed_to": [b.ids.shape[1] for b in data.bucketed],
        "real_tokens": data.real_tokens,
        "rows": [record(h, made) for h, made in rows.items()],
    }
    goals = [x["met"] for r in result["rows"] for x in r["ratios"].values()]
    result["goals_met"] = f"{sum(goals)} of {len(goals)}"
    return result


def print_tables(result: dict[str, Any]) -> None:
    """Prints rates, ratios, and what the numbers mean."""
    sizes = result["sizes"]
    print(
        f"\nBERT, {sizes['layers']} layers, heads of 8, batch {sizes['batch']}, padded"
        f" to {result['padded_to']}: real tokens per second of {WORDS},"
        f" median of {result['rounds']}"
    )
    names = list(result["rows"][0]["rates"])
    rates = [
        [str(r["heads"]), *(f"{r['rates'][n][RATE]:,.0f}" for n in names)]
        for r in result["rows"]
    ]
    print(table(("heads", *names), rates, right="r" * (1 + len(names))))
    for r in result["rows"]:
        for pair, x in r["ratios"].items():
            met = "met" if x["met"] else "NOT met"
            print(f"{r['heads']} heads, {pair.replace(':', ' to ')}:"
                  f" {x['obtained']:.2f}x, goal {x['goal']:g}x {met}")  # fmt: skip
    print(machine_line(result, f"{result['goals_met']} goals met"))


if __name__ == "__main__":
    run("transformer", __doc__, Against, measure, print_tables)
