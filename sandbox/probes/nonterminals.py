r"""Which nonterminals and boundaries can be read off a transformer's hidden states.

The network is frozen and reads clean strings; h_j is its last hidden state at position
j. For every level l of the grammar two things are predicted at each token i: which
nonterminal covers it, and whether that nonterminal ends there. Two probes are trained:

    attention   z_i = sum_r sum_j a_rij (W_r h_j + b_r)
                a_rij = exp(P_ri . P_rj) / sum_k exp(P_ri . P_rk),  j, k in the string
    linear      z_i = W h_i + b

Each head r has a matrix and a position embedding P_r of its own: attention looks at
positions only, so all that is said about the content must be linear in the hidden
states. Adam with a cosine schedule on fresh strings of the probe stream; accuracies are
on later strings of it, many of them the same where a grammar has few. The two targets
are trained apart from each other.

Controls. `control/...` is the same training on labels that mean nothing: with
`control = "permuted"`, those of another string (what positions alone tell), with
`"token"` a random class for each terminal (what any probe learns from the token, as in
control tasks). `untrained/...` reads a freshly drawn network. `majority/...` always
says the most frequent class, `chance/...` is one over the number of classes.

Sources: the probe is that of Allen-Zhu and Li (arXiv 2305.13673, section 4), used by
Panigrahi et al. (arXiv 2410.05464, section 4: 16 heads, Adam at 1e-2, 4 epochs, batch
64; their code normalises the weights over i, not j); control tasks are from Hewitt and
Liang (arXiv 1909.03368).

Example:
    >>> probe = NonterminalProbe(task=MaskedLM(), model=model)
    >>> values = measure_trajectory(run, probe, root=root).values
    >>> values["attention/nonterminal"].shape  # seeds, checkpoints, levels
    (3, 20, 3)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.probes.readout import attention, cross_entropy, linear, mean_ratio
from sandbox.store.bounds import MoreThan, Within, check_fields
from sandbox.tasks.sequences import GrammarTask
from sandbox.train.buckets import in_parts
from sandbox.types import Array, Params, Tokens

ROWS = 64
"""Strings of one forward pass."""
KINDS, TARGETS = ("attention", "linear"), ("nonterminal", "boundary")
_LABELS, _UNTRAINED, _FIT, _REFIT = (
    3,
    4,
    5,
    6,
)  # folds of the task key, _REFIT the first


class Sample(NamedTuple):
    """The strings of a seed, their labels, and what holds for every checkpoint.

    Jobs J: nonterminal, boundary, and both again with control labels. Training strings
    come first, then the held-out ones.

    Attributes:
      x: clean strings with BOS.
      labels: class of each job, string, level and position; -1 where none is asked.
      known: majority, chance and the untrained network's accuracies.
    """

    x: Tokens
    labels: Int[Array, "J B levels N"]
    known: dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class NonterminalProbe:
    """Accuracies of nonterminals and boundaries at every level.

    Attributes:
      task: whose strings; its probe stream.
      model: the network.
      tap: activation that is read; "last" is the last hidden state as Hugging Face
        counts: after the last layer for BERT, after the last norm for GPT-2.
      train: strings the probe is trained on.
      test: further strings it is scored on.
      epochs: passes over the training strings.
      batch: strings of one step of Adam, a divisor of `train`.
      lr: rate of Adam at its start; a cosine takes it to 0.
      heads: heads of the attention probe.
      position_dim: size of a position embedding.
      control: what the labels of the control are.
      refits: how often a probe is trained, from other weights and in another order; all
        accuracies, and their standard errors, are means over them.
    """

    task: GrammarTask
    model: Model
    tap: str = "last"
    train: Annotated[int, Within(2, 2**24)] = 1024
    test: Annotated[int, Within(2, 2**24)] = 512
    epochs: Annotated[int, Within(1, 2**24)] = 8
    batch: Annotated[int, Within(1, 2**24)] = 64
    lr: Annotated[float, MoreThan(0)] = 1e-2
    heads: Annotated[int, Within(1, 2**24)] = 8
    position_dim: Annotated[int, Within(1, 2**24)] = 32
    control: Literal["permuted", "token"] = "permuted"
    refits: Annotated[int, Within(1, 2**10)] = 1

    def __post_init__(self) -> None:
        """Refuses tasks without nonterminals and sizes that train nothing."""
        check_fields(self, "probe")
        taps = getattr(self.model, "taps", ())
        require(
            self.read_from in taps,
            f"probe.tap must be last or an activation of the model, one of"
            f" {', '.join(taps) or 'none'}, got {self.tap!r}.",
        )
        require(
            self.train % self.batch == 0,
            f"probe.batch = {self.batch} must divide probe.train = {self.train}.",
        )

    @property
    def read_from(self) -> str:
        """Name of the activation."""
        if self.tap != "last":
            return self.tap
        if getattr(self.model, "kind", "") == "gpt2":
            return "final"
        return f"residual_{getattr(self.model, 'layers', 0)}"

    @property
    def n_symbols(self) -> Int[np.ndarray, " levels"]:
        """Number of symbols of each level 0 .. L-1."""
        return self.task.arrays.at_level[:-1].sum(1)

    @property
    def _classes(self) -> Bool[np.ndarray, "J levels C"]:
        """Classes that exist: the symbols of a level, and 2 for a boundary."""
        n = self.n_symbols
        most = max(int(n.max()), 2)
        sizes = np.stack([n, np.full_like(n, 2)] * 2)
        return np.arange(most) < sizes[..., None]

    def prepare(self, key: Any) -> Sample:
        """Draws the strings of a seed, and measures an untrained network on them."""
        return _prepare(self, key)

    def measure(self, params: Params, key: Any, prepared: Sample) -> dict[str, Array]:
        """Trains the probes on the frozen network and scores them; jittable.

        Args:
          params: of the model.
          key: the lane's task key; it fixes the probes' initial weights.
          prepared: of `prepare`.

        Returns:
          For `p` in attention, linear and `t` in nonterminal, boundary, an array over
          levels 0 .. L-1 each: `p/t`, `control/p/t`, `untrained/p/t`, `majority/t`,
          `chance/t`; also `.../boundary_balanced`, the mean of the accuracies on
          tokens that end a nonterminal and on the others. Measured ones have their
          standard error over held-out strings beside them, as `p/t_se`: tokens of one
          string are not independent. It does not count the probe's own training.
        """
        h = self._hidden(params, prepared.x)
        found = self._refits(
            lambda k: self._fit(h, k, prepared.x, prepared.labels), key
        )
        return found | prepared.known

    def _refits(
        self, fit: Callable[[Any], dict[str, Array]], key: Any
    ) -> dict[str, Array]:
        """Means over fits, the first of them with the key itself."""
        more = [jax.random.fold_in(key, _REFIT + i) for i in range(self.refits - 1)]
        found = jax.lax.map(fit, jnp.stack([key, *more]))
        return jax.tree.map(lambda v: v.mean(0), found)

    def _fit(
        self, h: Float[Array, "B N E"], key: Any, x: Tokens, labels: Array
    ) -> dict[str, Array]:
        """Accuracies of both probes on both kinds of labels."""
        valid = x.valid
        out: dict[str, Array] = {}
        for i, kind in enumerate(KINDS):
            probe = attention if kind == "attention" else linear
            fit_key = jax.random.fold_in(jax.random.fold_in(key, _FIT), i)
            weights = self._train(kind, probe, fit_key, h, valid, labels)
            z = self._outputs(probe, weights, h[self.train :], valid[self.train :])
            z = jnp.where(self._classes[:, None, None], z, -jnp.inf)
            said = jnp.argmax(z, -1).transpose(0, 1, 3, 2)  # (J, B, levels, N)
            out |= _accuracies(kind, said, labels[:, self.train :], h.dtype)
        return out

    def _hidden(self, params: Params, x: Tokens) -> Float[Array, "B N E"]:
        """The frozen network's hidden states, some strings at a time."""
        tap = self.read_from

        def some(rows: Tokens) -> Array:
            return self.model.apply(params, rows, taps=(tap,)).acts[tap]

        return jax.lax.stop_gradient(in_parts(some, x, ROWS))

    def _outputs(
        self, probe: Callable[..., Array], weights: Params, h: Array, valid: Array
    ) -> Float[Array, "J B N levels C"]:
        """Logits of all jobs, some strings at a time."""
        jobs = jax.vmap(probe, (0, None, None), out_axes=1)
        z = in_parts(lambda rows: jobs(weights, *rows), (h, valid), ROWS)
        z = jnp.moveaxis(z, 1, 0)
        return z.reshape(*z.shape[:-1], *self._classes.shape[1:])

    def _train(
        self,
        kind: str,
        probe: Callable[..., Array],
        key: Any,
        h: Float[Array, "B N E"],
        valid: Bool[Array, "B N"],
        labels: Int[Array, "J B levels N"],
    ) -> Params:
        """Weights of every job `(J, ...)`."""
        exists = self._classes
        n_jobs, (n, e) = len(exists), h.shape[1:]
        start_key, order_key = jax.random.split(key)
        n_out = math.prod(exists.shape[1:])
        heads = self.heads if kind == "attention" else 1
        # All jobs start from the same weights and see the same batches.
        shape = (heads, e, n_out) if kind == "attention" else (e, n_out)
        keys = jax.random.split(start_key)
        w = jax.random.normal(keys[0], shape, h.dtype) / (e * heads) ** 0.5
        weights = {"w": w, "b": jnp.zeros((*shape[:-2], n_out), h.dtype)}
        if kind == "attention":
            # |P_i|^2 is about log N: a position starts with half its weight on itself.
            sd = (math.log(max(n, 2)) / self.position_dim) ** 0.5
            p_shape = (heads, n, self.position_dim)
            weights["p"] = sd * jax.random.normal(keys[1], p_shape, h.dtype)
        weights = jax.tree.map(lambda a: jnp.stack([a] * n_jobs), weights)
        steps = self.epochs * (self.train // self.batch)
        rule = optax.adam(optax.cosine_decay_schedule(self.lr, steps))
        epochs = jax.random.split(order_key, self.epochs)
        order = jax.vmap(lambda k: jax.random.permutation(k, self.train))(epochs)

        def loss(weights: Params, rows: Array) -> Array:
            z = jax.vmap(probe, (0, None, None))(weights, h[rows], valid[rows])
            z = z.reshape(*z.shape[:-1], *exists.shape[1:])
            y = labels[:, rows].transpose(0, 1, 3, 2)  # (J, B, N, levels)
            return cross_entropy(z, y, jnp.asarray(exists)[:, None, None])

        def step(carry: Any, rows: Array) -> tuple[Any, None]:
            weights, state = carry
            grad = jax.grad(loss)(weights, rows)
            move, state = rule.update(grad, state, weights)
            return (optax.apply_updates(weights, move), state), None

        batches = order.reshape(steps, self.batch)
        start = (weights, rule.init(weights))
        return jax.lax.scan(step, start, batches)[0][0]


@partial(jax.jit, static_argnums=0)
def _prepare(probe: NonterminalProbe, key: Any) -> Sample:
    """See `NonterminalProbe.prepare`."""
    task = probe.task
    n = probe.train + probe.test
    rows = task.rows(key, jnp.uint32(0), n, split="probe")
    x = Tokens(rows.clean, rows.valid, rows.valid)
    truth = _truth(probe, rows.symbols, rows.boundaries, rows.inner)
    labels_key = jax.random.fold_in(key, _LABELS)
    false = _control(probe, labels_key, truth, rows.clean)
    labels = jnp.concatenate([truth, false])

    def untrained(k: Any) -> dict[str, Array]:
        keys = jax.random.split(jax.random.fold_in(k, _UNTRAINED))
        return probe._fit(probe._hidden(probe.model.init(keys[0]), x), k, x, labels)

    measured = probe._refits(untrained, key)
    known = {
        f"untrained/{name}": v
        for name, v in measured.items()
        if not name.startswith("control/")
    }
    dtype = jnp.result_type(float)
    counts = jnp.sum(
        jax.nn.one_hot(truth[:, : probe.train], probe._classes.shape[-1], dtype=dtype),
        (1, 3),
    )  # (2, levels, C)
    most = jnp.argmax(counts, -1)
    held_out = truth[:, probe.train :]
    said = jnp.broadcast_to(most[:, None, :, None], held_out.shape)
    both = jnp.concatenate([said, said]), jnp.concatenate([held_out, held_out])
    baseline = _accuracies("majority", *both, dtype)
    known |= {k: v for k, v in baseline.items() if not k.startswith("control/")}
    sizes = probe._classes[:2].sum(-1)
    for target, size in zip(TARGETS, sizes, strict=True):
        known[f"chance/{target}"] = jnp.asarray(1 / size, dtype)
    return Sample(x, labels, known)


def _truth(
    probe: NonterminalProbe,
    symbols: Int[Array, "B levels N"],
    boundaries: Bool[Array, "B levels N"],
    inner: Bool[Array, "B N"],
) -> Int[Array, "2 B levels N"]:
    """Place of the symbol among those of its level, and 1 where it ends."""
    at_level = probe.task.arrays.at_level[:-1]
    place = np.cumsum(at_level, 1, dtype=np.int32) - 1
    levels = np.arange(len(place))[None, :, None]
    number = jnp.asarray(place)[levels, jnp.maximum(symbols, 0)]
    both = jnp.stack([number, boundaries.astype(jnp.int32)])
    return jnp.where(inner[None, :, None], both, -1)


def _control(
    probe: NonterminalProbe,
    key: Any,
    truth: Int[Array, "2 B levels N"],
    clean: Int[Array, "B N"],
) -> Int[Array, "2 B levels N"]:
    """Labels that say nothing about the string, or nothing but its tokens."""
    if probe.control == "permuted":
        # Training strings among themselves, and held-out ones.
        keys = jax.random.split(key)
        one = jax.random.permutation(keys[0], probe.train)
        other = jax.random.permutation(keys[1], probe.test) + probe.train
        wrong = truth[:, jnp.concatenate([one, other])]
        return jnp.where(truth >= 0, wrong, -1)
    n_terminals = probe.task.n_classes
    sizes = probe._classes[:2].sum(-1)[..., None]
    shape = (2, sizes.shape[1], n_terminals)
    drawn = jax.random.randint(key, shape, 0, jnp.asarray(sizes, jnp.int32))
    of_token = drawn[:, :, jnp.minimum(clean, n_terminals - 1)]  # (2, levels, B, N)
    return jnp.where(truth >= 0, of_token.transpose(0, 2, 1, 3), -1)


def _accuracies(
    name: str, said: Array, labels: Int[Array, "J B levels N"], dtype: Any
) -> dict[str, Array]:
    """`(levels,)` accuracies of every job with their standard errors."""
    hit = ((said == labels) & (labels >= 0)).astype(dtype)
    out: dict[str, Array] = {}
    for job in range(len(labels)):
        prefix = f"control/{name}" if job >= len(TARGETS) else name
        target = TARGETS[job % len(TARGETS)]
        y, good = labels[job], hit[job]
        every = ((y >= 0).astype(dtype),)
        out |= mean_ratio(f"{prefix}/{target}", good, every)
        if target == "boundary":
            each = tuple((y == c).astype(dtype) for c in (0, 1))
            out |= mean_ratio(f"{prefix}/boundary_balanced", good, each)
    return out
