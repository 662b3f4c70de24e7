r"""What the tasks on strings of a grammar share: vocabulary, streams, scoring.

A string of n tokens fills the positions 1 .. n of a row; position 0 holds BOS, later
ones PAD. Terminals have the numbers 0 .. C-1, in the order of
`GrammarArrays.terminals`, and are the classes; then come BOS, EOS, PAD and MASK, and
the vocabulary is rounded up to a multiple of 8. No EOS is appended, as in the released
data of Panigrahi et al. (arXiv 2410.05464).

Row t of a stream is made from `fold_in(stream key, t)` alone: its string from one
stream, whatever the task does to it (masks) from a second one, so that tasks with the
same grammar and key see the same strings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt

from sandbox.errors import require
from sandbox.store.bounds import check_fields
from sandbox.tasks.base import STREAM, accuracy_and_loss, row_keys, stream_key
from sandbox.tasks.grammar import Grammar, load_grammar
from sandbox.tasks.grammar_arrays import GrammarArrays, compile_grammar
from sandbox.tasks.grammar_sampler import sample_strings
from sandbox.types import Array, Batch, Tokens

_CORRUPT = 2  # fold of the task key behind masks
N_EDGES = 4
"""Lengths that rows may be cut to, at most; each is a program to compile."""
EDGE_GAP = 4
"""Positions below which another length is not worth its compilation."""


class Vocabulary(NamedTuple):
    """Numbers of the tokens; terminals have 0 .. terminals - 1."""

    terminals: int
    bos: int
    eos: int
    pad: int
    mask: int
    size: int

    @classmethod
    def of(cls, terminals: int) -> "Vocabulary":
        """BOS, EOS, PAD and MASK after the terminals; rounded up to 8."""
        n, size = terminals, -(-(terminals + 4) // 8) * 8
        return cls(n, bos=n, eos=n + 1, pad=n + 2, mask=n + 3, size=size)


class Rows(NamedTuple):
    """Strings with BOS, before a task has done anything to them.

    Attributes:
      clean: token numbers, PAD after the end.
      valid: whether a position holds a token, BOS included.
      inner: whether it holds a terminal.
      symbols: the nonterminal of each level over each token, -1 elsewhere.
      boundaries: whether the nonterminal of a level ends at the token.
    """

    clean: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    inner: Bool[Array, "B N"]
    symbols: Int[Array, "B levels N"]
    boundaries: Bool[Array, "B levels N"]


@dataclass(frozen=True, kw_only=True)
class GrammarTask:
    """A task on the strings of a grammar.

    Subclasses write `_batch`, which turns strings into inputs, targets and weights.

    Attributes:
      grammar: where the strings come from; `Grammar.starting_from` truncates it.
    """

    grammar: Grammar = field(
        default_factory=lambda: load_grammar("cfg3b", start=("13", "14", "15"))
    )

    def __post_init__(self) -> None:
        """Refuses recursive grammars and those with one terminal."""
        check_fields(self, "task")
        require(
            self.n_classes >= 2,
            "task.grammar must have at least two terminals, or there is nothing to"
            " predict.",
        )

    @property
    def arrays(self) -> GrammarArrays:
        """The compiled grammar."""
        return compile_grammar(self.grammar)

    @property
    def n_classes(self) -> int:
        """Number of terminals C."""
        return len(self.arrays.terminals)

    @property
    def vocabulary(self) -> Vocabulary:
        """Numbers of the tokens."""
        return Vocabulary.of(self.n_classes)

    @property
    def positions(self) -> int:
        """N: BOS and the longest string."""
        return self.arrays.longest + 1

    @property
    def edges(self) -> tuple[int, ...]:
        """Positions that rows may be cut to, the last one N (see `train.buckets`).

        They lie at quantiles of the length distribution, at least `EDGE_GAP` and N / 12
        apart.
        """
        done = np.cumsum(self.arrays.level_length_distribution[0])
        out = [self.positions]
        for q in np.arange(N_EDGES - 1, 0, -1) / N_EDGES:
            edge = int(np.searchsorted(done, q)) + 1
            if edge <= out[0] - max(self.positions / 12, EDGE_GAP):
                out.insert(0, edge)
        return tuple(out)

    def rows(self, key: Any, t0: Any, n: int, *, split: str) -> Rows:
        """Strings t0 .. t0+n of the stream `split`; jittable, `n` static."""
        strings = sample_strings(self.arrays, stream_key(key, STREAM, split), t0, n)
        pad = self.vocabulary.pad
        tokens = jnp.where(strings.valid, strings.tokens.astype(jnp.int32), pad)

        def shifted(a: Array, first: Any) -> Array:
            edge = [(0, 0)] * (a.ndim - 1) + [(1, 0)]
            return jnp.pad(a, edge, constant_values=first)

        inner = shifted(strings.valid, False)
        return jax.tree.map(
            jax.lax.stop_gradient,
            Rows(
                clean=shifted(tokens, self.vocabulary.bos),
                valid=inner.at[:, 0].set(True),
                inner=inner,
                symbols=shifted(strings.symbols.astype(jnp.int32), -1),
                boundaries=shifted(strings.boundaries, False),
            ),
        )

    def words(
        self, key: Any, t0: Any, n: int, *, split: str, count: int
    ) -> UInt[Array, "n count N"]:
        """Random words of every position of rows t0 .. t0+n, apart from the strings."""
        shape = (count, self.positions)
        keys = row_keys(stream_key(key, _CORRUPT, split), t0, n)
        return jax.vmap(lambda k: jax.random.bits(k, shape, jnp.uint32))(keys)

    def sample(self, key: Any, t0: Any, n: int, *, split: str) -> Batch:
        """Rows t0 .. t0+n of the stream `split`; jittable, `n` static.

        Args:
          key: the lane's task key.
          t0: index of the first row, a traced unsigned integer below 2^32.
          n: number of rows.
          split: one of `SPLITS`.
        """
        rows = self.rows(key, t0, n, split=split)
        x, scored = self._batch(rows, key, t0, n, split)
        labels = jnp.where(rows.inner, rows.clean, 0)  # BOS and PAD are never scored
        return Batch(
            x=x,
            y=self._targets(labels),
            weight=scored.astype(jnp.result_type(float)),
            aux={"symbols": rows.symbols, "boundaries": rows.boundaries},
        )

    def _targets(self, clean: Int[Array, "B N"]) -> Int[Array, "B N"]:
        """The label of each position; its own token unless overridden."""
        return clean

    def _batch(
        self, rows: Rows, key: Any, t0: Any, n: int, split: str
    ) -> tuple[Tokens, Bool[Array, "B N"]]:
        """Inputs, and which positions are scored."""
        raise NotImplementedError(f"{type(self).__name__} must define _batch().")

    def bayes(self, batch: Batch) -> Float[Array, "B N C"] | None:
        """Exact posterior at every position, where the task has one."""
        return None

    def enumerate(self, key: Any | None = None) -> Batch | None:
        """None: strings are too many."""
        return None

    def metrics(self, logits: Array, batch: Batch) -> Mapping[str, tuple[Array, Array]]:
        """(weighted sum, weight) of top-1 accuracy and cross-entropy in nats.

        Both are over scored positions, which all count alike.
        """
        return accuracy_and_loss(logits, batch.y, batch.weight)
