"""Probes of nonterminals: on hidden states that are known to hold them, or nothing.

The strings: S1 is A B A or A B A B, S2 is B A B or B A B A; A is one to four a and an
x, B one to four b and a y. So the level below the start and its boundaries are
functions of the token, and the start symbol of the first one. There are 640 strings.
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.models.transformer import Transformer
from sandbox.probes.nonterminals import NonterminalProbe, Sample, _control
from sandbox.probes.readout import attention, mean_ratio
from sandbox.tasks.grammar import Grammar, Rule
from sandbox.tasks.masking import MaskedLM
from sandbox.types import Outputs, Tokens

pytestmark = pytest.mark.slow  # compiling takes minutes

RULES = {
    "S1": ("A B A", "A B A B"),
    "S2": ("B A B", "B A B A"),
    "A": tuple("'a' " * n + "'x'" for n in range(1, 5)),
    "B": tuple("'b' " * n + "'y'" for n in range(1, 5)),
}
GRAMMAR = Grammar(
    "known",
    tuple(
        Rule(left, tuple(right.split()), 1 / len(rights))
        for left, rights in RULES.items()
        for right in rights
    ),
    ("S1", "S2"),
)
TASK = MaskedLM(grammar=GRAMMAR)  # tokens a b x y are 0 1 2 3


@dataclass(frozen=True)
class Shown:
    """Hidden states of a table by token, of the first token at BOS, and of noise."""

    n_classes: int = 4
    taps = ("shown",)

    def init(self, key: Any) -> Any:
        return {
            "token": jnp.zeros((8, 6)),
            "first": jnp.zeros((8, 6)),
            "noise": jnp.ones(()),
        }

    def apply(self, params: Any, x: Tokens, *, key: Any = None, taps: Any = ()) -> Any:
        n = x.ids.shape[1]
        h = params["token"][x.ids]
        h = h.at[:, 0].add(params["first"][x.ids[:, 1]])
        place = jnp.asarray([pow(7, i, 2**31) for i in range(n)], jnp.uint32)
        word = jnp.sum(x.ids.astype(jnp.uint32) * place[None], 1)  # of the string

        def noise(word: Any) -> Any:
            return jax.random.normal(
                jax.random.fold_in(jax.random.key(3), word), (n, 6)
            )

        h = h + params["noise"] * jax.vmap(noise)(word)
        return Outputs(jnp.zeros((*x.ids.shape, 4)), {"shown": h})

    def width_axes(self, params: Any) -> Any:
        return params


MODEL = Shown()
PROBE = NonterminalProbe(
    task=TASK,
    model=MODEL,
    tap="shown",
    train=256,
    test=256,
    epochs=8,
    batch=16,
    lr=3e-2,
    heads=2,
    position_dim=8,
)
KEY = jax.random.key(1)
NOISE = MODEL.init(KEY)
IDENTITY = NOISE | {"token": jnp.eye(8, 6), "noise": jnp.zeros(())}
SYMBOL = IDENTITY | {"token": jnp.eye(8, 6)[jnp.array([0, 1, 0, 1, 2, 2, 2, 2])]}
ELSEWHERE = IDENTITY | {
    "token": jnp.zeros((8, 6)),
    "first": jnp.eye(8, 6),
    "noise": jnp.asarray(0.1),
}


@cache
def prepared(probe: NonterminalProbe = PROBE) -> Sample:
    return probe.prepare(KEY)


@cache
def program(probe: NonterminalProbe) -> Any:
    return jax.jit(probe.measure)


def measure(params: Any, probe: NonterminalProbe = PROBE) -> dict[str, np.ndarray]:
    return jax.device_get(program(probe)(params, KEY, prepared(probe)))


# ------------------------------------------------------------------ what is found


def test_what_is_shown_is_found_without_error() -> None:
    """The one-hot symbol: nonterminals of its level; the token: boundaries as well."""
    out = measure(SYMBOL)
    for kind in ("attention", "linear"):
        assert out[f"{kind}/nonterminal"][1] == 1
        assert out[f"{kind}/nonterminal_se"][1] == 0
        assert out[f"{kind}/boundary_balanced"][1] < 0.9
    out = measure(IDENTITY)
    for name in ("nonterminal", "boundary", "boundary_balanced"):
        assert out[f"linear/{name}"][1] == 1
    # Labels of other strings are not to be had from tokens.
    assert out["control/linear/nonterminal"][1] < 0.7
    assert out["control/attention/nonterminal"][1] < 0.7


def test_noise_scores_the_majority() -> None:
    """Within 5 standard errors, and 0.03 for what is fitted by chance."""
    out = measure(NOISE)
    for kind in ("attention", "linear"):
        for prefix in ("", "untrained/"):
            for target in ("nonterminal", "boundary"):
                name = f"{kind}/{target}"
                gap = out[prefix + name] - out[f"majority/{target}"]
                assert (np.abs(gap) < 5 * out[f"{prefix}{name}_se"] + 0.03).all(), name
            balanced = out[f"{prefix}linear/boundary_balanced"]
            np.testing.assert_allclose(balanced, 0.5, atol=0.05)


def test_attention_finds_what_lies_elsewhere() -> None:
    """BOS alone knows the first token, so the start symbol of every token."""
    out = measure(ELSEWHERE)
    assert out["attention/nonterminal"][0] > 0.97
    gap = out["linear/nonterminal"][0] - out["majority/nonterminal"][0]
    assert abs(gap) < 5 * out["linear/nonterminal_se"][0] + 0.03
    assert out["majority/nonterminal"][0] < 0.65


def test_a_control_task_of_tokens_is_learnt_from_tokens() -> None:
    """The same program on other labels: a class for each terminal, drawn by a key."""
    sample, probe = prepared(), replace(PROBE, control="token")
    truth = sample.labels[:2]
    false = _control(probe, jax.random.key(5), truth, sample.x.ids)
    labels, ids = np.asarray(false), np.asarray(sample.x.ids)
    for job, level in np.ndindex(2, 2):
        for token in range(4):
            assert len(np.unique(labels[job, :, level][ids == token])) == 1
    assert labels.max() == 1 and (labels.min((1, 2, 3)) == -1).all()
    asked = sample._replace(labels=jnp.concatenate([truth, false]))
    out = jax.device_get(program(PROBE)(IDENTITY, KEY, asked))
    np.testing.assert_array_equal(out["control/linear/nonterminal"], 1)
    np.testing.assert_array_equal(out["control/linear/boundary"], 1)


def test_measuring_twice_gives_the_same_bits() -> None:
    once = measure(NOISE)
    again = jax.device_get(program(PROBE)(NOISE, KEY, PROBE.prepare(KEY)))
    jax.tree.map(np.testing.assert_array_equal, once, again)
    assert all(v.shape == (2,) and np.isfinite(v).all() for v in once.values())


def test_refits_are_means_over_fits_that_differ() -> None:
    """The first with the key itself; strings and labels are the same in all."""
    probe, sample = replace(PROBE, refits=3), prepared()
    h = PROBE._hidden(ELSEWHERE, sample.x)
    fit = jax.jit(lambda k: PROBE._fit(h, k, sample.x, sample.labels))
    keys = [KEY, *(jax.random.fold_in(KEY, 6 + i) for i in range(2))]
    each = [jax.device_get(fit(k)) for k in keys]
    out = jax.device_get(jax.jit(probe.measure)(ELSEWHERE, KEY, sample))
    once = measure(ELSEWHERE)
    for name in ("attention/nonterminal", "linear/boundary_se"):
        three = [v[name] for v in each]
        np.testing.assert_allclose(out[name], np.mean(three, 0), rtol=1e-5)
        np.testing.assert_allclose(once[name], three[0], rtol=1e-5)
        assert np.ptp(three, 0).max() > 0


# ------------------------------------------------------------------- the labels


def test_labels_and_baselines_follow_the_trees() -> None:
    sample = jax.device_get(prepared())
    draw = jax.jit(partial(TASK.rows, n=512, split="probe"))
    rows = jax.device_get(draw(KEY, jnp.uint32(0)))
    np.testing.assert_array_equal(sample.x.ids, rows.clean)
    np.testing.assert_array_equal(sample.x.visible, rows.valid)
    names = np.asarray(TASK.arrays.symbols)
    for level, symbols in enumerate((["S1", "S2"], ["A", "B"])):
        shown = np.asarray(symbols)[sample.labels[0, :, level][rows.inner]]
        np.testing.assert_array_equal(shown, names[rows.symbols[:, level][rows.inner]])
    ends = sample.labels[1].transpose(0, 2, 1)[rows.inner]
    np.testing.assert_array_equal(ends, rows.boundaries.transpose(0, 2, 1)[rows.inner])
    assert (sample.labels.transpose(0, 1, 3, 2)[:, ~rows.inner] == -1).all()
    # Controls: another string of the same part, where both have tokens.
    for part in (slice(0, 256), slice(256, 512)):
        texts = {y[0].tobytes() for y in sample.labels[0, part]}
        for y, mine in zip(sample.labels[2, part], rows.inner[part], strict=True):
            assert (y[:, ~mine] == -1).all()
            assert y[0].tobytes() in texts or (y[0] == -1).sum() > 1
    known = sample.known
    y = sample.labels[:2, 256:]
    for job, target in enumerate(("nonterminal", "boundary")):
        for level in range(2):
            train = sample.labels[job, :256, level]
            most = np.bincount(train[train >= 0]).argmax()
            asked = y[job, :, level][y[job, :, level] >= 0]
            expected = (asked == most).mean()
            np.testing.assert_allclose(known[f"majority/{target}"][level], expected)
        np.testing.assert_array_equal(known[f"chance/{target}"], 0.5)
    np.testing.assert_array_equal(known["majority/boundary_balanced"], 0.5)


# ------------------------------------------------------------------- the pieces


def test_attention_is_softmax_over_positions_of_the_string(x64: None) -> None:
    rng = np.random.default_rng(0)
    b, n, e, o, r, d = 3, 5, 4, 2, 2, 3
    w = {"w": (r, e, o), "b": (r, o), "p": (r, n, d)}
    w = {k: rng.normal(size=s) for k, s in w.items()}
    h, valid = rng.normal(size=(b, n, e)), np.arange(n) < np.array([[5], [3], [1]])
    got = jax.jit(attention)(jax.tree.map(jnp.asarray, w), h, valid)
    for s in range(b):
        length = valid[s].sum()
        total = np.zeros((n, o))
        for head in range(r):
            p = w["p"][head]
            a = np.exp(p @ p[:length].T)
            a /= a.sum(1, keepdims=True)
            total += a @ (h[s, :length] @ w["w"][head] + w["b"][head])
        np.testing.assert_allclose(got[s, :length], total[:length], rtol=1e-10)


def test_standard_errors_count_strings() -> None:
    """Against the spread over 400 samples in which all tokens of a string agree.

    The spread of 400 draws is known to 1/sqrt(800) = 3.5%; 5 of those are allowed.
    """
    rng = np.random.default_rng(0)
    right = rng.uniform(size=(400, 100, 1, 1)) < 0.7
    length = rng.integers(1, 7, size=(400, 100, 1, 1))
    asked = np.arange(6) < length
    first = asked & (np.arange(6) < 2)
    hit = (right & asked).astype("f4")
    groups = tuple(jnp.asarray(g, jnp.float32) for g in (first, asked & ~first))

    @jax.jit
    @jax.vmap
    def both(hit: Any, *groups: Any) -> Any:
        whole = mean_ratio("all", hit, (groups[0] + groups[1],))
        return whole | mean_ratio("mean", hit, groups)

    out = jax.device_get(both(jnp.asarray(hit), *groups))
    for name in ("all", "mean"):
        se = out[f"{name}_se"].mean()
        np.testing.assert_allclose(out[name].mean(), 0.7, atol=5 * se / 20)
        np.testing.assert_allclose(se, out[name].std(), rtol=0.18)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(tap="residual_9"), r"probe\.tap must be last or an activation .* shown"),
        (dict(train=1), r"probe\.train must lie in 2\.\.16777216, got 1"),
        (dict(batch=100), r"probe\.batch = 100 must divide probe\.train = 256"),
        (dict(epochs=0), r"probe\.epochs must lie in 1\.\.16777216, got 0"),
        (dict(lr=0.0), r"probe\.lr must be positive and finite, got 0\.0"),
    ],
)
def test_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(PROBE, **fields)


def test_the_last_hidden_state_is_that_of_hugging_face() -> None:
    for kind, name in (("bert", "residual_2"), ("gpt2", "final")):
        model = Transformer(kind=kind, n_classes=4, layers=2, positions=20)
        assert NonterminalProbe(task=TASK, model=model).read_from == name
