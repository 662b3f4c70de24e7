"""Strings of a grammar with the nonterminal and boundary of every level, under jit.

Row t of a stream is made from `fold_in(stream, t)` alone, as in `tasks.base`, so no
batch moves a string. The key gives the row's random words in one call: word 0 draws
the start symbol, and the nodes of levels 0 .. L-1 (each level numbered from the left,
the levels one after the other at their largest sizes) draw their rules with 8, 16 or 32
bits each, lowest bits of a word first. 8 or 16 bits are used where they make every
probability exact (halves, quarters); with 32 a probability is off by 2^-32 at most.

Levels are expanded from the top. A node is one word: the path of symbols above it, a
few bits each, and the topmost level that ends with it (if a node of level l ends at a
token, so do those of all lower levels: one number holds all the boundaries). A prefix
sum over the lengths of the chosen rules says where each node's children go, and they
are written there, last child first: a write beyond the right side of one node falls
on an earlier child of a later node, which comes after it. Nothing is padded to a full
tree, and the cost is in proportion to the largest number of nodes.

Example:
    arrays = compile_grammar(load_grammar("cfg3b"))
    draw = jax.jit(partial(sample_strings, arrays), static_argnums=2)
    strings = draw(jax.random.key(0), 0, 512)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt

from sandbox.errors import require
from sandbox.tasks.base import row_keys
from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.types import Array

_WORD = 32


class Strings(NamedTuple):
    """Rows of strings, padded to the length N, with the L levels above each token.

    Attributes:
      tokens: terminals by number, -1 after the end; no special tokens.
      valid: whether a position is in its string.
      length: tokens of each string.
      symbols: `symbols[b, l, n]`, the symbol of level l over token n, -1 after the
        end; a terminal stands for itself where the path has ended above.
      boundaries: whether the node of level l ends at this token.
    """

    tokens: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    length: Int[Array, " B"]
    symbols: Int[Array, "B levels N"]
    boundaries: Bool[Array, "B levels N"]


class _Field(NamedTuple):
    """Where the symbol of one level lies in a node's words."""

    word: int
    shift: int
    mask: int
    low: int


class _Step(NamedTuple):
    """The tables of one level; c its symbols from the lowest on, r their rules.

    Carried terminals have one rule, themselves.

    Attributes:
      first: first rule of each symbol.
      threshold: flat `(c, p)`, p a power of two; rule j comes after the first j
        thresholds, and a draw is beyond a threshold where it is larger.
      p: thresholds of a symbol, plus one.
      length: symbols on the right side of each rule.
      child: `child[k, r]`, the k-th symbol at its place in the word.
    """

    first: Int[np.ndarray, " c"]
    threshold: UInt[np.ndarray, " cp"]
    p: int
    length: Int[np.ndarray, " r"]
    child: UInt[np.ndarray, "k r"]


class SamplerTables(NamedTuple):
    """Constants of the sampler.

    Attributes:
      bits: random bits of each node.
      n_words: random words of each row.
      top: mask of the topmost level that ends here, in the lowest bits of word 0.
      fields: of the levels 0 .. L.
      steps: of the levels 0 .. L-1.
    """

    bits: int
    n_words: int
    top: int
    fields: tuple[_Field, ...]
    steps: tuple[_Step, ...]


@lru_cache(maxsize=32)
def sampler_tables(arrays: GrammarArrays) -> SamplerTables:
    """The constants of the sampler of a grammar."""
    bits = _bits(arrays)
    fields = _fields(arrays)
    nodes = sum(arrays.max_nodes[:-1])
    return SamplerTables(
        bits=bits,
        n_words=1 + -(-nodes * bits // _WORD),
        top=(1 << arrays.n_levels.bit_length()) - 1,
        fields=fields,
        steps=tuple(
            _step(arrays, level, fields, bits) for level in range(arrays.n_levels)
        ),
    )


def _bits(arrays: GrammarArrays) -> int:
    """Fewest of 8, 16, 32 that make all probabilities exact; else 32."""
    for bits in (8, 16):
        scaled = arrays.cumulative * 2.0**bits
        if np.abs(scaled - np.round(scaled)).max() < 1e-9:
            return bits
    return 32


def _fields(arrays: GrammarArrays) -> tuple[_Field, ...]:
    """Places for every level's symbols, from the lowest free bit of the first word."""
    used = [arrays.n_levels.bit_length()]
    fields = []
    for present in arrays.at_level:
        found = np.flatnonzero(present)
        low = int(found[0])
        width = int(found[-1] - low).bit_length()
        free = (w for w, n in enumerate(used) if n + width <= _WORD)
        word = next(free, len(used))
        if word == len(used):
            used.append(0)
        fields.append(_Field(word, used[word], (1 << width) - 1, low))
        used[word] += width
    return tuple(fields)


def _step(
    arrays: GrammarArrays, level: int, fields: Sequence[_Field], bits: int
) -> _Step:
    here, below = fields[level], fields[level + 1]
    present = np.flatnonzero(arrays.at_level[level])
    n_codes = int(present[-1]) - here.low + 1
    n_rules = [
        int(arrays.n_rules[a]) if a < arrays.n_nonterminals else 1 for a in present
    ]
    p = 1 << (max(n_rules) - 1).bit_length()
    threshold = np.full((n_codes, p), 2**32 - 1, np.uint32)
    first = np.zeros(n_codes, np.int32)
    rights: list[list[int]] = []
    for a, n in zip(present.tolist(), n_rules, strict=True):
        first[a - here.low] = len(rights)
        if a >= arrays.n_nonterminals:
            rights.append([a])
            continue
        steps = np.round(arrays.cumulative[a, : n - 1] * 2.0**bits)
        threshold[a - here.low, : n - 1] = np.clip(steps - 1, 0, 2.0**32 - 1)
        rights += [r[r >= 0].tolist() for r in arrays.right[a, :n]]
    child = np.zeros((max(map(len, rights)), len(rights)), np.uint32)
    for i, right in enumerate(rights):
        child[: len(right), i] = [(s - below.low) << below.shift for s in right]
    length = np.array([len(right) for right in rights], np.int32)
    return _Step(first, threshold.reshape(-1), p, length, child)


def sample_strings(
    arrays: GrammarArrays,
    stream: Any,
    t0: Any,
    n: int,
    *,
    length: int | None = None,
) -> Strings:
    """Strings t0 .. t0+n of a stream; jittable, with `arrays`, `n`, `length` static.

    What is not used of the result is not computed under jit.

    Args:
      arrays: the compiled grammar.
      stream: key of the stream.
      t0: number of the first string, a traced unsigned integer below 2^32.
      n: how many.
      length: N, at least that of the longest string, which is the default.
    """
    longest = arrays.longest
    require(
        length is None or length >= longest,
        f"length must be at least {longest}, the longest string of"
        f" {arrays.grammar.name}, got {length}.",
    )
    tables = sampler_tables(arrays)
    widest = max(arrays.max_nodes) + max(len(s.child) for s in tables.steps)
    require(
        1 <= n <= (2**31 - 1) // widest,
        f"n must lie in 1..{(2**31 - 1) // widest}, got {n}; draw in several calls.",
    )
    draw = jax.vmap(lambda key: jax.random.bits(key, (tables.n_words,), jnp.uint32))
    words, count = _expand(arrays, tables, draw(row_keys(stream, t0, n)))
    extra = (length or longest) - longest
    words = tuple(jnp.pad(w, ((0, 0), (0, extra))) for w in words)
    return _unpack(arrays, tables, words, count)


def _at(table: np.ndarray, index: Array) -> Array:
    """`table[index]`, all of `index` being in bounds."""
    if len(table) == 1:
        return jnp.full(index.shape, table[0])
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds")


def _draws(tables: SamplerTables, random: UInt[Array, "B w"]) -> UInt[Array, "B nodes"]:
    """One number of `tables.bits` bits a node."""
    per_word = _WORD // tables.bits
    words = random[:, 1:]
    if per_word == 1:
        return words
    shifts = jnp.arange(per_word, dtype=jnp.uint32) * jnp.uint32(tables.bits)
    mask = jnp.uint32((1 << tables.bits) - 1)
    return ((words[:, :, None] >> shifts[None, None, :]) & mask).reshape(
        words.shape[0], words.shape[1] * per_word
    )


def _expand(
    arrays: GrammarArrays, tables: SamplerTables, random: UInt[Array, "B w"]
) -> tuple[tuple[Array, ...], Int[Array, " B"]]:
    """The words of every token, and the number of tokens; garbage beyond it."""
    n_rows = random.shape[0]
    draws = _draws(tables, random)
    n_words = 1 + max(f.word for f in tables.fields)
    words = _root(arrays, tables, random[:, 0], n_words)
    count = jnp.ones(n_rows, jnp.int32)
    rows = jnp.arange(n_rows, dtype=jnp.int32)[:, None]
    top = jnp.uint32(tables.top)
    node = 0
    for level, step in enumerate(tables.steps):
        here, below = tables.fields[level : level + 2]
        width, wider = arrays.max_nodes[level : level + 2]
        code = (words[here.word] >> here.shift) & jnp.uint32(here.mask)
        rule = _choose(step, code.astype(jnp.int32), draws[:, node : node + width])
        node += width
        active = jnp.arange(width, dtype=jnp.int32)[None, :] < count[:, None]
        size = jnp.where(active, _at(step.length, rule), 0)
        end = jnp.cumsum(size, 1, dtype=jnp.int32)
        count = end[:, -1]
        stride = wider + len(step.child)  # room for writes beyond the last child
        place = rows * stride + (end - size)
        inside = (words[0] & ~top) | jnp.uint32(level + 1)
        new = [jnp.zeros(n_rows * stride, jnp.uint32) for _ in words]
        for k in reversed(range(len(step.child))):
            at = (place + k).reshape(-1)
            for w, word in enumerate(words):
                value = jnp.where(size == k + 1, word, inside) if w == 0 else word
                if w == below.word:
                    value = value | _at(step.child[k], rule)
                new[w] = new[w].at[at].set(value.reshape(-1), mode="promise_in_bounds")
        words = tuple(w.reshape(n_rows, stride)[:, :wider] for w in new)
    return words, count


def _root(
    arrays: GrammarArrays,
    tables: SamplerTables,
    random: UInt[Array, " B"],
    n_words: int,
) -> tuple[Array, ...]:
    """The words of the start symbols, `(B, 1)` each."""
    n, field = len(arrays.start), tables.fields[0]
    bounds = np.round(np.arange(1, n) * (2.0**32 / n)).astype(np.uint32)
    chosen = jnp.sum(random[:, None] >= jnp.asarray(bounds)[None, :], 1)
    codes = ((arrays.start - field.low) << field.shift).astype(np.uint32)
    root = _at(codes, chosen)[:, None]
    empty = jnp.zeros_like(root)
    return tuple(root if w == field.word else empty for w in range(n_words))


def _choose(
    step: _Step, code: Int[Array, "B M"], draw: UInt[Array, "B M"]
) -> Int[Array, "B M"]:
    """The rule of every node: a binary search among its symbol's thresholds."""
    passed = jnp.zeros_like(code)
    stride = step.p // 2
    while stride:
        beyond = draw > _at(step.threshold, code * step.p + passed + (stride - 1))
        passed = passed + stride * beyond.astype(jnp.int32)
        stride //= 2
    return _at(step.first, code) + passed


def _unpack(
    arrays: GrammarArrays,
    tables: SamplerTables,
    words: tuple[Array, ...],
    count: Int[Array, " B"],
) -> Strings:
    dtype = jnp.int8 if len(arrays.symbols) <= 127 else jnp.int32
    n = words[0].shape[1]
    valid = jnp.arange(n, dtype=jnp.int32)[None, :] < count[:, None]

    def symbol(field: _Field, first: int) -> Array:
        code = (words[field.word] >> field.shift) & jnp.uint32(field.mask)
        number = code.astype(dtype) + jnp.asarray(field.low - first, dtype)
        return jnp.where(valid, number, jnp.asarray(-1, dtype))

    *above, last = tables.fields
    top = words[0] & jnp.uint32(tables.top)
    ends = [(top <= level) & valid for level in range(arrays.n_levels)]
    return Strings(
        tokens=symbol(last, arrays.n_nonterminals),
        valid=valid,
        length=count,
        symbols=jnp.stack([symbol(f, 0) for f in above], 1),
        boundaries=jnp.stack(ends, 1),
    )


@dataclass(frozen=True)
class Tree:
    """A node of a derivation tree.

    Attributes:
      symbol: its name; terminals without quotes.
      children: empty for a terminal.
    """

    symbol: str
    children: tuple["Tree", ...]


def to_tree(arrays: GrammarArrays, strings: Strings, row: int) -> Tree:
    """The derivation tree that the levels of one row describe.

    Args:
      arrays: the grammar.
      strings: host or device arrays.
      row: which of the strings.
    """
    n = int(strings.length[row])
    symbols = np.asarray(strings.symbols[row])[:, :n].astype(int)
    ends = np.asarray(strings.boundaries[row])[:, :n]
    tokens = np.asarray(strings.tokens[row])[:n].astype(int)

    def build(level: int, begin: int, end: int) -> Tree:
        number = tokens[begin] + arrays.n_nonterminals
        if level < arrays.n_levels:
            number = symbols[level, begin]
        name = arrays.symbols[number]
        if number >= arrays.n_nonterminals:
            return Tree(name, ())
        cuts = range(begin + 1, end + 1)
        if level + 1 < arrays.n_levels:
            cuts = begin + 1 + np.flatnonzero(ends[level + 1, begin:end])
        children, first = [], begin
        for cut in cuts:
            children.append(build(level + 1, first, int(cut)))
            first = int(cut)
        return Tree(name, tuple(children))

    return build(0, 0, n)
